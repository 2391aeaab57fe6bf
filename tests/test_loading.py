import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxdt import JaxdtError, load_episodes
from tests.conftest import make_store


def good_arrays(**changes) -> dict:
    """Five steps in episodes of 2 and 3; None leaves an array out."""
    arrays = {
        "observations": np.arange(15, dtype=np.float32).reshape(5, 3),
        "actions": np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2),
        "rewards": np.arange(5, dtype=np.float32),
        "terminations": np.array([False, True, False, False, False]),
        "truncations": np.array([False, False, False, False, True]),
        "episode_ends": np.array([2, 5]),
        "env_id": np.array("Hopper-v5"),
    }
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


def write_npz(path: Path, **changes) -> Path:
    np.savez_compressed(path, **good_arrays(**changes))
    return path


def write_zip(path: Path, **members: bytes) -> Path:
    """An .npz whose `members` hold these bytes in place of arrays."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in good_arrays().items():
            content = io.BytesIO()
            np.save(content, values)
            archive.writestr(f"{name}.npy", members.get(name, content.getvalue()))
    return path


def array_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The head of an .npy file that promises more than it holds."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": dtype, "fortran_order": False, "shape": shape})
    return content.getvalue() + bytes(64)


def refusal(spec) -> str:
    """The one sentence with which a spec is refused."""
    with pytest.raises(JaxdtError) as caught:
        load_episodes(spec)
    message = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_a_good_file_loads(tmp_path):
    store = load_episodes(write_npz(tmp_path / "good.npz"))
    assert store.lengths.tolist() == [2, 3]
    assert store.returns.tolist() == [1, 9]
    assert store.terminations.tolist() == [False, True, False, False, False]
    assert store.truncations.tolist() == [False, False, False, False, True]
    assert store.env_id == "Hopper-v5"


def test_only_observations_actions_rewards_and_ends_are_required(tmp_path):
    store = load_episodes(write_npz(tmp_path / "a.npz", terminations=None, truncations=None, env_id=None))
    assert store.lengths.tolist() == [2, 3]
    assert store.env_id is None


def test_without_episode_ends_the_flags_decide(tmp_path):
    assert load_episodes(write_npz(tmp_path / "a.npz", episode_ends=None)).lengths.tolist() == [2, 3]
    flags_only = write_npz(tmp_path / "b.npz", episode_ends=None, truncations=None, terminations=np.arange(5) % 2 == 0)
    with pytest.warns(UserWarning, match="episodes are taken to end where terminations is true, the longest after 2"):
        assert load_episodes(flags_only).lengths.tolist() == [1, 2, 2]


def test_derived_arrays_are_ignored(tmp_path):
    lies = {"episode_returns": np.array(["?"]), "next_observations": np.zeros(1), "episode_ids": np.full(9, np.nan)}
    plain, more = write_npz(tmp_path / "plain.npz"), write_npz(tmp_path / "more.npz", **lies)
    assert load_episodes(more).fingerprint == load_episodes(plain).fingerprint


def test_a_spec_may_be_a_string_a_path_or_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_npz(tmp_path / "a.npz")
    assert {load_episodes(spec).fingerprint for spec in (path, str(path), "~/a.npz")} == {
        load_episodes(path).fingerprint
    }


@pytest.mark.parametrize(
    "name", ["nowhere.npz", "a\0b.npz", "", "a" * 300 + ".npz", "~nobody-here/a.npz", "demo:expert", "demos"]
)
def test_a_missing_file_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert refusal(name).startswith(f"dataset {name!r} does not exist; give the path of a file (.npz, ")


def test_a_directory_of_nothing_is_no_dataset(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    assert "folder.npz is a directory without episodes; give one that datasets saved" in refusal(
        tmp_path / "folder.npz"
    )


@pytest.mark.parametrize(("name", "kind"), [("a.zip", ".zip"), ("a.NPY", ".NPY"), ("a", "")])
def test_an_unknown_kind_of_file_is_named(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"anything")
    message = refusal(tmp_path / name)
    assert message.startswith(
        f"dataset '{tmp_path / name}' is of an unknown kind {kind!r}; give the path of a file (.npz, "
    )


def test_a_bad_member_of_a_joined_spec_is_named(tmp_path):
    good = write_npz(tmp_path / "good.npz")
    assert "'missing.npz' does not exist" in refusal(f"{good}+missing.npz")
    assert "dataset '' does not exist" in refusal(f"{good}+")
    assert load_episodes(f"{good} + {good}").lengths.tolist() == [2, 3, 2, 3]
    assert "(+ joins several; no name in them may have one)" in refusal("a+b.npz+c.npz")


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
def test_a_missing_array_is_named(tmp_path, name):
    path = write_npz(tmp_path / "a.npz", **{name: None})
    assert refusal(path).startswith(f"{path}: the array {name!r} is missing; it has ")


def test_a_file_of_other_arrays_says_so(tmp_path):
    np.savez(tmp_path / "a.npz", weights=np.zeros(3))
    assert "the array 'observations' is missing; it has none of ours" in refusal(tmp_path / "a.npz")


def test_a_file_that_says_nothing_about_ends_is_refused(tmp_path):
    path = write_npz(tmp_path / "a.npz", episode_ends=None, terminations=None, truncations=None)
    assert refusal(path) == (
        f"{path}: nothing says where episodes end; add one of terminations, terminals, terminated, terminateds, "
        "termination, terminal, is_terminal, dones, done, truncations, timeouts, truncated, truncateds, truncation, "
        "timeout, episode_ends, episode, episode_id, episode_ids, episode_index, episode_terminals, is_last."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.zeros(4)}, "rewards has 4 steps but observations has 5; they must agree."),
        ({"actions": np.zeros((6, 2))}, "actions has 6 steps but observations has 5; they must agree."),
        ({"truncations": np.zeros(3, bool)}, "truncations has 3 steps but observations has 5; they must agree."),
        ({"episode_ends": np.array([2, 4])}, "the last of episode_ends must be the number of steps, 5; got 4"),
        ({"episode_ends": np.array([2, 2, 5])}, "episode 1 is empty; episode_ends must rise (it goes to 2)."),
        ({"episode_ends": np.array([5.0])}, "episode_ends must be one or more whole numbers"),
        ({"episode_ends": np.array(5)}, "episode_ends must be one or more whole numbers"),
        ({"episode_ends": np.array([], int)}, "episode_ends must be one or more whole numbers"),
        ({"observations": np.zeros((0, 3))}, "observations is empty; a dataset needs at least one step."),
        ({"observations": np.array([["1"] * 3] * 5)}, "observations must be numbers; got dtype <U1."),
        ({"actions": np.zeros((5, 2), complex)}, "actions must be numbers; got dtype complex128."),
        ({"actions": np.zeros(5)}, "actions of shape (5,) must be whole numbers; got dtype float64 (give continuous "),
        ({"rewards": np.zeros(5, "V4")}, "rewards must be numbers; got dtype |V4."),
        (
            {"terminations": np.array(["no"] * 5)},
            "terminations must be true or false at every step; got shape (5,), dtype <U2.",
        ),
        (
            {"terminations": np.arange(5)},
            "terminations must be true or false at every step; got shape (5,), dtype int64.",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_the_files_name(tmp_path, changes, message):
    path = write_npz(tmp_path / "bad.npz", **changes)
    assert refusal(path).startswith(f"{path}: ")
    assert message in refusal(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["observations", "actions", "rewards"])
def test_a_number_that_is_not_finite_is_refused_with_its_place(tmp_path, field, bad):
    values = good_arrays()[field]
    values[3, ...] = bad
    path = write_npz(tmp_path / "bad.npz", **{field: values})
    assert refusal(path) == (
        f"{path}: {field} of episode 1, step 1, is not a finite float32; remove that episode or repair it."
    )


def test_an_unfinished_episode_is_dropped_with_the_files_name(tmp_path):
    path = write_npz(tmp_path / "a.npz", episode_ends=None, truncations=np.zeros(5, bool))
    with pytest.warns(UserWarning, match=r"a\.npz: the last 3 steps belong to an unfinished episode"):
        assert load_episodes(path).lengths.tolist() == [2]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(tmp_path, share):
    whole = write_npz(tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "cut.npz"
    path.write_bytes(whole[: int(share * len(whole))])
    assert refusal(path) == (
        f"{path} cannot be read as an .npz file: it is not a zip archive, or only part of one; copy or make it again."
    )


@pytest.mark.parametrize("content", [b"hello\nworld\n", b"\x80\x04\x95", bytes(2000), b"\x93NUMPY", b"PK\x03\x04"])
def test_a_file_of_another_kind_under_our_ending_is_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path} cannot be read as an .npz file: it is not a zip archive")


def test_a_single_array_under_our_ending_is_refused(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.zeros(3))
    assert "cannot be read as an .npz file: it is not a zip archive" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "content",
    [
        array_header("<f4", (-5,)),
        array_header("<f4", (500,)),
        array_header("<q9", (5,)),
        b"\x93NUMPY\x09\x09",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': [[[[[[ ",
        b"\x93NUMPY\x02\x00\xff\xff\x00\x00" + b"{" * 65535,
    ],
    ids=[
        "negative",
        "short of data",
        "no dtype",
        "no version",
        "no header",
        "long header",
    ],
)
def test_an_array_with_a_damaged_head_is_refused(tmp_path, content):
    path = write_zip(tmp_path / "a.npz", rewards=content)
    assert refusal(path).startswith(f"{path} cannot be read as an .npz file: ")


def test_flipped_bytes_in_an_array_are_noticed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **good_arrays())
    content = path.read_bytes()
    where = content.index(good_arrays()["observations"].tobytes())
    path.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    assert refusal(path).startswith(f"{path} cannot be read as an .npz file: Bad CRC-32")


@pytest.mark.parametrize("size", [10**9, 10**15, 10**30])
def test_an_array_that_promises_far_too_much_is_refused_before_it_is_read(tmp_path, size):
    path = write_zip(tmp_path / "a.npz", rewards=array_header("<f4", (size,)))
    assert refusal(path).startswith(f"{path} would take ")
    assert " MiB or more, far more than a file of 0.0 MiB holds; " in refusal(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_compressed_as_numpy_never_does_is_refused(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
        archive.writestr("rewards.npy", array_header("<f4", (16,)))
    assert refusal(tmp_path / "a.npz").endswith(
        " is compressed as NumPy never does; write it with numpy.savez_compressed."
    )


@pytest.mark.parametrize("name", ["rewards", "env_id", "terminations"])
def test_a_member_that_is_no_array_is_refused(tmp_path, name):
    path = write_zip(tmp_path / "a.npz", **{name: b"Hopper-v5"})
    assert refusal(path).startswith(f"{path} cannot be read as an .npz file: the magic string is not correct")


class MarksItsUnpickling:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["observations", "rewards", "env_id", "episode_ends"])
def test_a_pickled_object_is_refused_and_never_run(tmp_path, name):
    marker = tmp_path / "ran"
    objects = np.array([MarksItsUnpickling(marker)] * 5, dtype=object)
    path = write_npz(tmp_path / "evil.npz", **{name: objects})
    assert "Object arrays cannot be loaded" in refusal(path)
    assert not marker.exists()
    with np.load(path, allow_pickle=True) as archive:
        archive[name]
    assert marker.exists()  # the trap works


def test_a_pickle_under_our_ending_is_refused_and_never_run(tmp_path):
    marker = tmp_path / "ran"
    with open(tmp_path / "evil.npz", "wb") as file:
        np.save(file, np.array([MarksItsUnpickling(marker)], dtype=object), allow_pickle=True)
    assert "cannot be read as an .npz file" in refusal(tmp_path / "evil.npz")
    assert not marker.exists()


@pytest.mark.parametrize(
    "kwargs",
    [
        '{"max_episode_steps": 1000000000000}',
        '{"max_episode_steps": "9"}',
        '{"render_mode": "human"}',
        '{"id": "Other-v0"}',
        '{"xml_file": "/evil.xml"}',
    ],
)
def test_keyword_arguments_that_a_file_may_not_give_are_said_and_left_out(tmp_path, kwargs):
    path = write_npz(tmp_path / "a.npz", env_kwargs=np.array(kwargs))
    with pytest.warns(UserWarning, match="with keyword arguments that a file may not give .* --env"):
        assert load_episodes(path).env_kwargs is None


@pytest.mark.parametrize("kwargs", ["{", "3", '"a"', "[" * 10_000])
def test_keyword_arguments_that_are_no_object_are_refused(tmp_path, kwargs):
    path = write_npz(tmp_path / "a.npz", env_kwargs=np.array(kwargs))
    assert refusal(path).startswith(f"{path}: env_kwargs must be a JSON object such as {{}}; got ")


@pytest.mark.parametrize(
    "env_id",
    [
        np.array("evil:Env-v0"),
        np.array("../Env-v0"),
        np.array("a/b/Env-v0"),
        np.array("Env v0"),
        np.array(""),
        np.array("Env-v0\n"),
        np.array(["Env-v0"]),
        np.array(["Env-v0"] * 90),
        np.array(b"Env-v0"),
        np.array(3),
    ],
)
def test_an_env_id_that_is_no_plain_gymnasium_id_is_refused(tmp_path, env_id):
    path = write_npz(tmp_path / "a.npz", env_id=env_id)
    assert refusal(path).startswith(f"{path}: env_id must be a Gymnasium id such as HalfCheetah-v5; got ")


def test_episodes_are_saved_as_npz_only(tmp_path):
    for name in ("episodes", "episodes.npy", "episodes.npz.bak"):
        with pytest.raises(JaxdtError, match=f"^episodes are saved as .npz; got '.*{name}'"):
            make_store().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_save_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "episodes.npz"
    make_store((4,)).save(path)

    def fail_half_way(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail_half_way)
    with pytest.raises(OSError, match="no space left"):
        make_store((5,)).save(path)
    assert [child.name for child in tmp_path.iterdir()] == ["episodes.npz"]
    assert load_episodes(path).lengths.tolist() == [4]
