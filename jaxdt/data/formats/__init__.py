"""Files of episodes: one module a format, which reads it, writes it and fences off what would do harm."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.hdf5 import hdf5_size, load_hdf5, write_hdf5
from jaxdt.data.formats.npz import load_npz, npz_size, write_npz
from jaxdt.data.formats.parquet import load_parquet, parquet_size, write_parquet
from jaxdt.data.formats.pickled import load_pickle
from jaxdt.data.formats.text import load_csv, load_json_lines


class Format(NamedTuple):
    read: Callable[..., EpisodeStore]
    """`read(path, storage, cut_after=)`: the steps after which episodes were cut off, where the file does not say."""
    size: Callable[[Path], int]
    """Bytes of observations, actions and rewards in memory. Where the file would have to be read to know: its own."""
    write: Callable[[EpisodeStore, Path], None] | None = None


_HDF5 = Format(load_hdf5, hdf5_size, write_hdf5)

FORMATS = {
    ".npz": Format(load_npz, npz_size, write_npz),
    ".parquet": Format(load_parquet, parquet_size, write_parquet),
    ".hdf5": _HDF5,
    ".h5": _HDF5,
    ".hdf": _HDF5,
    ".csv": Format(load_csv, os.path.getsize),
    ".jsonl": Format(load_json_lines, os.path.getsize),
    ".pkl": Format(load_pickle, os.path.getsize),
    ".pickle": Format(load_pickle, os.path.getsize),
}
"""By the ending of a file's name, in small letters."""


def format_of(path: Path) -> Format | None:
    """None for an ending that nobody knows."""
    return FORMATS.get(path.suffix.lower())


def size_in_memory(path: Path) -> int:
    """Bytes of a file's observations, actions and rewards, by what it says of itself; of other kinds, its own size."""
    kind = format_of(path)
    try:
        return kind.size(path) if kind else path.stat().st_size
    except Exception:  # damaged: its reader says how, in its own words
        return 0
