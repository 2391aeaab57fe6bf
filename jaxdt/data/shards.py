"""Datasets of many files, unpacked file by file into arrays that grow; a process that comes later goes on from there.

A line of the journal says that a shard's rows are in every array and on the disk; rows beyond them never count.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdt.data.episodes import FIELDS, EpisodeStore
from jaxdt.data.storage import (
    JOURNAL,
    ArrayWriter,
    DirectoryStorage,
    FileWriter,
    Storage,
    chunks,
    goes_to_file,
    kept_in_file,
    writing_to,
)
from jaxdt.errors import JaxdtError
from jaxdt.files import open_atomically, remove_unfinished


class Shard(NamedTuple):
    path: Path
    read: Callable[[Storage], EpisodeStore]
    """Whole episodes, which need no other shard."""


Environment = tuple[str | None, dict[str, Any] | None]
"""`env_id` and `env_kwargs` of a dataset or a part of it."""


class _Done(NamedTuple):
    """A line of the journal."""

    file: list[Any]
    steps: int
    """Of this shard and those before it; so are the episodes."""
    episodes: int
    environment: list[Any]
    observations: str
    """The kind of number that all of them have by then."""


def load_shards(
    shards: Sequence[Shard], storage: DirectoryStorage, environment: Callable[[list[Environment]], Environment]
) -> EpisodeStore:
    """Episodes of all shards, in their order; memory holds no more than one of them.

    `environment` makes of each shard's environment that of all, or raises JaxdtError.
    """

    def environment_of(done: Sequence[_Done]) -> Environment:
        return environment([(line.environment[0], line.environment[1]) for line in done])

    done = _resumed(shards, storage.directory)
    sizes = np.cumsum([0, *(max(shard.path.stat().st_size, 1) for shard in shards)])
    storage.reached(sizes[len(done)] / sizes[-1])
    for shard in shards[len(done) :]:
        done.append(_unpacked(shard, done[-1] if done else _Done([], 0, 0, [], ""), storage))
        environment_of(done)
        storage.reached(sizes[len(done)] / sizes[-1])
        with writing_to(storage.directory), open(storage.directory / JOURNAL, "ab") as journal:
            journal.write(_line(done[-1]))
            journal.flush()
            os.fsync(journal.fileno())
    arrays = {name: storage.directory / f"{name}.npy" for name in (*FIELDS, "offsets")}
    with writing_to(storage.directory):
        for name, path in arrays.items():
            _cut(path, _rows(name, done[-1]))
    found: dict[str, Any] = {name: np.asarray(np.load(path, mmap_mode="r")) for name, path in arrays.items()}
    storage.filled.update(found)
    env_id, env_kwargs = environment_of(done)
    return EpisodeStore(**found, env_id=env_id, env_kwargs=env_kwargs)


def file_state(path: Path) -> list[Any]:
    """What tells a file from another one, or from what it was before."""
    found = path.stat()
    return [os.path.abspath(path), found.st_size, found.st_mtime_ns]


def _line(done: _Done) -> bytes:
    return json.dumps(done).encode() + b"\n"


def _rows(name: str, done: _Done) -> int:
    return done.episodes + 1 if name == "offsets" else done.steps


def _resumed(shards: Sequence[Shard], directory: Path) -> list[_Done]:
    """The first shards that are unpacked already and have not changed; all else in the directory's arrays is cut."""
    remove_unfinished(directory)
    done: list[_Done] = []
    with contextlib.suppress(OSError, ValueError, TypeError):  # a line that is torn is the last
        for line, shard in zip((directory / JOURNAL).read_bytes().splitlines(), shards, strict=False):
            found = _Done(*json.loads(line))
            if found.file != file_state(shard.path):
                break
            done.append(found)
    names = (*FIELDS, "offsets") if done else ()
    try:
        for name in names:
            _cut(directory / f"{name}.npy", _rows(name, done[-1]))
        if done and _kind_of_observations(directory) != done[-1].observations:  # of a later shard's, which may change
            done = []
    except Exception:  # damaged bytes make NumPy raise a dozen kinds
        done = []
    with open_atomically(directory / JOURNAL, "wb") as journal:
        journal.writelines(map(_line, done))
    return done


def _head(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an `.npy` file, whose rows begin where it then stands."""
    file.seek(0)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _kind_of_observations(directory: Path) -> str:
    with open(directory / "observations.npy", "rb") as file:
        return _head(file)[1].str


def _cut(path: Path, rows: int) -> None:
    """Leaves the first rows; raises ValueError where there are not so many."""
    with open(path, "r+b", buffering=0) as file:
        shape, dtype = _head(file)
        end = file.tell() + rows * math.prod(shape[1:]) * dtype.itemsize
        if path.stat().st_size < end:
            raise ValueError(f"{path} ends early")
        file.truncate(end)
        head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape[1:])}
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, head)


def _unpacked(shard: Shard, before: _Done, storage: DirectoryStorage) -> _Done:
    state = file_state(shard.path)
    with contextlib.closing(_Growing(storage, shard.path, before.steps)) as growing:
        store = shard.read(growing)
        for name in FIELDS:
            if name not in growing.filled:
                growing.append(name, getattr(store, name), before.steps)
        if not before.episodes:
            growing.append("offsets", store.offsets, 0)
        else:
            growing.append("offsets", store.offsets[1:] + before.steps, before.episodes + 1)
        return _Done(
            state,
            before.steps + store.num_steps,
            before.episodes + store.num_episodes,
            [store.env_id, store.env_kwargs],
            _kind_of_observations(storage.directory),
        )


class _Growing(Storage):
    """Appends a shard's arrays to those of the shards before it."""

    on_disk = True

    def __init__(self, storage: DirectoryStorage, path: Path, steps: int):
        self._storage, self._path, self._steps = storage, path, steps
        self._open = contextlib.ExitStack()
        self.filled: set[str] = set()
        """Names of the arrays that the reader itself put in place."""

    def close(self) -> None:
        self._open.close()

    def array_writer(self, name: str, shape: tuple[int, ...], dtype: Any) -> ArrayWriter:
        if not goes_to_file(name, kept_in_file(name, shape, dtype)[0]):
            return super().array_writer(name, shape, dtype)
        self.filled.add(name)
        return self._writer(name, *kept_in_file(name, shape, dtype), self._steps)

    def append(self, name: str, values: np.ndarray, before: int) -> None:
        writer = self._writer(name, values.shape, values.dtype, before)
        for chunk in chunks(values):
            writer.append(chunk)
        writer.done()

    def _writer(self, name: str, shape: tuple[int, ...], dtype: np.dtype, before: int) -> FileWriter:
        """Of rows after the first `before`."""
        directory, path = self._storage.directory, self._storage.directory / f"{name}.npy"
        with writing_to(directory, math.prod(shape) * dtype.itemsize):
            file = self._opened(path, "r+b" if before else "w+b")
            if before:
                there, kept = _head(file)
                if there[1:] != shape[1:]:
                    raise JaxdtError(
                        f"{self._path}: a step of {name} has shape {shape[1:]}, in the files before it {there[1:]}; "
                        "make them agree."
                    )
                dtype = kept_in_file(name, shape, np.result_type(kept, dtype))[1] if name == "observations" else kept
                if dtype != kept:
                    file = self._widened(path, np.memmap(file, kept, "r", file.tell(), (before, *there[1:])), dtype)
        return FileWriter(file, shape, dtype, directory, self._storage.wrote, before=before)

    def _widened(self, path: Path, values: np.ndarray, dtype: np.dtype) -> Any:
        """The file with its rows as another kind of number, that of a later shard."""
        with open_atomically(path, "w+b") as file:
            writer = FileWriter(file, values.shape, dtype, path.parent, lambda size: None)
            for chunk in chunks(values):
                writer.append(chunk)
            file.flush()
        return self._opened(path, "r+b")

    def _opened(self, path: Path, mode: str) -> Any:
        file = open(path, mode, buffering=0)  # noqa: SIM115, closed with this
        return self._open.enter_context(file)
