"""What a parquet file's footer says of its columns' sizes, read as plain bytes.

pyarrow 26 ends the process (SIGABRT) when its `RowGroupMetaData.column` meets a damaged footer, so the footer is
decoded here: it is one struct of Thrift's compact protocol.
"""

import io
import os
from pathlib import Path
from typing import Any


_BYTES = {0: 1, 1: 4, 4: 4, 7: 2}  # a boolean, int32, float and float16 decoded; others take 8
# Fields by number: FileMetaData.row_groups, RowGroup.columns, ColumnChunk.meta_data, and four of ColumnMetaData.
_ROW_GROUPS, _COLUMNS, _COLUMN, _TYPE, _PATH, _NUM_VALUES, _SIZE = 4, 1, 3, 1, 3, 5, 6


def promised_bytes(path: Path) -> dict[str, int]:
    """Bytes that each column takes decoded, by its name before the first dot, in a file that pyarrow can open.

    A damaged footer raises ValueError, LookupError, TypeError or the like.
    """
    with open(path, "rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        footer = _struct(io.BytesIO(file.read(length)))
    promised: dict[str, int] = {}
    for group in footer[_ROW_GROUPS]:
        for chunk in group[_COLUMNS]:
            column = chunk[_COLUMN]
            name = column[_PATH][0].decode()
            decoded = column[_NUM_VALUES] * _BYTES.get(column[_TYPE], 8)
            promised[name] = promised.get(name, 0) + max(decoded, column[_SIZE], 0)
    return promised


def _struct(file: io.BytesIO) -> dict[int, Any]:
    fields, number = {}, 0
    while (head := _byte(file)) & 0x0F:
        number = number + (head >> 4) if head >> 4 else _integer(file)
        kind = head & 0x0F
        fields[number] = kind == 1 if kind in (1, 2) else _value(file, kind)
    return fields


def _value(file: io.BytesIO, kind: int) -> Any:
    if kind in (1, 2, 3):
        return _byte(file)
    if kind in (4, 5, 6):
        return _integer(file)
    if kind in (7, 8):
        length = 8 if kind == 7 else _varint(file)
        content = file.read(length)
        if len(content) != length:
            raise ValueError("the footer ends early")
        return content
    if kind in (9, 10):
        head = _byte(file)
        count = head >> 4 if head >> 4 < 15 else _varint(file)
        return [_value(file, head & 0x0F) for _ in range(count)]
    if kind == 12:
        return _struct(file)
    raise ValueError(f"the footer has a value of an unknown kind {kind}")


def _integer(file: io.BytesIO) -> int:
    value = _varint(file)
    return (value >> 1) ^ -(value & 1)


def _varint(file: io.BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(file)
        value |= (byte & 0x7F) << shift
        if byte < 128:
            return value
    raise ValueError("the footer has a number that is too long")


def _byte(file: io.BytesIO) -> int:
    content = file.read(1)
    if not content:
        raise ValueError("the footer ends early")
    return content[0]
