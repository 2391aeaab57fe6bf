"""Files of episodes: one module a format, which reads it, writes it and fences off what would do harm."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.hdf5 import hdf5_size, load_hdf5, write_hdf5
from jaxdt.data.formats.npz import load_npz, npz_size
from jaxdt.data.formats.parquet import load_parquet, parquet_size, write_parquet
from jaxdt.data.formats.pickled import load_pickle
from jaxdt.data.storage import Storage


class Format(NamedTuple):
    read: Callable[[Path, Storage], EpisodeStore]
    size: Callable[[Path], int]
    """Bytes of observations, actions and rewards in memory. Where the file would have to be read to know: its own."""
    write: Callable[[EpisodeStore, Path], None] | None = None


FORMATS = {
    ".npz": Format(load_npz, npz_size, EpisodeStore.save),
    ".parquet": Format(load_parquet, parquet_size, write_parquet),
    ".hdf5": Format(load_hdf5, hdf5_size, write_hdf5),
    ".pkl": Format(load_pickle, os.path.getsize),
}
"""By the ending of a file's name."""


def size_in_memory(path: Path) -> int:
    """Bytes of a file's observations, actions and rewards, by what it says of itself; of other kinds, its own size."""
    kind = FORMATS.get(path.suffix)
    try:
        return kind.size(path) if kind else path.stat().st_size
    except Exception:  # damaged: its reader says how, in its own words
        return 0
