"""Halves of a batch that take turns between simulator and policy give what the whole batch gives."""

import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdt.errors import SimulationError
from jaxdt.evaluation import evaluator as evaluator_module
from jaxdt.evaluation.environments import make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.evaluation.turns import halves_of
from jaxdt.pools.mujoco import MujocoPool
from jaxdt.stacking import stacked
from jaxdt.types import Policy
from tests.conftest import untrained_agent


STEPS = 12


@pytest.fixture(scope="module")
def agents():
    """Two, of one policy with other weights, that play Hopper."""
    return [untrained_agent(11, 3, seed) for seed in (0, 1)]


def hopper():
    environment = make_environment("Hopper-v5")
    environment.max_episode_steps = STEPS
    return environment


def count_resets(monkeypatch):
    """Of batches, without the one that is tried where an environment is made."""
    batches, reset = [], MujocoPool.reset

    def counted(pool, seeds, observations):
        if len(seeds) > 1:
            batches.append(len(seeds))
        reset(pool, seeds, observations)

    monkeypatch.setattr(MujocoPool, "reset", counted)
    return batches


@pytest.mark.parametrize("models", [1, 2])
def test_halves_give_what_the_whole_batch_gives_in_the_same_order(agents, monkeypatch, models):
    params = stacked([agent.params for agent in agents]) if models == 2 else agents[0].params
    options = {"training_seeds": (0, 1) if models == 2 else (), "record": True}
    batches, targets = count_resets(monkeypatch), [100.0, 3000.0]
    halves = Evaluator(agents[0].policy, hopper(), **options).run_episodes(params, targets, 8, 5)
    assert batches == [8 * models] * 2
    monkeypatch.setattr(evaluator_module, "halves_of", lambda count, models: None)
    whole = Evaluator(agents[0].policy, hopper(), **options).run_episodes(params, targets, 8, 5)
    assert batches[2:] == [16 * models]
    assert len(np.unique(whole.returns)) > 8  # so that an order that is another shows
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), halves, whole)


@pytest.mark.slow
def test_models_that_are_played_one_after_the_other_take_turns_too(agents, monkeypatch):
    params, targets = stacked([agent.params for agent in agents]), [100.0, 3000.0]
    options = {"training_seeds": (0, 1), "parallel": 16}
    batches = count_resets(monkeypatch)
    halves = Evaluator(agents[0].policy, hopper(), **options).run_episodes(params, targets, 10, 5)
    assert sorted(batches) == [4, 4, 8, 8, 8, 8] or batches == [8, 8, 4, 8, 8, 4]
    monkeypatch.setattr(evaluator_module, "halves_of", lambda count, models: None)
    whole = Evaluator(agents[0].policy, hopper(), **options).run_episodes(params, targets, 10, 5)
    assert len(np.unique(whole.returns)) > 20
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), halves, whole)


@pytest.mark.slow
def test_halves_of_games_give_what_the_whole_batch_gives(monkeypatch):
    pytest.importorskip("ale_py")
    from jaxdt.pools.atari import AtariPool

    batches, reset = [], AtariPool.reset

    def counted(pool, seeds, observations):
        batches.append(len(seeds))
        reset(pool, seeds, observations)

    def act(params, memory, seen, reward, keys):  # which a single other pixel changes
        return memory, jnp.sum(seen.astype(jnp.int32), axis=(1, 2)) % 6

    def play():
        environment = make_environment("ALE/Pong-v5")
        environment.max_episode_steps = STEPS
        return Evaluator(Policy(lambda targets: (), act), environment, record=True).run_episodes((), [None], 9, 3)

    monkeypatch.setattr(AtariPool, "reset", counted)
    halves = play()
    assert sorted(batches) == [4, 5]
    monkeypatch.setattr(evaluator_module, "halves_of", lambda count, models: None)
    whole = play()
    assert batches[2:] == [9]
    actions = np.asarray(whole.trajectory.actions)
    assert len(np.unique(actions, axis=1).T) > 5  # some seeds begin alike
    jax.tree.map(np.testing.assert_array_equal, halves, whole)


def test_few_episodes_and_simulators_of_others_are_played_as_a_whole(agents, monkeypatch):
    batches = count_resets(monkeypatch)
    evaluator = Evaluator(agents[0].policy, hopper())
    evaluator.run_episodes(agents[0].params, [100.0], 14, 0)
    evaluator.run_episodes(agents[0].params, [100.0], 17, 0)
    assert sorted(batches) == [8, 9, 14]
    assert make_environment("Pendulum-v1").another(64) is None
    assert halves_of(2, 2) is None  # one of each model
    assert [half.tolist() for half in halves_of(6, 2)] == [[0, 2, 3, 5], [1, 4]]


@pytest.mark.parametrize("half", [0, 1])
def test_a_failure_in_one_half_is_named_and_ends_the_other(agents, monkeypatch, half):
    environment, steps, step = hopper(), {}, MujocoPool.step
    environment.max_episode_steps = 1000
    evaluator = Evaluator(agents[0].policy, environment)

    def failing(pool, alive, actions, observations, rewards, ended):
        steps[pool] = steps.get(pool, 0) + 1
        step(pool, alive, actions, observations, rewards, ended)
        if (pool is environment._pool) == (half == 0):
            if steps[pool] == 3:
                rewards[2] = np.nan
        else:
            ended[0, alive] = False  # Hopper falls, but here nobody ends it

    monkeypatch.setattr(MujocoPool, "step", failing)
    episode = {0: "target 100, episode 4", 1: "target 100, episode 5"}[half]
    with pytest.raises(SimulationError, match=f"{episode}, step 2: the environment's observation or reward"):
        evaluator.run_episodes(agents[0].params, [100.0, 3000.0], 8, 0)
    assert max(steps.values()) < 1000
    monkeypatch.setattr(MujocoPool, "step", step)
    assert evaluator.run_episodes(agents[0].params, [100.0], 2, 0).lengths.min() > 2  # as a whole, and goes on


def test_ctrl_c_while_only_the_second_half_plays_ends_it(agents, monkeypatch):
    environment, steps, step = hopper(), [], MujocoPool.step
    environment.max_episode_steps = 1000

    def interrupted(pool, alive, actions, observations, rewards, ended):
        step(pool, alive, actions, observations, rewards, ended)
        ended[0, alive] = pool is environment._pool
        if pool is not environment._pool:
            steps.append(len(alive))
            time.sleep(0.01 if len(steps) < 200 else 0)  # the first half is over
            if len(steps) == 200:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    monkeypatch.setattr(MujocoPool, "step", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            Evaluator(agents[0].policy, environment).run_episodes(agents[0].params, [100.0], 16, 0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert 200 <= sum(alive > 0 for alive in steps) < 900


@pytest.mark.slow
def test_evaluators_share_the_second_environment_of_one_and_batches_may_change_their_size(agents):
    environment = hopper()
    explorer = Evaluator(agents[0].policy, environment, record=True)
    evaluator = Evaluator(agents[0].policy, environment)
    for episodes in (16, 20, 16):
        explored, played = (each.run_episodes(agents[0].params, [100.0], episodes, 3) for each in (explorer, evaluator))
        np.testing.assert_array_equal(explored.returns, played.returns)
        assert explored.trajectory.rewards.shape == (STEPS, episodes)
    assert explorer._in_turns.environments[1] is evaluator._in_turns.environments[1]
