"""The parts of a method in a loop of one's own."""

import dataclasses
import functools
import inspect

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt import JaxdtError
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


def unchecked(function):
    """As users have it, without the types that tests check."""
    return inspect.unwrap(function)


@dataclasses.dataclass(frozen=True)
class Mine:
    width: int = 3


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (CONFIG, r"got an object of type TrainConfig \(take config\.algorithm, or config\.algorithm\.for_steps\("),
        (jaxdt.IQLConfig, r"got the class IQLConfig \(write IQLConfig\(\)\)"),
        (Mine(), "got an object of type Mine .*give one of DecisionTransformerConfig, .* is network= of"),
        ({}, "got an object of type dict"),
    ],
    ids=["run", "class", "own", "dict"],
)
def test_what_is_no_methods_config_is_refused_in_a_sentence(config, says, monkeypatch):
    monkeypatch.setattr("jaxdt.run.agent.make_algorithm", unchecked(jaxdt.make_algorithm))
    spec = jaxdt.make_spec(CONFIG.algorithm, STORE)
    for refuse in (
        lambda: unchecked(jaxdt.make_spec)(config, STORE),
        lambda: unchecked(jaxdt.make_algorithm)(config, spec),
        lambda: unchecked(jaxdt.Agent.__init__)(object.__new__(jaxdt.Agent), config, {}, spec),
    ):
        with pytest.raises(JaxdtError, match=rf"^config must be that of a method; {says}"):
            refuse()


def test_a_spec_of_another_kind_is_refused_in_a_sentence():
    with pytest.raises(JaxdtError, match=r"^spec must be a Spec; got an object of type EpisodeStore \(make one with"):
        unchecked(jaxdt.make_algorithm)(CONFIG.algorithm, STORE)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (lambda params: {}, r"there is no blocks\.block_0\.\S+ among 0 arrays"),
        (
            lambda params: jax.tree.map(lambda leaf: leaf[..., None], params),
            r"blocks\.block_0\.\S+ has shape \(\S.*and should",
        ),
    ],
    ids=["none", "other shapes"],
)
def test_weights_that_are_not_those_of_the_config_are_named(params, says):
    spec = jaxdt.make_spec(CONFIG.algorithm, STORE)
    weights = jax.eval_shape(jaxdt.make_algorithm(CONFIG.algorithm, spec).init, jax.random.key(0)).params
    agent = jaxdt.Agent(CONFIG.algorithm, params(jax.tree.map(lambda leaf: np.zeros(leaf.shape), weights)), spec)
    agent.reset(1.0)
    with pytest.raises(JaxdtError, match=f"^params must be the weights of decision-transformer .*; {says}"):
        agent.act(STORE.observations[0])
    with pytest.raises(JaxdtError, match=f"^params must be the weights of decision-transformer .*; {says}"):
        jaxdt.evaluate(agent, Drift(), targets=[1.0], episodes=1)


def test_a_schedule_without_its_number_of_updates_names_what_fills_it_in():
    algorithm = jaxdt.make_algorithm(jaxdt.preset("huggingface").algorithm, jaxdt.make_spec(CONFIG.algorithm, STORE))
    with pytest.raises(JaxdtError, match=r"got None and None \(config\.for_steps\(n\) fills"):
        algorithm.init(jax.random.key(0))


@pytest.mark.parametrize("name", ["rebrac", "online-dt-small", "online-dt", "reinformer", "trajectory-transformer"])
def test_what_a_preset_leaves_to_a_named_data_set_is_found_without_a_name(name):
    config = jaxdt.preset(name).algorithm.for_steps(20)
    spec = jaxdt.make_spec(config, STORE)
    assert jaxdt.make_algorithm(config, spec) is jaxdt.make_algorithm(config.for_data(None), spec)
    params = jax.eval_shape(lambda key: jaxdt.make_algorithm(config, spec).init(key).params, jax.random.key(0))
    assert jaxdt.Agent(config, params, spec).config == config.for_data(None)


def test_a_loop_of_ones_own_draws_actions_as_models_take_them():
    wide = dataclasses.replace(STORE, actions=2 * STORE.actions / np.abs(STORE.actions).max())
    with pytest.warns(UserWarning, match="no environment says the bounds of actions"):
        spec = jaxdt.make_spec(CONFIG.algorithm, wide)
    draw = jaxdt.make_algorithm(CONFIG.algorithm, spec).sampler
    assert np.abs(draw(wide, batch_size=64, seed=0).batch(0).actions).max() <= 1
    spec = dataclasses.replace(spec, action=jaxdt.Box(np.full(2, -2.0), np.full(2, 2.0)))
    mapped = wide.with_actions_of(spec.action)
    once = draw(mapped, batch_size=64, seed=0).batch(0).actions
    again = dataclasses.replace(mapped, as_models_take_them=False)  # as one that was saved and read
    with pytest.warns(UserWarning, match=r"no recorded action passes 1, .* go to 2, by which they are mapped now"):
        twice = jaxdt.make_algorithm(CONFIG.algorithm, spec).sampler(again, batch_size=64, seed=0).batch(0).actions
    np.testing.assert_allclose(twice, once / 2, atol=1e-6)
