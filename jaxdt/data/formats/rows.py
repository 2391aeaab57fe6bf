"""Tables of Arrow's, from files or memory, whose rows are steps; those whose rows are episodes are `columns.py`'s."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.fields import SYNONYMS, ending_fields, field_names, flat_episodes, warn_of_unused_cut
from jaxdt.data.formats.arrow_values import are_files, file_contents, numbers_of
from jaxdt.data.formats.columns import (
    ArrowFile,
    check_declared_size,
    environment_of,
    holds_pictures,
    list_depth,
    load_columns,
    picture_reader,
    reading_arrow,
)
from jaxdt.data.formats.picture_files import PictureReader
from jaxdt.data.shards import Environment, Shard, load_shards
from jaxdt.data.storage import DirectoryStorage, Storage
from jaxdt.errors import JaxdtError


def load_table(files: list[ArrowFile], source: str, storage: Storage, cut_after: int | None) -> EpisodeStore:
    """Episodes of opened files: a step a row where a reward is a number, otherwise an episode a row."""
    names = field_names(name for file in files for name in file.schema.names)
    rewards = names.get("rewards")
    are_rows = rewards is not None and all(list_depth(file, rewards) == 0 for file in files)
    if isinstance(storage, DirectoryStorage) and rewards is not None and len(files) > 1 and _are_alike(files):
        files = [file for file in files if any(map(len, file.batches(rewards)))] or files
        episode = ending_fields(files[0].schema.names).get("episode")
        if not are_rows or (episode is not None and _holds_whole_episodes(files, episode, source)):
            warn_of_unused_cut(cut_after, source)
            if are_rows:
                numbers = large_columns(files[0].schema.names, source)
                names |= {column: column for columns in numbers.values() for column in columns}
            return _load_shards(files, list(names.values()), source, storage)
    if are_rows:
        return load_rows(files, source, storage, cut_after)
    warn_of_unused_cut(cut_after, source)
    return load_columns(files, source, storage)


def _are_alike(files: list[ArrowFile]) -> bool:
    """Whether they have the same columns of the same types, so that each can be read without the others."""
    return all(isinstance(file.path, Path) and file.schema.equals(files[0].schema) for file in files)


def _holds_whole_episodes(files: list[ArrowFile], name: str, source: str) -> bool:
    """Whether no episode goes on in another file, by the column `name` of a table with a step a row."""
    runs = []
    for file in files:
        numbers = _column([file], name, source)
        if numbers.ndim > 1:
            return False
        runs.append(numbers[np.append(True, numbers[1:] != numbers[:-1])])
    return len(np.unique(np.concatenate(runs))) == sum(map(len, runs))


def _load_shards(files: list[ArrowFile], names: list[str], source: str, storage: DirectoryStorage) -> EpisodeStore:
    """Episodes of files that each hold whole ones, file by file."""
    check_declared_size(files, names, source)
    environment_of(files)  # raises where they are of several

    paths = tuple(Path(file.path) for file in files)

    def read(file: ArrowFile) -> Callable[[Storage], EpisodeStore]:
        return lambda place: load_table([file._replace(together=paths)], str(file.path), place, None)

    def environment(found: list[Environment]) -> Environment:
        return next((env_id for env_id, _ in found if env_id is not None), None), found[0][1]

    return load_shards([Shard(Path(file.path), read(file)) for file in files], storage, environment)


def load_rows(files: list[ArrowFile], source: str, storage: Storage, cut_after: int | None) -> EpisodeStore:
    """Episodes of a table, a step a row.

    - `observations`, `actions`: a list of numbers, a number, or a column each number, `observations_0` and so on.
      Observations that are pictures: lists of lists, or a PNG or JPEG file each, as `datasets` has in an Image.
    - `rewards`: a number. The names of the three may be singular.
    - `episode`: which episode the step is of, or flags that are true where one ends, see `fields.ENDINGS`.

    Raises JaxdtError naming the source, the column and the fix.
    """
    schema = files[0].schema.names
    if any(file.schema.names != schema for file in files):
        raise JaxdtError(f"{source}: its files have different columns; make them agree.")
    endings = ending_fields(schema)
    parts = large_columns(schema, source) | {our: [their] for our, their in endings.items()}
    check_declared_size(files, [column for columns in parts.values() for column in columns], source)
    arrays, pictures, seen = {}, picture_reader(files, source), parts["observations"]
    if of_pictures := len(seen) == 1 and all(holds_pictures(file, seen[0]) for file in files):
        del parts["observations"]
    for name, columns in parts.items():
        each = [_column(files, column, source) for column in columns]
        arrays[name] = np.stack(each, axis=1) if len(each) > 1 else each[0]
    if of_pictures:
        arrays["observations"] = _pictures(files, seen[0], len(arrays["rewards"]), source, storage, pictures)
    if arrays["observations"].ndim == 1:
        arrays["observations"] = arrays["observations"][:, None]
    if arrays["actions"].ndim == 1 and arrays["actions"].dtype.kind == "f":
        arrays["actions"] = arrays["actions"][:, None]
    columns = flat_episodes(arrays, endings, source=source, cut_after=cut_after)
    return EpisodeStore.from_arrays(**columns, **pictures.environment(**environment_of(files)), source=source)


def large_columns(schema: list[str], source: str) -> dict[str, list[str]]:
    """By our name, the column of a field or those of its numbers; raises JaxdtError where one is missing."""
    return {name: _parts(name, schema, source) for name in SYNONYMS}


def _parts(name: str, schema: list[str], source: str) -> list[str]:
    """The column of a field, or those of its numbers in their order."""
    for synonym in SYNONYMS[name]:
        if schema.count(synonym) == 1:
            return [synonym]
        numbered = {
            int(match[1]): column
            for column in schema
            if (match := re.fullmatch(rf"{synonym}[_.\[]?(\d{{1,6}})\]?", column))
        }
        if numbered:
            first = min(numbered)
            if twice := [column for column in numbered.values() if schema.count(column) > 1]:
                raise JaxdtError(f"{source}: the column {twice[0]!r} is there more than once; give it once.")
            if first > 1 or sorted(numbered) != list(range(first, first + len(numbered))):
                raise JaxdtError(f"{source}: a column of {synonym} is missing; it has {sorted(numbered)!s:.80}.")
            return [numbered[i] for i in sorted(numbered)]
    found = ", ".join(f"{other:.40}" for other in schema[:12]) or "no column"
    raise JaxdtError(
        f"{source}: the column {name!r} is missing; it has {found} (a step a row needs observations or observations_0, "
        "observations_1 ..., actions likewise, rewards, and episode or flags where episodes end)."
    )


def _column(files: list[ArrowFile], name: str, source: str) -> np.ndarray:
    found: list[np.ndarray] = []
    for file in files:
        with reading_arrow(file.path, "a table"):
            for array in file.batches(name):
                found.append(numbers_of(array, name, sum(map(len, found)), source))
    found = [values for values in found if len(values)]
    if not found:
        raise JaxdtError(f"{source} has no rows; a dataset needs at least one step.")
    if len(shapes := {values.shape[1:] for values in found}) > 1:
        raise JaxdtError(f"{source}: {name} has steps of different sizes, {sorted(shapes)}; make them agree.")
    return np.concatenate(found)


def _pictures(
    files: list[ArrowFile], name: str, count: int, source: str, storage: Storage, pictures: PictureReader
) -> np.ndarray:
    """So many, a row each, filled in as they are decoded."""
    writer, row = None, 0
    for file in files:
        with reading_arrow(file.path, "a table"):
            for array in file.batches(name):
                for values in _pictures_of(array, name, row, source, pictures):
                    writer = writer or storage.array_writer("observations", (count, *values.shape[1:]), np.uint8)
                    if values.shape[1:] != writer.shape[1:] or row + len(array) > count:
                        raise JaxdtError(
                            f"{source}: {name} of row {row} is a picture of shape {values.shape[1:]}, earlier ones of "
                            f"{writer.shape[1:]}; make them agree."
                        )
                    writer.append(values)
                row += len(array)
    if writer is None or row != count:
        raise JaxdtError(f"{source}: {name} has {row} rows but the rewards have {count}; they must agree.")
    return writer.done()


def _pictures_of(array: Any, name: str, row: int, source: str, pictures: PictureReader) -> Iterable[np.ndarray]:
    """Blocks of what is kept of some rows, the first of them `row`."""
    if are_files(array.type):
        return pictures.decoded(file_contents(array), lambda i: f"{name} of row {row + i}")
    return [pictures.kept(numbers_of(array, name, row, source, deepest=3))]
