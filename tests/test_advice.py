"""What a dataset is told to be unfit for, before anything is trained on it."""

import ast
import dataclasses
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import jaxdt
from jaxdt.cli.report import dataset_report, evaluation_table
from jaxdt.config.shared import fitting_return_scale
from jaxdt.progress import decimals
from jaxdt.run.doubts import doubt_targets, doubt_warmup
from jaxdt.run.prepare import prepare_run
from jaxdt.run.targets import choose_targets
from tests.conftest import make_store, tiny_algorithm


CONFIG = jaxdt.TrainConfig(env="none", steps=2, algorithm=tiny_algorithm(return_scale=1.0))


def store_of(observations=None, rewards=None) -> jaxdt.EpisodeStore:
    store = make_store((3, 3))
    given = {"observations": observations, "rewards": rewards}
    return dataclasses.replace(store, **{name: value for name, value in given.items() if value is not None})


def constant(values=(0, 5)) -> jaxdt.EpisodeStore:
    observations = make_store((3, 3), state_dim=7).observations.copy()
    observations[:, values] = 0.25
    return store_of(observations)


def advice(config, store) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare_run(config, store, None, None)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        (1.7e9 + np.arange(15), True),
        (1_700_000_000 + np.arange(15), True),
        (52 + 1e-6 * np.arange(15), True),
        (1.7e9 + 1e6 * np.arange(15), False),
        (np.full(15, 1.7e9), False),
        (np.arange(15), False),
        (1e-9 * np.arange(15), False),
    ],
)
def test_observations_that_float32_cannot_tell_apart_are_said(values, warned):
    observations = np.stack([np.zeros(15, values.dtype), values], axis=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jaxdt.EpisodeStore.from_arrays(observations, np.zeros((15, 1)), np.zeros(15), episode_ends=[15])
    said = [str(warning.message) for warning in caught]
    assert [": observations 1 lie too far from 0 for float32" in message for message in said] == [True] * warned


def test_whole_numbers_that_would_wrap_round_on_the_device_are_refused():
    with pytest.raises(jaxdt.JaxdtError, match="observations are whole numbers beyond 32 bits, up to 2147483648; give"):
        jaxdt.EpisodeStore.from_arrays(np.full((3, 1), 2**31), np.zeros((3, 1)), np.zeros(3), episode_ends=[3])


def test_observations_that_never_change_are_reported_and_warned_of():
    assert constant().constant_observations.tolist() == [0, 5]
    assert "constant          observations 0, 5 never change" in dataset_report("a", constant())
    assert "constant " not in dataset_report("a", make_store())
    (warned,) = advice(CONFIG, constant((2, 3, 4)))
    assert warned.startswith("observations 2-4 are constant in the data and divided by 1e-06: where they change")
    assert advice(CONFIG, make_store()) == []


def test_the_deviation_of_constant_observations_can_be_chosen():
    config = dataclasses.replace(CONFIG, constant_std=1.0)
    assert advice(config, constant()) == []
    std = prepare_run(config, constant(), None, None).record.spec.constants["state_std"]
    assert std[[0, 5]].tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(np.delete(std, [0, 5]), np.delete(constant().statistics.std, [0, 5]))


@pytest.mark.parametrize(
    ("size", "scale", "said"), [(5, 1000, "--return-scale 1)."), (0.04, 1, "0.01)."), (-5, 0.01, "1).")]
)
def test_a_return_scale_that_does_not_suit_the_data_is_said(size, scale, said):
    store = store_of(rewards=np.full(6, size / 3, np.float32))
    (warned,) = advice(dataclasses.replace(CONFIG, algorithm=tiny_algorithm(return_scale=scale)), store)
    assert warned.startswith(
        f"the largest size of a return in the data, {abs(size)}, divided by return_scale {scale:g} is too "
    )
    assert warned.endswith(said)
    assert f"{fitting_return_scale(store.returns):g} would suit (--return-scale)" in dataset_report("a", store)
    cloning = jaxdt.BehaviorCloningConfig(optimizer=CONFIG.algorithm.optimizer)
    assert advice(dataclasses.replace(CONFIG, algorithm=cloning), store) == []


def test_a_table_of_timesteps_that_is_too_short_is_said_where_there_is_one():
    short = tiny_algorithm(max_episode_length=2)
    (warned,) = advice(dataclasses.replace(CONFIG, algorithm=short), make_store((3, 3)))
    assert warned.startswith(
        "the model tells the first 2 steps of an episode apart, and those of the data have up to 3"
    )
    without = tiny_algorithm(max_episode_length=2, timestep_embedding=False)
    assert advice(dataclasses.replace(CONFIG, algorithm=without), make_store((3, 3))) == []


def test_what_weights_that_are_there_cannot_heed_is_not_advised(tmp_path):
    config = dataclasses.replace(CONFIG, algorithm=tiny_algorithm(max_episode_length=2, return_scale=1000.0))
    with warnings.catch_warnings(action="ignore"):
        run = jaxdt.train(config, constant(()), out=tmp_path)
    assert advice(dataclasses.replace(config, init=str(run)), constant(())) == []


def test_a_deviation_that_nothing_is_divided_by_is_refused():
    algorithm = jaxdt.preset("trajectory-transformer-small").algorithm
    unnormalised = dataclasses.replace(CONFIG, constant_std=1.0, algorithm=algorithm)
    with pytest.raises(
        jaxdt.JaxdtError, match="trajectory-transformer divides observations by no standard deviation here"
    ):
        prepare_run(unnormalised, make_store(), None, None)


def test_the_paper_scales_are_those_of_the_rule_where_it_uses_gym():
    assert [fitting_return_scale(np.array([value])) for value in (3600.0, -5.0, 0.04, 0.0)] == [1000, 1, 0.01, 1]


def test_equal_default_targets_are_played_once():
    store = store_of(rewards=np.array([0, 0, 1, 0, 0, 1], np.float32))
    assert choose_targets(CONFIG, store, "none") == (1.0,)


@pytest.mark.parametrize(("asked", "warned"), [(1.05, False), (1.2, True), (-0.2, True), (0.5, False)])
def test_targets_of_a_preset_that_the_data_do_not_reach_are_said(asked, warned):
    store = store_of(rewards=np.array([0, 0, 1, 0, 0, 0], np.float32))
    config = dataclasses.replace(CONFIG, preset="cartpole", targets=jaxdt.preset("cartpole").targets)
    said = "and the preset asks for 50, 200, 500; targets='auto' (--targets auto) asks for the best of the data."
    assert next(message for message in advice(config, store) if "preset asks" in message).endswith(said)
    own = dataclasses.replace(config, targets=(asked,))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        doubt_targets(own, config, store)
    assert len(caught) == warned


def test_passes_that_make_few_updates_are_said():
    huggingface = dataclasses.replace(CONFIG, steps=None, passes=120, batch_size=2)
    (said,) = advice(huggingface, store_of())
    assert said.startswith("120 passes over 2 episodes are 120 updates, which is few (")
    assert advice(dataclasses.replace(huggingface, passes=1000), store_of()) == []
    assert advice(dataclasses.replace(huggingface, passes=None, steps=120), store_of()) == []


@pytest.mark.parametrize(
    ("preset", "changes", "warned"),
    [
        ("demo", {"steps": 300}, True),
        ("demo", {"steps": 300, "warmup_steps": 30}, False),
        ("paper", {"steps": 300}, True),
        ("online-dt", {}, False),  # its warm-up goes on in the environment
    ],
)
def test_a_warmup_that_is_longer_than_the_run_is_said(preset, changes, warned):
    config = jaxdt.preset(preset, **changes)
    config = dataclasses.replace(config, algorithm=config.algorithm.for_data(None).for_steps(config.steps))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        doubt_warmup(config)
    advice = "try warmup_steps=30 (--warmup-steps 30)."
    assert [str(w.message)[-len(advice) :] for w in said] == [advice] * warned


def test_small_numbers_are_shown_with_their_digits():
    store = store_of(rewards=np.array([0, 0, 0.01, 0.04, 0, 0], np.float32))
    assert "return            0.0250 ± 0.0150, from 0.0100 to 0.0400" in dataset_report("a", store)
    evaluation = jaxdt.Evaluation(target=0.02, returns=np.array([0.01, 0.04]), lengths=np.array([3, 3]))
    assert evaluation_table("a", [evaluation]).split("\n")[2].split()[:3] == ["0.0200", "0.0250", "0.0150"]
    assert [decimals(value) for value in (0.0, 11780.4, 5.0, 0.6, None)] == [".1f", ".1f", ".2f", ".3f", ".1f"]


def test_terminations_in_the_middle_of_episodes_are_not_counted_as_ends():
    store = make_store((3, 3))
    flags = np.array([True, True, False, False, True, True])
    assert "episodes          2 (1 terminated, the rest cut off)" in dataset_report(
        "a", dataclasses.replace(store, terminations=flags)
    )


PACKAGE = Path(jaxdt.__file__).parent
ROOMS = ("algorithms", "config", "data", "evaluation", "models", "parallel.py", "training.py", "run/doubts.py")
FILES = [
    path for room in ROOMS for path in ([PACKAGE / room] if room.endswith("py") else (PACKAGE / room).rglob("*.py"))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_advice_to_give_a_flag_says_it_in_python_too(path):
    """In rooms used from Python as often as by the command; docstrings are free, and so is where a run lies."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [*ast.walk(tree)]
    within = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    within |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    for node in nodes:
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(each.value for each in parts if isinstance(each, ast.Constant) and isinstance(each.value, str))
        for flag in re.findall(r"(?<![\w`-])--(?:no-)?([a-z][a-z-]+)", text) if id(node) not in within else ():
            assert flag == "out" or f"{flag.replace('-', '_')}=" in text, text
