"""How many bytes a file's episodes may take, and do."""

import io
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxdt.data.episodes import EpisodeStore


SMALL = 2**28
"""Bytes of numbers, a few copies of which stay below 1 GiB."""


TIMES, TIMES_OF_PICTURES = 4, 256  # frames of a game are compressed to an eightieth


def size_limit(*paths: Path, times: int = TIMES) -> int:
    """Bytes of numbers that files may hold: few, or not many more than the files have; no limit without files."""
    if not paths:
        return sys.maxsize
    return max(SMALL, times * sum(path.stat().st_size for path in paths))


class Budget:
    """What the arrays of files may still take: together what pictures may, and those that are none less."""

    def __init__(self, *paths: Path):
        self._numbers, self._all = size_limit(*paths), size_limit(*paths, times=TIMES_OF_PICTURES)

    def has(self, size: int, *, pictures: bool) -> bool:
        """Whether so many bytes are left."""
        return size <= (self._all if pictures else min(self._all, self._numbers))

    def spend(self, size: int, *, pictures: bool) -> None:
        self._all -= size
        self._numbers -= 0 if pictures else size


def write_readable(store: EpisodeStore, file: IO[bytes], write: Callable[[IO[bytes], bool], Any]) -> None:
    """`write(file, compressed)`, and where zeros are compressed to so little that it would be refused, again without.

    `file`: empty, of which `write` leaves the whole content behind.
    """
    write(file, True)
    if _is_too_small(store, file.seek(0, io.SEEK_END)):
        file.seek(0)
        file.truncate()
        write(file, False)


def _is_too_small(store: EpisodeStore, size: int) -> bool:
    """Whether a file of `size` bytes would be refused as holding these episodes."""
    others = sum(4 * values.size for values in (store.actions, store.rewards, store.terminations, store.truncations))
    shape, dtype = store.observations.shape, store.observations.dtype
    seen, pictures = array_bytes("observations", shape, dtype), are_pictures("observations", shape, dtype)
    known = int(0.9 * size)  # heads of arrays are no numbers
    numbers = others if pictures else others + seen
    return numbers > max(SMALL, TIMES * known) or others + seen > max(SMALL, TIMES_OF_PICTURES * known)


def are_pictures(name: str, shape: Sequence[int], dtype: np.dtype) -> bool:
    """Whether an array is of bytes, and of rows of two dimensions or more."""
    return name == "observations" and dtype == np.uint8 and len(shape) > 2


def array_bytes(name: str, shape: Sequence[int], dtype: np.dtype, stored: int = 0) -> int:
    """What an array of an episode file takes: numbers smaller than float32 become it, but for observations.

    `stored`: bytes that the file says it has, where it says so beside the shape.
    """
    return max(math.prod(shape) * max(dtype.itemsize, 1 if name == "observations" else 4), stored)


def kept_bytes(name: str, shape: Sequence[int], dtype: np.dtype) -> int:
    """What an array takes in an EpisodeStore: four bytes a number, but for observations of integers."""
    return math.prod(shape) * (dtype.itemsize if name == "observations" and dtype.kind != "f" else 4)
