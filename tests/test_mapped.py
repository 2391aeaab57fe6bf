import json
import os
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxdt import EpisodeStore, JaxdtError, TrainConfig, WindowSampler, load_episodes
from jaxdt.data import loading, mapped, storage
from jaxdt.data.writing import write_episodes
from jaxdt.progress import Progress
from jaxdt.run.doubts import doubt_units_of_actions
from jaxdt.types import Box, Discrete
from tests.conftest import make_store
from tests.test_arrow import write_parquet, write_saved
from tests.test_hdf5 import write as write_hdf5
from tests.test_loading import good_arrays, write_npz
from tests.test_pickled import episodes_of, write as write_pickle
from tests.toys import DRIFT_SPEC


FIELDS = ("observations", "actions", "rewards", "terminations", "truncations", "offsets")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Where entries are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jaxdt" / "episodes"


def write_episodes_as(kind: str, directory: Path, discrete: int | None = None) -> str:
    """A spec of some episodes in files of a kind."""
    store = make_store((30, 7, 120), env_id="Hopper-v5", discrete=discrete)
    if kind == "saved":
        import pyarrow.parquet

        write_episodes(store, directory / "a.parquet")
        table = pyarrow.parquet.read_table(directory / "a.parquet")
        return str(write_saved(directory / "saved", table.slice(0, 1), table.slice(1)))
    if kind == ".pkl":
        return str(write_pickle(directory / "a.pkl", episodes_of(store), 4))
    for name in ("a", "b") if kind == "joined" else ("a",):
        write_episodes(store, directory / (name + (".npz" if kind == "joined" else kind)))
    return f"{directory / 'a.npz'}+{directory / 'b.npz'}" if kind == "joined" else str(directory / f"a{kind}")


def large_arrays_are_mapped(store: EpisodeStore) -> bool:
    """Discrete actions are as small as rewards, and lie in memory as these do."""
    large = ("observations",) if store.is_discrete else ("observations", "actions")
    return all(not getattr(store, name).flags.writeable for name in large)


KINDS = (".npz", ".parquet", ".hdf5", ".pkl", "saved", "joined")


@pytest.mark.parametrize("discrete", [None, 5], ids=["continuous", "discrete"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mapped_store_is_bit_for_bit_the_one_in_memory(tmp_path, cache, kind, discrete):
    spec = write_episodes_as(kind, tmp_path, discrete)
    in_memory = load_episodes(spec)
    assert in_memory.mapped_in is None
    assert in_memory.is_discrete == (discrete is not None)
    assert not cache.exists()
    store = load_episodes(spec, map_above=0.0)
    assert large_arrays_are_mapped(store)
    assert store.mapped_in is not None
    assert store.mapped_in.parent == cache
    assert store.env_id == in_memory.env_id
    assert store.fingerprint == in_memory.fingerprint
    space = Discrete(9, -1) if discrete else Box(np.full(2, -2.0), np.full(2, 2.0))
    for change in (
        lambda s: s,
        lambda s: s.best(0.9),
        lambda s: s.with_delayed_rewards(),
        lambda s: s.with_actions_of(space),
    ):
        ours, theirs = change(store), change(in_memory)
        assert large_arrays_are_mapped(ours)
        pairs = [(getattr(ours, name), getattr(theirs, name)) for name in FIELDS]
        pairs += [(ours.statistics[i], theirs.statistics[i]) for i in (0, 1)]
        pairs += [(ours.returns_to_go, theirs.returns_to_go), (ours.returns, theirs.returns)]
        pairs += list(zip(WindowSampler(ours).batch(3), WindowSampler(theirs).batch(3), strict=True))
        for one, other in pairs:
            assert one.dtype == other.dtype
            assert one.tobytes() == other.tobytes()
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == [store.mapped_in.name]


@pytest.mark.parametrize(
    "derive",
    [
        lambda s: s.best(0.5).returns_to_go,
        lambda s: [part.returns_to_go for part in s.split(0.2)],
        lambda s: s.with_delayed_rewards().returns_to_go,
        lambda s: s.with_actions_of(Box(np.full(1, -0.5), np.full(1, 0.5)), clip=True),
        lambda s: doubt_units_of_actions(TrainConfig(), s, DRIFT_SPEC),
    ],
)
def test_what_is_made_of_mapped_episodes_takes_no_memory_for_each_step(tmp_path, derive):
    steps = 2_000_000
    arrays = {"observations": np.zeros((steps, 1), np.float32), "actions": np.ones((steps, 1), np.float32)}
    ends = np.arange(1000, steps + 1, 1000)
    np.savez(tmp_path / "a.npz", **arrays, rewards=np.ones(steps, np.float32), episode_ends=ends)
    store = load_episodes(tmp_path / "a.npz", map_above=0.0)
    tracemalloc.start()
    try:
        kept = derive(store)
        assert tracemalloc.get_traced_memory()[1] < steps  # blocks of 65,536 steps take up to 1.84e6 bytes
    finally:
        tracemalloc.stop()
    del kept


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_time_nothing_is_read_anew(tmp_path, monkeypatch, kind):
    spec = write_episodes_as(kind, tmp_path)
    fingerprint = load_episodes(spec, map_above=0.0).fingerprint
    monkeypatch.setattr(mapped, "_fill", None)
    assert load_episodes(spec, map_above=0.0).fingerprint == fingerprint


@pytest.mark.parametrize(("actions", "size"), [(np.zeros((5, 2), np.int8), 2), (np.zeros(5, int), 1)])
@pytest.mark.filterwarnings("ignore:.*actions are whole numbers")
def test_what_fits_stays_in_memory(tmp_path, cache, actions, size):
    path = write_npz(tmp_path / "a.npz", actions=actions)
    size = 5 * (3 + size + 1) * 4 / 2**30
    assert load_episodes(path, map_above=size).mapped_in is None
    assert not cache.exists()
    assert load_episodes(path, map_above=size * 0.99).mapped_in is not None


def test_members_that_are_too_large_together_are_mapped(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    size = 5 * (3 + 2 + 1) * 4 / 2**30
    assert load_episodes(path, map_above=1.5 * size).mapped_in is None
    assert load_episodes(f"{path}+{path}", map_above=1.5 * size).lengths.tolist() == [2, 3, 2, 3]
    assert load_episodes(f"{path}+{path}", map_above=1.5 * size).mapped_in is not None


def test_by_default_a_quarter_of_the_memory_may_be_filled(tmp_path, monkeypatch):
    assert 2**26 < mapped.most_in_memory() < 2**45
    path = write_npz(tmp_path / "a.npz")
    assert load_episodes(path).mapped_in is None
    monkeypatch.setattr(loading, "most_in_memory", lambda: 100)
    assert load_episodes(path).mapped_in is not None


def test_a_system_that_does_not_tell_its_memory_counts_as_a_small_one(monkeypatch):
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert mapped.most_in_memory() <= 2**30


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_size_is_refused(tmp_path, limit):
    with pytest.raises(JaxdtError, match=f"^map_above must be at least 0 and finite; got {limit}"):
        load_episodes(write_npz(tmp_path / "a.npz"), map_above=limit)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(np.float64, np.float32), (np.float16, np.float32), (np.uint8, np.uint8), (np.int64, np.int64)]
)
@pytest.mark.filterwarnings("ignore:.*actions are whole numbers")
def test_numbers_of_other_kinds_become_what_they_become_in_memory(tmp_path, dtype, kept):
    observations = np.arange(5 * 16).reshape(5, 4, 4).astype(dtype)
    actions = np.array([[0, 1]] * 5, np.int64)
    for path in (
        write_npz(tmp_path / "a.npz", observations=observations, actions=actions),
        write_hdf5(tmp_path / "a.hdf5", observations=observations, actions=actions),
    ):
        store = load_episodes(path, map_above=0.0)
        assert store.observations.dtype == kept
        assert store.fingerprint == load_episodes(path).fingerprint


def test_arrays_in_fortrans_order_are_understood(tmp_path):
    observations = np.asfortranarray(np.arange(15, dtype=np.float32).reshape(5, 3))
    path = write_npz(tmp_path / "a.npz", observations=observations)
    assert np.array_equal(load_episodes(path, map_above=0.0).observations, observations)


def test_steps_of_an_unfinished_episode_are_left_out(tmp_path):
    arrays = {"timeouts": np.array([0, 1, 0, 0, 0]), "terminals": np.zeros(5)}
    path = write_hdf5(tmp_path / "a.hdf5", **arrays)
    with pytest.warns(UserWarning, match="the last 3 steps belong to an unfinished episode"):
        store = load_episodes(path, map_above=0.0)
    assert len(store.observations) == 2
    with pytest.warns(UserWarning, match="unfinished"):
        assert load_episodes(f"{path}+{path}", map_above=0.0).lengths.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("write", "name"), [(write_npz, "a.npz"), (write_hdf5, "a.hdf5"), (write_parquet, "a.parquet")]
)
def test_bad_numbers_are_refused_in_the_words_of_the_reader_and_leave_nothing(tmp_path, cache, write, name):
    import pyarrow as pa

    bad = np.array([0, 1, 2, np.nan, 4], np.float32)
    rewards = pa.array([bad[:2], bad[2:]]) if name == "a.parquet" else bad
    path = write(tmp_path / name, rewards=rewards)
    with pytest.raises(JaxdtError) as in_memory:
        load_episodes(path)
    with pytest.raises(JaxdtError) as on_disk:
        load_episodes(path, map_above=0.0)
    assert str(on_disk.value) == str(in_memory.value)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_file_that_is_damaged_is_refused_while_it_is_unpacked(tmp_path, cache):
    store = make_store((40_000,), state_dim=4)
    for kind in (".npz", ".hdf5", ".parquet"):
        path = tmp_path / f"a{kind}"
        write_episodes(store, path)
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(JaxdtError, match=rf"^{path}(: observations is damaged| cannot be read as an? .*file): "):
            load_episodes(path, map_above=0.0)
        assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_wrong_checksum_is_noticed_while_it_is_unpacked(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **good_arrays())
    with zipfile.ZipFile(path) as archive:
        checksum = archive.getinfo("observations.npy").CRC.to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(checksum, bytes(4)))
    with pytest.raises(JaxdtError, match=r"cannot be read as an \.npz file: Bad CRC-32"):
        load_episodes(path, map_above=0.0)


def test_a_file_that_changed_is_unpacked_anew_and_its_old_entry_goes(tmp_path, cache):
    path = write_npz(tmp_path / "a.npz")
    old = load_episodes(path, map_above=0.0)
    write_npz(path, rewards=np.ones(5, np.float32))
    os.utime(path, ns=(1, 1))
    new = load_episodes(path, map_above=0.0)
    assert new.rewards.tolist() == [1] * 5
    assert [child for child in cache.iterdir() if child.is_dir()] == [new.mapped_in]
    if os.name != "nt":
        assert old.observations.tolist() == new.observations.tolist()  # whoever has it mapped keeps it


def test_entries_of_other_files_stay(tmp_path):
    (tmp_path / "other").mkdir()
    first, second = write_npz(tmp_path / "a.npz"), write_npz(tmp_path / "other" / "a.npz")
    one, two = load_episodes(first, map_above=0.0), load_episodes(second, map_above=0.0)
    both = load_episodes(f"{first}+{second}", map_above=0.0)
    assert len({one.mapped_in, two.mapped_in, both.mapped_in}) == 3
    assert all(store.mapped_in.is_dir() for store in (one, two, both) if store.mapped_in is not None)


def damage(entry: Path, how: str) -> None:
    if how == "cut off":
        path = entry / "observations.npy"
        path.write_bytes(path.read_bytes()[:-4])
    elif how == "missing":
        (entry / "rewards.npy").unlink()
    elif how == "environment":
        (entry / "environment.json").write_text(json.dumps(["evil:Env-v0", None]))
    elif how == "objects":
        np.save(entry / "rewards.npy", np.array([print] * 5), allow_pickle=True)
    else:
        arrays = {
            "another kind": ("actions", np.zeros((5, 2))),
            "whole numbers": ("actions", np.zeros((5, 2), np.int32)),
            "lone numbers": ("actions", np.zeros(5, np.float32)),
            "another shape": ("actions", np.zeros((5, 2, 1), np.float32)),
            "too few": ("truncations", np.zeros(4, bool)),
            "no start": ("offsets", np.array([1, 5])),
            "falling": ("offsets", np.array([0, 3, 2, 5])),
            "beyond": ("offsets", np.array([0, 2, 6])),
            "no offsets": ("offsets", np.array([0.0, 5.0])),
        }
        name, values = arrays[how]
        np.save(entry / f"{name}.npy", values)


@pytest.mark.parametrize(
    "how",
    "cut off,missing,environment,objects,another kind,whole numbers,lone numbers,another shape,too few,no start,"
    "falling,beyond,no offsets".split(","),
)
def test_an_entry_that_is_not_whole_is_made_anew(tmp_path, how):
    path = write_npz(tmp_path / "a.npz")
    store = load_episodes(path, map_above=0.0)
    assert store.mapped_in is not None
    fingerprint = store.fingerprint
    damage(store.mapped_in, how)
    anew = load_episodes(path, map_above=0.0)
    assert (anew.fingerprint, anew.env_id) == (fingerprint, "Hopper-v5")


def test_what_a_killed_process_left_never_counts_and_goes(tmp_path, cache):
    path = write_npz(tmp_path / "a.npz")
    entry = load_episodes(path, map_above=0.0).mapped_in
    assert entry is not None
    half = cache / f".{entry.name}.abc.tmp"
    shutil.move(entry, half)
    (half / "rewards.npy").unlink()
    assert load_episodes(path, map_above=0.0).mapped_in == entry
    assert not half.exists()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, cache):
    path = write_npz(tmp_path / "a.npz")

    def read(path, place, cut_after):
        os.utime(path, ns=(5, 5))
        return make_store()

    monkeypatch.setitem(loading.FORMATS, ".npz", loading.FORMATS[".npz"]._replace(read=read))
    with pytest.raises(JaxdtError, match="was changed while it was read; load it again"):
        load_episodes(path, map_above=0.0)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_full_disk_is_one_sentence_that_names_the_way_out(tmp_path, monkeypatch, cache):
    path = write_npz(tmp_path / "a.npz")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: usage._replace(free=50))
    with pytest.raises(JaxdtError, match=r"there is no room for .* XDG_CACHE_HOME .* a larger map_above=") as caught:
        load_episodes(path, map_above=0.0)
    assert str(cache) in str(caught.value)
    assert "cannot be read as" not in str(caught.value)
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_while_it_is_written_to_is_one_sentence(tmp_path):
    (tmp_path / "observations.npy").symlink_to("/dev/full")
    with pytest.raises(JaxdtError, match="No space left on device; make room there"):
        storage.DirectoryStorage(tmp_path, lambda size: None).array_writer("observations", (4, 1), np.float32)


def test_without_a_cache_the_way_out_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = write_npz(tmp_path / "a.npz")
    assert load_episodes(path).num_steps == 5
    with pytest.raises(JaxdtError, match=r"too large for memory and there is no directory .* \(--map-above, GiB\)"):
        load_episodes(path, map_above=0.0)


class Heard(Progress):
    def __init__(self):
        self.heard = []

    def start(self, task, total, unit, done=0):
        self.heard.append((task, unit))

    def stop(self):
        self.heard.append("stop")


def test_unpacking_is_shown(tmp_path):
    path, progress = write_npz(tmp_path / "a.npz"), Heard()
    load_episodes(path, map_above=0.0, progress=progress)
    load_episodes(path, map_above=0.0, progress=progress)
    assert progress.heard == [(f"unpack {path}", "MiB"), "stop"]
