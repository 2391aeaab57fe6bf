"""The parts of a method in a loop of one's own."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.data.frames import FrameSampler
from jaxdt.data.trajectories import TrajectorySampler
from tests.runs import CONFIG, STORE
from tests.toys import DRIFT_SPEC, Drift


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


EPISODES = [{name: episode[name] for name in ("observations", "actions", "rewards")} for episode in STORE]


def file_of_episodes(tmp_path):
    path = tmp_path / "episodes.npz"
    STORE.save(path)
    return path


@pytest.mark.parametrize("given", [file_of_episodes, lambda _: EPISODES], ids=["path", "dicts"])
@pytest.mark.parametrize(
    "sampler",
    [jaxdt.WindowSampler, jaxdt.TransitionSampler, TrajectorySampler, FrameSampler],
    ids=lambda each: each.__name__,
)
def test_a_sampler_takes_all_that_load_episodes_takes(sampler, given, tmp_path):
    first, same = (sampler(each, batch_size=4).batch(0) for each in (STORE, given(tmp_path)))
    jax.tree.map(np.testing.assert_array_equal, first, same)


def test_spec_and_sampler_of_a_method_take_all_that_load_episodes_takes(tmp_path):
    path = file_of_episodes(tmp_path)
    spec = jaxdt.make_spec(CONFIG.algorithm, path)
    assert spec == jaxdt.make_spec(CONFIG.algorithm, STORE) == jaxdt.make_spec(CONFIG.algorithm, EPISODES)
    spec = dataclasses.replace(spec, action=DRIFT_SPEC.action)  # recorded in units that models do not take
    draw = functools.partial(jaxdt.make_algorithm(CONFIG.algorithm, spec).sampler, batch_size=4, seed=0)
    mapped = draw(STORE.with_actions_of(spec.action)).batch(0)
    jax.tree.map(np.testing.assert_array_equal, mapped, draw(str(path)).batch(0))
