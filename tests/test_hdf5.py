import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import jaxdt
from jaxdt.data.formats.hdf5 import load_hdf5


def good_arrays(**changes) -> dict:
    """Five steps in episodes of 2 and 3; None leaves a dataset out."""
    arrays = {
        "observations": np.arange(15, dtype=np.float32).reshape(5, 3),
        "actions": np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2),
        "rewards": np.arange(5, dtype=np.float32),
        "terminals": np.array([False, True, False, False, False]),
        "timeouts": np.array([False, False, False, False, True]),
    }
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


def write(path: Path, *, env_id=None, **changes) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in good_arrays(**changes).items():
            file[name] = values
        if env_id is not None:
            file.attrs["env_id"] = np.bytes_(env_id) if isinstance(env_id, str) else env_id
    return path


def refusal(path: Path) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(jaxdt.JaxdtError) as caught:
        load_hdf5(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 400
    return message


def old_file(path: Path, terminals: np.ndarray) -> Path:
    """One of D4RL's files from before `timeouts`."""
    n = len(terminals)
    zeros = {"observations": np.zeros((n, 1)), "actions": np.zeros((n, 1)), "rewards": np.zeros(n)}
    return write(path, **zeros, terminals=terminals, timeouts=None)


def test_a_file_of_d4rls_layout_loads(tmp_path):
    store = load_hdf5(write(tmp_path / "a.hdf5", env_id="Hopper-v5"))
    assert store.lengths.tolist() == [2, 3]
    assert store.returns.tolist() == [1, 9]
    assert store.terminations.tolist() == [False, True, False, False, False]
    assert store.truncations.tolist() == [False, False, False, False, True]
    assert store.env_id == "Hopper-v5"


def test_a_step_that_is_terminal_and_timed_out_ends_one_episode_by_termination(tmp_path):
    store = load_hdf5(write(tmp_path / "a.hdf5", terminals=np.array([0, 1, 0, 0, 1])))
    assert store.lengths.tolist() == [2, 3]
    assert store.terminations[-1]


def test_numbers_of_other_sizes_compressed_and_chunked_are_read(tmp_path):
    path = write(tmp_path / "a.hdf5", observations=None, rewards=np.arange(5), actions=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", data=np.ones((5, 3), ">f8"), compression="lzf", chunks=(2, 2))
        file.create_dataset(
            "actions", data=np.ones((5, 2), "f2"), compression="gzip", fletcher32=True, maxshape=(None, 2)
        )
    store = load_hdf5(path)
    assert store.observations.dtype == store.actions.dtype == np.float32
    assert store.observations.sum() == 15


def test_steps_after_the_last_end_are_dropped_and_reported(tmp_path):
    path = write(tmp_path / "a.hdf5", timeouts=np.zeros(5, bool))
    with pytest.warns(UserWarning, match=r"a\.hdf5: the last 3 steps belong to an unfinished episode and are dropped"):
        store = load_hdf5(path)
    assert store.lengths.tolist() == [2]
    # Nobody sees what is in the dropped steps.
    observations = good_arrays()["observations"]
    observations[4] = np.nan
    with pytest.warns(UserWarning, match="the last 3 steps"):
        load_hdf5(write(tmp_path / "b.hdf5", timeouts=np.zeros(5, bool), observations=observations))


@pytest.mark.parametrize(
    ("steps", "terminals", "lengths", "dropped"),
    [
        (3000, [], [1000, 1000, 1000], 0),
        (2500, [], [1000, 1000], 500),
        (2500, [99], [100, 1000, 1000], 400),
        (2100, [99, 2099], [100, 1000, 1000], 0),
        (2100, [999, 1500], [1000, 501], 599),
        (1600, [599], [600, 1000], 0),
        (1001, [1000], [1000, 1], 0),
    ],
)
def test_files_older_than_timeouts_end_episodes_after_a_thousand_steps(tmp_path, steps, terminals, lengths, dropped):
    flags = np.zeros(steps, bool)
    flags[terminals] = True
    path = old_file(tmp_path / "hopper_medium-replay-v0.hdf5", flags)
    with pytest.warns(UserWarning, match="episodes are cut after 1000 steps|the last .* steps") as caught:
        store = load_hdf5(path)
    said = [str(warning.message) for warning in caught]
    assert "has no timeouts: episodes are cut after 1000 steps, as D4RL recorded this file" in said[0]
    assert [f"the last {dropped} steps" in message for message in said[1:]] == [True] * (dropped > 0)
    assert store.lengths.tolist() == lengths
    assert np.flatnonzero(store.terminations).tolist() == terminals


def test_the_rule_of_a_thousand_steps_is_the_originals(tmp_path):
    flags = np.random.default_rng(0).random(30_000) < 1 / 700
    flags[-1] = True
    lengths, step = [], 0
    for terminal in flags:
        if terminal or step == 999:
            lengths.append(step + 1)
            step = 0
        else:
            step += 1
    assert load_hdf5(old_file(tmp_path / "a.hdf5", flags), cut_after=1000).lengths.tolist() == lengths


def test_with_timeouts_an_episode_may_be_longer_than_a_thousand_steps(tmp_path):
    path = old_file(tmp_path / "a.hdf5", np.zeros(1500, bool))
    with h5py.File(path, "a") as file:
        file["timeouts"] = np.arange(1500) == 1499
    assert load_hdf5(path).lengths.tolist() == [1500]


@pytest.mark.parametrize("flags", [{"timeouts": np.zeros(5, bool)}, {"timeouts": None}])
def test_a_file_without_any_end_is_refused(tmp_path, flags):
    path = write(tmp_path / "a.hdf5", terminals=np.zeros(5, bool), **flags)
    assert re.search("no episode ends; give|terminals alone do not say where all episodes end", refusal(path))


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
def test_a_missing_dataset_is_named(tmp_path, name):
    message = refusal(write(tmp_path / "a.hdf5", **{name: None}))
    assert f": {name} is missing; there is " in message
    assert "timeouts" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.zeros(4)}, "rewards has 4 steps but observations has 5; they must agree."),
        ({"terminals": np.zeros(6, bool)}, "terminals has 6 steps but observations has 5; they must agree."),
        ({"timeouts": np.zeros(0, bool)}, "timeouts has 0 steps but observations has 5; they must agree."),
        ({"timeouts": np.zeros((5, 2), bool)}, "timeouts must be true or false at every step; got shape (5, 2)"),
        ({"terminals": np.arange(5)}, "terminals must be true or false at every step; got shape (5,), dtype int64."),
        ({"rewards": np.zeros((5, 2))}, "rewards must have shape (steps,), one number a step; got (5, 2)."),
        ({"actions": np.zeros(5)}, "actions of shape (5,) must be whole numbers; got dtype float64 (give continuous "),
        ({"rewards": np.full(5, np.inf)}, "rewards of episode 0, step 0, is not a finite float32"),
        ({"rewards": np.array([b"1"] * 5)}, "rewards must be numbers; got dtype |S1."),
        ({"rewards": np.zeros(5, "f4,i4")}, "rewards must be numbers; got dtype [('f0',"),
        ({"rewards": np.zeros(5, complex)}, "rewards must be numbers; got dtype "),
        ({"rewards": ["a", "bc"]}, "rewards must be numbers; got dtype object."),
        ({"rewards": 3.0}, "rewards must be an array of a row a step; got a single value or nothing."),
        ({"rewards": h5py.Empty("f4")}, "rewards must be an array of a row a step; got a single value or nothing."),
    ],
)
def test_datasets_that_do_not_fit_are_refused_by_name(tmp_path, changes, message):
    assert message in refusal(write(tmp_path / "a.hdf5", **changes))


@pytest.mark.parametrize("env_id", ["evil:Env-v0", "../Env-v0", "a b", "Env-v0\n", np.bytes_(b"\xff")])
def test_an_env_id_that_is_no_plain_gymnasium_id_is_refused(tmp_path, env_id):
    message = refusal(write(tmp_path / "a.hdf5", env_id=env_id))
    assert ": env_id must be a Gymnasium id such as HalfCheetah-v5; got " in message


@pytest.mark.parametrize("env_id", [3, np.zeros(3), [b"Env-v0"] * 2, h5py.Empty("S5")])
def test_an_env_id_that_is_no_string_of_fixed_length_is_refused(tmp_path, env_id):
    assert ": env_id must be one string of fixed length; got shape " in refusal(
        write(tmp_path / "a.hdf5", env_id=env_id)
    )


@pytest.mark.parametrize("link", [h5py.SoftLink("/hidden"), h5py.ExternalLink("other.hdf5", "/rewards")])
def test_a_link_to_elsewhere_is_not_followed(tmp_path, link):
    write(tmp_path / "other.hdf5")
    path = write(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file["hidden"] = np.zeros(5)
        file["rewards"] = link
    assert "rewards is a link to another place, which is not followed" in refusal(path)


def test_numbers_kept_in_another_file_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(20))
    path = write(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (5,), "f4", external=[(str(tmp_path / "secret"), 0, 20)])
    assert "rewards keeps its numbers in another file" in refusal(path)


def test_a_virtual_dataset_is_refused(tmp_path):
    write(tmp_path / "other.hdf5")
    path = write(tmp_path / "a.hdf5", rewards=None)
    layout = h5py.VirtualLayout((5,), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.hdf5", "rewards", (5,))
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("rewards", layout)
    assert "rewards keeps its numbers in another file" in refusal(path)


def test_references_groups_and_types_are_no_numbers(tmp_path):
    path = write(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", data=[file["actions"].ref] * 5, dtype=h5py.ref_dtype)
    assert "rewards must be numbers; got dtype object." in refusal(path)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file.create_group("rewards")
    assert "rewards must be a dataset of numbers; got a group." in refusal(path)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["rewards"] = np.dtype("f4")
    assert "rewards must be a dataset of numbers; got a datatype." in refusal(path)


def test_numbers_of_types_that_numpy_lacks_are_refused(tmp_path):
    path = write(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        kind = h5py.h5t.IEEE_F64LE.copy()
        kind.set_fields(63, 40, 23, 0, 40)  # an exponent of 23 bits
        h5py.h5d.create(file.id, b"rewards", kind, h5py.h5s.create_simple((5,)))
    assert "cannot be read as an HDF5 file: " in refusal(path)


def test_a_filter_that_hdf5_does_not_bring_is_refused(tmp_path):
    path = write(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((5,))
        properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)  # zstd, of a library
        space = h5py.h5s.create_simple((5,))
        h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, space, properties)
    assert "rewards is stored through filter 32015, which is not read; use gzip or lzf." in refusal(path)


@pytest.mark.parametrize("options", [{"shape": (10**9,)}, {"shape": (5,), "maxshape": (None,), "chunks": (10**9,)}])
def test_a_dataset_that_promises_more_than_the_file_holds_is_refused_unread(tmp_path, options):
    path = write(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", dtype="f4", **options)
    assert path.stat().st_size < 20_000
    assert "rewards would take 3.7 GiB, far more than a file of 0.0 MiB holds" in refusal(path)


def test_datasets_that_only_together_promise_too_much_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.hdf5")
    monkeypatch.setattr("jaxdt.data.formats.limits.size_limit", lambda path, times=4: 110)
    assert "rewards would take" in refusal(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(tmp_path, share):
    path = write(tmp_path / "a.hdf5")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "cannot be read as an HDF5 file: " in refusal(path)


@pytest.mark.parametrize("content", [b"hello\nworld\n", bytes(2000), b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "a.hdf5").write_bytes(content)
    assert "cannot be read as an HDF5 file: " in refusal(tmp_path / "a.hdf5")


def test_flipped_bytes_in_a_checked_dataset_are_noticed(tmp_path):
    path = write(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        dataset = file.create_dataset("rewards", data=np.arange(5.0), chunks=(5,), fletcher32=True)
        where = dataset.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[where + 9] ^= 1
    path.write_bytes(content)
    assert "cannot be read as an HDF5 file: " in refusal(path)
