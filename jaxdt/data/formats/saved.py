"""Directories that `datasets` saved, or of parquet files; a file of Arrow's streaming format is a shard of one."""

import dataclasses
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxdt.data.d4rl import d4rl_env_id
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.columns import ArrowFile, checked_schema, reading_arrow
from jaxdt.data.formats.parquet import load_parquet_files
from jaxdt.data.formats.rows import load_table
from jaxdt.data.storage import MEMORY, Storage
from jaxdt.errors import JaxdtError
from jaxdt.files import read_json


if TYPE_CHECKING:
    import pyarrow

_MAGIC, _AFTER_MAGIC = b"ARROW1", 8
"""How Arrow's file format begins, and where its stream does."""


def load_directory(path: Path, storage: Storage = MEMORY, *, cut_after: int | None = None) -> EpisodeStore:
    """Episodes of a directory that `datasets` saved (its split `train`), or of one of parquet files.

    The columns are those of `load_parquet_files`; so are the errors.
    """
    if (path / "dataset_dict.json").is_file():
        path = path / "train"
        if not path.is_dir():
            splits = sorted(child.name for child in path.parent.iterdir() if (child / "state.json").is_file())
            raise JaxdtError(
                f"{path} does not exist; the saved dataset has no split named train, only "
                f"{', '.join(splits) or 'none'}; give the directory of one of its splits."
            )
    if (path / "state.json").is_file():
        store = load_table([open_arrow(shard) for shard in saved_shards(path)], str(path), storage, cut_after)
        return dataclasses.replace(store, env_id=store.env_id or d4rl_env_id(saved_config(path), store.state_dim))
    shards = next(filter(None, (_parquet_files(path / name) for name in ("", "train", "data"))), [])
    if not shards:
        raise JaxdtError(
            f"{path} is a directory without episodes; give one that datasets saved (it has a state.json), "
            "one of .parquet files, or a file."
        )
    training = [shard for shard in shards if shard.name.startswith("train")]
    check_shards(training or shards)
    return load_parquet_files(training or shards, source=str(path), storage=storage, cut_after=cut_after)


def _parquet_files(path: Path) -> list[Path]:
    """But for those that begin with a dot, which are some system's own, as `._a.parquet` of macOS is."""
    if not path.is_dir():
        return []
    return sorted(c for c in path.iterdir() if c.suffix.lower() == ".parquet" and not c.name.startswith("."))


def check_shards(paths: Sequence[Path]) -> None:
    """Raises JaxdtError where files say to be one of several (`train-00000-of-00003`) that are not all here."""
    series: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        if match := re.fullmatch(r"(.*?)(\d{1,9})-of-(\d{1,9})(?:[-.].*)?", path.name, re.ASCII):
            series.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (_, count), found in series.items():
        first = 1 if count in found and 0 not in found else 0  # some count from one
        missing = (
            [number for number in range(first, count + first) if number not in found][:12] if count < 10**6 else []
        )
        if missing:
            raise JaxdtError(
                f"{paths[0].parent} lacks shards {', '.join(map(str, missing))} of {count}, by the names of its files "
                f"such as {paths[0].name:.80}; copy them too, or rename those that you mean."
            )


def is_saved(path: Path) -> bool:
    """Whether `datasets` saved this directory."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def open_arrow(path: Path) -> ArrowFile:
    """A file of Arrow's streaming format, as `datasets` writes it, or of its file format: that and a footer."""
    import pyarrow

    def opened(open_file: Callable[[str], Any]) -> Any:
        file = open_file(str(path))
        file.seek(_AFTER_MAGIC if file.read(len(_MAGIC)) == _MAGIC else 0)
        return file

    def batches(name: str) -> Iterator["pyarrow.Array"]:
        with reading_arrow(path, "an Arrow file"), opened(pyarrow.OSFile) as file:
            options = pyarrow.ipc.IpcReadOptions(included_fields=[schema.names.index(name)])
            for batch in pyarrow.ipc.open_stream(file, options=options):
                batch.validate(full=True)  # offsets come from the file as they are
                yield batch.column(0)

    with reading_arrow(path, "an Arrow file"):
        with opened(pyarrow.memory_map) as file:
            if any(_is_compressed(message) for message in pyarrow.ipc.MessageReader.open_stream(file)):
                raise ValueError("it is compressed, as datasets never saves")
        with opened(pyarrow.OSFile) as file:
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
