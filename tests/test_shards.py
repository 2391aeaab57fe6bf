"""Datasets of many files that are unpacked file by file, and what is kept of that when a process dies."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxdt import EpisodeStore, JaxdtError, load_episodes
from jaxdt.data import mapped, shards
from jaxdt.data.formats import rows
from jaxdt.data.storage import DirectoryStorage
from jaxdt.data.writing import write_episodes
from jaxdt.types import Box
from tests.conftest import make_store
from tests.test_arrow import write_saved
from tests.test_loading import write_npz
from tests.test_mapped import FIELDS, Heard, cache as cache


STORE = make_store((5, 9, 4, 1, 6, 2, 8, 3), env_id="Hopper-v5")
COUNT = 4  # files of two episodes each


def part(store: EpisodeStore, number: int) -> EpisodeStore:
    return store[2 * number : 2 * number + 2]


def write_shards(directory: Path, kind: str = ".npz", count: int = COUNT) -> Path:
    directory.mkdir(exist_ok=True)
    for number in range(count):
        write_episodes(part(STORE, number), directory / f"train-{number:05d}-of-{count:05d}{kind}")
    return directory


def table_of_steps(store: EpisodeStore, first: int) -> pa.Table:
    episodes = np.repeat(np.arange(first, first + store.num_episodes), store.lengths)
    table = {"observation": list(store.observations), "action": list(store.actions), "reward": store.rewards}
    return pa.table({**table, "episode": episodes, "terminated": store.terminations})


def write_as(kind: str, directory: Path) -> str:
    """A spec of the first four episodes in two files of a kind."""
    directory.mkdir()
    tables = [table_of_steps(part(STORE, number), 2 * number) for number in range(2)]
    if kind == "saved":
        return str(write_saved(directory / "saved", *tables))
    if kind == "steps that go on":
        whole = pa.concat_tables(tables)
        tables = [whole.slice(0, 12), whole.slice(12)]
    for number, table in enumerate(tables):
        if kind.startswith("steps"):
            pq.write_table(table, directory / f"{number}.parquet")
        else:
            write_episodes(part(STORE, number), directory / f"{number}{kind}")
    if kind == ".parquet":  # as engines write where nothing falls into a part
        pq.write_table(pq.read_table(directory / "0.parquet").slice(0, 0), directory / "00.parquet")
    return str(directory)


def assert_same(one: EpisodeStore, other: EpisodeStore) -> None:
    assert (one.env_id, one.env_kwargs) == (other.env_id, other.env_kwargs)
    assert one.fingerprint == other.fingerprint
    for name in (*FIELDS, "returns_to_go"):
        assert getattr(one, name).dtype == getattr(other, name).dtype
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert [each.tolist() for each in one.statistics] == [each.tolist() for each in other.statistics]


@pytest.mark.parametrize("kind", [".parquet", ".npz", ".hdf5", "steps", "steps that go on", "saved"])
def test_episodes_of_many_files_are_those_of_the_files_in_memory(tmp_path, monkeypatch, kind):
    spec = write_as(kind, tmp_path / "data")
    read = []
    original = shards._unpacked
    monkeypatch.setattr(shards, "_unpacked", lambda *given: read.append(given[0].path.name) or original(*given))
    store, in_memory = load_episodes(spec, map_above=0.0), load_episodes(spec)
    assert store.mapped_in is not None
    assert len(read) == (0 if kind == "steps that go on" else 2)  # which are read as one
    assert_same(store, in_memory)
    assert_same(dataclasses.replace(store), in_memory)  # what is found out anew is what the entry has
    assert store.num_steps == STORE[:4].num_steps


def test_files_of_numbers_of_different_kinds_become_what_they_become_in_memory(tmp_path):
    for number, dtype in enumerate((np.uint8, np.int16, np.uint8, np.float32)):
        observations = np.full((5, 3), number).astype(dtype)
        write_npz(tmp_path / f"{number}.npz", observations=observations)
    store = load_episodes(tmp_path, map_above=0.0)
    assert store.observations.dtype == np.float32
    assert np.array_equal(store.observations, load_episodes(tmp_path).observations)
    (tmp_path / "3.npz").unlink()
    assert load_episodes(tmp_path, map_above=0.0).observations.dtype == np.int16


def test_files_of_different_sizes_are_refused_by_name(tmp_path):
    for number, size in enumerate((3, 3, 4)):
        write_npz(tmp_path / f"{number}.npz", observations=np.ones((5, size)))
    with pytest.raises(JaxdtError, match=r"2\.npz: a step of observations has shape \(4,\), in the files before"):
        load_episodes(tmp_path, map_above=0.0)


def test_files_of_different_environments_are_refused(tmp_path):
    for number, env_id in enumerate(("Hopper-v5", "Walker2d-v5")):
        for kind in (".npz", ".parquet"):
            (tmp_path / kind).mkdir(exist_ok=True)
            write_episodes(make_store(env_id=env_id), tmp_path / kind / f"{number}{kind}")
    for kind in (".npz", ".parquet"):
        with pytest.raises(JaxdtError, match=r"Walker2d-v5"):
            load_episodes(tmp_path / kind, map_above=0.0)


def test_an_environment_that_differs_is_found_at_its_file(tmp_path, reads):
    (tmp_path / "data").mkdir()
    for number, env_id in enumerate(("Hopper-v5", "Walker2d-v5", "Hopper-v5")):
        write_episodes(make_store(env_id=env_id), tmp_path / "data" / f"part-{number:05d}-of.npz")
    with pytest.raises(JaxdtError, match=r"Walker2d-v5"):
        load_episodes(tmp_path / "data", map_above=0.0)
    assert reads == numbers(0, 1)


def test_truth_values_of_pictures_become_bytes_as_in_memory(tmp_path):
    for number, one in enumerate((np.uint8(255), np.True_)):
        with h5py.File(tmp_path / f"{number}.hdf5", "w") as file:
            file["observations"] = np.full((5, 4, 4), one)
            file["actions"], file["rewards"], file["terminals"] = np.arange(5) % 2, np.ones(5), np.arange(5) == 4
            file["timeouts"] = np.zeros(5, bool)
    store = load_episodes(tmp_path, map_above=0.0)
    assert_same(store, load_episodes(tmp_path))
    assert (store.observations == 255).all()


def test_what_a_later_file_widened_is_read_anew_once_that_file_is_another(tmp_path):
    write_npz(tmp_path / "0.npz", observations=np.full((5, 3), 7, np.uint8))
    write_npz(tmp_path / "1.npz", observations=np.full((5, 3), 0.5, np.float32), rewards=np.full(5, np.nan))
    with pytest.raises(JaxdtError, match="is not a finite"):
        load_episodes(tmp_path, map_above=0.0)
    write_npz(tmp_path / "1.npz", observations=np.full((5, 3), 8, np.uint8))
    store = load_episodes(tmp_path, map_above=0.0)
    assert store.observations.dtype == np.uint8
    assert_same(store, load_episodes(tmp_path))


class Killed(BaseException):
    """Stands for what no code can answer."""


def killed(*args) -> None:
    raise Killed(*args)


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Names of the files that are read; at the one named `dies` a process dies in the middle of its arrays."""
    read: list[str] = []
    original = shards._Growing.append

    def append(self, name, values, before):
        if name == "terminations":
            read.append(self._path.name.split("-")[1])
        if [name, self._path.name.split("-")[1]] == ["truncations", *dies]:
            original(self, name, values[:1], before)
            raise Killed
        original(self, name, values, before)

    dies: list[str] = []
    monkeypatch.setattr(shards._Growing, "append", append)
    monkeypatch.setattr(shards, "dies", dies, raising=False)
    return read


def die_at(path: Path, number: int) -> None:
    shards.dies[:] = [f"{number:05d}"]  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        load_episodes(path, map_above=0.0)
    shards.dies.clear()  # type: ignore[attr-defined]


def numbers(*shards: int) -> list[str]:
    return [f"{number:05d}" for number in shards]


def unfinished(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir() and path.name.endswith(".tmp")]


def test_a_load_that_was_killed_goes_on_after_the_last_whole_shard(tmp_path, cache, reads):
    path = write_shards(tmp_path / "data")
    die_at(path, 2)
    assert reads == numbers(0, 1, 2)
    (left,) = unfinished(cache)
    with open(left / "shards.jsonl", "ab") as journal:  # a line that was torn
        journal.write(b'[["/data/train-00002", 1')
    reads.clear()
    progress = Heard()
    store = load_episodes(path, map_above=0.0, progress=progress)
    assert reads == numbers(2, 3)
    assert_same(store, load_episodes(path))
    assert not unfinished(cache)
    assert store.mapped_in is not None
    assert not (store.mapped_in / "shards.jsonl").exists()
    reads.clear()
    load_episodes(path, map_above=0.0)
    assert reads == []


def test_a_load_killed_after_the_last_shard_reads_none_again(tmp_path, monkeypatch, reads):
    path = write_shards(tmp_path / "data")
    with monkeypatch.context() as patched:
        patched.setattr(mapped, "_add_summary", killed)
        with pytest.raises(Killed):
            load_episodes(path, map_above=0.0)
    reads.clear()
    assert_same(load_episodes(path, map_above=0.0), load_episodes(path))
    assert reads == []


@pytest.mark.parametrize(("changed", "read_anew"), [(1, (1, 2, 3)), (3, (2, 3))])
def test_shards_that_changed_and_those_after_them_are_read_anew(tmp_path, reads, changed, read_anew):
    path = write_shards(tmp_path / "data")
    die_at(path, 2)
    other = dataclasses.replace(STORE, rewards=STORE.rewards + 1)
    file = sorted(path.iterdir())[changed]
    file.unlink()
    write_episodes(part(other, changed), file)
    os.utime(file, ns=(1, 1))
    reads.clear()
    assert_same(load_episodes(path, map_above=0.0), load_episodes(path))
    assert reads == numbers(*read_anew)


@pytest.mark.parametrize("how", ["cut off", "no array", "journal"])
def test_shards_whose_rows_are_not_all_there_do_not_count(tmp_path, cache, reads, how):
    path = write_shards(tmp_path / "data")
    die_at(path, 3)
    (left,) = unfinished(cache)
    file = left / ("shards.jsonl" if how == "journal" else "actions.npy")
    file.write_bytes(file.read_bytes()[:-300] if how == "cut off" else b"{}\n[1]\n")
    reads.clear()
    assert_same(load_episodes(path, map_above=0.0), load_episodes(path))
    assert reads == numbers(0, 1, 2, 3)


def test_a_damaged_shard_is_named_and_once_it_is_whole_the_load_goes_on_from_it(tmp_path, cache, reads):
    path = write_shards(tmp_path / "data")
    file = sorted(path.iterdir())[2]
    content = file.read_bytes()
    with np.load(file) as arrays:
        bad = {**arrays, "rewards": np.full(8, np.nan, np.float32)}
    np.savez(file, **bad)
    with pytest.raises(JaxdtError, match=f"{file.name}: rewards of episode 0, step 0, is not a"):
        load_episodes(path, map_above=0.0)
    assert reads == numbers(0, 1)
    assert len(unfinished(cache)) == 1
    file.write_bytes(content)
    os.utime(file, ns=(7, 7))
    assert_same(load_episodes(path, map_above=0.0), load_episodes(path))
    assert reads == numbers(0, 1, 2, 3)


def test_what_is_left_of_shards_does_not_count_once_they_are_read_as_one(tmp_path, cache, reads):
    path = write_shards(tmp_path / "data", ".parquet", 2)
    die_at(path, 1)
    file = sorted(path.iterdir())[1]
    table = pq.read_table(file)
    pq.write_table(table.append_column("more", [list(range(len(table)))]), file)  # no longer alike
    assert_same(load_episodes(path, map_above=0.0), load_episodes(path))
    assert reads == numbers(0, 1)
    assert not unfinished(cache)


def test_a_reader_of_all_files_at_once_ends_the_journal_before_it_writes(tmp_path):
    (tmp_path / "shards.jsonl").write_text("[]")
    with contextlib.closing(DirectoryStorage(tmp_path, lambda size: None)) as storage:
        storage.array_writer("observations", (1, 1), np.float32)
    assert not (tmp_path / "shards.jsonl").exists()


def test_shards_that_declare_far_more_than_they_hold_are_refused_together(tmp_path, monkeypatch):
    path = write_shards(tmp_path / "data", ".parquet", 2)
    monkeypatch.setattr(rows, "check_declared_size", lambda files, names, source: killed(len(files)))
    with pytest.raises(Killed, match="2"):
        load_episodes(path, map_above=0.0)


def test_an_entry_without_a_summary_is_understood_as_before(tmp_path):
    path = write_shards(tmp_path / "data")
    store = load_episodes(path, map_above=0.0)
    assert store.mapped_in is not None
    for name, damage in (("returns_to_go.npy", b"x"), ("statistics.npy", b""), ("fingerprint.txt", b"00")):
        (store.mapped_in / name).write_bytes(damage)
    assert_same(load_episodes(path, map_above=0.0), load_episodes(path))
    for name in ("returns_to_go.npy", "statistics.npy", "fingerprint.txt"):
        (store.mapped_in / name).unlink()
    assert_same(load_episodes(path, map_above=0.0), load_episodes(path))


def test_a_journal_line_is_a_list_that_json_has(tmp_path):
    done = shards._Done(shards.file_state(write_npz(tmp_path / "a.npz")), 5, 2, ["Hopper-v5", {"a": 1}], "<f4")
    assert shards._Done(*json.loads(shards._line(done))) == done


def test_a_store_with_other_actions_keeps_what_need_not_be_added_up_again(tmp_path):
    store = load_episodes(write_shards(tmp_path / "data"), map_above=0.0)
    other = store.with_actions_of(Box(np.full(2, -2.0), np.full(2, 2.0)))
    assert other.returns_to_go is store.returns_to_go
    assert other.statistics is store.statistics
    assert not np.array_equal(other.actions, store.actions)
