"""Parquet files and what `datasets` saves, as flat arrays by Arrow's offsets; no Python list in between."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from jaxdt.data.arrow_files import ArrowFile, believable, open_arrow, open_parquet, saved_config, saved_shards
from jaxdt.data.d4rl import d4rl_env_id
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.places import MEMORY, Filling, Place
from jaxdt.errors import JaxdtError
from jaxdt.simulator import is_plain_env_id


if TYPE_CHECKING:
    import pyarrow

FLAGS = ("terminations", "truncations")


def load_parquet(path: Path, place: Place = MEMORY) -> EpisodeStore:
    """Episodes of one `.parquet` file; see `load_parquet_files`."""
    return load_parquet_files([path], source=str(path), place=place)


def load_parquet_files(paths: Sequence[Path], *, source: str, place: Place = MEMORY) -> EpisodeStore:
    """Episodes of the shards of one dataset, an episode a row.

    - `observations` (t, s), `actions` (t, a): lists of lists of numbers; `rewards` (t,): lists of numbers.
    - `terminations`, `truncations` (t,), or `dones` (t,): lists of booleans, of which a true last one says that the
      environment ended the episode; without them it was cut off there.
    - The key `env_id` of the schema's metadata names the environment. Other columns are not read.

    Raises JaxdtError naming the source or the file, the column, the episode and the fix.
    """
    return _load([open_parquet(path) for path in paths], source, place)


def load_directory(path: Path, place: Place = MEMORY) -> EpisodeStore:
    """Episodes of a directory that `datasets` saved (its split `train`), or of one of parquet files.

    The columns are those of `load_parquet_files`; so are the errors.
    """
    if (path / "dataset_dict.json").is_file():
        path = path / "train"
        if not path.is_dir():
            raise JaxdtError(f"{path} does not exist; the saved dataset needs a split named train, or give a split.")
    if (path / "state.json").is_file():
        store = _load([open_arrow(shard) for shard in saved_shards(path)], str(path), place)
        return dataclasses.replace(store, env_id=store.env_id or d4rl_env_id(saved_config(path), store.state_dim))
    shards = next(filter(None, (sorted((path / name).glob("*.parquet")) for name in ("", "train", "data"))), [])
    if not shards:
        raise JaxdtError(
            f"{path} is a directory without episodes; give one that datasets saved (it has a state.json), "
            "one of .parquet files, or a file."
        )
    training = [shard for shard in shards if shard.name.startswith("train")]
    return load_parquet_files(training or shards, source=str(path), place=place)


def _load(files: list[ArrowFile], source: str, place: Place) -> EpisodeStore:
    names = _columns(files)
    _check_promise(files, names, source)
    lengths = _episode_lengths(files, source)
    columns = {name: _read_column(files, name, lengths, source, place) for name in names}
    ends = np.cumsum(lengths)
    dones = columns.pop("dones", None)
    if dones is not None:
        columns["terminations"] = _terminations(dones, ends, source)
    return EpisodeStore.from_arrays(**columns, episode_ends=ends, env_id=_env_id(files), source=source)


def _columns(files: list[ArrowFile]) -> list[str]:
    """Which columns to read: those we know, `observations` first, all of a type that we can read."""
    known = ["observations", "actions", "rewards", *FLAGS, "dones"]
    present = [name for name in known if any(name in file.schema.names for file in files)]
    if "terminations" in present and "dones" in present:
        present.remove("dones")
    for file in files:
        for name in dict.fromkeys(known[:3] + present):
            if (times := file.schema.names.count(name)) != 1:
                found = ", ".join(f"{other:.40}" for other in file.schema.names[:12]) or "no column"
                fault = f"is there {times} times" if times else "is missing"
                raise JaxdtError(f"{file.path}: the column {name!r} {fault}; it has {found} (give it once).")
            _check_type(file, name)
    return present


def _check_promise(files: list[ArrowFile], names: list[str], source: str) -> None:
    most, promised = believable(*(file.path for file in files)), 0
    for file in files:
        promised += file.promised(names, most - promised)
        if promised > most:
            raise JaxdtError(
                f"{source} would take {promised / 2**20:.0f} MiB or more, far more than its files hold "
                f"({sum(file.path.stat().st_size for file in files) / 2**20:.1f} MiB); copy them again."
            )


def _check_type(file: ArrowFile, name: str) -> None:
    from pyarrow import types

    kind, depth = _leaf(file.schema.field(name).type)
    if name in ("observations", "actions"):
        wanted, fits = "lists of lists of numbers, an episode a row and a step a list", depth == 2
        fits &= types.is_floating(kind) or types.is_integer(kind)
    elif name == "rewards":
        wanted, fits = "lists of numbers, an episode a row", depth in (1, 2)
        fits &= types.is_floating(kind) or types.is_integer(kind)
    else:
        wanted, fits = "lists of booleans, an episode a row", depth in (1, 2)
        fits &= types.is_boolean(kind) or types.is_integer(kind)
    if not fits:
        shown = " ".join(str(file.schema.field(name).type).split())
        raise JaxdtError(f"{file.path}: {name} must be {wanted}; got {shown:.100}.")


def _leaf(kind: "pyarrow.DataType") -> tuple["pyarrow.DataType", int]:
    """What lists of lists hold in the end, and how many lists deep."""
    from pyarrow import types

    depth = 0
    while types.is_list(kind) or types.is_large_list(kind) or (types.is_fixed_size_list(kind) and kind.list_size > 0):
        kind, depth = kind.value_type, depth + 1
    return kind, depth


def _episode_lengths(files: list[ArrowFile], source: str) -> Int[np.ndarray, " e"]:
    lengths, row = [np.zeros(0, np.int64)], 0
    for file in files:
        for array in file.batches("rewards"):
            lengths.append(_flat(array, "rewards", row, source)[0])
            row += len(array)
    joined = np.concatenate(lengths)
    if not len(joined):
        raise JaxdtError(f"{source} has no rows; a dataset needs at least one episode.")
    if not joined.all():
        raise JaxdtError(f"{source}: episode {int(np.argmin(joined))} has no steps; remove that row.")
    return joined


def _read_column(
    files: list[ArrowFile], name: str, lengths: np.ndarray, source: str, place: Place
) -> Shaped[np.ndarray, "n *_"]:
    """A column's numbers, a step a row, filled in as they are decoded; `lengths`: the steps of each episode."""
    room, row = None, 0
    for file in files:
        for array in file.batches(name):
            found, values = _flat(array, name, row, source)
            _check_lengths(found, lengths[row : row + len(found)], name, row, source)
            if name not in ("observations", "actions"):
                values = _squeezed(values, name, source)
            if room is None:
                room = _room(files, name, (int(lengths.sum()), *values.shape[1:]), source, place)
            if values.shape[1:] != room.shape[1:]:
                raise JaxdtError(
                    f"{source}: {name} of episode {row} has {values.shape[1]} numbers a step, those before it "
                    f"{room.shape[1]}; make them agree."
                )
            room.append(values)
            row += len(found)
    if room is None or row != len(lengths):
        raise JaxdtError(f"{source}: {name} has {row} rows but rewards has {len(lengths)}; they must agree.")
    return room.done()


def _room(files: list[ArrowFile], name: str, shape: tuple[int, ...], source: str, place: Place) -> Filling:
    dtype = np.result_type(*(_leaf(file.schema.field(name).type)[0].to_pandas_dtype() for file in files))
    dtype = np.dtype(np.float32) if dtype.kind == "f" else dtype
    if dtype.itemsize * math.prod(shape) > believable(*(file.path for file in files)):
        raise JaxdtError(f"{source}: {name} has {shape[-1]} numbers at its first step, far more than the file holds.")
    return place.filling(name, shape, dtype)


def _flat(column: "pyarrow.Array", name: str, row: int, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps of each episode, and the numbers (steps, width) or (steps,) of some rows, the first of them `row`."""
    import pyarrow.compute

    compute: Any = pyarrow.compute

    def refuse_null(values: Any, starts: np.ndarray) -> None:
        if values.null_count:
            place = compute.index(compute.is_null(values), True).as_py()
            episode = row + int(np.searchsorted(starts, place, side="right")) - 1
            raise JaxdtError(f"{source}: {name} of row {episode} has a null; remove that episode or repair it.")

    refuse_null(column, np.arange(len(column)))
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    values = column.flatten()
    refuse_null(values, starts)
    width = None
    if hasattr(values.type, "value_type"):  # a list a step
        widths = compute.list_value_length(values).to_numpy(zero_copy_only=False)
        width = int(widths[0]) if len(widths) else 0
        if (widths != width).any():
            place = int(np.argmax(widths != width))
            episode = int(np.searchsorted(starts, place, side="right")) - 1
            raise JaxdtError(
                f"{source}: {name} of episode {row + episode}, step {place - starts[episode]}, has {widths[place]} "
                f"numbers, other steps {width}; make them agree."
            )
        values = values.flatten()
        refuse_null(values, starts * width)
    numbers = values.to_numpy(zero_copy_only=False)
    return lengths, numbers if width is None else numbers.reshape(int(lengths.sum()), width)


def _squeezed(values: np.ndarray, name: str, source: str) -> Shaped[np.ndarray, " n"]:
    if values.ndim == 2:
        if values.shape[1] != 1 and len(values):
            raise JaxdtError(f"{source}: {name} must have one value a step; got {values.shape[1]}.")
        values = values.reshape(-1)
    return values


def _check_lengths(found: np.ndarray, lengths: np.ndarray, name: str, row: int, source: str) -> None:
    if len(found) == len(lengths) and (found != lengths).any():
        place = int(np.argmax(found != lengths))
        raise JaxdtError(
            f"{source}: {name} of episode {row + place} has {found[place]} steps but rewards has {lengths[place]}; "
            "they must agree."
        )
    if len(found) != len(lengths):
        raise JaxdtError(f"{source}: {name} has more rows than rewards, which has {row + len(lengths)}.")


def _terminations(dones: np.ndarray, ends: np.ndarray, source: str) -> Shaped[np.ndarray, " n"]:
    terminations = np.zeros_like(dones)
    terminations[ends - 1] = dones[ends - 1]
    early: Bool[np.ndarray, " n"] = dones != terminations
    if early.any():
        step = int(np.argmax(early))
        episode = int(np.searchsorted(ends, step, side="right"))
        raise JaxdtError(
            f"{source}: dones of episode {episode} is true at step {step - (ends[episode - 1] if episode else 0)}, "
            "before its last; put what follows into a row of its own."
        )
    return terminations


def _env_id(files: list[ArrowFile]) -> str | None:
    """What the schemas say; a file may name an environment, never a module to import (`module:Name-v0`)."""
    found = {}
    for file in files:
        value = (file.schema.metadata or {}).get(b"env_id")
        if value is not None:
            text = value.decode("utf-8", "replace")
            if not is_plain_env_id(text):
                raise JaxdtError(
                    f"{file.path}: env_id must be a Gymnasium id such as HalfCheetah-v5; got {text!r:.80}."
                )
            found[text] = file.path
    if len(found) > 1:
        first, second = sorted(found)[:2]
        raise JaxdtError(f"{found[first]} is of {first} but {found[second]} of {second}; keep them in two datasets.")
    return next(iter(found), None)
