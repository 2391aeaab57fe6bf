import dataclasses
import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdt
from jaxdt.data.d4rl import normalized_score, paper_targets
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.environments import make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.evaluation.rollout import make_rollout
from jaxdt.interop.card import model_card
from jaxdt.interop.source import read_partial_spec
from jaxdt.loggers import read_lines
from jaxdt.run.evaluate import render_videos
from jaxdt.simulator import make_simulator
from tests.conftest import make_store
from tests.runs import CONFIG


ENV = "mjx:HalfCheetah-v5"
TASKS = ["HalfCheetah-v5", "HalfCheetah-v4", "Hopper-v5", "Hopper-v4", "Walker2d-v5", "Walker2d-v4"]
needs_mjx = pytest.mark.skipif(importlib.util.find_spec("mujoco.mjx") is None, reason="needs mujoco-mjx")
STEPS = 40
"""By then most Hoppers and Walkers have fallen."""


def mjx_environment(env_id, **options):
    from jaxdt.evaluation.environments.mjx import MjxEnvironment

    return MjxEnvironment(env_id, **options)


def measured(spec):
    size = spec.observation_shape
    return dataclasses.replace(spec, constants={"state_mean": np.zeros(size), "state_std": np.ones(size)})


def played_by_gymnasium(env_id, actions):
    """Positions and velocities at the start, and what each step gave, with random actions (step, episode, a)."""
    simulator, starts, steps = make_simulator(env_id), [], []
    for episode in range(actions.shape[1]):
        simulator.reset(seed=episode)
        data = simulator.unwrapped.data  # type: ignore[attr-defined]
        starts.append((data.qpos.copy(), data.qvel.copy()))
        steps.append([simulator.step(action)[:3] for action in actions[:, episode]])
    observations, rewards, ends = zip(*(zip(*episode, strict=True) for episode in steps), strict=True)
    return tuple(map(np.stack, zip(*starts, strict=True))), np.array(observations), np.array(rewards), np.array(ends)


@needs_mjx
@pytest.mark.slow
@pytest.mark.parametrize("env_id", TASKS)
def test_a_step_is_gymnasiums_from_the_same_state(env_id):
    from jaxdt.evaluation.environments.mjx import MjxState

    size = make_simulator(env_id).action_space.shape
    assert size is not None
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 6, *size)).astype(np.float32)
    (qpos, qvel), observations, rewards, ends = played_by_gymnasium(env_id, actions)
    with jax.enable_x64(True):
        step = jax.jit(jax.vmap(mjx_environment(env_id).step))
        state, alive = MjxState(jnp.array(qpos), jnp.array(qvel), jnp.zeros(qvel.shape)), np.ones(6, bool)
        for t in range(STEPS):
            state, observation, reward, end = step(state, jnp.array(actions[t]))
            assert observation.dtype == jnp.float64
            if t < 10:
                np.testing.assert_allclose(observation, observations[:, t], rtol=0, atol=1e-11)
            np.testing.assert_array_equal(np.asarray(end)[alive], ends[alive, t])
            if t < 10 or "HalfCheetah" not in env_id:  # which has parted by then: a contact's rounding grows
                np.testing.assert_allclose(np.asarray(reward)[alive], rewards[alive, t], atol=1e-6)
            alive &= ~ends[:, t]
    assert alive.all() == ("HalfCheetah" in env_id)


@needs_mjx
def test_episodes_begin_as_widely_as_gymnasiums():
    for env_id in ("HalfCheetah-v5", "Walker2d-v5"):
        environment = mjx_environment(env_id)
        state, observation = jax.vmap(environment.reset)(jax.random.split(jax.random.key(0), 4096))
        start, scale = environment._model.qpos0, environment._task.reset_noise_scale
        noise = np.asarray(state.qpos) - start[None]
        assert 0.99 * scale < np.abs(noise).max() <= 1.01 * scale  # rounded beside a start of 1.25
        np.testing.assert_allclose(noise.std(axis=0), scale / 3**0.5, rtol=0.05)
        np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.05 * scale)
        normal = env_id == "HalfCheetah-v5"
        velocities = np.asarray(state.qvel)
        assert (np.abs(velocities).max() > 3 * scale) == normal
        np.testing.assert_allclose(velocities.std(axis=0), scale if normal else scale / 3**0.5, rtol=0.05)
        assert np.abs(np.corrcoef(np.hstack([noise, velocities]).T) - np.eye(18)).max() < 0.1
        np.testing.assert_array_equal(observation, np.hstack([np.asarray(state.qpos)[:, 1:], velocities]))


@needs_mjx
def test_what_it_takes_and_gives_is_gymnasiums():
    here, there = make_environment(ENV), make_environment("HalfCheetah-v5")
    assert (here.name, here.env_id, here.max_episode_steps) == (ENV, "HalfCheetah-v5", there.max_episode_steps)
    assert here.spec == there.spec


@needs_mjx
def test_the_solver_is_capped():
    assert mjx_environment("HalfCheetah-v5")._model.opt.iterations == 8
    assert mjx_environment("HalfCheetah-v5", ls_iterations=50)._model.opt.ls_iterations == 50


@pytest.mark.slow
@needs_mjx
def test_a_cpu_never_factors_as_many_matrices_as_jaxlib_shares_out():
    """Those would wait for each other: 1,500 HalfCheetahs stood still within twenty steps."""
    environment = make_environment(ENV)
    state, _ = environment.reset(jnp.arange(200))
    traced = str(jax.make_jaxpr(environment.step)(state, jnp.zeros((200, 6))))
    assert "f32[50,9,9] = cholesky" in traced
    assert "[200,9,9]" not in traced


@needs_mjx
def test_importing_it_says_nothing(monkeypatch, capfd):
    _forget_mjx(monkeypatch)
    mjx_environment("HalfCheetah-v5")
    assert capfd.readouterr() == ("", "")


def _forget_mjx(monkeypatch):
    """As if it had never been imported."""
    import mujoco  # type: ignore[import-untyped]

    monkeypatch.delattr(mujoco, "mjx", raising=False)
    for name in [name for name in sys.modules if name.startswith("mujoco.mjx")]:
        monkeypatch.delitem(sys.modules, name)


@needs_mjx
def test_an_unknown_task_is_refused_with_those_that_exist():
    with pytest.raises(JaxdtError, match=r"^mjx: plays HalfCheetah-v4, .*Walker2d-v5; got 'Ant-v5'\.$"):
        make_environment("mjx:Ant-v5")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    _forget_mjx(monkeypatch)
    monkeypatch.setitem(sys.modules, "mujoco.mjx", None)
    with pytest.raises(JaxdtError, match=r"pip install 'jaxdt\[mjx\]'"):
        make_environment(ENV)


def test_no_simulator_is_made_of_it():
    with pytest.raises(JaxdtError, match="mjx:Hopper-v5 is for evaluation only; a simulator is made of Hopper-v5"):
        make_simulator("mjx:Hopper-v5")


def test_scores_and_targets_are_found_by_the_task():
    assert paper_targets(ENV) == paper_targets("HalfCheetah-v5")
    returns = np.array([1000.0])
    np.testing.assert_array_equal(normalized_score(ENV, returns), normalized_score("HalfCheetah-v5", returns))


@pytest.fixture
def pushed(monkeypatch):
    """Another physics, which compiles at once, and episodes of six steps."""

    def push(environment, state, action):
        return state._replace(qpos=state.qpos.at[0].add(0.01 * jnp.sum(action)))

    monkeypatch.setattr("jaxdt.evaluation.environments.mjx.MjxEnvironment._physics_step", push)
    monkeypatch.setattr("jaxdt.evaluation.environments.mjx.episode_limit", lambda simulator: 6)


@pytest.mark.slow
@needs_mjx
@pytest.mark.usefixtures("pushed", "quick_plots")
def test_a_run_names_it_resumes_and_is_evaluated(tmp_path, monkeypatch):
    cloning = jaxdt.BehaviorCloningConfig(context_length=2, width=8, num_layers=1)
    config = dataclasses.replace(CONFIG, env=ENV, steps=6, save_every=6, targets=None, algorithm=cloning)
    store = make_store(state_dim=17, action_dim=6, env_id="HalfCheetah-v5")
    run = jaxdt.train(config, store, out=tmp_path / "run")
    assert json.loads((run / "config.json").read_text())["config"]["env"] == ENV
    jaxdt.train(dataclasses.replace(config, steps=12), store, out=run, resume=True)
    evaluations = read_lines(run / "evaluations.jsonl")
    assert [(line["step"], line["reference"], line["lengths"]) for line in evaluations] == [
        (6, "halfcheetah", [6, 6]),
        (12, "halfcheetah", [6, 6]),
    ]

    made = []
    monkeypatch.setattr(
        "jaxdt.evaluation.evaluator.make_rollout", lambda *a, **k: made.append(a) or make_rollout(*a, **k)
    )
    agent = jaxdt.Agent.load(run)
    for _ in range(2):
        [result] = jaxdt.evaluate(agent, episodes=2, seed=config.eval_seed)
        np.testing.assert_allclose(result.returns, evaluations[1]["returns"], rtol=1e-5)
    assert len(made) == 1  # nothing is compiled anew


def test_videos_are_filmed_in_gymnasiums_task(tmp_path, monkeypatch):
    def refuse(choice):
        raise JaxdtError(choice.env)

    monkeypatch.setattr("jaxdt.run.evaluate.make_environment", refuse)
    agent = jaxdt.Agent(jaxdt.BehaviorCloningConfig(), {}, measured(make_store().spec), env_id=ENV)
    with pytest.raises(JaxdtError, match=r"^HalfCheetah-v5$"):
        render_videos(agent, tmp_path)


def test_the_hub_is_told_the_tasks_own_name():
    agent = {"env_id": ENV, "context_length": 4, "targets": [], "evaluations": [], "training": [], "untrained": []}
    card = model_card("cheetah", measured(make_store().spec), return_scale=1.0, env_kwargs={}, **agent)
    assert "- HalfCheetah-v5\n" in card.split("---")[1]
    assert f"- Environment: {ENV}." in card
    assert read_partial_spec({"env_id": ENV}, "normalization.json").env_id == ENV


@needs_mjx
@pytest.mark.slow
def test_a_whole_rollout_agrees_with_gymnasium_on_its_own_actions():
    store = make_store(state_dim=17, action_dim=6)
    environment = make_environment(ENV)
    environment.max_episode_steps = 10
    algorithm = jaxdt.make_algorithm(CONFIG.algorithm, measured(store.spec))
    params = jax.tree.map(lambda leaf: 3 * leaf, algorithm.init(jax.random.key(0)).params)
    played = Evaluator(algorithm.policy, environment, record=True).run_episodes(params, [1.0], episodes=3, seed=5)
    assert played.trajectory is not None
    simulator = make_simulator("HalfCheetah-v5")
    for i in range(3):
        simulator.reset(seed=0)
        first = np.asarray(played.trajectory.observations[0, i], np.float64)
        simulator.unwrapped.set_state(np.append(0.0, first[:8]), first[8:])  # type: ignore[attr-defined]
        rewards = [simulator.step(np.asarray(action))[1] for action in played.trajectory.actions[:, i]]
        np.testing.assert_allclose(played.trajectory.rewards[:, i], rewards, atol=1e-3)
