"""Parquet and Arrow files opened as columns: damage of any kind is one JaxdtError that names the file."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxdt.data.parquet_footer import promised_bytes
from jaxdt.errors import JaxdtError, one_line


if TYPE_CHECKING:
    import pyarrow

_ROWS = 64  # episodes decoded at a time


class ArrowFile(NamedTuple):
    path: Path
    schema: "pyarrow.Schema"
    batches: Callable[[str], Iterator["pyarrow.Array"]]
    """The arrays of a column, one after the other; nothing else is read."""


def open_parquet(path: Path) -> ArrowFile:
    """A parquet file, decoded a few rows at a time."""
    import pyarrow.parquet

    def batches(name: str) -> Iterator["pyarrow.Array"]:
        if promised.get(name, 0) > believable(path):
            raise JaxdtError(
                f"{path}: {name} would take {promised[name] / 2**20:.0f} MiB, far more than a file of "
                f"{path.stat().st_size / 2**20:.1f} MiB holds; copy it again, or write it in smaller files."
            )
        with _reading(path, "a parquet file"), pyarrow.OSFile(str(path)) as file:
            # A small buffer and few rows: a whole column never lies decoded beside the array that it fills.
            parquet = pyarrow.parquet.ParquetFile(
                file, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True
            )
            for batch in parquet.iter_batches(_ROWS, columns=[name]):
                yield batch.column(0)

    with _reading(path, "a parquet file"), pyarrow.OSFile(str(path)) as file:
        schema = _decoded(pyarrow.parquet.ParquetFile(file).schema_arrow)
        promised = promised_bytes(path)
    return ArrowFile(path, schema, batches)


def _decoded(schema: "pyarrow.Schema") -> "pyarrow.Schema":
    """A schema whose names are all text; raises UnicodeDecodeError."""
    _ = schema.names, [str(kind) for kind in schema.types]
    return schema


def believable(path: Path) -> int:
    """Bytes of numbers that a file may hold."""
    return max(2**30, 4 * path.stat().st_size)


def open_arrow(path: Path) -> ArrowFile:
    """A file of Arrow's streaming format, as `datasets` writes it."""
    import pyarrow

    def batches(name: str) -> Iterator["pyarrow.Array"]:
        with _reading(path, "an Arrow file"), pyarrow.OSFile(str(path)) as file:
            options = pyarrow.ipc.IpcReadOptions(included_fields=[schema.names.index(name)])
            for batch in pyarrow.ipc.open_stream(file, options=options):
                batch.validate(full=True)  # offsets come from the file as they are
                yield batch.column(0)

    with _reading(path, "an Arrow file"), pyarrow.OSFile(str(path)) as file:
        schema = _decoded(pyarrow.ipc.open_stream(file).schema)
    return ArrowFile(path, schema, batches)


def saved_shards(path: Path) -> list[Path]:
    """The files that a saved dataset's state names, in its order; a name must be a plain one."""
    with _reading(path / "state.json", "the state of a saved dataset"):
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
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
        name = json.loads((path / "dataset_info.json").read_text(encoding="utf-8")).get("config_name")
    return name if isinstance(name, str) else None


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except JaxdtError:
        raise
    except Exception as error:  # damaged bytes make Arrow raise a dozen kinds
        reason = one_line(error)
        raise JaxdtError(f"{path} cannot be read as {kind}: {reason:.200}; copy or make it again.") from error
