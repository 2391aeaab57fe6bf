"""Directories that `datasets` saved, or of parquet files; a file of Arrow's streaming format is a shard of one."""

import dataclasses
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdt.data.d4rl import d4rl_env_id
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.columns import ArrowFile, checked_schema, load_columns, reading_arrow
from jaxdt.data.formats.parquet import load_parquet_files
from jaxdt.data.storage import MEMORY, Storage
from jaxdt.errors import JaxdtError
from jaxdt.files import read_json


if TYPE_CHECKING:
    import pyarrow


def load_directory(path: Path, storage: Storage = MEMORY) -> EpisodeStore:
    """Episodes of a directory that `datasets` saved (its split `train`), or of one of parquet files.

    The columns are those of `load_parquet_files`; so are the errors.
    """
    if (path / "dataset_dict.json").is_file():
        path = path / "train"
        if not path.is_dir():
            raise JaxdtError(f"{path} does not exist; the saved dataset needs a split named train, or give a split.")
    if (path / "state.json").is_file():
        store = load_columns([open_arrow(shard) for shard in saved_shards(path)], str(path), storage)
        return dataclasses.replace(store, env_id=store.env_id or d4rl_env_id(saved_config(path), store.state_dim))
    shards = next(filter(None, (sorted((path / name).glob("*.parquet")) for name in ("", "train", "data"))), [])
    if not shards:
        raise JaxdtError(
            f"{path} is a directory without episodes; give one that datasets saved (it has a state.json), "
            "one of .parquet files, or a file."
        )
    training = [shard for shard in shards if shard.name.startswith("train")]
    return load_parquet_files(training or shards, source=str(path), storage=storage)


def open_arrow(path: Path) -> ArrowFile:
    """A file of Arrow's streaming format, as `datasets` writes it."""
    import pyarrow

    def batches(name: str) -> Iterator["pyarrow.Array"]:
        with reading_arrow(path, "an Arrow file"), pyarrow.OSFile(str(path)) as file:
            options = pyarrow.ipc.IpcReadOptions(included_fields=[schema.names.index(name)])
            for batch in pyarrow.ipc.open_stream(file, options=options):
                batch.validate(full=True)  # offsets come from the file as they are
                yield batch.column(0)

    with reading_arrow(path, "an Arrow file"):
        with pyarrow.memory_map(str(path)) as file:
            if any(_is_compressed(message) for message in pyarrow.ipc.MessageReader.open_stream(file)):
                raise ValueError("it is compressed, as datasets never saves")
        with pyarrow.OSFile(str(path)) as file:
            schema = checked_schema(pyarrow.ipc.open_stream(file).schema)
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
    with reading_arrow(path / "state.json", "the state of a saved dataset"):
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
    with reading_arrow(path / "dataset_info.json", "the description of a saved dataset"):
        name = read_json(path / "dataset_info.json").get("config_name")
    return name if isinstance(name, str) else None
