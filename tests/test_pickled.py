import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import jaxdt
from jaxdt import EpisodeStore
from jaxdt.data.formats.pickled import load_pickle
from tests.conftest import make_store
from tests.test_pickles import Calls


def episodes_of(store: EpisodeStore, **changes) -> list[dict]:
    """The original's list of dicts."""
    columns = {name: getattr(store, name) for name in ("observations", "actions", "rewards")}
    columns |= {"terminals": store.terminations, "next_observations": np.zeros((store.num_steps, 1))}
    cuts = zip(store.offsets[:-1], store.offsets[1:], strict=True)
    return [{name: values[start:end] for name, values in columns.items()} | changes for start, end in cuts]


def write(path: Path, value, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def refusal(path: Path) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(jaxdt.JaxdtError) as caught:
        load_pickle(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 400
    return message


def refused_episode(path: Path, **changes) -> str:
    """How a file is refused whose episode 1 of three differs; None leaves a field out."""
    episodes = episodes_of(make_store())
    changed = {**episodes[1], **changes}
    episodes[1] = {name: value for name, value in changed.items() if value is not None}
    return refusal(write(path / "a.pkl", episodes))


class Raw:
    """Pickles as a call of `function` on `arguments`, then its state."""

    def __init__(self, function, arguments, state):
        self.reduced = function, arguments, state

    def __reduce__(self):
        return self.reduced


def array_promising(shape, dtype, content: bytes) -> Raw:
    """An array as NumPy pickles it, with a state of our choice."""
    function, arguments, _ = np.zeros(1).__reduce__()
    return Raw(function, arguments, (1, shape, dtype, False, content))


@pytest.mark.parametrize("discrete", [None, 5])
@pytest.mark.parametrize("protocol", range(6))
def test_the_originals_list_of_dicts_loads_at_every_protocol(tmp_path, protocol, discrete):
    store = make_store(discrete=discrete)
    assert load_pickle(write(tmp_path / "a.pkl", episodes_of(store), protocol)).fingerprint == store.fingerprint


def test_numpy_ones_names_are_understood_too(tmp_path):
    store = make_store()
    content = pickle.dumps(episodes_of(store), 2).replace(b"cnumpy._core.", b"cnumpy.core.")
    (tmp_path / "a.pkl").write_bytes(content)
    assert load_pickle(tmp_path / "a.pkl").fingerprint == store.fingerprint


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">i2", "u1", "f2"])
def test_numbers_of_every_size_and_byte_order_are_read(tmp_path, protocol, dtype):
    observations = np.arange(6).reshape(3, 2).astype(dtype)
    episode = {**episodes_of(make_store((3,)))[0], "observations": observations}
    loaded = load_pickle(write(tmp_path / "a.pkl", [episode], protocol)).observations
    np.testing.assert_array_equal(loaded, observations)
    assert loaded.dtype.isnative


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_in_other_orders_of_memory_keep_their_values(tmp_path, protocol):
    observations = np.arange(24.0).reshape(4, 3, 2)
    for values in (np.asfortranarray(observations), observations.transpose(0, 2, 1), observations[::-1, ::2]):
        episode = {**episodes_of(make_store((4,)))[0], "observations": values}
        loaded = load_pickle(write(tmp_path / "a.pkl", [episode], protocol)).observations
        np.testing.assert_array_equal(loaded, values)


def test_lists_of_numbers_and_of_rows_are_read_as_arrays(tmp_path):
    store = make_store()
    plain = [{name: values.tolist() for name, values in episode.items()} for episode in episodes_of(store)]
    rows = [{name: list(values) for name, values in episode.items()} for episode in episodes_of(store)]
    for episodes in (plain, rows):
        assert load_pickle(write(tmp_path / "a.pkl", episodes)).fingerprint == store.fingerprint


def test_a_last_terminal_is_a_termination_and_anything_else_a_cut(tmp_path):
    first, second, third = episodes_of(make_store((2, 2, 2)))
    first["terminals"] = np.array([False, True])
    second["dones"] = np.array([0, 1])
    del second["terminals"]
    third |= {"terminals": np.array([0.0, 1.0]), "timeouts": np.array([False, True])}
    store = load_pickle(write(tmp_path / "a.pkl", [first, second, third, episodes_of(make_store((2,)))[0]]))
    assert store.lengths.tolist() == [2, 2, 2, 2]
    assert np.flatnonzero(store.terminations).tolist() == [1, 3, 5]
    assert np.flatnonzero(store.truncations).tolist() == [5, 7]


@pytest.mark.parametrize("field", ["observations", "actions", "rewards"])
def test_a_missing_field_is_named_with_its_episode(tmp_path, field):
    message = refused_episode(tmp_path, **{field: None})
    assert f"episode 1 has no {field}" in message
    assert "next_observations" in message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "must hold a list of episodes, each a dict; got an empty dict"),
        ([], "must hold a list of episodes, each a dict; got an empty list"),
        (np.zeros(3), "must hold a list of episodes, each a dict; got an array"),
        (3, "got a int"),
        ([[1, 2]], "episode 0 must be a dict of arrays; got a list."),
    ],
)
def test_other_containers_are_refused(tmp_path, value, words):
    assert words in refusal(write(tmp_path / "a.pkl", value))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewards": np.zeros(6)}, "rewards of episode 1 has 6 steps but observations has 7; they must agree."),
        ({"terminals": np.zeros(8, bool)}, "terminals of episode 1 has 8 steps but observations has 7"),
        ({"actions": np.zeros((7, 3))}, "actions of episode 1 has steps of shape (3,) but episode 0 of (2,)"),
        ({"observations": np.zeros((0, 3))}, "observations of episode 1 is empty"),
        ({"observations": 3.0}, "observations of episode 1 is empty"),
        ({"observations": [[1.0, 2.0, 3.0]] * 6 + [[1.0]]}, "observations of episode 1 must be one array"),
        ({"rewards": ["1"] * 7}, "rewards of episode 1 must be an array of numbers; it holds a str."),
        ({"rewards": [2**70] * 7}, "rewards of episode 1 must be an array of numbers"),
        ({"rewards": {"a": 1}}, "rewards of episode 1 must be an array of numbers; it holds a dict."),
        ({"rewards": np.full(7, np.nan)}, "rewards of episode 1, step 0, is not a finite float32"),
        ({"terminals": np.arange(7)}, "terminals of episode 1 must be true or false at every step"),
        ({"terminals": np.arange(7) == 3}, "terminals of episode 1 is true at step 3 of 7, before its last; make what"),
        ({"timeouts": np.arange(7) == 0, "terminals": None}, "timeouts of episode 1 is true at step 0 of 7"),
        ({"actions": np.zeros((7, 2), object)}, "an array of dtype 'O8', and only plain numbers are read"),
        ({"rewards": np.array(["1"] * 7)}, "an array of dtype 'U1', and only plain numbers are read"),
        ({"rewards": np.zeros(7, "f4,i4")}, "an array of dtype 'V8', and only plain numbers are read"),
        ({"rewards": np.zeros(7, complex)}, "an array of dtype 'c16', and only plain numbers are read"),
        ({"rewards": np.ma.zeros(7)}, "asks to run numpy.ma"),
    ],
)
def test_fields_that_do_not_fit_are_refused_with_their_episode(tmp_path, changes, words):
    assert words in refused_episode(tmp_path, **changes)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (array_promising((8,), np.dtype("f8"), bytes(56)), "shape (8,) and dtype float64 with 56 bytes, which do not"),
        (array_promising((10**30,), np.dtype("f8"), bytes(56)), "with 56 bytes, which do not fit"),
        (array_promising((-7,), np.dtype("f8"), bytes(56)), "which do not fit"),
        (array_promising((-7, -1), np.dtype("f8"), bytes(56)), "which do not fit"),
        (array_promising((7.0,), np.dtype("f8"), bytes(56)), "which do not fit"),
        (array_promising(7, np.dtype("f8"), bytes(56)), "which do not fit"),
        (array_promising((7,), "f8", bytes(56)), "an array that is not made of bytes"),
        (array_promising((7,), np.dtype("f8"), [0.0] * 7), "an array that is not made of bytes"),
        (Raw(*np.zeros(1).__reduce__()[:2], ()), "an array with a state that is not NumPy's"),
        (
            Raw(*np.zeros(1).__reduce__()[:2], None),
            "rewards of episode 1 must be an array of numbers; it holds an array wi",
        ),
        (Raw(np.dtype, ("f8",), (3, "<", (np.dtype("f4"), (2,)), None, None, -1, -1, 0)), "several fields"),
        (Raw(np.dtype, ("f8",), {"a": 1}), "a dtype with a state that is not NumPy's"),
        (Raw(np.dtype, ("f8",), (3, "?", None, None, None, -1, -1, 0)), "a dtype with a state that is not NumPy's"),
        (Calls(np.dtype, "f8,f8"), "an array of dtype 'f8,f8'"),
        (Calls(np.dtype, "(1000000000,)f8"), "an array of dtype '(1000000000,)f8'"),
        (Calls(np.ndarray, (10**9,)), "a value of Stand"),
        (Calls(np.zeros(1).__reduce__()[0], np.dtype, (10**9,), b"d"), "an array that is not numpy.ndarray"),
        (Calls(np.zeros, (10**9,)), "asks to run numpy.zeros"),
    ],
)
def test_an_array_that_promises_what_it_does_not_hold_is_refused(tmp_path, array, words):
    assert words in refused_episode(tmp_path, rewards=array)


@pytest.mark.parametrize("protocol", [2, 5])
def test_what_repeats_through_references_is_refused(tmp_path, protocol):
    [episode] = episodes_of(make_store((500,)))
    message = refusal(write(tmp_path / "a.pkl", [episode] * 20, protocol))
    assert message.endswith(": its arrays add up to more than the file holds; write each episode once.")
    nested = 0.0
    for _ in range(6):
        nested = [nested] * 100
    assert "more than the file holds" in refused_episode(tmp_path, rewards=nested)
    endless: list = []
    endless.append(endless)
    assert "it holds a list" in refused_episode(tmp_path, rewards=endless)


def test_bytes_that_repeat_through_references_are_refused_before_they_are_copied(tmp_path):
    text = "x" * 10_000  # Python 2's bytes, which are encoded anew for each array
    function, arguments, _ = np.zeros(1).__reduce__()
    arrays = [Raw(function, arguments, (1, (10_000,), np.dtype("u1"), False, text)) for _ in range(100)]
    assert "is not a readable pickle: its arrays add up to more" in refused_episode(tmp_path, rewards=arrays)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [(os.system, ("touch {marker}",)), (os.mkdir, ("{marker}",)), (eval, ("__import__('os').mkdir('{marker}')",))],
)
def test_a_pickle_that_would_run_something_is_refused_and_not_run(tmp_path, function, arguments, protocol):
    marker = tmp_path / "ran"
    call = Calls(function, *(argument.format(marker=marker) for argument in arguments))
    inside = array_promising((call,), np.dtype("f8"), bytes(8))
    for value in (call, [{"observations": call}], [{"observations": inside}], [{call: 1}]):
        message = refusal(write(tmp_path / "a.pkl", value, protocol))
        assert f".{function.__name__}, which a file of data never needs; it was not run" in message
    assert not marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_file_that_is_cut_off_is_refused(tmp_path, share):
    whole = write(tmp_path / "a.pkl", episodes_of(make_store())).read_bytes()
    (tmp_path / "a.pkl").write_bytes(whole[: int(share * len(whole))])
    assert "is not a readable pickle" in refusal(tmp_path / "a.pkl")


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    assert "cannot be read: No such file" in refusal(tmp_path / "nowhere.pkl")
