"""Byte strings of an HDF5 dataset, read from the file's global heaps as plain bytes.

The library believes the lengths that a file names and allocates them unseen, which a damaged file must not make it do.
The format is HDF5's file format specification, section III.E ("Disk Format: Level 1E - Global Heap").
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np


_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])
"""What the dataset itself holds of each string."""
_HEAD = struct.Struct("<4sB3xQ")  # of a heap: signature, version, size with this head
_OBJECT = struct.Struct("<HH4xQ")  # number, references to it, size
_KEPT = 64  # heaps whose places are remembered


def read_byte_strings(dataset: Any, path: Path) -> list[bytes]:
    """Those of a dataset (n,) of variable-length bytes; together they are no more than the file may name of itself.

    Raises ValueError where the file is damaged, or stored otherwise than h5py stores them by itself.
    """
    references = _references(dataset, path)
    if not len(references):
        return []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        heaps = _Heaps(content)
        if int(references["length"].sum(dtype=np.int64)) > len(content):
            raise ValueError("its strings are longer than the file")
        return [heaps.read(int(heap), int(index), int(length)) for length, heap, index in references.tolist()]


def _references(dataset: Any, path: Path) -> np.ndarray:
    (count,) = dataset.shape
    properties = dataset.id.get_create_plist()
    sizes = dataset.file.id.get_create_plist().get_sizes()
    if properties.get_nfilters() or dataset.file.userblock_size or dataset.id.get_type().get_size() != 16:
        raise ValueError("its strings are stored in a way that is not read; write them without compression")
    if sizes != (8, 8):
        raise ValueError(f"it has addresses and lengths of {sizes} bytes, and 8 are read")
    if 16 * count > path.stat().st_size:
        raise ValueError(f"it is to have {count} strings, more than fit into the file")
    found = np.zeros(count, _REFERENCE)
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        if offset is None:
            raise ValueError("its strings are missing")
        with open(path, "rb") as file:
            file.seek(offset)
            stored = file.read(16 * count)
        found[:] = np.frombuffer(stored, _REFERENCE, count)
        return found
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    for chunk in chunks:
        (start,) = chunk.chunk_offset
        if chunk.size != 16 * dataset.chunks[0]:
            raise ValueError("a chunk has another size than declared")
        _, stored = dataset.id.read_direct_chunk(chunk.chunk_offset)
        rows = np.frombuffer(stored, _REFERENCE)[: max(0, count - start)]
        found[start : start + len(rows)] = rows
    return found


class _Heaps:
    def __init__(self, content: mmap.mmap):
        self._content = content
        self._known: dict[int, dict[int, tuple[int, int]]] = {}
        self._steps_left = len(content) // 16 + 1  # no more objects than fit into the file are looked at

    def read(self, heap: int, index: int, length: int) -> bytes:
        if not length:
            return b""
        if heap not in self._known:
            if len(self._known) == _KEPT:
                self._known.clear()
            self._known[heap] = self._objects(heap)
        start, size = self._known[heap].get(index, (0, -1))
        if size < length:
            raise ValueError(f"a string of {length} bytes is not where the file says")
        return self._content[start : start + length]

    def _objects(self, heap: int) -> dict[int, tuple[int, int]]:
        """Where each object of a heap begins, and its size."""
        end = len(self._content)
        if heap > end - _HEAD.size:
            raise ValueError("a heap of strings lies outside of the file")
        signature, version, size = _HEAD.unpack_from(self._content, heap)
        if signature != b"GCOL" or version != 1 or size > end - heap:
            raise ValueError("a heap of strings is damaged")
        objects, place, end = {}, heap + _HEAD.size, heap + size
        while place <= end - _OBJECT.size:
            self._steps_left -= 1
            index, _, length = _OBJECT.unpack_from(self._content, place)
            place += _OBJECT.size
            if not index:  # what is left is free
                break
            if length > end - place or self._steps_left < 0:
                raise ValueError("a heap of strings is damaged")
            objects[index] = (place, length)
            place += -(-length // 8) * 8
        return objects
