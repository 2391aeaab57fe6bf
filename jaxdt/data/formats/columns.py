"""Columns of Parquet and Arrow files as flat arrays, by Arrow's offsets; no Python list in between."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.fields import (
    FLAGS,
    field_names,
    flags_of,
    flags_of_episodes,
    holds_last_observation,
    warn_of_last_observations,
    without_last_observations,
)
from jaxdt.data.formats.arrow_values import are_files, file_contents, flat_numbers, flat_steps, leaf
from jaxdt.data.formats.limits import TIMES, TIMES_OF_PICTURES, are_pictures, size_limit
from jaxdt.data.formats.picture_files import PictureReader
from jaxdt.data.storage import LARGE, ArrayWriter, Storage
from jaxdt.errors import JaxdtError, one_line
from jaxdt.simulator import checked_env_id, checked_env_kwargs


if TYPE_CHECKING:
    import pyarrow


_TIMES_IN_PAGES = 4 * TIMES_OF_PICTURES  # a byte of a picture takes four in a page


class ArrowFile(NamedTuple):
    path: Path | str
    """A file, or what messages call a table that lies in memory."""
    schema: "pyarrow.Schema"
    batches: Callable[[str], Iterator["pyarrow.Array"]]
    """The arrays of a column, one after the other; nothing else is read."""
    declared: Callable[[Sequence[str], int], int] = lambda names, most: 0
    """Bytes that columns take decoded where that is more than lies in the file; it may stop above `most`."""
    together: tuple[Path, ...] = ()
    """All files of the dataset that it is a part of, where it is read without them: limits are those of all."""


def load_columns(files: list[ArrowFile], source: str, storage: Storage) -> EpisodeStore:
    """Episodes of opened files, an episode a row; `parquet.load_parquet_files` describes the columns."""
    names = _columns(files)
    check_declared_size(files, list(names.values()), source)
    lengths = _episode_lengths(files, names["rewards"], source)
    pictures = picture_reader(files, source)
    columns = {
        ours: _read_column(files, ours, theirs, lengths, source, storage, pictures) for ours, theirs in names.items()
    }
    ends = np.cumsum(lengths)
    last = columns.pop("episode_terminals", None)
    if last is not None and _hold_last_observations(columns, last, ends, source):
        warn_of_last_observations(source)
        columns = without_last_observations({**columns, "episode_terminals": last}, names, source)
        del columns["episode_terminals"]
        ends = ends - np.arange(1, len(ends) + 1)
    flags = {name: flags_of(columns.pop(name), names[name], source) for name in FLAGS if name in columns}
    terminations, truncations = flags_of_episodes(flags, names, ends, source)
    return EpisodeStore.from_arrays(
        **columns,
        terminations=terminations,
        truncations=truncations,
        episode_ends=ends,
        **pictures.environment(**environment_of(files)),
        source=source,
    )


def _hold_last_observations(columns: dict[str, Any], last: np.ndarray, ends: np.ndarray, source: str) -> bool:
    """Whether the last row of each episode is no step, as in RLDS."""
    rows = np.flatnonzero(flags_of(last, "is_last", source))
    is_at_ends = np.array_equal(rows + 1, ends) and np.diff(ends, prepend=0).min() > 1
    return is_at_ends and holds_last_observation(columns["actions"], columns["rewards"], last.astype(bool))


def picture_reader(files: list[ArrowFile], source: str) -> PictureReader:
    return PictureReader(source, *_paths(files))


def _columns(files: list[ArrowFile]) -> dict[str, str]:
    """Our names of the columns to read, `observations` first, with theirs; all are of a type that we can read."""
    there = {name for file in files for name in file.schema.names}
    names = {name: name for name in LARGE}
    names |= {ours: theirs for ours, theirs in field_names(there).items() if ours in (*LARGE, *FLAGS)}
    if all(list_depth(file, "is_last") > 0 for file in files):  # not one an episode, which says nothing
        names["episode_terminals"] = "is_last"
    for file in files:
        for ours, name in names.items():
            if (times := file.schema.names.count(name)) != 1:
                found = ", ".join(f"{other:.40}" for other in file.schema.names[:12]) or "no column"
                if times:
                    raise JaxdtError(f"{file.path}: the column {name!r} is there {times} times; give it once.")
                raise JaxdtError(
                    f"{file.path}: the column {name!r} is missing; it has {found}. Rename its columns: with a step a "
                    "row observation_0, observation_1, ..., action_0, ..., reward and episode, with an episode a row "
                    "observations, actions and rewards, which are lists."
                )
            _check_type(file, ours, name)
    return names


def check_declared_size(files: list[ArrowFile], names: Sequence[str], source: str) -> None:
    pictures = any(holds_pictures(file, name) for file in files for name in names if name in file.schema.names)
    limit, declared = size_limit(*_paths(files), times=_TIMES_IN_PAGES if pictures else TIMES), 0
    for file in files:
        declared += file.declared(names, limit - declared)
        if declared > limit:
            raise JaxdtError(
                f"{source} would take {declared / 2**20:.0f} MiB or more, far more than its files hold "
                f"({sum(Path(file.path).stat().st_size for file in files) / 2**20:.1f} MiB); copy them again."
            )


def _paths(files: list[ArrowFile]) -> list[Path]:
    """Those whose sizes set limits; none where a table lies in memory."""
    return [path for file in files for path in file.together or [file.path] if isinstance(path, Path)]


def holds_pictures(file: ArrowFile, name: str) -> bool:
    """Whether a column's values are bytes in lists of lists, or files."""
    kind, depth = leaf(file.schema.field(name).type)
    return are_files(kind) or (depth > 1 and str(kind) == "uint8")


def _check_type(file: ArrowFile, ours: str, name: str) -> None:
    from pyarrow import types

    kind, depth = leaf(file.schema.field(name).type)
    if ours in ("observations", "actions"):
        wanted, fits = "lists of lists of numbers, an episode a row and a step a list", depth == 2
        if ours == "actions":
            wanted += ", or lists of whole numbers where they are discrete"
            fits |= depth == 1 and types.is_integer(kind)
        else:
            wanted += ", of pictures lists of lists a step, or lists of PNG or JPEG files"
            fits |= depth in (3, 4)
        fits &= types.is_floating(kind) or types.is_integer(kind)
        fits |= ours == "observations" and depth == 1 and are_files(kind)
    elif ours == "rewards":
        wanted, fits = "lists of numbers, an episode a row", depth in (1, 2)
        fits &= types.is_floating(kind) or types.is_integer(kind)
    else:
        wanted, fits = "lists of booleans, an episode a row", depth in (1, 2)
        fits &= types.is_boolean(kind) or types.is_integer(kind)
    if not fits:
        shown = " ".join(str(file.schema.field(name).type).split())
        raise JaxdtError(f"{file.path}: {name} must be {wanted}; got {shown:.100}.")


def list_depth(file: ArrowFile, name: str) -> int:
    """How many lists deep a column's numbers are; -1 where it is not there, or twice."""
    return leaf(file.schema.field(name).type)[1] if file.schema.names.count(name) == 1 else -1


def _episode_lengths(files: list[ArrowFile], rewards: str, source: str) -> Int[np.ndarray, " e"]:
    lengths, row = [np.zeros(0, np.int64)], 0
    for file in files:
        for array in file.batches(rewards):
            lengths.append(flat_numbers(array, rewards, row, source)[0])
            row += len(array)
    joined = np.concatenate(lengths)
    if not len(joined):
        raise JaxdtError(f"{source} has no rows; a dataset needs at least one episode.")
    if not joined.all():
        raise JaxdtError(f"{source}: episode {int(np.argmin(joined))} has no steps; remove that row.")
    return joined


def _read_column(
    files: list[ArrowFile],
    ours: str,
    name: str,
    lengths: np.ndarray,
    source: str,
    storage: Storage,
    pictures: PictureReader,
) -> Shaped[np.ndarray, "n *_"]:
    """A column's numbers, a step a row, filled in as they are decoded; `lengths`: the steps of each episode."""
    writer, row = None, 0
    for file in files:
        for array in file.batches(name):
            found, blocks = _steps(array, ours, name, row, source, pictures)
            _check_lengths(found, lengths[row : row + len(found)], name, row, source)
            for values in blocks:
                if writer is None:
                    shape = (int(lengths.sum()), *values.shape[1:])
                    writer = _column_writer(files, ours, name, shape, values.dtype, source, storage)
                if values.shape[1:] != writer.shape[1:]:
                    here, before = (_described(shape[1:]) for shape in (values.shape, writer.shape))
                    raise JaxdtError(
                        f"{source}: {name} of episode {row} has {here} a step, those before it {before}; make them "
                        "agree."
                    )
                writer.append(values)
            row += len(found)
    if writer is None or row != len(lengths):
        raise JaxdtError(f"{source}: {name} has {row} rows but rewards has {len(lengths)}; they must agree.")
    return writer.done()


def _steps(
    array: "pyarrow.Array", ours: str, name: str, row: int, source: str, pictures: PictureReader
) -> tuple[np.ndarray, Iterable[np.ndarray]]:
    """Steps of each episode of some rows, and blocks of what is kept of them."""
    if are_files(leaf(array.type)[0]):
        found, files = flat_steps(array, name, row, source)
        episodes = row + np.repeat(np.arange(len(found)), found)
        return found, pictures.decoded(file_contents(files), lambda i: f"{name} of row {episodes[i]}")
    found, values = flat_numbers(array, name, row, source)
    if ours not in ("observations", "actions"):
        return found, [_squeezed(values, name, source)]
    return found, [pictures.kept(values)]


def _described(shape: tuple[int, ...]) -> str:
    if len(shape) > 1:
        return f"a picture {shape}"
    return f"a list of {shape[0]}" if shape else "a number"


def _column_writer(
    files: list[ArrowFile], ours: str, name: str, shape: tuple[int, ...], dtype: Any, source: str, storage: Storage
) -> ArrayWriter:
    kinds = [leaf(file.schema.field(name).type)[0] for file in files]
    dtype = np.result_type(dtype, *(kind.to_pandas_dtype() for kind in kinds if not are_files(kind)))
    dtype = np.dtype(np.float32) if dtype.kind == "f" else dtype
    times = TIMES_OF_PICTURES if are_pictures(ours, shape, dtype) else TIMES
    if dtype.itemsize * math.prod(shape) > size_limit(*_paths(files), times=times):
        raise JaxdtError(
            f"{source}: {name} has {math.prod(shape[1:])} numbers at its first step, far more than the file holds."
        )
    return storage.array_writer(ours, shape, dtype)


def _squeezed(values: np.ndarray, name: str, source: str) -> Shaped[np.ndarray, " n"]:
    if values.ndim == 2:
        if values.shape[1] != 1 and len(values):
            raise JaxdtError(f"{source}: {name} must have one value a step; got {values.shape[1]}.")
        values = values.reshape(-1)
    return values


def _check_lengths(found: np.ndarray, lengths: np.ndarray, name: str, row: int, source: str) -> None:
    if len(found) == len(lengths) and (found != lengths).any():
        index = int(np.argmax(found != lengths))
        raise JaxdtError(
            f"{source}: {name} of episode {row + index} has {found[index]} steps but rewards has {lengths[index]}; "
            "they must agree."
        )
    if len(found) != len(lengths):
        raise JaxdtError(f"{source}: {name} has more rows than rewards, which has {row + len(lengths)}.")


def environment_of(files: list[ArrowFile]) -> dict[str, Any]:
    """What the schemas say: `env_id` and `env_kwargs`."""
    found, kwargs = {}, None
    for file in files:
        said = {name: value.decode("utf-8", "replace") for name, value in (file.schema.metadata or {}).items()}
        if b"env_id" in said:
            found[(checked_env_id(said[b"env_id"], str(file.path)), said.get(b"env_kwargs", ""))] = file.path
        if b"env_kwargs" in said and file is files[0]:
            kwargs = checked_env_kwargs(said[b"env_kwargs"], said.get(b"env_id"), str(file.path))
    if len(found) > 1:
        first, second = sorted(found)[:2]
        raise JaxdtError(
            f"{found[first]} is of {' '.join(first).strip()} but {found[second]} of {' '.join(second).strip()}; keep "
            "them in two datasets."
        )
    return {"env_id": next((env_id for env_id, _ in found), None), "env_kwargs": kwargs}


def checked_schema(schema: "pyarrow.Schema") -> "pyarrow.Schema":
    """A schema whose names are all text; raises UnicodeDecodeError."""
    _ = schema.names, [str(kind) for kind in schema.types]
    return schema


@contextlib.contextmanager
def reading_arrow(path: Path | str, kind: str) -> Iterator[None]:
    try:
        yield
    except JaxdtError:
        raise
    except Exception as error:  # damaged bytes make Arrow raise a dozen kinds
        reason = one_line(error, 200)
        raise JaxdtError(f"{path} cannot be read as {kind}: {reason}; copy or make it again.") from error
