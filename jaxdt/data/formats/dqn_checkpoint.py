"""The files of one checkpoint of Dopamine's replay logs."""

import gzip
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxdt.data.formats.npz import npy_head
from jaxdt.errors import JaxdtError, one_line


BLANKS = 3
"""Blank rows at an episode's start: a stack of 4 pictures never reaches into the episode before."""

_DTYPES = {"observation": np.uint8, "action": np.int32, "reward": np.float32, "terminal": np.uint8}
_MOST_INFLATED = 1032  # bytes that deflate can make of one
_MOST_PIXELS = 2**20  # of a picture; Atari's have 210 x 160
_BLOCK = 2**20


class Checkpoint(NamedTuple):
    number: int
    files: dict[str, Path]
    rows: int
    frame: tuple[int, ...]


class Steps(NamedTuple):
    """What is small of a checkpoint, and the rows of its whole episodes."""

    actions: Int[np.ndarray, " n"]
    rewards: Float[np.ndarray, " n"]
    starts: Int[np.ndarray, " e"]
    """First row after the blank ones."""
    ends: Int[np.ndarray, " e"]


def listed(directory: Path) -> dict[int, dict[str, Path]]:
    """Each checkpoint's files by what they hold; the numbers have no zeros before them, so that none is there twice."""
    found: dict[int, dict[str, Path]] = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        match = re.fullmatch(rf"\$store\$_({'|'.join(_DTYPES)})_ckpt\.(0|[1-9]\d{{0,5}})\.gz", path.name, re.ASCII)
        if match is not None and path.is_file():
            found.setdefault(int(match[2]), {})[match[1]] = path
    return found


def checkpoint_of(number: int, files: dict[str, Path]) -> Checkpoint:
    """What the heads of its files say; raises JaxdtError where they do not fit together."""
    for name in _DTYPES:
        if name not in files:
            missing = next(iter(files.values())).parent / f"$store$_{name}_ckpt.{number}.gz"
            raise JaxdtError(f"{missing} is missing; download it, or move the checkpoint's other files elsewhere.")
    shapes = {}
    for name, path in files.items():
        with _opened(path, name) as (_, shape):
            shapes[name] = shape
    rows, *frame = shapes["observation"]
    for name, (others, *_) in shapes.items():
        if others != rows:
            raise JaxdtError(
                f"{files[name]}: {name} has {others} rows but observation of the same checkpoint has {rows}; download "
                "both again."
            )
    return Checkpoint(number, files, rows, tuple(frame))


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[gzip.GzipFile, tuple[int, ...]]]:
    """The stream of an array's rows and its shape, of the dtype and number of dimensions that it must have.

    What damaged bytes make gzip, zlib and NumPy raise inside the block is one sentence. A file that says to hold more
    than its bytes can is refused before anything is made of it.
    """
    try:
        with gzip.open(path, "rb") as file:
            shape, fortran, dtype = npy_head(file)
            dimensions = ("rows", "height", "width") if name == "observation" else ("rows",)
            if dtype != _DTYPES[name] or len(shape) != len(dimensions) or fortran or min(shape) < 1:
                raise JaxdtError(
                    f"{path}: {name} must be an array of {np.dtype(_DTYPES[name])} of shape ({', '.join(dimensions)}); "
                    f"got {dtype!s:.40} of {shape!s:.60}; download it again."
                )
            if math.prod(shape[1:]) > _MOST_PIXELS:
                raise JaxdtError(
                    f"{path}: pictures of {shape[1:]!s:.60} are larger than any of Atari's (210, 160); give logs of "
                    "its games."
                )
            if math.prod(shape) * dtype.itemsize > _MOST_INFLATED * path.stat().st_size:
                raise JaxdtError(
                    f"{path}: {name} of shape {shape!s:.60} cannot lie in a file of {path.stat().st_size} bytes; "
                    "download it again."
                )
            yield file, shape
    except JaxdtError:
        raise
    except Exception as error:  # damaged bytes make NumPy and zlib raise a dozen kinds
        raise JaxdtError(f"{path}: {name} cannot be read: {one_line(error, 200)}; download it again.") from error


def kept_frames(
    checkpoint: Checkpoint,
    starts: Int[np.ndarray, " e"],
    ends: Int[np.ndarray, " e"],
    places: Int[np.ndarray, " e"],
    *,
    to_end: bool,
) -> Iterator[tuple[int, UInt8[np.ndarray, "b h w"]]]:
    """Pictures of episodes in runs, each with its place; `places` are those of the episodes' first pictures.

    A run is to be copied before the next one is asked for. Reads no further than they go, or `to_end`, and then checks
    that the file ends there. Raises JaxdtError where a blank row is none.
    """
    path = checkpoint.files["observation"]
    rows, to, blank = ranges(starts, ends), ranges(places, places + ends - starts), ranges(starts - BLANKS, starts)
    block = np.empty((max(1, _BLOCK // math.prod(checkpoint.frame)), *checkpoint.frame), np.uint8)
    with _opened(path, "observation") as (file, _):
        for first in range(0, checkpoint.rows if to_end else int(ends[-1]), len(block)):
            read = block[: checkpoint.rows - first]
            _fill(file, read)
            between = (first, first + len(read))
            _check_blank(path, read, blank[slice(*np.searchsorted(blank, between))] - first, first)
            here = slice(*np.searchsorted(rows, between))
            kept, put = rows[here] - first, to[here]
            breaks = np.flatnonzero(np.diff(kept) != 1) + 1  # blank rows lie between any two episodes
            for start, stop in zip((0, *breaks), (*breaks, len(kept)), strict=True):
                if stop > start:
                    yield int(put[start]), read[kept[start] : kept[stop - 1] + 1]
        if to_end:
            _check_ended(file)


def _fill(file: gzip.GzipFile, rows: np.ndarray) -> None:
    """Reads as many rows as there are."""
    content = rows.reshape(-1).view(np.uint8).data
    while content:
        count = file.readinto(content)
        if not count:
            raise EOFError("it ends before all rows that its head names")
        content = content[count:]


def _check_ended(file: gzip.GzipFile) -> None:
    if file.read(1):
        raise ValueError("it holds more than its head says")


def read_steps(checkpoint: Checkpoint) -> Steps:
    arrays = {}
    for name in ("terminal", "action", "reward"):
        with _opened(checkpoint.files[name], name) as (file, shape):
            arrays[name] = np.empty(shape, _DTYPES[name])
            _fill(file, arrays[name])
            _check_ended(file)
    terminals = arrays["terminal"]
    if terminals.max() > 1:
        raise JaxdtError(f"{checkpoint.files['terminal']}: terminal must be 0 or 1; got {terminals.max()}.")
    after = np.flatnonzero(terminals[:-1]) + 1
    starts, ends = after[:-1] + BLANKS, after[1:]
    for name, values in arrays.items():
        # Of an episode of three rows or fewer, the terminal stands where a blank row must be.
        _check_blank(checkpoint.files[name], values, ranges(starts - BLANKS, starts))
    return Steps(arrays["action"], arrays["reward"], starts, ends)


def _check_blank(path: Path, values: np.ndarray, blank: Int[np.ndarray, " k"], first: int = 0) -> None:
    """Raises JaxdtError unless rows are zero; `first`: the row of the file that is the first of `values`."""
    wrong = values[blank].any(axis=tuple(range(1, values.ndim)))
    if wrong.any():
        raise JaxdtError(
            f"{path}: row {first + blank[np.argmax(wrong)]} must be blank (zero), as the first {BLANKS} rows of an "
            "episode are in Dopamine's logs of stacks of 4; use logs of that kind, or download it again."
        )


def ranges(starts: Int[np.ndarray, " e"], ends: Int[np.ndarray, " e"]) -> Int[np.ndarray, " n"]:
    """All numbers from each start up to its end, one range after the other."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
