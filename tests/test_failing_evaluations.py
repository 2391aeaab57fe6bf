"""Numbers gone wrong while a policy is played: the evaluation ends with a message, training goes on and records it."""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdt
from jaxdt import algorithms
from jaxdt.checkpoint import checkpoint_steps, find_checkpoint
from jaxdt.cli import run as command
from jaxdt.errors import RunError, SimulationError
from jaxdt.loggers import read_lines
from jaxdt.types import Box, Policy, Spec
from tests.conftest import make_store, tiny_algorithm, tiny_model
from tests.runs import CONFIG as OF_DRIFT
from tests.test_environments import Fragile
from tests.toys import DRIFT_SPEC, Drift


class BadDrift(Drift):
    """Drift whose episodes go wrong at their fourth step, where they start to the right of the middle."""

    def __init__(self, trouble):
        self.trouble = trouble

    def reset(self, key):
        state, observation = super().reset(key)
        if self.trouble == "first observation":
            observation = jnp.where(state[0] > 0, jnp.nan, observation)
        return (state, jnp.int32(0), state[0] > 0), observation

    def step(self, state, action):
        state, count, right = state
        state, observation, reward, _ = super().step(state, action)
        bad = right & (count == 3)
        if self.trouble == "observation":
            observation = jnp.where(bad, observation.at[1].set(jnp.nan), observation)
        elif self.trouble == "reward":
            reward = jnp.where(bad, -jnp.inf, reward)
        elif self.trouble == "sum":
            reward = jnp.where(right & (count >= 2), 3e38, reward)
        elif self.trouble == "callback":
            jax.debug.callback(self.raise_it, bad)
        elif self.trouble == "code":
            raise KeyError("no such joint")
        return (state, count + 1, right), observation, reward, jnp.zeros((), bool)

    def raise_it(self, bad):
        if bad.any():
            raise OSError("the motor is gone")


def first_to_the_right(seeds=8):
    """Index of the first episode of seeds 0, 1, ... that starts there."""
    starts = [BadDrift("none").reset(jax.random.key(seed))[0][2] for seed in range(seeds)]
    return [bool(start) for start in starts].index(True)


@pytest.fixture(scope="module")
def agent():
    params = jax.jit(jaxdt.build_model(tiny_model())[0])(jax.random.key(0))
    spec = dataclasses.replace(DRIFT_SPEC, delayed_reward=True)  # so that huge rewards stay out of the model
    return jaxdt.Agent(tiny_algorithm(), params, spec, targets=(1.0, 5.0))


@pytest.mark.parametrize(
    ("trouble", "step", "says"),
    [
        ("first observation", 0, "the environment's first observation is not finite"),
        ("observation", 3, "the environment's observation or reward is not finite"),
        ("reward", 3, "the environment's observation or reward is not finite"),
        ("sum", 3, "the sum of the environment's rewards is not finite"),
    ],
)
def test_a_jax_environment_that_goes_wrong_is_named_with_target_episode_and_step(agent, trouble, step, says):
    with pytest.raises(SimulationError) as caught:
        jaxdt.evaluate(agent, BadDrift(trouble), episodes=8)
    assert str(caught.value) == f"BadDrift, target 1, episode {first_to_the_right()}, step {step}: {says}."


@pytest.mark.slow
def test_the_first_step_that_goes_wrong_is_named(agent):
    class Later(BadDrift):
        def step(self, state, action):
            state, observation, reward, done = super().step(state, action)
            # The episodes further to the right fail earlier.
            return state, observation, jnp.where(state[1] > 9 - 8 * state[0][0], jnp.nan, reward), done

    environment = Later("none")
    with pytest.raises(SimulationError) as together:
        jaxdt.evaluate(agent, environment, targets=[1.0], episodes=3)
    steps = []
    for seed in range(3):
        with pytest.raises(SimulationError, match=r"episode 0, step \d+") as alone:
            jaxdt.evaluate(agent, environment, targets=[1.0], episodes=1, seed=seed)
        steps.append(int(str(alone.value).split("step ")[1].split(":")[0]))
    assert len(set(steps)) > 1
    assert f"episode {steps.index(min(steps))}, step {min(steps)}: " in str(together.value)


@pytest.mark.parametrize(
    ("trouble", "says"),
    [("code", r"^BadDrift raised KeyError: 'no such joint'"), ("callback", r"^BadDrift could not be played: .*motor")],
)
def test_a_jax_environment_that_raises_is_named(agent, trouble, says):
    with pytest.raises(SimulationError, match=says):
        jaxdt.evaluate(agent, BadDrift(trouble), episodes=8)


def nan_at_step_2(config, model, spec, *_):
    def act(params, timestep, observation, reward, key):
        action = jnp.where(timestep == 2, jnp.nan, 0.0)
        return timestep + 1, jnp.full((len(observation), *spec.action_shape), action)

    return Policy(start=lambda targets: jnp.int32(0), act=act)


def test_an_action_that_is_not_finite_is_named_in_jax_environments_too(agent):
    broken = jaxdt.Agent(agent.config, jax.tree.map(lambda leaf: leaf * jnp.nan, agent.params), DRIFT_SPEC)
    with pytest.raises(SimulationError, match=r"^Drift, target 3, episode 0, step 0: the policy.s action"):
        jaxdt.evaluate(broken, Drift(), targets=[3.0], episodes=2)


class FailsAtFirst(Fragile):
    """Raises in the first evaluation of the process that plays it, and never again."""

    evaluations = 0

    def reset(self, *, seed=None, options=None):
        FailsAtFirst.evaluations += seed == 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if FailsAtFirst.evaluations == 1 and self.seed == 1 and self.count == 2:
            raise OSError("the motor is gone")
        return super().step(action)


gymnasium.register(
    "jaxdt-tests/fails-at-first-v0",
    lambda render_mode=None: FailsAtFirst("none"),
    max_episode_steps=6,
    disable_env_checker=True,
)
pytestmark = pytest.mark.usefixtures("quick_plots")
CONFIG = dataclasses.replace(OF_DRIFT, steps=2, eval_every=1, eval_seed=0, targets=(5.0,), clip_actions=True)
STORE = make_store(state_dim=2, action_dim=1)


def test_training_goes_on_after_a_failed_evaluation_and_records_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(FailsAtFirst, "evaluations", -2)  # the first resets are trials
    out = tmp_path / "run"
    config = dataclasses.replace(CONFIG, env="jaxdt-tests/fails-at-first-v0")
    says = (
        "jaxdt-tests/fails-at-first-v0, target 5, episode 1, step 2: the environment raised OSError: the motor is gone"
    )
    with pytest.warns(UserWarning, match=f"update 1 failed and training goes on: {says}"):
        jaxdt.train(config, STORE, out=out)
    failed, passed = read_lines(out / "evaluations.jsonl")
    assert failed == {"step": 1, "failed": f"{says}."}
    assert (passed["step"], passed["target"]) == (2, 5.0)
    assert find_checkpoint(out / "checkpoints", "best") == 2
    assert command(["info", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"1, the newest after 1 updates: {says}" in printed
    assert "after 2 updates, 2 episodes a target" in printed
    jaxdt.to_huggingface(out, tmp_path / "exported")
    assert "| 5 |" in (tmp_path / "exported" / "README.md").read_text()


@pytest.mark.parametrize(
    ("environment", "policy", "says"),
    [
        pytest.param(
            "jaxdt-tests/raises-v0",
            None,
            "target 5, episode 1, step 2: the environment raised OSError: the motor",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "jaxdt-tests/none-v0",
            nan_at_step_2,
            "target 5, episode 0, step 2: the policy's action is not finite",
            marks=pytest.mark.slow,
        ),
        (BadDrift("reward"), None, "BadDrift, target 5, episode [01], step 3: the environment's observation or reward"),
    ],
)
def test_a_run_whose_evaluations_all_fail_keeps_its_weights_and_says_so(
    tmp_path, monkeypatch, capsys, environment, policy, says
):
    own = not isinstance(environment, str)
    config = dataclasses.replace(CONFIG, env=None if own else environment, eval_seed=first_to_the_right() if own else 0)
    if policy is not None:
        monkeypatch.setattr("jaxdt.algorithms.decision_transformer.window_policy", policy)
        algorithms._made.cache_clear()
    out, store = tmp_path / "run", make_store() if own else STORE
    with pytest.warns(UserWarning, match=f"failed and training goes on: .*{says}"):
        with pytest.raises(RunError, match="the last evaluation failed; the weights are in"):
            jaxdt.train(config, store, out=out, env=environment if own else None)
    lines = read_lines(out / "evaluations.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(set(line) == {"step", "failed"} for line in lines)
    assert checkpoint_steps(out / "checkpoints")[-1] == 2
    assert (out / "plots" / "loss.png").is_file()
    assert command(["info", str(out)]) == 0
    assert "failed evaluations  2, the newest after 2 updates" in capsys.readouterr().out
    jaxdt.to_huggingface(out, tmp_path / "exported")
    assert "Not evaluated." in (tmp_path / "exported" / "README.md").read_text()


def test_simulators_get_no_action_that_is_not_finite():
    class Strict(Fragile):
        def step(self, action):
            assert np.isfinite(action).all()
            return super().step(action)

    gymnasium.register("jaxdt-tests/strict-v0", lambda render_mode=None: Strict("none"), max_episode_steps=6)
    model = tiny_model(state_dim=2, action_dim=1)
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, jaxdt.build_model(model)[0](jax.random.key(0)))
    ones = np.ones(2, np.float32)
    spec = Spec(
        observation_shape=(2,),
        action=Box(-ones[:1], ones[:1]),
        constants={"state_mean": ones, "state_std": ones},
    )
    with pytest.raises(SimulationError, match="target 2, episode 0, step 0: the policy's action is not finite"):
        jaxdt.evaluate(jaxdt.Agent(tiny_algorithm(), params, spec), "jaxdt-tests/strict-v0", [2.0], 2)
