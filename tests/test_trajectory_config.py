"""The Trajectory Transformer's choices: the authors' where they made them, and none that cannot be."""

import dataclasses

import numpy as np
import pytest

from jaxdt.algorithms import make_algorithm, measure
from jaxdt.cli.playing import EvaluateArguments
from jaxdt.config import (
    ACTING_OPTIONS,
    TRAJECTORY_TRANSFORMER,
    TrainConfig,
    TrajectoryTransformerConfig,
    with_acting_options,
)
from jaxdt.errors import JaxdtError
from jaxdt.run.prepare import prepare_run
from jaxdt.run.resume import agree_with_record
from jaxdt.types import Box, Spec
from tests.conftest import make_store
from tests.toys import Drift


STORE = make_store()
DEFAULT = TrajectoryTransformerConfig()


def spec_of(config, store=STORE):
    return dataclasses.replace(store.spec, constants=measure(config, store))


@pytest.mark.parametrize(
    ("dataset", "planning"),
    [
        ("hopper-medium-v2", (15, 128, 0.4, 0)),
        ("data/halfcheetah_medium_replay-v2.hdf5", (5, 32, 0.4, 0)),
        ("halfcheetah-medium-v2+halfcheetah-expert-v2", (15, 32, 0.4, 0)),
        ("halfcheetah-expert-v2+halfcheetah-medium-v2", (15, 32, 0.4, 0)),
        ("walker2d-medium-expert-v2", (5, 128, 0.4, 0)),
        ("walker2d-medium-replay-v2", (20, 32, 1.0, 40)),
        ("ant-random-v2", (5, 128, 0.4, 0)),
        ("ant-expert-v2", (15, 128, 0.4, 0)),
        ("mine.npz", (15, 128, 0.4, 0)),
    ],
)
def test_planning_is_what_the_authors_chose_for_the_data_set(dataset, planning):
    chosen = DEFAULT.for_data(dataset)
    assert (chosen.horizon, chosen.beam_width, chosen.action_nucleus, chosen.action_top_k) == planning
    assert chosen.token_schedule == (dataset != "mine.npz")
    given = dataclasses.replace(DEFAULT, horizon=3, action_top_k=7, token_schedule=False).for_data(dataset)
    assert (given.horizon, given.action_top_k, given.token_schedule) == (3, 7, False)


@pytest.mark.parametrize("name", ["action", "observation"])
def test_a_nucleus_of_what_is_not_drawn_is_refused_when_acting(name):
    config = dataclasses.replace(DEFAULT, action_top_k=1, observation_top_k=1).for_data(None)
    with pytest.raises(JaxdtError, match=f"{name}_nucleus=0.5 changes nothing with {name}_top_k=1, which takes the li"):
        with_acting_options(config, **{f"{name}_nucleus": 0.5})
    drawn = with_acting_options(config, **{f"{name}_nucleus": 0.5, f"{name}_top_k": 0})
    assert getattr(drawn, f"{name}_nucleus") == 0.5


def test_the_preset_is_the_authors():
    algorithm, optimizer = TRAJECTORY_TRANSFORMER.algorithm, TRAJECTORY_TRANSFORMER.algorithm.optimizer
    assert (algorithm.bins, algorithm.transitions, algorithm.discount) == (100, 10, 0.99)
    assert (algorithm.width, algorithm.num_layers, algorithm.num_heads, algorithm.dropout) == (128, 4, 4, 0.1)
    assert (algorithm.action_weight, algorithm.termination_penalty) == (5, -100)
    assert (algorithm.context_transitions, algorithm.expansion, algorithm.plan_every) == (5, 2, 1)
    assert (optimizer.learning_rate, optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (6e-4, 0.9, 0.95, 1e-8)
    assert (optimizer.weight_decay, optimizer.decay_biases, optimizer.max_grad_norm) == (0.1, False, 1.0)
    assert TRAJECTORY_TRANSFORMER.steps * TRAJECTORY_TRANSFORMER.batch_size == pytest.approx(50e6, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beam_width": 0}, "beam_width must be at least 1; got 0"),
        ({"horizon": 0}, "horizon must be at least 1; got 0"),
        ({"context_transitions": 1}, "context_transitions must be at least 2; got 1"),
        ({"context_transitions": 11}, "context_transitions must be at most transitions, .* got 11 and 10"),
        ({"horizon": 2, "plan_every": 3}, "plan_every must be at most horizon, .* got 3 and 2"),
        ({"horizon": 7, "planning_window": "growing"}, "must be at most transitions, .* got 11 and 10; take a shorter"),
        ({"action_nucleus": 0.0}, "action_nucleus must be above 0 and at most 1"),
        ({"action_top_k": -1}, "action_top_k must be at least 0"),
        ({"num_heads": 3}, "width must be divisible by num_heads"),
        ({"termination_penalty": float("nan")}, "termination_penalty must be finite"),
    ],
)
def test_odd_choices_are_refused(changes, message):
    with pytest.raises(JaxdtError, match=message):
        dataclasses.replace(DEFAULT, **changes)


def test_what_was_not_measured_or_chosen_is_named():
    config = DEFAULT.for_data(None).for_steps(10)
    spec = spec_of(config)
    with pytest.raises(JaxdtError, match=r"horizon must be chosen here; it is None \(for_data fills it in\)"):
        DEFAULT.check_spec(spec)
    with pytest.raises(JaxdtError, match=r"edges of bins of shape \(101, 7\).* got none"):
        make_algorithm(config, STORE.spec)
    by_tokens = dataclasses.replace(config, token_schedule=True)
    for windows, message in ((0, "must be a number above 0; got 0"), (1e8, "100000000 windows of 70; take token_sch")):
        measured = {**spec.constants, "windows": np.float32(windows)}
        with pytest.raises(JaxdtError, match=message):
            make_algorithm(by_tokens, dataclasses.replace(spec, constants=measured))
    with pytest.raises(JaxdtError, match="at most 1000; these have 1001; choose another"):
        measure(DEFAULT, make_store(state_dim=1001))
    falling = {**spec.constants, "edges": spec.constants["edges"][::-1]}
    with pytest.raises(JaxdtError, match="must not fall"):
        make_algorithm(config, dataclasses.replace(spec, constants=falling))
    discrete = make_store(discrete=5)
    few = dataclasses.replace(config, bins=4)
    with pytest.raises(JaxdtError, match="of which there are 4; these are 5 actions; give more bins"):
        make_algorithm(few, spec_of(few, discrete))


def test_a_run_goes_on_with_what_was_chosen_for_its_data_wherever_they_are_now():
    given = TrainConfig(algorithm=DEFAULT, env="none", dataset="halfcheetah-medium-v2.hdf5", steps=2)
    record = prepare_run(given, STORE, None, None).record
    assert (record.config.algorithm.horizon, record.config.algorithm.token_schedule) == (5, True)
    assert agree_with_record(given, record).algorithm == record.config.algorithm
    moved = dataclasses.replace(given, dataset="moved.npz", algorithm=dataclasses.replace(DEFAULT, beam_width=7))
    chosen = agree_with_record(moved, record).algorithm
    assert chosen == dataclasses.replace(record.config.algorithm, beam_width=7)
    other = dataclasses.replace(moved, algorithm=dataclasses.replace(DEFAULT, token_schedule=False))
    with pytest.raises(JaxdtError, match=r"started with algorithm\.token_schedule=True and cannot"):
        agree_with_record(other, record)


def test_a_discrete_action_is_its_own_bin():
    edges = spec_of(DEFAULT, make_store(discrete=5)).constants["edges"]
    assert edges.shape == (101, 3 + 1 + 2)
    np.testing.assert_allclose((edges[1:, 3] + edges[:-1, 3]) / 2, np.arange(100))


def test_evaluate_has_a_flag_for_every_acting_option():
    assert set(ACTING_OPTIONS) <= {field.name for field in dataclasses.fields(EvaluateArguments)}


class Wide(Drift):
    spec = Spec(observation_shape=(3,), action=Box(np.float32([-1, -2]), np.float32([1, 4])))


def test_edges_of_actions_are_those_of_the_actions_as_models_take_them():
    """Whatever the environment's bounds."""
    wide = dataclasses.replace(STORE, actions=STORE.actions * np.float32([1, 3]) + np.float32([0, 1]))
    config = TrainConfig(algorithm=DEFAULT, steps=2)
    edges = [
        prepare_run(each, store, env, None).record.spec.constants["edges"]
        for each, store, env in (
            (dataclasses.replace(config, env="none"), STORE, None),
            (config, wide, Wide()),
            (dataclasses.replace(config, normalized_actions=True), STORE, Wide()),
        )
    ]
    np.testing.assert_allclose(edges[1], edges[0], atol=1e-6)
    np.testing.assert_array_equal(edges[2], edges[0])
