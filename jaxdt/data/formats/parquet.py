"""Parquet files of Hugging Face's layout: an episode a row, a list of its steps in each column."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.arrow_values import are_files, file_contents, leaf
from jaxdt.data.formats.columns import ArrowFile, checked_schema, holds_pictures, list_depth, reading_arrow
from jaxdt.data.formats.limits import write_readable
from jaxdt.data.formats.parquet_footer import check_depth, count_values, declared_bytes
from jaxdt.data.formats.picture_files import can_be_png, kept_size, png_files
from jaxdt.data.formats.rows import large_columns, load_table
from jaxdt.data.storage import MEMORY, Storage
from jaxdt.errors import JaxdtError
from jaxdt.files import open_atomically
from jaxdt.simulator import registered_id


if TYPE_CHECKING:
    import pyarrow

_MOST_BYTES = 2**31
"""That offsets of 32 bits reach."""
_ROWS = 64  # episodes decoded at a time


def load_parquet(path: Path, storage: Storage = MEMORY, *, cut_after: int | None = None) -> EpisodeStore:
    """Episodes of one `.parquet` file; see `load_parquet_files`."""
    return load_parquet_files([path], source=str(path), storage=storage, cut_after=cut_after)


def load_parquet_files(
    paths: Sequence[Path], *, source: str, storage: Storage = MEMORY, cut_after: int | None = None
) -> EpisodeStore:
    """Episodes of the shards of one dataset, an episode a row, or a step a row (`rows.load_rows`).

    - `observations` (t, s), `actions` (t, a): lists of lists of numbers; `rewards` (t,): lists of numbers.
    - `observations` that are pictures: lists of lists of lists (t, h, w), or one deeper (t, h, w, c), of uint8; or
      lists of PNG or JPEG files, byte strings or the feature Image of `datasets`, of which paths are not followed.
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
            rows = 1 if holds_pictures(opened, name) else _ROWS  # an episode of pictures may take hundreds of MiB
            for batch in parquet.iter_batches(rows, columns=[name]):
                yield batch.column(0)

    def declared(names: Sequence[str], most: int) -> int:
        with reading_arrow(path, "a parquet file"):
            return declared_bytes(path, names, most)

    with reading_arrow(path, "a parquet file"), pyarrow.OSFile(str(path)) as file:
        check_depth(path)
        schema = checked_schema(pyarrow.parquet.ParquetFile(file).schema_arrow)
    opened = ArrowFile(path, schema, batches, declared)
    return opened


def parquet_size(path: Path) -> int:
    """Bytes of its observations, actions and rewards in memory; of PNG and JPEG files as many as the first is of."""
    file = open_parquet(path)
    columns = large_columns(file.schema.names, str(path))
    if len(columns["observations"]) > 1 or not are_files(leaf(file.schema.field(columns["observations"][0]).type)[0]):
        return declared_bytes(path, [name for names in columns.values() for name in names], sys.maxsize)
    (name,) = columns.pop("observations")
    values: Any = next(iter(file.batches(name)))
    files = file_contents(values.flatten() if list_depth(file, name) else values)
    others = [name for names in columns.values() for name in names]
    return declared_bytes(path, others, sys.maxsize) + kept_size(files[0]) * count_values(path, name)


def write_parquet(store: EpisodeStore, path: Path) -> None:
    """Hugging Face's layout: an episode a row, a list of its steps in each column; `env_id` in the schema.

    Pictures of bytes, grey or of three colours, are PNG files in a struct (`bytes`, `path`), as the feature Image of
    `datasets` is stored; others are lists of lists.
    """
    import pyarrow.parquet

    if store.observations.ndim > 4:
        raise JaxdtError(
            f"{path}: observations of shape {store.observations.shape[1:]} are more than lists of lists of lists a "
            "step; write .npz or .hdf5."
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

    def write(file: IO[bytes], compressed: bool) -> None:
        rows = {name: _an_episode_a_row(values, store, path, compressed) for name, values in columns.items()}
        how: dict[str, Any] = {} if compressed else {"compression": "none", "use_dictionary": False}
        table = pyarrow.table(rows).replace_schema_metadata(metadata)
        size = _ROWS if store.observations.ndim == 2 else 1
        pyarrow.parquet.write_table(table, file, row_group_size=size, write_page_checksum=True, **how)

    with open_atomically(path, "wb") as file:
        write_readable(store, file, write)


def _an_episode_a_row(values: np.ndarray, store: EpisodeStore, path: Path, compressed: bool):
    import pyarrow

    if can_be_png(values.shape, values.dtype):
        contents = list(png_files(values, str(path), compressed=compressed))
        many = sum(map(len, contents)) >= _MOST_BYTES
        files = pyarrow.array(contents, pyarrow.large_binary() if many else pyarrow.binary())
        fields = [files, pyarrow.nulls(len(files), pyarrow.string())]
        return _lists(store.offsets, pyarrow.StructArray.from_arrays(fields, names=["bytes", "path"]))
    steps = pyarrow.array(values.reshape(-1))
    for axis in range(values.ndim - 1, 0, -1):
        rows = np.arange(math.prod(values.shape[:axis]) + 1, dtype=np.int64) * values.shape[axis]
        steps = _lists(rows, steps)
    return _lists(store.offsets, steps)


def _lists(offsets: np.ndarray, values):
    """Lists of 32-bit offsets, which all readers know, where the values are few enough for them."""
    import pyarrow

    if offsets[-1] < _MOST_BYTES:
        return pyarrow.ListArray.from_arrays(offsets, values)
    return pyarrow.LargeListArray.from_arrays(offsets, values)
