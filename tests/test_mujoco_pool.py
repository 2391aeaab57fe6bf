"""MuJoCo's thread pool gives Gymnasium's own numbers to the last bit, or is not used."""

import dataclasses
import os
import sys

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit, TransformReward

from jaxdt.errors import SimulationError
from jaxdt.evaluation.environments import GymnasiumEnvironment, make_environment
from jaxdt.evaluation.rollout import make_rollout
from jaxdt.pools import make_pool
from jaxdt.pools.mujoco import MujocoPool
from jaxdt.pools.mujoco_tasks import TASKS, Physics
from jaxdt.pools.simulators import EpisodeError, SimulatorPool
from jaxdt.simulator import make_simulator, usable_cores
from jaxdt.types import Policy


pytest.importorskip("mujoco.batch")


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """MuJoCo's messages are passed on from the first simulator on, for those too that Gymnasium makes alone."""
    make_simulator("HalfCheetah-v5")


class Played:
    """What a pool gives for random actions; in float64, so that nothing is rounded away."""

    def __init__(self, pool, simulator, seeds):
        self.pool, self.rng = pool, np.random.default_rng(3)
        self.shape = (len(seeds), *simulator.action_space.shape)
        self.observations = np.zeros((len(seeds), *simulator.observation_space.shape))
        self.rewards, self.ended = np.zeros(len(seeds)), np.zeros((2, len(seeds)), bool)
        pool.reset(np.array(seeds), self.observations)

    @property
    def alive(self):
        return np.flatnonzero(~self.ended.any(axis=0))

    def step(self):
        actions = self.rng.uniform(-1, 1, self.shape).astype(np.float32)
        self.pool.step(self.alive, actions, self.observations, self.rewards, self.ended)

    def bits(self):
        return self.observations.tobytes(), self.rewards.tobytes(), self.ended.tobytes()


def both(env_id, seeds, *, threads=2, task=None):
    """The same episodes, in Gymnasium's simulators and on MuJoCo's threads."""
    simulator = make_simulator(env_id)
    batched = MujocoPool(task or TASKS[env_id], simulator.unwrapped, simulator.spec.max_episode_steps, threads)
    return Played(SimulatorPool(env_id, make_simulator(env_id)), simulator, seeds), Played(batched, simulator, seeds)


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("env_id", TASKS)
def test_every_number_of_whole_episodes_is_gymnasiums(env_id, threads):
    theirs, ours = both(env_id, seeds=[5, 0, 7], threads=threads)
    assert ours.bits() == theirs.bits()
    steps = 0
    while len(theirs.alive):
        theirs.step(), ours.step()
        assert ours.bits() == theirs.bits()
        steps += 1
    before = ours.bits()
    ours.step()  # of nobody
    assert ours.bits() == before
    assert ours.ended.tolist() == ([[False] * 3, [True] * 3] if steps == 1000 else [[True] * 3, [False] * 3])
    assert (steps == 1000) == env_id.startswith("HalfCheetah")


def test_an_episode_that_ended_stays_as_it_is():
    _, ours = both("Hopper-v5", seeds=range(6))
    while len(ours.alive) == 6:
        ours.step()
    ended = np.flatnonzero(ours.ended.any(axis=0))
    assert 0 < len(ended) < 6
    before = ours.pool._batch.state[ended].copy(), ours.observations[ended].copy(), ours.rewards[ended].copy()
    ours.step()
    after = ours.pool._batch.state[ended], ours.observations[ended], ours.rewards[ended]
    for was, is_now in zip(before, after, strict=True):
        np.testing.assert_array_equal(is_now, was)
    while len(ours.alive):
        ours.step()
    ours.step()  # of nobody


def test_an_episode_that_begins_in_contact_is_gymnasiums_too(tmp_path, monkeypatch):
    task, model = TASKS["HalfCheetah-v5"], tmp_path / "lying.xml"
    model.write_text(task.model_path.read_text().replace('pos="0 0 .7"', 'pos="0 0 .5"'))
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("Lying-v0", task.entry_point, max_episode_steps=9, kwargs={"xml_file": str(model)})
    theirs, ours = both("Lying-v0", seeds=range(20), task=task)
    for _ in range(3):
        assert ours.bits() == theirs.bits()
        theirs.step(), ours.step()


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Ant-v5", "Humanoid-v5"])
def test_a_simulation_gone_wild_begins_anew_as_in_gymnasium(env_id, caplog):
    theirs, ours = both(env_id, seeds=[0, 1])
    theirs.pool.simulators[1].unwrapped.data.qvel[:] = 1e12
    ours.pool._qvel[1] = 1e12
    theirs.step(), ours.step()
    assert ours.bits() == theirs.bits()
    assert caplog.text.count("QVEL") == 2  # MuJoCo's message, passed on from its threads too


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Humanoid-v5"])
def test_a_pool_is_reset_to_other_episodes_and_closed(env_id):
    _, ours = both(env_id, seeds=[4, 9, 2])
    first = ours.observations.copy()
    ours.step()
    ours.pool.reset(np.array([2, 9, 4]), ours.observations)
    np.testing.assert_array_equal(ours.observations, first[::-1])
    for _ in range(2):
        fewer = np.zeros((1, ours.observations.shape[1]))
        ours.pool.reset(np.array([9]), fewer)
        np.testing.assert_array_equal(fewer[0], first[1])
        ours.pool.close()
        assert ours.pool._batch is None


@pytest.mark.parametrize(
    ("raised", "episode"), [(mujoco.batch.SimulationError(np.array([2, 3]), "gone"), 2), (ValueError("gone"), 1)]
)
def test_what_mujoco_raises_names_an_episode(raised, episode, monkeypatch):
    _, ours = both("HalfCheetah-v5", seeds=range(4))
    ours.ended[0, 0] = True
    monkeypatch.setattr(ours.pool._batch, "step", lambda *_, **__: (_ for _ in ()).throw(raised))
    with pytest.raises(EpisodeError, match=f"the environment raised {type(raised).__name__}: .*gone") as caught:
        ours.step()
    assert caught.value.episode == episode
    ours.ended[0] = True
    with pytest.raises(EpisodeError):  # of nobody
        ours.step()


def pool_of(simulator):
    pool = make_pool("HalfCheetah-v5", simulator)
    pool.close()
    return type(pool)


@pytest.mark.parametrize("env_id", TASKS)
def test_gymnasiums_own_environments_are_batched(env_id):
    assert type(make_environment(env_id)._pool) is MujocoPool
    assert gymnasium.spec(env_id).entry_point == TASKS[env_id].entry_point
    assert make_simulator(env_id).unwrapped.fullpath == str(TASKS[env_id].model_path)


@pytest.mark.parametrize("env_id", ["Ant-v4", "InvertedPendulum-v5", "CartPole-v1"])
def test_others_are_not(env_id):
    assert type(make_environment(env_id)._pool) is SimulatorPool


class Subclass(HalfCheetahEnv):
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: gymnasium.make(EnvSpec("Mine-v0", Subclass, max_episode_steps=9)),
        lambda: gymnasium.make(EnvSpec("Mine-v0", TASKS["Hopper-v5"].entry_point)),  # no time limit
        lambda: TransformReward(gymnasium.make("HalfCheetah-v5"), lambda reward: reward),
        lambda: TimeLimit(gymnasium.make("HalfCheetah-v5"), 10),  # which of two limits counts?
        lambda: gymnasium.make("Walker2d-v5", xml_file="walker2d.xml"),
        lambda: gymnasium.make("HalfCheetah-v5", ctrl_cost_weight=0.2),
        lambda: gymnasium.make("HalfCheetah-v5", forward_reward_weight=2.0),
        lambda: gymnasium.make("HalfCheetah-v5", reset_noise_scale=0.0),
        lambda: gymnasium.make("HalfCheetah-v5", frame_skip=4),
        lambda: gymnasium.make("HalfCheetah-v5", exclude_current_positions_from_observation=False),
        lambda: gymnasium.make("Hopper-v5", healthy_state_range=(-90.0, 90.0)),  # no random action leads there
        lambda: gymnasium.make("Hopper-v5", terminate_when_unhealthy=False),
        lambda: gymnasium.make("Walker2d-v5", healthy_reward=0.0),
        lambda: gymnasium.make("Ant-v5", contact_force_range=(-9.0, 9.0)),
        lambda: gymnasium.make("Ant-v5", main_body=2),
        lambda: gymnasium.make("Ant-v5", include_cfrc_ext_in_observation=False),
        lambda: gymnasium.make("Humanoid-v5", contact_cost_range=(-np.inf, 9.0)),
        lambda: gymnasium.make("Humanoid-v5", include_cvel_in_observation=False),
    ],
)
def test_another_class_other_wrappers_or_settings_are_left_to_gymnasium(make):
    assert pool_of(make()) is SimulatorPool


@pytest.mark.parametrize("checker", [True, False])
def test_wrappers_that_change_nothing_are_no_hindrance(checker):
    assert pool_of(gymnasium.make("HalfCheetah-v5", max_episode_steps=7, disable_env_checker=checker)) is MujocoPool


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("_get_obs", lambda env: env.state_vector()[1:].astype(np.float32).astype(float)),
        ("control_cost", lambda env, action: 1.001e-3 * np.sum(np.square(action))),
        ("control_cost", lambda env, action: 1e-3 * np.sum(np.square(action, dtype=float))),  # the last bits
        ("is_healthy", property(lambda env: True)),
        ("reset_model", lambda env: env._get_obs()),
    ],
)
def test_a_class_that_computes_other_numbers_is_left_to_gymnasium(method, changed, monkeypatch):
    simulator = make_simulator("Hopper-v5")
    monkeypatch.setattr(HopperEnv, method, changed)
    assert pool_of(simulator) is SimulatorPool


def test_a_task_that_differs_in_what_random_actions_do_not_show_is_left_to_gymnasium(monkeypatch):
    task = dataclasses.replace(TASKS["Hopper-v5"], healthy_state_range=(-200.0, 200.0))
    monkeypatch.setattr("jaxdt.pools.mujoco._TASKS_BY_CLASS", {task.entry_point: task})
    assert pool_of(make_simulator("Hopper-v5")) is SimulatorPool


def test_an_older_mujoco_is_left_to_gymnasium(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco.batch", None)
    assert pool_of(make_simulator("HalfCheetah-v5")) is SimulatorPool


def test_callbacks_in_python_are_left_to_gymnasium():
    simulator = make_simulator("HalfCheetah-v5")
    mujoco.set_mjcb_passive(lambda model, data: None)
    try:
        assert pool_of(simulator) is SimulatorPool
    finally:
        mujoco.set_mjcb_passive(None)


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def policy_of(action):
    """`action(params, observation, memory) -> (b, a)`; the memory counts steps."""
    return Policy(
        start=lambda targets: jnp.zeros((), jnp.int32),
        act=lambda params, memory, observation, *_: (memory + 1, action(params, observation, memory)),
    )


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v4", "Walker2d-v5"])
def test_returns_and_lengths_of_a_rollout_are_those_behind_gymnasium(env_id):
    environments = GymnasiumEnvironment(env_id), make_environment(env_id)
    assert type(environments[1]._pool) is MujocoPool
    sizes = environments[0].spec.observation_shape + environments[0].spec.action_shape
    weights = 0.3 * jax.random.normal(jax.random.key(1), sizes)
    policy = policy_of(lambda weights, observation, memory: jnp.tanh(observation @ weights))
    seeds = np.arange(5, dtype=np.int32)
    theirs, ours = (make_rollout(policy, each)(weights, seeds, np.zeros(5, np.float32)) for each in environments)
    np.testing.assert_array_equal(ours.lengths, theirs.lengths)
    np.testing.assert_array_equal(np.asarray(ours.returns).view(np.int32), np.asarray(theirs.returns).view(np.int32))
    assert len(set(theirs.returns.tolist())) == 5


def test_an_action_that_is_not_finite_is_reported_as_ever():
    environment = make_environment("HalfCheetah-v5")

    def action(weights, observation, memory):
        return jnp.where((memory == 2) & (jnp.arange(3) == 1)[:, None], jnp.nan, jnp.zeros((3, 6)))

    played = make_rollout(policy_of(action), environment)(0.0, np.arange(3, dtype=np.int32), np.zeros(3, np.float32))
    np.testing.assert_array_equal(played.lengths, [3, 3, 3])
    with pytest.raises(SimulationError, match="HalfCheetah-v5, episode 1, step 2: the policy's action is not finite"):
        environment.raise_failure(lambda i: f"episode {i}")
    assert environment._pool._batch.bind("time")[1] == pytest.approx(0.1)  # two steps


@pytest.mark.parametrize("env_id", [env_id for env_id, task in TASKS.items() if not task.derived])
def test_the_rules_are_gymnasiums_where_random_actions_do_not_lead_and_the_same_in_jax(env_id):
    task, rng, simulator = TASKS[env_id], np.random.default_rng(0), make_simulator(env_id).unwrapped
    q, v, a = simulator.model.nq, simulator.model.nv, simulator.model.nu
    # Heights about 1 and angles about 0; velocities beyond the limit, and one state beyond Hopper's.
    before, qpos = rng.normal([0, 1, *[0] * (q - 2)], 0.2, (2, 60, q)).astype(np.float32)
    qvel, action = rng.normal(0, 8, (60, v)).astype(np.float32), rng.uniform(-1, 1, (60, a)).astype(np.float32)
    qpos[:20, 1:3], qvel[:10, 1] = [1, 0], 101
    physics, began = Physics(qpos, qvel), Physics(before, qvel)
    observations, ended = task.observation(np, physics), task.terminated(np, physics)
    for i in range(60):
        simulator.set_state(qpos[i], qvel[i])
        np.testing.assert_array_equal(observations[i], simulator._get_obs())
        assert ended[i] == (not getattr(simulator, "is_healthy", True))
    assert ended[:10].all() == ("Hopper" in env_id)
    assert ended.any() != ("HalfCheetah" in env_id)
    assert not ended.all()
    np.testing.assert_array_equal(task.observation(jnp, physics), observations)
    np.testing.assert_array_equal(task.terminated(jnp, physics), ended)
    in_jax = jax.jit(lambda *of: task.reward(jnp, Physics(of[0], of[2]), Physics(of[1], of[2]), of[3], 0.05))
    rewards = task.reward(np, began, physics, action, 0.05)
    np.testing.assert_allclose(in_jax(before, qpos, qvel, action), rewards, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("env_id", ["Ant-v5", "Humanoid-v5"])
def test_the_rules_of_contacts_are_gymnasiums_where_random_actions_do_not_lead(env_id):
    """Of any arrays that MuJoCo's data might hold."""
    task, rng, simulator = TASKS[env_id], np.random.default_rng(0), make_simulator(env_id).unwrapped
    data, healthy, costly = simulator.data, [], 0
    low, high = task.healthy_z_range
    for height in [low, high, low - 1e-9, high + 1e-9, *rng.uniform(low - 0.2, high + 0.2, 40)]:
        before = physics_of(task, simulator)
        for name in ("qpos", "qvel", *task.derived):
            values = getattr(data, name)
            values[:] = rng.normal(0, 1e3 if name == "cfrc_ext" and height > 1 else 1, values.shape)
        data.qpos[2], data.qvel[3] = height, np.nan if len(healthy) == 9 else 0.5
        action = rng.uniform(-0.4, 0.4, simulator.model.nu).astype(np.float32)
        after = physics_of(task, simulator)
        np.testing.assert_array_equal(task.observation(np, after)[0], simulator._get_obs())
        assert task.terminated(np, after)[0] == (not simulator.is_healthy)
        masses = simulator.model.body_mass
        places = [
            each.derived["xpos"][0, 1] if env_id == "Ant-v5" else (masses @ each.derived["xipos"][0]) / masses.sum()
            for each in (before, after)
        ]
        wanted, _ = simulator._get_rew((places[1][0] - places[0][0]) / simulator.dt, action)
        np.testing.assert_allclose(task.reward(np, before, after, action[None], simulator.dt)[0], wanted, rtol=1e-12)
        healthy.append(simulator.is_healthy)
        costly += simulator.contact_cost > 9
    assert {True, False} == {bool(each) for each in healthy}
    assert env_id == "Ant-v5" or costly > 5


def physics_of(task, simulator):
    data = simulator.data
    derived = {name: getattr(data, name).copy()[None] for name in task.derived}
    return Physics(data.qpos.copy()[None], data.qvel.copy()[None], derived, simulator.model.body_mass)
