"""Where the arrays of episodes go: into memory, or chunk by chunk into files that are then mapped."""

import contextlib
import math
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.errors import JaxdtError


LARGE = ("observations", "actions", "rewards")
"""The arrays that go to files; what else there is takes a few bytes a step, and so do discrete actions."""


JOURNAL = "shards.jsonl"
"""Beside arrays that are filled shard by shard: which of them are whole."""


def goes_to_file(name: str, shape: tuple[int, ...]) -> bool:
    return name in LARGE and not (name == "actions" and len(shape) == 1)


def kept_in_file(name: str, shape: tuple[int, ...], dtype: Any) -> tuple[tuple[int, ...], np.dtype]:
    """What an array has in a file: rewards one axis, and what will be float32 anyway that."""
    shape = shape[:1] if name == "rewards" and shape[1:] == (1,) else shape
    is_kept = not goes_to_file(name, shape) or (name == "observations" and np.dtype(dtype).kind != "f")
    return shape, np.dtype(dtype) if is_kept else np.dtype(np.float32)


class ArrayWriter:
    """An array in memory that is filled from its first row to its last, or in any order with `put` alone."""

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape = shape
        self._lock = threading.Lock()
        self._values, self._count = np.empty(shape, dtype), 0

    def append(self, rows: np.ndarray) -> None:
        self.put(self._count, rows)

    def put(self, start: int, rows: np.ndarray) -> None:
        """Rows from `start` on, each of them once; several threads may do so."""
        with np.errstate(over="ignore"):
            self._values[start : start + len(rows)] = rows.reshape(len(rows), *self.shape[1:])
        with self._lock:
            self._count += len(rows)

    def done(self) -> np.ndarray:
        return self._values


class Storage:
    """Memory."""

    on_disk = False

    def array_writer(self, name: str, shape: tuple[int, ...], dtype: Any) -> ArrayWriter:
        return ArrayWriter(shape, dtype)

    def part(self, number: int) -> "Storage":
        """Where one of several datasets that are joined goes."""
        return self


MEMORY = Storage()


class DirectoryStorage(Storage):
    """`.npy` files in a directory that exists, with floats, and whatever will be float32 anyway, as float32.

    `wrote` hears of the bytes that were written, `reached` what part of all it is that is there, where that is known.
    """

    on_disk = True

    def __init__(
        self, directory: Path, wrote: Callable[[int], None], reached: Callable[[float], None] = lambda part: None
    ):
        self.directory, self.wrote, self.reached = directory, wrote, reached
        self.filled: set[str] = set()
        """Names of the arrays that readers have put in their files."""
        self._open = contextlib.ExitStack()

    def array_writer(self, name: str, shape: tuple[int, ...], dtype: Any) -> ArrayWriter:
        shape, dtype = kept_in_file(name, shape, dtype)
        if not goes_to_file(name, shape):
            return super().array_writer(name, shape, dtype)
        with writing_to(self.directory, math.prod(shape) * dtype.itemsize):
            (self.directory / JOURNAL).unlink(missing_ok=True)  # what it tells of is written over
            file = open(self.directory / f"{name}.npy", "w+b", buffering=0)  # noqa: SIM115, closed below
            self._open.enter_context(file)
            self.filled.add(name)
            return FileWriter(file, shape, dtype, self.directory, self.wrote)

    def part(self, number: int) -> "DirectoryStorage":
        directory = self.directory / f"part-{number}"
        directory.mkdir()
        return self._open.enter_context(contextlib.closing(DirectoryStorage(directory, self.wrote)))

    def close(self) -> None:
        """Closes what a reader that failed left open, and removes the parts."""
        self._open.close()
        for directory in self.directory.glob("part-*"):
            shutil.rmtree(directory, ignore_errors=True)


class TemporaryStorage(Storage):
    """Files that go with the arrays that are mapped from them."""

    on_disk = True

    def __init__(self, directory: Path):
        self._directory = directory

    def array_writer(self, name: str, shape: tuple[int, ...], dtype: Any) -> ArrayWriter:
        with writing_to(self._directory, math.prod(shape) * np.dtype(dtype).itemsize):
            file = tempfile.TemporaryFile(buffering=0, dir=self._directory)  # noqa: SIM115, closed once it is full
            return FileWriter(file, shape, dtype, self._directory, lambda size: None)


class FileWriter(ArrayWriter):
    """An array of an `.npy` file, or where it grows, those of its rows that come after the first `before`."""

    def __init__(
        self,
        file: Any,
        shape: tuple[int, ...],
        dtype: Any,
        directory: Path,
        wrote: Callable[[int], None],
        *,
        before: int = 0,
    ):
        self.shape, self._dtype, self._lock = shape, np.dtype(dtype), threading.Lock()
        self._file, self._directory, self._wrote, self._count = file, directory, wrote, 0
        whole = (before + shape[0], *shape[1:])
        head = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": whole}
        with self._closed_if_failed():
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, head)  # as long whatever the number of rows
            self._offset = file.tell() + before * math.prod(shape[1:]) * self._dtype.itemsize

    def put(self, start: int, rows: np.ndarray) -> None:
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(rows, self._dtype)
        content = rows.reshape(-1).view(np.uint8).data
        with self._lock:
            with self._closed_if_failed(), writing_to(self._directory):
                self._file.seek(self._offset + start * math.prod(self.shape[1:]) * self._dtype.itemsize)
                while content:
                    content = content[self._file.write(content) :]
            self._count += len(rows)
            self._wrote(rows.nbytes)

    def done(self) -> np.ndarray:
        assert self._count == self.shape[0]
        with self._file, writing_to(self._directory):
            os.fsync(self._file.fileno())
            return np.asarray(np.memmap(self._file, self._dtype, "r", self._offset, self.shape))

    @contextlib.contextmanager
    def _closed_if_failed(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._file.close()
            raise


@contextlib.contextmanager
def writing_to(directory: Path, size: int = 0) -> Iterator[None]:
    """A full disk, and others' errors of writing there, as one that says what to do."""
    try:
        if size > shutil.disk_usage(directory).free:
            raise OSError(f"there is no room for {size / 2**30:.3g} GiB")
        yield
    except OSError as error:
        raise JaxdtError(
            f"episodes too large for memory cannot be unpacked into {directory}: {error.strerror or error}; make room "
            "there, set XDG_CACHE_HOME to another disk, or let them into memory with a larger map_above= "
            "(--map-above, GiB)."
        ) from error


def chunks(values: np.ndarray, *, itemsize: int | None = None) -> Iterator[np.ndarray]:
    """Some steps at a time; what was read of a mapped file is let go of, or a pass would fill memory with it.

    `itemsize`: bytes that a number will take, where that is more than it takes here.
    """
    steps = max(1, min(65_536, 2**26 // max(1, values[:1].size * (itemsize or values.itemsize))))
    for start in range(0, len(values), steps):
        yield values[start : start + steps]
        release_pages(values)


def release_pages(values: np.ndarray) -> None:
    """The pages of a mapped file no longer count as this process's memory; reading them again finds them again."""
    backing: Any = values
    while isinstance(backing, np.ndarray):
        backing = backing.base
    if isinstance(backing, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        backing.madvise(mmap.MADV_DONTNEED)


def copied(name: str, values: np.ndarray, storage: Storage) -> np.ndarray:
    writer = storage.array_writer(name, values.shape, values.dtype)
    for chunk in chunks(values):
        writer.append(chunk)
    return writer.done()
