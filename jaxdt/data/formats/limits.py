"""How many bytes a file's episodes may take, and do."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def size_limit(*paths: Path) -> int:
    """Bytes of numbers that files may hold: small enough for a few copies of them to stay below 1 GiB."""
    return max(2**28, 4 * sum(path.stat().st_size for path in paths))


def array_bytes(name: str, shape: Sequence[int], dtype: np.dtype) -> int:
    """What an array of an episode file takes: numbers smaller than float32 become it, but for observations."""
    return math.prod(shape) * max(dtype.itemsize, 1 if name == "observations" else 4)


def kept_bytes(name: str, shape: Sequence[int], dtype: np.dtype) -> int:
    """What an array takes in an EpisodeStore: four bytes a number, but for observations of integers."""
    return math.prod(shape) * (dtype.itemsize if name == "observations" and dtype.kind != "f" else 4)
