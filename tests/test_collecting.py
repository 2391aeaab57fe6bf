import gymnasium
import numpy as np
import pytest

import jaxdt
from jaxdt import JaxdtError
from jaxdt.choice import EnvironmentChoice
from jaxdt.data import collecting
from jaxdt.data.collecting import Behaviour, collect_episodes, random_policy
from jaxdt.data.episodes import FIELDS
from jaxdt.errors import SimulationError
from jaxdt.pools import EpisodeError, SimulatorPool, make_pool
from jaxdt.pools.mujoco import MujocoPool
from jaxdt.simulator import action_space, make_simulator
from jaxdt.types import Box, Discrete
from tests.conftest import untrained_agent


pendulum = "Pendulum-v1"
"""Needs no MuJoCo: 3 observations, one action in [-2, 2], always 200 steps."""

uniform = random_policy(Box(np.array([-2.0]), np.array([2.0])))


def steady(torque: float):
    """A policy that always wants this."""
    return lambda observation, rng: np.array([torque])


def test_episodes_are_recorded_whole_in_the_environments_units():
    store = collect_episodes(pendulum, [Behaviour(uniform, 2)])
    assert store.lengths.tolist() == [200, 200]
    assert (store.state_dim, store.action_dim, store.env_id) == (3, 1, pendulum)
    assert store.observations.dtype == store.actions.dtype == store.rewards.dtype == np.float32
    assert np.flatnonzero(store.truncations).tolist() == [199, 399]
    assert not store.terminations.any()
    # Uniform over [-2, 2]: more than half of it lies outside [-1, 1] or the units are wrong.
    assert 0.4 < np.mean(np.abs(store.actions) > 1) < 0.6
    assert np.abs(store.actions).max() <= 2


def test_an_episode_that_ends_early_is_terminated():
    low_torque = random_policy(Box(np.array([-3.0]), np.array([3.0])))
    store = collect_episodes("InvertedPendulum-v5", [Behaviour(low_torque, 4)])
    assert np.all(store.lengths < 100)
    assert np.flatnonzero(store.terminations).tolist() == (store.offsets[1:] - 1).tolist()
    assert not store.truncations.any()


@pytest.mark.parametrize(("wanted", "executed"), [(5.0, 2.0), (-3.0, -2.0), (1.5, 1.5)])
def test_the_action_that_was_executed_is_stored(wanted, executed):
    store = collect_episodes(pendulum, [Behaviour(steady(wanted), 1)])
    assert np.all(store.actions == executed)


def test_noise_is_in_half_widths_of_the_action_space_and_clipped():
    quiet = collect_episodes(pendulum, [Behaviour(steady(0.0), 1, noise=0.0)])
    little = collect_episodes(pendulum, [Behaviour(steady(0.0), 1, noise=0.1)])
    much = collect_episodes(pendulum, [Behaviour(steady(0.0), 1, noise=10.0)])
    assert not quiet.actions.any()
    assert little.actions.std() == pytest.approx(0.2, rel=0.2)
    assert abs(little.actions.mean()) < 0.06
    assert np.mean(np.abs(much.actions) == 2) > 0.8


def test_the_same_seed_gives_the_same_data_and_another_does_not():
    behaviours = [Behaviour(uniform, 1), Behaviour(steady(0.5), 1, noise=0.3)]
    first, again, other = (collect_episodes(pendulum, behaviours, seed=seed).fingerprint for seed in (4, 4, 5))
    assert first == again != other


def test_seeds_count_up_over_all_behaviours():
    behaviours = [Behaviour(uniform, 2), Behaviour(steady(0.5), 1, noise=0.3)]
    store = collect_episodes(pendulum, behaviours, seed=10)
    for episode, behaviour in enumerate([behaviours[0], behaviours[0], behaviours[1]]):
        alone = collect_episodes(pendulum, [behaviour._replace(episodes=1)], seed=10 + episode)
        rows = slice(store.offsets[episode], store.offsets[episode + 1])
        assert np.array_equal(store.observations[rows], alone.observations)
        assert np.array_equal(store.actions[rows], alone.actions)


@pytest.mark.parametrize("env_id", [pendulum, "HalfCheetah-v5"])
def test_replaying_the_stored_actions_from_the_seed_gives_the_stored_episode(env_id):
    env = make_simulator(env_id)
    policy = random_policy(Box(1.5 * env.action_space.low, 1.5 * env.action_space.high))
    store = collect_episodes(env_id, [Behaviour(policy, 1, noise=0.1)], seed=3)
    observation, _ = env.reset(seed=3)
    for i in range(20):
        assert np.allclose(observation, store.observations[i], rtol=1e-5, atol=1e-6)
        observation, reward, *_ = env.step(store.actions[i])
        assert reward == pytest.approx(store.rewards[i], rel=1e-5, abs=1e-6)
    env.close()


@pytest.mark.parametrize(
    ("env_id", "limit"),
    [("Hopper-v5", None), ("Walker2d-v5", 15), pytest.param("ALE/Breakout-v5", 150, marks=pytest.mark.slow)],
)
def test_episodes_that_are_played_side_by_side_are_those_of_one_by_one(env_id, limit, monkeypatch):
    """Of different lengths, whose policies and noise differ, and more than are played at once."""
    if env_id.startswith("ALE"):
        pytest.importorskip("ale_py")
    simulator = make_simulator(env_id)
    assert make_pool(env_id, simulator).together
    uniform = random_policy(action_space(simulator))
    behaviours = [Behaviour(uniform, 2), Behaviour(uniform, 2, noise=0 if "ALE" in env_id else 0.3)]
    kwargs = {"seed": 7, "max_episode_steps": limit, "progress": lambda done, total: told.append(done)}
    monkeypatch.setattr(collecting, "_TOGETHER", 3)
    told: list[int] = []
    store = collect_episodes(env_id, behaviours, **kwargs)
    alone = [played_plainly(env_id, behaviours[episode // 2], 7 + episode, limit) for episode in range(4)]
    np.testing.assert_array_equal(store.lengths, [len(rewards) for _, _, rewards, _, _ in alone])
    assert len(set(store.lengths.tolist())) > 1
    for name, *parts in zip(FIELDS, *alone, strict=True):
        recorded = getattr(store, name)
        np.testing.assert_array_equal(recorded, np.concatenate(parts).astype(recorded.dtype))
    assert told == [1, 2, 3, 4]
    monkeypatch.setattr(collecting, "make_pool", SimulatorPool)
    assert collect_episodes(env_id, behaviours, **kwargs).fingerprint == store.fingerprint


def played_plainly(env_id, behaviour, seed, limit):
    """The columns of one episode by Gymnasium's own loop."""
    simulator = make_simulator(EnvironmentChoice(env=env_id, max_episode_steps=limit))
    space, rng, rows = action_space(simulator), np.random.default_rng([seed, 1]), []
    observation, ended = simulator.reset(seed=seed)[0], False
    while not ended:
        action = behaviour.policy(observation, rng)
        if isinstance(space, Box):
            half = (space.high - space.low) / 2
            noise = behaviour.noise * half * rng.standard_normal(half.shape) if behaviour.noise else 0
            action = np.clip(np.asarray(action, np.float32) + noise, space.low, space.high).astype(np.float32)
        before = observation
        observation, reward, *flags, _ = simulator.step(action)
        rows.append((before, action, reward, *flags))
        ended = any(flags)
    return [np.array(column) for column in zip(*rows, strict=True)]


def test_what_fails_in_a_later_batch_names_its_episode(monkeypatch):
    monkeypatch.setattr(collecting, "_TOGETHER", 3)
    step, batches = MujocoPool.step, []

    def failing(pool, alive, actions, observations, rewards, ended):
        batches.append(len(actions))
        if len(actions) == 2 and batches.count(2) == 4:
            raise EpisodeError(1, OSError("gone"))
        step(pool, alive, actions, observations, rewards, ended)

    monkeypatch.setattr(MujocoPool, "step", failing)
    with pytest.raises(SimulationError, match=r"^the environment raised OSError: gone \(episode 4, step 3\)\.$"):
        collect_episodes("HalfCheetah-v5", [Behaviour(lambda *_: np.zeros(6), 5)], max_episode_steps=6)


def test_what_a_policy_does_wrong_in_one_of_several_names_its_episode():
    nan_later = Behaviour(lambda observation, rng: np.full(3, np.nan if abs(observation[0] - 1.25) > 0.02 else 0.0), 1)
    quiet = Behaviour(lambda observation, rng: np.zeros(3), 1)
    with pytest.raises(SimulationError, match=r"gave no action of the environment in episode 1, step [1-9]\d*\.$"):
        collect_episodes("Hopper-v5", [quiet, nan_later, quiet])


def test_progress_is_told_of_every_episode():
    told = []
    behaviours = [Behaviour(uniform, 1), Behaviour(uniform, 2)]
    collect_episodes(pendulum, behaviours, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("behaviour", "seed", "message"),
    [
        (Behaviour(uniform, 0), 0, "episodes must be at least 1; got 0"),
        (Behaviour(uniform, 1, noise=-0.1), 0, "noise must be at least 0 and finite; got -0.1"),
        (Behaviour(uniform, 1, noise=float("nan")), 0, "noise must be at least 0 and finite; got nan"),
        (Behaviour(uniform, 1), -1, "seed must be at least 0 and below 2.62; got -1"),
    ],
)
def test_what_cannot_be_collected_is_refused(behaviour, seed, message):
    with pytest.raises(JaxdtError, match=f"^{message}"):
        collect_episodes(pendulum, [behaviour], seed=seed)


def test_no_behaviour_is_refused():
    with pytest.raises(JaxdtError, match=r"^behaviours must be at least one; got none"):
        collect_episodes(pendulum, [])


def test_an_environment_we_cannot_collect_in_is_refused():
    with pytest.raises(JaxdtError, match=r"^environment 'Nowhere-v0' cannot be made"):
        collect_episodes("Nowhere-v0", [Behaviour(uniform, 1)])


class Counter(gymnasium.Env):
    """Takes the actions 3, 4 and 5, earns them, and ends after four steps."""

    observation_space = gymnasium.spaces.Box(0, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(3, start=3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        return np.full(1, self.steps, np.float32), float(action), self.steps == 4, False, {}


@pytest.fixture
def counter(monkeypatch) -> str:
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("Counter-v0", entry_point=lambda **_: Counter())
    return "Counter-v0"


def test_discrete_actions_are_recorded_under_the_environments_own_numbers(counter):
    five = Behaviour(lambda observation, rng: 3 + int(observation[0]) % 3, 2)
    random = Behaviour(random_policy(Discrete(3, 3)), 50)
    store = collect_episodes(counter, [five, random])
    assert store.actions.dtype == np.int32
    assert store.actions[:8].tolist() == [3, 4, 5, 3] * 2
    assert store.returns[:2].tolist() == [15, 15]
    assert set(store.actions[8:].tolist()) == {3, 4, 5}
    assert np.bincount(store.actions[8:])[3:].min() > 40
    assert store.with_actions_of(Discrete(3, 3)).spec.action == Discrete(3)


@pytest.mark.parametrize("action", [2, 6, 3.5, np.nan])
def test_an_action_that_a_discrete_environment_lacks_stops_with_its_episode_and_step(counter, action):
    with pytest.raises(SimulationError, match=r"gave no action of the environment in episode 0, step 0\."):
        collect_episodes(counter, [Behaviour(lambda observation, rng: action, 1)])


def test_noise_is_refused_where_actions_are_discrete(counter):
    behaviours = [Behaviour(random_policy(Discrete(3, 3)), 1, noise=noise) for noise in (0.0, 0.1)]
    with pytest.raises(JaxdtError, match=r"^noise is for continuous actions and Counter-v0 has discrete ones; leave"):
        collect_episodes(counter, behaviours)


def test_a_policy_that_gives_nan_stops_with_its_episode_and_step():
    steps = iter([0.0] * 203 + [np.nan])

    def failing(observation, rng):
        return np.array([next(steps)])

    with pytest.raises(SimulationError, match=r"gave no action of the environment in episode 1, step 3\."):
        collect_episodes(pendulum, [Behaviour(failing, 2)])


class Reusing(gymnasium.Env):
    """Writes into the one array that it returns and into the action that it is given; ends after `ends` steps."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, ends=3):
        self.ends, self.observation = ends, np.zeros(1, np.float32)

    def reset(self, *, seed=None, options=None):
        self.steps, self.observation[:] = 0, 0
        return self.observation, {}

    def step(self, action):
        action *= 8
        self.steps += 1
        self.observation += 1
        return self.observation, np.array([0.5]), self.steps == self.ends, False, {}


def test_an_environment_that_fails_is_named_with_episode_and_step(counter):
    class Breaking(Reusing):
        def step(self, action):
            if self.steps == 2:
                raise OSError("the motor is gone")
            return super().step(action)

    gymnasium.register("Breaking-v0", Breaking, kwargs={"ends": 9})
    with pytest.raises(
        SimulationError, match=r"^the environment raised OSError: the motor is gone \(episode 0, step 2\)"
    ):
        collect_episodes("Breaking-v0", [Behaviour(steady(0), 2)])


@pytest.fixture
def reusing(counter) -> str:
    gymnasium.register("Reusing-v0", Reusing)
    return "Reusing-v0"


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
def test_vectors_of_whole_numbers_and_of_truth_values_are_recorded_as_floats(counter, dtype):
    class Whole(Counter):
        observation_space = gymnasium.spaces.Box(0, 1, (1,), dtype)

        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0].astype(dtype), {}

        def step(self, action):
            observation, *others = super().step(action)
            return (observation % 2).astype(dtype), *others

    def policy(observation, rng):
        assert observation.dtype == dtype
        return 3

    gymnasium.register("Whole-v0", entry_point=lambda **_: Whole())
    store = collect_episodes("Whole-v0", [Behaviour(policy, 1)])
    assert store.observations.dtype == np.float32
    assert store.observations.ravel().tolist() == [0, 1, 0, 1]


def test_a_first_observation_of_whole_numbers_does_not_cut_off_the_others_digits(counter):
    class Careless(Counter):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0].astype(np.int64), {}

        def step(self, action):
            observation, *others = super().step(action)
            return observation / 4, *others

    gymnasium.register("Careless-v0", entry_point=lambda **_: Careless())
    store = collect_episodes("Careless-v0", [Behaviour(lambda observation, rng: 3, 1)])
    assert store.observations.ravel().tolist() == [0, 0.25, 0.5, 0.75]


def test_a_discrete_action_is_a_number_of_pythons_own(counter):
    class Strict(Counter):
        action_space = gymnasium.spaces.Discrete(3)

        def step(self, action):
            assert type(action) is int
            return super().step(action)

    gymnasium.register("Strict-v0", entry_point=lambda **_: Strict())
    assert collect_episodes("Strict-v0", [Behaviour(lambda observation, rng: np.int64(2), 1)]).returns.tolist() == [8]
    jaxdt.evaluate(untrained_agent(1, discrete=3), "Strict-v0", targets=[1.0], episodes=2)


@pytest.mark.parametrize("at", ["reset", "step"])
def test_what_an_environment_returns_and_should_not_is_said(counter, at):
    class Odd(Counter):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[: 1 if at == "reset" else 2]

        def step(self, action):
            return super().step(action)[:4]

    gymnasium.register("Odd-v0", entry_point=lambda **_: Odd(), order_enforce=False)
    with pytest.raises(SimulationError, match=rf"^the environment cannot be played: its {at} must return .*episode 0"):
        collect_episodes("Odd-v0", [Behaviour(lambda observation, rng: 3, 1)])


def test_what_an_environment_does_to_its_arrays_later_does_not_change_the_recording(reusing):
    store = collect_episodes(reusing, [Behaviour(steady(0.25), 2)])
    assert store.observations.ravel().tolist() == [0, 1, 2] * 2
    assert store.actions.ravel().tolist() == [0.25] * 6
    assert store.rewards.tolist() == [0.5] * 6


def test_episodes_without_a_time_limit_are_cut_off_where_asked_or_with_a_warning(reusing, monkeypatch):
    long = {"env_kwargs": {"ends": 30}}
    assert collect_episodes(reusing, [Behaviour(steady(0), 1)], **long).lengths.tolist() == [30]
    asked = collect_episodes(reusing, [Behaviour(steady(0), 1)], **long, max_episode_steps=np.int64(20))
    assert (asked.lengths.tolist(), np.flatnonzero(asked.truncations).tolist()) == ([20], [19])
    assert asked.env_kwargs == {"ends": 30, "max_episode_steps": 20}
    ending = collect_episodes(reusing, [Behaviour(steady(0), 1)], env_kwargs={"ends": 20}, max_episode_steps=20)
    assert (ending.terminations.sum(), np.flatnonzero(ending.terminations)[0]) == (1, 19)
    monkeypatch.setattr("jaxdt.data.collecting.DEFAULT_LIMIT", 10)
    with pytest.warns(UserWarning, match=r"^Reusing-v0 has no time limit of its own, and 2 of 2 episodes were cut off"):
        assert collect_episodes(reusing, [Behaviour(steady(0), 2)], **long).lengths.tolist() == [10, 10]
