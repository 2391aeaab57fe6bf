"""The parts of a method in a loop of one's own."""

import jax
import numpy as np

import jaxdt
from tests.runs import CONFIG, STORE
from tests.toys import Drift


def test_a_method_trained_by_hand_acts_and_is_evaluated():
    spec = jaxdt.make_spec(CONFIG.algorithm, STORE, Drift())
    np.testing.assert_array_equal(spec.constants["state_mean"], STORE.statistics.mean)
    algorithm = jaxdt.make_algorithm(CONFIG.algorithm, spec)
    sampler = algorithm.sampler(STORE.with_actions_of(spec.action), batch_size=8, seed=0)
    state, update = jax.jit(algorithm.init)(jax.random.key(0)), jaxdt.compile_update(algorithm.update)
    for i in range(2):
        state, metrics = update(state, sampler.batch(i), jax.random.key(1))
    assert np.isfinite(metrics["loss"])
    [result] = jaxdt.evaluate(jaxdt.Agent(CONFIG.algorithm, state.params, spec), Drift(), targets=[1.0], episodes=2)
    assert len(result.returns) == 2


def test_without_an_environment_actions_are_those_of_models():
    spec = jaxdt.make_spec(CONFIG.algorithm, STORE)
    assert (spec.action.low.tolist(), spec.action.high.tolist()) == ([-1, -1], [1, 1])
