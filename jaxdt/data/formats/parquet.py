"""Parquet files of Hugging Face's layout: an episode a row, a list of its steps in each column."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.columns import ArrowFile, checked_schema, reading_arrow
from jaxdt.data.formats.parquet_footer import check_depth, declared_bytes
from jaxdt.data.formats.rows import load_table
from jaxdt.data.storage import LARGE, MEMORY, Storage
from jaxdt.errors import JaxdtError
from jaxdt.files import open_atomically
from jaxdt.simulator import registered_id


if TYPE_CHECKING:
    import pyarrow

_ROWS = 64  # episodes decoded at a time


def load_parquet(path: Path, storage: Storage = MEMORY, *, cut_after: int | None = None) -> EpisodeStore:
    """Episodes of one `.parquet` file; see `load_parquet_files`."""
    return load_parquet_files([path], source=str(path), storage=storage, cut_after=cut_after)


def load_parquet_files(
    paths: Sequence[Path], *, source: str, storage: Storage = MEMORY, cut_after: int | None = None
) -> EpisodeStore:
    """Episodes of the shards of one dataset, an episode a row, or a step a row (`rows.load_rows`).

    - `observations` (t, s), `actions` (t, a): lists of lists of numbers; `rewards` (t,): lists of numbers.
    - Discrete `actions` (t,): lists of whole numbers.
    - `terminations`, `truncations` (t,), or `dones` (t,): lists of booleans, of which a true last one says that the
      environment ended the episode; without them it was cut off there. `fields.ENDINGS` has their other names.
    - The key `env_id` of the schema's metadata names the environment. Other columns are not read.

    Raises JaxdtError naming the source or the file, the column, the episode and the fix.
    """
    return load_table([open_parquet(path) for path in paths], source, storage, cut_after)


def open_parquet(path: Path) -> ArrowFile:
    """A parquet file, decoded a few rows at a time."""
    import pyarrow.parquet

    def batches(name: str) -> Iterator["pyarrow.Array"]:
        with reading_arrow(path, "a parquet file"), pyarrow.OSFile(str(path)) as file:
            # A small buffer and few rows: a whole column never lies decoded beside the array that it fills.
            parquet = pyarrow.parquet.ParquetFile(
                file, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True
            )
            for batch in parquet.iter_batches(_ROWS, columns=[name]):
                yield batch.column(0)

    def declared(names: Sequence[str], most: int) -> int:
        with reading_arrow(path, "a parquet file"):
            return declared_bytes(path, names, most)

    with reading_arrow(path, "a parquet file"), pyarrow.OSFile(str(path)) as file:
        check_depth(path)
        schema = checked_schema(pyarrow.parquet.ParquetFile(file).schema_arrow)
    return ArrowFile(path, schema, batches, declared)


def parquet_size(path: Path) -> int:
    """Bytes of its observations, actions and rewards in memory."""
    return declared_bytes(path, LARGE, sys.maxsize)


def write_parquet(store: EpisodeStore, path: Path) -> None:
    """Hugging Face's layout: an episode a row, a list of its steps in each column; `env_id` in the schema."""
    import pyarrow.parquet

    if store.observations.ndim != 2:
        raise JaxdtError(
            f"{path}: observations of shape {store.observations.shape[1:]} cannot be lists of lists of numbers; "
            "write .npz or .hdf5."
        )
    dones = np.zeros(store.num_steps, bool)
    last = store.offsets[1:] - 1
    dones[last] = store.terminations[last]
    columns = {
        "observations": store.observations,
        "actions": store.actions,
        "rewards": store.rewards,
        "dones": dones,
        "terminations": store.terminations,
        "truncations": store.truncations,
    }
    metadata = {} if store.env_id is None else {"env_id": registered_id(store.env_id)}
    if store.env_kwargs is not None:
        metadata["env_kwargs"] = json.dumps(store.env_kwargs)
    table = pyarrow.table({name: _an_episode_a_row(values, store) for name, values in columns.items()})
    table = table.replace_schema_metadata(metadata)
    with open_atomically(path, "wb") as file:
        pyarrow.parquet.write_table(table, file, row_group_size=64, write_page_checksum=True)


def _an_episode_a_row(values: np.ndarray, store: EpisodeStore):
    import pyarrow

    steps = pyarrow.array(values.reshape(-1))
    if values.ndim == 2:
        rows = np.arange(len(values) + 1, dtype=np.int64) * values.shape[1]
        steps = _lists(rows, steps)
    return _lists(store.offsets, steps)


def _lists(offsets: np.ndarray, values):
    """Lists of 32-bit offsets, which all readers know, where the values are few enough for them."""
    import pyarrow

    if offsets[-1] < 2**31:
        return pyarrow.ListArray.from_arrays(offsets, values)
    return pyarrow.LargeListArray.from_arrays(offsets, values)
