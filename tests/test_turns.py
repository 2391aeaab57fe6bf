"""Halves of a batch that take turns between simulator and policy give what the whole batch gives."""

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.algorithms.decision_transformer import with_sizes
from jaxdt.errors import SimulationError
from jaxdt.evaluation import evaluator as evaluator_module
from jaxdt.evaluation.environments import make_environment
from jaxdt.evaluation.environments.mujoco_pool import MujocoPool
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.evaluation.turns import halves_of
from jaxdt.stacking import stacked
from jaxdt.types import Box, Spec
from tests.conftest import tiny_algorithm


STEPS = 12


@pytest.fixture(scope="module")
def agents():
    """Two, of one policy with other weights, that play Hopper."""
    ones = np.ones(3, np.float32)
    constants = {"state_mean": np.zeros(11, np.float32), "state_std": np.ones(11, np.float32)}
    spec = Spec(observation_shape=(11,), action=Box(-ones, ones), constants=constants)
    config = tiny_algorithm(embedding_dropout=0.0)
    init, _ = jaxdt.build_model(with_sizes(config.model, spec))
    return [jaxdt.Agent(config, init(jax.random.key(seed)), spec) for seed in (0, 1)]


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


def test_few_episodes_an_odd_number_and_simulators_of_others_are_played_as_a_whole(agents, monkeypatch):
    batches = count_resets(monkeypatch)
    evaluator = Evaluator(agents[0].policy, hopper())
    evaluator.run_episodes(agents[0].params, [100.0], 14, 0)
    evaluator.run_episodes(agents[0].params, [100.0], 17, 0)
    assert batches == [14, 17]
    assert make_environment("Pendulum-v1").another(64) is None
    assert halves_of(18, 2) is None  # nine of each model
    np.testing.assert_array_equal(halves_of(8, 2), [[0, 1, 4, 5], [2, 3, 6, 7]])


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
    episode = {0: "target 100, episode 2", 1: "target 3000, episode 2"}[half]
    with pytest.raises(SimulationError, match=f"{episode}, step 2: the environment's observation or reward"):
        evaluator.run_episodes(agents[0].params, [100.0, 3000.0], 8, 0)
    assert max(steps.values()) < 1000
    monkeypatch.setattr(MujocoPool, "step", step)
    assert evaluator.run_episodes(agents[0].params, [100.0], 2, 0).lengths.min() > 2  # as a whole, and goes on
