"""How much memory a file's episodes would take, by what the file says and before they are read."""

import math
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.data.hdf5 import member, reading_hdf5
from jaxdt.data.parquet_footer import promised_bytes
from jaxdt.data.places import LARGE


def size_in_memory(files: Sequence[Path]) -> int:
    """Bytes of observations, actions and rewards. Where a file would have to be read to know: the file's size."""
    sizes = {".npz": _of_npz, ".hdf5": _of_hdf5, ".parquet": _of_parquet}
    total = 0
    for path in files:
        try:
            total += sizes.get(path.suffix, _of_file)(path)
        except Exception:  # damaged: its reader says how, in its own words
            continue
    return total


def _of_file(path: Path) -> int:
    return path.stat().st_size


def _of_npz(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        return sum(_of_member(archive, f"{name}.npy") for name in LARGE if f"{name}.npy" in names)


def _of_member(archive: zipfile.ZipFile, name: str) -> int:
    with archive.open(name) as file:
        shape, _, dtype = npy_head(file)
    return math.prod(shape) * _kept(dtype)


def npy_head(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and dtype; raises ValueError."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _of_hdf5(path: Path) -> int:
    with reading_hdf5(path) as file:
        if "observations" not in file:  # Minari's, a group an episode
            return _of_file(path)
        arrays = [member(file, name, path) for name in LARGE]
        return sum(math.prod(array.shape) * _kept(array.dtype) for array in arrays)


def _of_parquet(path: Path) -> int:
    return promised_bytes(path, LARGE, sys.maxsize)


def _kept(dtype: np.dtype) -> int:
    """Bytes of a number in an EpisodeStore."""
    return 4 if dtype.kind == "f" else dtype.itemsize
