"""Datasets in stores that fsspec knows, played by its own in-memory one."""

import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from jaxdt import JaxdtError, load_episodes
from jaxdt.cli import run
from jaxdt.data import remote
from jaxdt.data.loading import check_is_there
from jaxdt.progress import Progress
from tests.test_mapped import cache as cache
from tests.test_shards import STORE, assert_same, part, write_shards


@pytest.fixture
def store(tmp_path):
    """The store, with a directory of four shards in it, and what is beside them in such stores."""
    system = fsspec.filesystem("memory")
    for path in sorted(write_shards(tmp_path / "data").iterdir()):
        system.pipe(f"/bucket/data/{path.name}", path.read_bytes())
    system.pipe("/bucket/data/_SUCCESS", b"")
    system.pipe("/bucket/data/notes.txt", b"notes")
    system.pipe("/bucket/data/._a.npz", b"macOS's")
    system.pipe("/bucket/data/old/a.npz", b"not of this directory")
    yield system
    system.rm("/bucket", recursive=True)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the files that are read in the store."""
    names: list[str] = []
    original = MemoryFileSystem._open

    def open_file(self, path, *args, **kwargs):
        if kwargs.get("mode", args[0] if args else "rb") == "rb":
            names.append(path.rsplit("/", 1)[1][:11])
        return original(self, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "_open", open_file)
    return names


def shards(*numbers: int) -> list[str]:
    return [f"train-{number:05d}" for number in numbers]


def copies(cache: Path) -> Path:
    (found,) = (path for path in (cache.parent / "copies").iterdir() if path.is_dir())
    return found


@pytest.mark.parametrize("map_above", [None, 0.0])
def test_a_directory_of_a_store_is_read_as_one_on_this_machine(tmp_path, store, map_above):
    loaded = load_episodes("memory://bucket/data", map_above=map_above)
    assert_same(loaded, load_episodes(tmp_path / "data"))
    assert loaded.num_steps == STORE.num_steps
    assert (loaded.mapped_in is not None) == (map_above == 0.0)


def test_a_single_file_of_a_store_is_read(store):
    name = "train-00001-of-00004.npz"
    assert load_episodes(f"memory://bucket/data/{name}").fingerprint == part(STORE, 1).fingerprint
    both = load_episodes(f"memory://bucket/data/{name}+memory://bucket/data/{name}")
    assert both.num_steps == 2 * part(STORE, 1).num_steps


def test_what_is_here_is_not_copied_again_and_what_changed_is(store, cache, opened):
    load_episodes("memory://bucket/data")
    assert opened == shards(0, 1, 2, 3)
    opened.clear()
    load_episodes("memory://bucket/data")
    assert opened == []
    store.pipe("/bucket/data/train-00002-of-00004.npz", store.cat("/bucket/data/train-00002-of-00004.npz"))
    opened.clear()  # of reading it here
    load_episodes("memory://bucket/data")
    assert opened == shards(2)
    (copies(cache) / "train-00001-of-00004.npz").unlink()
    opened.clear()
    load_episodes("memory://bucket/data")
    assert opened == shards(1)


def test_a_file_that_the_store_no_longer_has_goes_here_too(store, cache):
    for number in range(4):
        store.mv(f"/bucket/data/train-0000{number}-of-00004.npz", f"/bucket/data/{number}.npz")
    load_episodes("memory://bucket/data")
    store.rm("/bucket/data/3.npz")
    left = STORE.num_steps - part(STORE, 3).num_steps
    assert load_episodes("memory://bucket/data").num_steps == left
    assert sorted(path.name for path in copies(cache).iterdir()) == [".copied.jsonl", "0.npz", "1.npz", "2.npz"]


class Killed(BaseException):
    """Stands for what no code can answer."""


def test_copying_that_was_killed_goes_on_after_the_last_whole_file(store, cache, monkeypatch, opened):
    class Dying(Progress):
        def advance(self, done, **numbers):
            if opened[-1:] == shards(2):
                raise Killed

    with pytest.raises(Killed):
        load_episodes("memory://bucket/data", progress=Dying())
    names = sorted(path.name for path in copies(cache).iterdir())
    assert names == [".copied.jsonl", "train-00000-of-00004.npz", "train-00001-of-00004.npz"]
    (copies(cache) / ".train-00002-of-00004.npz.abc.tmp").write_bytes(b"torn")
    with open(copies(cache) / ".copied.jsonl", "ab") as journal:
        journal.write(b'["train-00002')
    opened.clear()
    assert load_episodes("memory://bucket/data").num_steps == STORE.num_steps
    assert opened == shards(2, 3)
    assert not list(copies(cache).glob(".*.tmp"))


def test_copying_is_shown(store):
    heard = []

    class Heard(Progress):
        def start(self, task, total, unit, done=0):
            heard.append((task, unit))

        def stop(self):
            heard.append("stop")

    load_episodes("memory://bucket/data", progress=Heard())
    load_episodes("memory://bucket/data", progress=Heard())
    assert heard == [("copy memory://bucket/data", "MiB"), "stop"]


def listing(monkeypatch, *entries: dict) -> None:
    monkeypatch.setattr(MemoryFileSystem, "ls", lambda self, path, detail=True: list(entries))


NOT_PLAIN = (
    "d/../../x y.npz",
    "d/a\\..\\b.npz",
    "C:a.npz",
    "d/ä.npz",
    "a\n.npz",
    300 * "a" + ".npz",
    "$HOME.npz",
    "-r.npz",
)


def test_names_of_a_listing_that_are_not_plain_are_refused(store, cache, monkeypatch):
    for name in NOT_PLAIN:
        listing(monkeypatch, {"name": name, "size": 3, "type": "file"})
        with pytest.raises(JaxdtError, match="a file must have a plain name of letters"):
            load_episodes("memory://bucket/data")
    assert not (cache.parent / "copies").exists()


def test_a_name_that_climbs_stays_in_the_directory_of_copies(store, cache, monkeypatch):
    store.store["/bucket/data/../a.npz"] = store.store["/bucket/data/train-00000-of-00004.npz"]
    size = store.info("/bucket/data/../a.npz")["size"]
    listing(monkeypatch, {"name": "/bucket/data/../a.npz", "size": size, "type": "file"})
    load_episodes("memory://bucket/data")
    assert [path.name for path in copies(cache).iterdir() if path.suffix == ".npz"] == ["a.npz"]


@pytest.mark.parametrize("size", [10, 10**6])
def test_a_file_that_has_not_the_size_of_its_listing_is_refused_and_not_kept(store, cache, monkeypatch, size):
    listing(monkeypatch, {"name": "/bucket/data/train-00000-of-00004.npz", "size": size, "type": "file"})
    with pytest.raises(JaxdtError, match=rf"train-00000-of-00004\.npz has not the {size} bytes that its listing says"):
        load_episodes("memory://bucket/data")
    assert [path.name for path in copies(cache).iterdir()] == [".copied.jsonl"]


def test_more_than_the_disk_has_is_refused_before_any_is_read(store, monkeypatch, opened):
    listing(monkeypatch, {"name": "/bucket/data/train-00000-of-00004.npz", "size": 2**60, "type": "file"})
    with pytest.raises(JaxdtError, match=r"cannot be copied into .*: it takes 1\.07e\+09 GiB more and .* are free"):
        load_episodes("memory://bucket/data")
    listing(monkeypatch, {"name": "/bucket/data/train-00000-of-00004.npz", "size": None, "type": "file"})
    with pytest.raises(JaxdtError, match="the store does not say how large train-00000"):
        load_episodes("memory://bucket/data")
    assert opened == []


def test_addresses_that_lead_nowhere_are_one_sentence(store):
    for spec, said in {
        "memory://bucket/none": r"cannot be read: FileNotFoundError: .*; check the address",
        "memory://bucket/data/old/b.npz": "cannot be read: FileNotFoundError",
        "memory://bucket/data/notes.txt": r"has no files of a known kind .* it has notes\.txt",
        "nothing://bucket/data": "cannot be read: ValueError: Protocol not known: nothing",
        "simplecache::memory://bucket/data": "does not exist",
        "zip://a.npz::memory://bucket/data": "must be one address; got several chained by ::",
    }.items():
        with pytest.raises(JaxdtError, match=said):
            load_episodes(spec)


def test_a_store_whose_package_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(JaxdtError, match=r"in a store whose package is not installed: .*s3fs"):
        load_episodes("s3://bucket/data")
    assert run(["info", "s3://bucket/data"]) == 2
    assert "s3fs" in capsys.readouterr().err


def test_files_of_this_machine_are_read_where_they_lie(tmp_path, cache):
    path = write_shards(tmp_path / "data")
    assert_same(load_episodes(f"file://{path}"), load_episodes(path))
    assert not (cache.parent / "copies").exists()


def test_an_address_is_not_looked_for_on_this_machine(tmp_path):
    check_is_there("memory://bucket/none")
    with pytest.raises(JaxdtError, match="does not exist"):
        check_is_there(str(tmp_path / "none"))
    assert not remote.is_remote("hf:a/b")
    assert not remote.is_remote("C:\\data")


def test_without_a_cache_the_way_out_is_named(store, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(JaxdtError, match=r"has to be copied and there is no directory for that; .*XDG_CACHE_HOME"):
        load_episodes("memory://bucket/data")
