import contextlib
import dataclasses
import functools
import threading
import typing

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import jaxdt
from jaxdt.algorithms.decision_transformer import window_policy
from jaxdt.choice import EnvironmentChoice
from jaxdt.cli.report import evaluation_table
from jaxdt.errors import JaxdtError, SimulationError
from jaxdt.evaluation.environments import GymnasiumEnvironment, VectorizedEnvironment, make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.evaluation.rollout import make_rollout
from jaxdt.progress import Progress
from jaxdt.run.seed_group import summarize
from jaxdt.simulator import action_space, make_simulator
from jaxdt.types import Box, Spec
from tests.conftest import make_store
from tests.toys import Drift


class Fragile(gymnasium.Env):
    """Counts steps; what happens at step 3 is the name's."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Box(np.array([-2.0], np.float32), np.array([4.0], np.float32))

    def __init__(self, trouble):
        self.trouble = trouble

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.seed = 0, seed
        return np.array([seed, np.nan if self.trouble == "begins" and seed == 1 else 0.0], np.float32), {}

    def step(self, action):
        self.count += 1
        if self.count == 3 and self.seed == 1:
            if self.trouble == "raises":
                raise OSError("the motor is gone")
            if self.trouble == "nan":
                return np.array([np.nan, 0.0], np.float32), 0.0, False, False, {}
            if self.trouble == "flags":
                return np.zeros(2, np.float32), 0.0, np.array([False, False]), False, {}
            if self.trouble == "exits":
                raise SystemExit(3)
            if self.trouble == "ends":
                return np.zeros(2, np.float32), 10.0, True, False, {}
        return np.array([self.seed, self.count], np.float32), float(action[0]), False, False, {}


for _trouble in ("none", "raises", "nan", "flags", "ends", "begins", "exits"):
    gymnasium.register(
        f"jaxdt-tests/{_trouble}-v0",
        lambda trouble=_trouble, render_mode=None: Fragile(trouble),
        max_episode_steps=6,
        disable_env_checker=True,
    )


def spec_of(low=-2.0, high=4.0, mean=0.0, std=1.0) -> Spec:
    constants = {"state_mean": np.full(2, mean, np.float32), "state_std": np.full(2, std, np.float32)}
    bounds = Box(np.array([low], np.float32), np.array([high], np.float32))
    return Spec(observation_shape=(2,), action=bounds, constants=constants)


ALGORITHM = jaxdt.DecisionTransformerConfig(
    return_scale=5.0, model=jaxdt.ModelConfig(width=8, num_layers=1, context_length=3, max_episode_length=6)
)


@functools.cache
def small_params():
    init, _ = jaxdt.build_model(dataclasses.replace(ALGORITHM.model, state_dim=2, action_dim=1))
    return jax.jit(init)(jax.random.key(0))


def small_agent(scale=1.0, **spec) -> jaxdt.Agent:
    params = jax.tree.map(lambda leaf: scale * leaf, small_params())
    return jaxdt.Agent(ALGORITHM, params, spec_of(**spec))


def acting(policy, **spec):
    """`policy(params, window) -> (b, 1)` in [-1, 1], as one that remembers its window."""
    return window_policy(
        ALGORITHM, lambda params, window, newest_only: policy(params, window)[:, None], spec_of(**spec)
    )


def play(name, policy=lambda params, window: jnp.full((window.mask.shape[0], 1), params), seeds=(0, 1, 2)):
    environment = GymnasiumEnvironment(f"jaxdt-tests/{name}-v0")
    rollout = make_rollout(acting(policy), environment, record=True)
    targets = np.zeros(len(seeds), np.float32)
    return environment, rollout(jnp.float32(0.5), np.array(seeds, np.int32), targets)


def test_episodes_are_seeded_rescaled_and_cut_at_the_time_limit():
    environment, played = play("none")
    assert environment.spec == dataclasses.replace(spec_of(), constants={})
    assert environment.max_episode_steps == 6
    np.testing.assert_array_equal(played.lengths, [6, 6, 6])
    np.testing.assert_allclose(played.returns, [15.0] * 3)  # 0.5 of [-1, 1] is 2.5 of [-2, 4], six times
    np.testing.assert_array_equal(played.trajectory.observations[0, :, 0], [0, 1, 2])  # the seeds
    np.testing.assert_array_equal(played.trajectory.observations[:, 2, 1], np.arange(6))
    environment.raise_failure(str)  # nothing to raise


def test_a_closed_environment_makes_its_simulators_anew():
    environment, _ = play("none")
    closed = environment._pool.simulators[:]
    environment.close()
    assert environment._pool.simulators == []
    _, observation = environment.reset(jnp.array([4, 9]))
    np.testing.assert_array_equal(observation[:, 0], [4, 9])
    assert len(environment._pool.simulators) == 2
    assert not set(map(id, closed)) & set(map(id, environment._pool.simulators))


def test_a_finished_episode_is_not_stepped_on():
    environment, played = play("ends")
    np.testing.assert_array_equal(played.lengths, [6, 3, 6])
    np.testing.assert_allclose(played.returns, [15.0, 15.0, 15.0])
    assert environment._pool.simulators[1].unwrapped.count == 3


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("raises", "raised OSError: the motor is gone"),
        ("nan", "observation or reward is not"),
        ("exits", "raised SystemExit: 3"),
        ("flags", "its terminated must be true or false; got array"),
    ],
)
def test_trouble_in_the_simulator_ends_the_rollout_and_is_named_outside(trouble, says):
    environment, played = play(trouble)
    np.testing.assert_array_equal(played.lengths, [3, 3, 3])
    with pytest.raises(SimulationError, match=f"target 7, episode 1, step 2: .*{says}"):
        environment.raise_failure(lambda i: f"target 7, episode {i}")


def test_an_episode_that_begins_with_nan_is_not_blamed_on_the_policy():
    environment, _ = play("begins", lambda params, window: window.states[:, -1, 1:])
    with pytest.raises(SimulationError, match="episode 1, step 0: the environment's first observation is not finite"):
        environment.raise_failure(lambda i: f"episode {i}")


def test_an_action_that_is_not_finite_never_reaches_the_simulator():
    def policy(params, window):
        action = jnp.where(window.timesteps[:, -1:] == 2, jnp.nan, 0.0)
        return jnp.where(jnp.arange(3)[:, None] == 2, action, 0.0)

    environment, _ = play("none", policy)
    assert environment._pool.simulators[2].unwrapped.count == 2
    with pytest.raises(SimulationError, match="episode 2, step 2: the policy's action is not finite"):
        environment.raise_failure(lambda i: f"episode {i}")


def test_an_environment_is_as_good_as_new_after_a_failure():
    environment, _ = play("raises")
    rollout = make_rollout(acting(lambda params, window: jnp.zeros((window.mask.shape[0], 1))), environment)
    played = rollout(jnp.float32(0), np.array([5, 6], np.int32), np.zeros(2, np.float32))
    np.testing.assert_array_equal(played.lengths, [6, 6])
    environment.raise_failure(str)


def test_unknown_environment_is_named():
    with pytest.raises(JaxdtError, match="'NoSuch-v0' cannot be made"):
        make_simulator("NoSuch-v0")


def test_an_unbounded_action_space_counts_as_unit():
    class Unbounded:
        action_space = spaces.Box(np.array([-np.inf, -2.0]), np.array([np.inf, 3.0]), dtype=np.float64)

    low, high = action_space(Unbounded())  # type: ignore[arg-type]
    np.testing.assert_array_equal(low, [-1, -2])
    np.testing.assert_array_equal(high, [1, 3])


def test_episode_j_of_every_target_starts_from_seed_plus_j():
    agent = small_agent()
    evaluator = Evaluator(agent.policy, GymnasiumEnvironment("jaxdt-tests/none-v0"), record=True)
    played = evaluator.run_episodes(agent.params, [1.0, 2.0], episodes=3, seed=40)
    np.testing.assert_array_equal(played.trajectory.observations[0, :, 0], [40, 41, 42] * 2)


@pytest.fixture
def compiled(monkeypatch):
    """The rollouts that were made."""
    made = []
    monkeypatch.setattr(
        "jaxdt.evaluation.evaluator.make_rollout", lambda *a, **k: made.append(a) or make_rollout(*a, **k)
    )
    return made


def returns_of(agent, name="none", progress=None, **options):
    [result] = jaxdt.evaluate(agent, f"jaxdt-tests/{name}-v0", [7.0], 2, progress=progress, **options)
    return result.returns.tolist()


@pytest.mark.slow
def test_an_agent_that_is_evaluated_again_is_not_compiled_again(compiled):
    agent = small_agent()
    assert returns_of(agent) == returns_of(agent) == returns_of(agent)
    assert len(compiled) == 1
    agent.params = jax.tree.map(lambda leaf: leaf + 0.5, agent.params)
    assert returns_of(agent) != returns_of(small_agent())
    assert len(compiled) == 2  # the second of a new agent
    assert returns_of(agent, context="cached") == returns_of(agent, context="cached")
    assert len(compiled) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_what_has_changed_since_is_compiled_anew(compiled):
    agent = small_agent()
    before = returns_of(agent)
    assert returns_of(small_agent(high=40.0)) != before
    shorter = gymnasium.spec("jaxdt-tests/none-v0")
    for limit in (2, 6):
        gymnasium.register(shorter.id, shorter.entry_point, max_episode_steps=limit, disable_env_checker=True)
        [result] = jaxdt.evaluate(agent, shorter.id, [7.0], 2)
        assert result.lengths.tolist() == [limit, limit]
    assert len(compiled) == 4


@pytest.mark.slow
def test_two_evaluations_of_one_agent_at_once_do_not_share_simulators():
    class Nested(Progress):
        inner = None

        def advance(self, done, **numbers):
            if done == 3 and self.inner is None:
                thread = threading.Thread(target=lambda: setattr(self, "inner", returns_of(agent, seed=9)))
                thread.start()
                waiting.append(thread)

    agent, waiting, progress = small_agent(), [], Nested()
    outer = returns_of(agent, progress=progress)
    waiting[0].join()
    assert outer == returns_of(small_agent())
    assert progress.inner == returns_of(small_agent(), seed=9)


def test_agent_repeats_what_a_rollout_did_behind_the_host_callback():
    agent = small_agent(scale=3.0, mean=1.5, std=0.7)
    evaluator = Evaluator(agent.policy, GymnasiumEnvironment("jaxdt-tests/none-v0"), record=True)
    played = evaluator.run_episodes(agent.params, [7.0], episodes=1, seed=3)
    agent.reset(target_return=7.0)
    for t in range(6):
        reward = float(played.trajectory.rewards[t - 1, 0]) if t else 0.0
        action = agent.act(np.asarray(played.trajectory.observations[t, 0]), reward)
        np.testing.assert_allclose(action, played.trajectory.actions[t, 0], atol=1e-5)


@pytest.mark.parametrize("block", [3, 7])
def test_episodes_in_blocks_are_stepped_as_all_at_once(block):
    class Halving:
        state_dim, action_dim, max_episode_steps = 2, 2, 4

        def reset(self, key):
            state = jax.random.normal(key, (2,))
            return state, state

        def step(self, state, action):
            return state + action, state / 2, state.sum(), state[0] > 0

    def stepped(**options):
        environment = VectorizedEnvironment(Halving(), **options)
        state, _ = environment.reset(jnp.arange(7))
        return jax.jit(environment.step)(state, jnp.arange(14.0).reshape(7, 2))

    jax.tree.map(np.testing.assert_array_equal, stepped(cpu_block=block), stepped())


class Doubling(Fragile):
    """Changes the action that it is given in place, and has no time limit; its bounds are no float32 numbers."""

    action_space = spaces.Box(-0.1, 0.1, (1,), np.float64)
    given: typing.ClassVar[list] = []

    def __init__(self, ends=30):
        super().__init__("none")
        self.ends = ends

    def step(self, action):
        self.given.append(self.action_space.contains(action))
        action *= 2
        observation, reward, _, _, info = super().step(action)
        return observation, reward, self.count == self.ends, False, info


def played_in_doubling(**options):
    environment = GymnasiumEnvironment(EnvironmentChoice(env=Doubling, **options))
    rollout = make_rollout(
        acting(lambda params, window: jnp.ones((2, 1)), low=-0.1, high=0.1), environment, record=True
    )
    return environment, rollout(jnp.float32(0), np.arange(2, dtype=np.int32), np.zeros(2, np.float32))


def test_an_action_is_the_environments_own_and_lies_inside_its_bounds():
    Doubling.given.clear()
    _, played = played_in_doubling()
    assert Doubling.given == [True] * len(Doubling.given)
    assert len(Doubling.given) >= 60
    np.testing.assert_allclose(played.returns, 30 * 0.2, rtol=1e-5)
    np.testing.assert_allclose(played.trajectory.actions[:30], 0.1)


@pytest.mark.parametrize(
    ("options", "length", "warned"),
    [
        ({}, 30, False),
        ({"default_limit": 30}, 30, False),
        ({"default_limit": 20}, 20, True),
        ({"max_episode_steps": 20}, 20, False),
    ],
)
def test_an_environment_without_a_time_limit_is_not_cut_off_in_silence(options, length, warned):
    environment, played = played_in_doubling(**options)
    assert played.lengths.tolist() == [length] * 2
    says = (
        r"^Doubling has no time limit of its own, and 2 of 2 episodes were cut off after 20 steps; choose how many with"
    )
    for expected in (warned, False):  # once
        with pytest.warns(UserWarning, match=says) if expected else contextlib.nullcontext():
            environment.raise_failure(str)


class Lonely(Fragile):
    """There can be only one at a time."""

    living = 0

    def __init__(self):
        if Lonely.living:
            raise RuntimeError("one a process")
        Lonely.living = 1
        super().__init__("none")

    def close(self):
        Lonely.living = 0


def test_where_there_can_be_only_one_episodes_are_played_one_by_one():
    agent, options = small_agent(), {"targets": [7.0, 9.0], "episodes": 3, "max_episode_steps": 6}
    alone = jaxdt.evaluate(agent, Lonely, parallel_environments=1, **options)
    side_by_side = jaxdt.evaluate(agent, "jaxdt-tests/none-v0", **options)
    for one, other in zip(alone, side_by_side, strict=True):
        np.testing.assert_allclose(one.returns, other.returns, rtol=1e-4)
        assert one.lengths.tolist() == other.lengths.tolist() == [6, 6, 6]
    assert Lonely.living == 0
    with pytest.raises(JaxdtError, match=r"one a process; where there can be only one, .*--parallel-environments 1"):
        GymnasiumEnvironment(Lonely).try_several()
    Lonely.living = 0


def test_an_object_given_twice_is_noticed():
    mine = Doubling()
    with pytest.raises(JaxdtError, match="two episodes were given one and the same object"):
        GymnasiumEnvironment(lambda: mine).try_several()


@pytest.mark.slow
def test_episodes_in_parts_are_those_played_together_of_several_models_too():
    environment = GymnasiumEnvironment("jaxdt-tests/none-v0")
    policy = small_agent().policy
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), small_params())
    played = [
        Evaluator(policy, environment, training_seeds=(3, 5), parallel=parallel, record=True).run_episodes(
            params, [7.0], 3, seed=0
        )
        for parallel in (None, 2)
    ]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), *played)


def test_an_episode_in_parts_is_named_as_it_is_together():
    evaluator = Evaluator(small_agent().policy, GymnasiumEnvironment("jaxdt-tests/raises-v0"), parallel=1)
    with pytest.raises(SimulationError, match=r"target 9, episode 1, step 2: the environment raised OSError"):
        evaluator.run_episodes(small_params(), [9.0], 2, seed=0)


class Wrong(Drift):
    """Drift, whose reset or step returns what it is told to, made of what it should."""

    def __init__(self, function, change):
        self._function, self._change = function, change

    def reset(self, key):
        begun = super().reset(key)
        return self._change(*begun) if self._function == "reset" else begun

    def step(self, state, action):
        done = super().step(state, action)
        return self._change(*done) if self._function == "step" else done


FIVE = r"step must return \(state, observation, reward \(\), terminated \(\)\) or these and truncated \(\)"


@pytest.mark.parametrize(
    ("function", "change", "says"),
    [
        ("reset", lambda s, o: o, r"reset must return \(state, observation\); it returned one \w+\."),
        ("reset", lambda s, o: (s, o[:2]), r"reset must .*; observation has shape \(2,\), and should have \(3,\)\."),
        ("step", lambda s, o, r, d: (s, o, r), rf"{FIVE}; it returned 3 values\."),
        ("step", lambda s, o, r, d: (s, o, r, d, d, {}), rf"{FIVE}; it returned 6 values\."),
        ("step", lambda s, o, r, d: (s, o, o[:2], d), rf"{FIVE}; reward has shape \(2,\), and should have \(\)\."),
        ("step", lambda s, o, r, d: (s, o[None], r, d), rf"{FIVE}; observation has shape \(1, 3\), and should have"),
        ("step", lambda s, o, r, d: (s, o, r, d, o > 0), rf"{FIVE}; truncated has shape \(3,\), and should have \(\)"),
        (
            "step",
            lambda s, o, r, d: (s[:2], o, r, d),
            r"a state like the one .*; it becomes float32\[2\], from float32\[3\]",
        ),
        ("step", lambda s, o, r, d: ((s, 1), o, r, d), "a state like the one .*; its structure becomes"),
        (
            "step",
            lambda s, o, r, d: (s > 0, o, r, d),
            r"a state like the one .*; it becomes bool\[3\], from float32\[3\]",
        ),
    ],
)
def test_a_jax_environment_of_other_shapes_is_refused_in_a_sentence(function, change, says):
    with pytest.raises(JaxdtError, match=rf"^Wrong: .*{says}"):
        make_environment(Wrong(function, change))


def test_a_jax_environment_is_refused_before_anything_is_trained(tmp_path):
    wrong = Wrong("step", lambda s, o, r, d: (s, o, o[:2], d))
    with pytest.raises(JaxdtError, match=r"^Wrong: .* reward has shape \(2,\)"):
        jaxdt.train(jaxdt.TrainConfig(algorithm=ALGORITHM), make_store(), env=wrong, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_state_and_a_reward_may_be_numbers_of_python():
    make_environment(Wrong("step", lambda s, o, r, d: (s, o, 1, False, True)))
    both = Wrong("reset", lambda s, o: (0, o))
    both.step = lambda state, action: (state + 0.5, jnp.zeros(3), 1.0, False)
    make_environment(both)


def test_a_jax_environment_without_sizes_is_refused_in_a_sentence():
    class Unsized(Drift):
        state_dim = property()

    with pytest.raises(
        JaxdtError, match=r"^Unsized must have a spec \(jaxdt\.Spec\), or state_dim .*; got None and 2 for"
    ):
        make_environment(Unsized())


class Goal(gymnasium.Env):
    """Four steps; what `info` says of success in an episode of an odd seed, at its third step."""

    observation_space, action_space = Fragile.observation_space, Fragile.action_space

    def __init__(self, name):
        self.name = name

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.seed = 0, seed
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        success = self.count == 3 and self.seed % 2 == 1
        says = {} if self.name is None or (self.name == "only then" and not success) else {self.name: success}
        info = {"success": True} if "only then" in says else says
        return np.zeros(2, np.float32), 1.0, False, self.count == 4, info


@pytest.mark.parametrize(
    ("name", "parallel"), [("success", 2), ("is_success", None), ("only then", None), (None, None)]
)
def test_episodes_that_succeed_are_counted(name, parallel):
    env = functools.partial(Goal, name)
    results = jaxdt.evaluate(
        small_agent(), env, [1.0, 2.0], 5, seed=2, parallel_environments=parallel, max_episode_steps=9
    )
    for result in results:
        if name is None:
            assert result.succeeded is result.success_rate is None
            assert "success" not in repr(result)
            assert "success_rate" not in result.to_json()
        else:
            assert result.succeeded.tolist() == [False, True, False, True, False]
            assert result.success_rate == result.to_json()["success_rate"] == 0.4
    assert ("40%" in results._repr_html_()) == (name is not None)
    shown = evaluation_table("mine", results)
    assert ("success" in shown, "40%" in shown) == (name is not None,) * 2
    records = [result.to_json() for result in results]
    assert summarize(records).get("success_mean") == (None if name is None else 0.4)
    records[0].pop("success_rate", None)  # as of a seed that saw no success yet
    assert summarize(records).get("success_means") == (None if name is None else [0.0, 0.4])
