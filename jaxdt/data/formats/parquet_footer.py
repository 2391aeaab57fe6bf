"""What a parquet file's footer and page headers declare, read as plain bytes before pyarrow meets them.

pyarrow 26 ends the process (SIGABRT) when its `RowGroupMetaData.column` meets a damaged footer, and believes a page
that says to be 2 GiB; pyarrow 17 ends it (SIGSEGV) at a schema that is nested very deep. All of these are structs of
Thrift's compact protocol.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


_BYTES = {0: 4, 1: 4, 4: 4, 7: 4}  # a boolean, int32, float and float16 with its place in the lists; others take 8
_PAGE_BYTES = 4096  # that a page is counted for at least: it takes time
_MAX_FOOTER = 2**23
_MAX_DEPTH = 100
# Fields by number: of FileMetaData, SchemaElement, RowGroup, ColumnChunk, ColumnMetaData and PageHeader.
_SCHEMA, _ROW_GROUPS = 2, 4
_CHILDREN = 5
_COLUMNS = 1
_COLUMN = 3
_TYPE, _PATH, _NUM_VALUES, _DATA_OFFSET, _DICTIONARY_OFFSET = 1, 3, 5, 9, 11
_DECODED, _STORED, _DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_2 = 2, 3, 5, 7, 8


def declared_bytes(path: Path, names: Sequence[str], most: int) -> int:
    """Bytes that the columns of these names, the first parts of their paths, take decoded; it stops above `most`.

    A damaged footer or page header raises ValueError, LookupError, TypeError or the like.
    """
    declared = 0
    with open(path, "rb") as file:
        for group in _footer(file)[_ROW_GROUPS]:
            for chunk in group[_COLUMNS]:
                if chunk[_COLUMN][_PATH][0].decode() in names and declared <= most:
                    declared += _declared_by_pages(file, chunk[_COLUMN], most - declared)
    return declared


def count_values(path: Path, name: str) -> int:
    """Numbers, strings and empty lists in the column that comes first under a name; the footer may not be right."""
    count = 0
    with open(path, "rb") as file:
        for group in _footer(file)[_ROW_GROUPS]:
            found = (chunk[_COLUMN] for chunk in group[_COLUMNS] if chunk[_COLUMN][_PATH][0].decode() == name)
            count += next(found)[_NUM_VALUES]
    return count


def check_depth(path: Path) -> None:
    """Raises ValueError when the schema is nested so deep that a reader that recurses would crash."""
    with open(path, "rb") as file:
        elements = _footer(file)[_SCHEMA]
    open_groups: list[int] = []  # children that each has yet to come
    for element in elements:
        if open_groups:
            open_groups[-1] -= 1
        open_groups.append(element.get(_CHILDREN, 0))
        while open_groups and open_groups[-1] <= 0:
            open_groups.pop()
        if len(open_groups) > _MAX_DEPTH:
            raise ValueError(f"its schema is nested more than {_MAX_DEPTH} deep")


def _declared_by_pages(file: io.BufferedIOBase, column: dict[int, Any], most: int) -> int:
    """From the headers of the pages themselves: what the footer says of them need not be true."""
    start, dictionary = column[_DATA_OFFSET], column.get(_DICTIONARY_OFFSET, 0)
    file.seek(dictionary if 0 < dictionary < start else start)
    declared = seen = 0
    while seen < column[_NUM_VALUES] and declared <= most:
        page = _struct(file)
        kinds = [page[kind][1] for kind in (_DATA_PAGE, _DATA_PAGE_2, _DICTIONARY_PAGE) if kind in page]
        seen += sum(kinds) if _DICTIONARY_PAGE not in page else 0
        declared += max(sum(kinds) * _BYTES.get(column[_TYPE], 8), page[_DECODED], _PAGE_BYTES)
        if page[_STORED] < 0:
            raise ValueError("a page of a size below 0")
        file.seek(page[_STORED], os.SEEK_CUR)
    return declared


def _footer(file: io.BufferedIOBase) -> dict[int, Any]:
    file.seek(-8, os.SEEK_END)
    length = int.from_bytes(file.read(4), "little")
    if length > _MAX_FOOTER:
        raise ValueError(f"a footer of {length} bytes, and at most {_MAX_FOOTER} are read")
    file.seek(-8 - length, os.SEEK_END)
    return _struct(io.BytesIO(file.read(length)))


def _struct(file: io.BufferedIOBase) -> dict[int, Any]:
    fields, number = {}, 0
    while (head := _byte(file)) & 0x0F:
        number = number + (head >> 4) if head >> 4 else _integer(file)
        kind = head & 0x0F
        fields[number] = kind == 1 if kind in (1, 2) else _value(file, kind)
    return fields


def _value(file: io.BufferedIOBase, kind: int) -> Any:
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


def _integer(file: io.BufferedIOBase) -> int:
    value = _varint(file)
    return (value >> 1) ^ -(value & 1)


def _varint(file: io.BufferedIOBase) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(file)
        value |= (byte & 0x7F) << shift
        if byte < 128:
            return value
    raise ValueError("the footer has a number that is too long")


def _byte(file: io.BufferedIOBase) -> int:
    content = file.read(1)
    if not content:
        raise ValueError("the footer ends early")
    return content[0]
