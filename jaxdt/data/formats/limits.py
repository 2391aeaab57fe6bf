"""How many bytes a file's episodes may take, and do."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np


SMALL = 2**28
"""Bytes of numbers, a few copies of which stay below 1 GiB."""


def size_limit(*paths: Path) -> int:
    """Bytes of numbers that files may hold: few, or not many more than the files have."""
    return max(SMALL, 4 * sum(path.stat().st_size for path in paths))


def array_bytes(name: str, shape: Sequence[int], dtype: np.dtype, stored: int = 0) -> int:
    """What an array of an episode file takes: numbers smaller than float32 become it, but for observations.

    Pictures of a byte a number count a 64th, since those of a game are compressed to an eightieth. `stored`: bytes that
    the file says it has, where it says so beside the shape.
    """
    if name == "observations" and dtype.itemsize == 1 and len(shape) > 2:
        return max(math.prod(shape), stored) // 64
    return max(math.prod(shape) * max(dtype.itemsize, 1 if name == "observations" else 4), stored)


def kept_bytes(name: str, shape: Sequence[int], dtype: np.dtype) -> int:
    """What an array takes in an EpisodeStore: four bytes a number, but for observations of integers."""
    return math.prod(shape) * (dtype.itemsize if name == "observations" and dtype.kind != "f" else 4)
