"""Parquet and Arrow files opened as columns: damage of any kind is one JaxdtError that names the file."""

import contextlib
import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxdt.data.parquet_footer import check_depth, promised_bytes
from jaxdt.errors import JaxdtError, one_line
from jaxdt.files import read_json


if TYPE_CHECKING:
    import pyarrow

_ROWS = 64  # episodes decoded at a time


class ArrowFile(NamedTuple):
    path: Path
    schema: "pyarrow.Schema"
    batches: Callable[[str], Iterator["pyarrow.Array"]]
    """The arrays of a column, one after the other; nothing else is read."""
    promised: Callable[[Sequence[str], int], int] = lambda names, most: 0
    """Bytes that columns take decoded where that is more than lies in the file; it may stop above `most`."""


def open_parquet(path: Path) -> ArrowFile:
    """A parquet file, decoded a few rows at a time."""
    import pyarrow.parquet

    def batches(name: str) -> Iterator["pyarrow.Array"]:
        with _reading(path, "a parquet file"), pyarrow.OSFile(str(path)) as file:
            # A small buffer and few rows: a whole column never lies decoded beside the array that it fills.
            parquet = pyarrow.parquet.ParquetFile(
                file, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True
            )
            for batch in parquet.iter_batches(_ROWS, columns=[name]):
                yield batch.column(0)

    def promised(names: Sequence[str], most: int) -> int:
        with _reading(path, "a parquet file"):
            return promised_bytes(path, names, most)

    with _reading(path, "a parquet file"), pyarrow.OSFile(str(path)) as file:
        check_depth(path)
        schema = _decoded(pyarrow.parquet.ParquetFile(file).schema_arrow)
    return ArrowFile(path, schema, batches, promised)


def _decoded(schema: "pyarrow.Schema") -> "pyarrow.Schema":
    """A schema whose names are all text; raises UnicodeDecodeError."""
    _ = schema.names, [str(kind) for kind in schema.types]
    return schema


def believable(*paths: Path) -> int:
    """Bytes of numbers that files may hold: small enough for a few copies of them to stay below 1 GiB."""
    return max(2**28, 4 * sum(path.stat().st_size for path in paths))


def decoded_bytes(name: str, shape: Sequence[int], dtype: np.dtype) -> int:
    """What an array of an episode file takes: numbers smaller than float32 become it, but for observations."""
    return math.prod(shape) * max(dtype.itemsize, 1 if name == "observations" else 4)


def open_arrow(path: Path) -> ArrowFile:
    """A file of Arrow's streaming format, as `datasets` writes it."""
    import pyarrow

    def batches(name: str) -> Iterator["pyarrow.Array"]:
        with _reading(path, "an Arrow file"), pyarrow.OSFile(str(path)) as file:
            options = pyarrow.ipc.IpcReadOptions(included_fields=[schema.names.index(name)])
            for batch in pyarrow.ipc.open_stream(file, options=options):
                batch.validate(full=True)  # offsets come from the file as they are
                yield batch.column(0)

    with _reading(path, "an Arrow file"):
        with pyarrow.memory_map(str(path)) as file:
            if any(_is_compressed(message) for message in pyarrow.ipc.MessageReader.open_stream(file)):
                raise ValueError("it is compressed, as datasets never saves")
        with pyarrow.OSFile(str(path)) as file:
            schema = _decoded(pyarrow.ipc.open_stream(file).schema)
    return ArrowFile(path, schema, batches)


def _is_compressed(message: "pyarrow.Message") -> bool:
    """Whether a batch says so: how large it is inflated is said in each buffer, and believed without a bound.

    Its header is a flatbuffer that pyarrow has verified: `Message.header` is a `DictionaryBatch`, whose field `data`
    is a `RecordBatch`, or one itself, and that may have a field `compression`.
    """
    if message.type not in ("record batch", "dictionary batch"):
        return False
    content = message.metadata.to_pybytes()

    def follow(place: int) -> int:
        return place + struct.unpack_from("<I", content, place)[0]

    def field(table: int, number: int) -> int:
        """Where a field lies, 0 where it is left out."""
        layout = table - struct.unpack_from("<i", content, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", content, layout)[0]:
            return 0
        offset = struct.unpack_from("<H", content, layout + 4 + 2 * number)[0]
        return table + offset if offset else 0

    batch = follow(field(follow(0), 2))
    if message.type == "dictionary batch":
        batch = follow(field(batch, 1))
    return field(batch, 3) != 0


def saved_shards(path: Path) -> list[Path]:
    """The files that a saved dataset's state names, in its order; a name must be a plain one."""
    with _reading(path / "state.json", "the state of a saved dataset"):
        state = read_json(path / "state.json")
        names = [entry["filename"] for entry in state["_data_files"]]
        chosen = state.get("_indices_data_files")
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*\.arrow", name):
            raise JaxdtError(
                f"{path / 'state.json'}: a file must have a plain name such as data.arrow; got {name!r:.80}."
            )
    if not names or chosen:
        raise JaxdtError(f"{path} holds no rows of its own; save it again with save_to_disk.")
    return [path / name for name in names]


def saved_config(path: Path) -> str | None:
    """The config that a saved dataset was loaded from, where it says so."""
    if not (path / "dataset_info.json").is_file():
        return None
    with _reading(path / "dataset_info.json", "the description of a saved dataset"):
        name = read_json(path / "dataset_info.json").get("config_name")
    return name if isinstance(name, str) else None


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except JaxdtError:
        raise
    except Exception as error:  # damaged bytes make Arrow raise a dozen kinds
        reason = one_line(error, 200)
        raise JaxdtError(f"{path} cannot be read as {kind}: {reason}; copy or make it again.") from error
