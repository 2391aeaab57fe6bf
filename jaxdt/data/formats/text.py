"""CSV, and JSON lines: a step or an episode a line."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.columns import ArrowFile, checked_schema, reading_arrow
from jaxdt.data.formats.rows import load_table
from jaxdt.data.storage import MEMORY, Storage
from jaxdt.errors import JaxdtError


if TYPE_CHECKING:
    import pyarrow

_DEEPEST = 16
_BLOCK = 2**24


def load_csv(path: Path, storage: Storage = MEMORY, *, cut_after: int | None = None) -> EpisodeStore:
    """Episodes of a `.csv` with a head line, a step a line; `rows.load_rows` describes the columns."""
    import pyarrow.csv

    with reading_arrow(path, "a CSV file"), pyarrow.OSFile(str(path)) as file:
        table = pyarrow.csv.read_csv(file)
    return load_table([table_file(table, path)], str(path), storage, cut_after)


def load_json_lines(path: Path, storage: Storage = MEMORY, *, cut_after: int | None = None) -> EpisodeStore:
    """Episodes of a `.jsonl`, a JSON object a line: a step, or an episode with lists of its steps."""
    import pyarrow.json

    with reading_arrow(path, "JSON lines"):
        _check_nesting(path)
        block = min(max(2**20, path.stat().st_size), 2**30)  # an object may not be larger
        with pyarrow.OSFile(str(path)) as file:
            table = pyarrow.json.read_json(file, pyarrow.json.ReadOptions(block_size=block))
    return load_table([table_file(table, path)], str(path), storage, cut_after)


def table_file(table: "pyarrow.Table", path: Path | str) -> ArrowFile:
    """A table that lies in memory."""

    def batches(name: str) -> Iterator["pyarrow.Array"]:
        yield from table.column(name).chunks

    with reading_arrow(path, "a table"):
        return ArrowFile(path, checked_schema(table.schema), batches)


def _check_nesting(path: Path) -> None:
    """Brackets within brackets without end would exhaust the parser's stack."""
    depth = 0
    with open(path, "rb") as file:
        while content := file.read(_BLOCK):
            marks = np.frombuffer(content, np.uint8) | 0x20  # [ and { become the same, and so do ] and }
            depths = depth + np.cumsum((marks == ord("{")).astype(np.int8) - (marks == ord("}")), dtype=np.int64)
            if depths.max() > _DEEPEST:
                raise JaxdtError(
                    f"{path} nests lists or objects more than {_DEEPEST} deep; an episode is lists of lists."
                )
            depth = int(depths[-1])
