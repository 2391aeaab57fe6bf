"""Minari datasets. Minari finds and downloads them; the files are read here, since Minari may make environments."""

import contextlib
import json
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.arrow_values import are_files, file_contents, numbers_of
from jaxdt.data.formats.columns import ArrowFile, check_declared_size
from jaxdt.data.formats.hdf5 import member, read_dataset, reading_hdf5
from jaxdt.data.formats.limits import Budget
from jaxdt.data.formats.parquet import open_parquet
from jaxdt.data.formats.picture_files import PictureReader
from jaxdt.data.formats.saved import open_arrow
from jaxdt.data.joining import join_episodes
from jaxdt.errors import JaxdtError, one_line
from jaxdt.files import read_json
from jaxdt.games import game_of, settings_of_registered
from jaxdt.simulator import are_plain_kwargs, flags_of, is_plain_env_id


if TYPE_CHECKING:
    import h5py

PREFIX = "minari:"
MAIN_DATA = "main_data.hdf5"
_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
_OPENERS = {".arrow": open_arrow, ".parquet": open_parquet}


def find_minari(dataset_id: str) -> Path:
    """Directory of a Minari dataset such as `mujoco/halfcheetah/expert-v0`, downloaded where it is not here yet.

    Datasets lie in MINARI_DATASETS_PATH, or ~/.minari/datasets; downloading needs the extra `minari` and comes from
    MINARI_REMOTE, or Minari's own. Raises JaxdtError naming the dataset and the fix.
    """
    if not re.fullmatch(r"(?:[\w-]+/)*[\w-]+-v\d+", dataset_id):
        raise JaxdtError(
            f"dataset {PREFIX + dataset_id!r} is no name of Minari's; give one such as "
            f"{PREFIX}mujoco/halfcheetah/expert-v0."
        )
    directory = _root() / dataset_id
    if not (directory / "data").is_dir():
        _download(dataset_id, directory)
    return directory


def load_minari(dataset_id: str) -> EpisodeStore:
    """Episodes of a Minari dataset by its name, see `find_minari` and `read_minari`."""
    return read_minari(find_minari(dataset_id), f"{PREFIX}{dataset_id}")


def minari_directory(path: Path) -> Path | None:
    """The directory of the Minari dataset that a path names: itself, its folder `data` or `main_data.hdf5` in that."""
    folder = path.parent if path.name == MAIN_DATA else path
    for directory in (folder, folder.parent) if folder.name == "data" else (folder,):
        data = directory / "data"
        if (data / "metadata.json").is_file() and ((data / MAIN_DATA).is_file() or (data / "0").is_dir()):
            return directory
    return None


def read_minari(directory: Path, source: str) -> EpisodeStore:
    """Episodes of a Minari dataset's directory, in its format hdf5, arrow or parquet.

    Actions must be vectors or whole numbers; the parts of a Dict of observations follow one another in the order of
    their names, as `gymnasium.spaces.flatten` puts them. Pictures may be JPEG files; Atari's colour screens become grey
    pictures. No code that a dataset names is run. Raises JaxdtError naming
    the dataset or its file and the fix.
    """
    data = directory / "data"
    metadata = _metadata(data / "metadata.json")
    if (data / MAIN_DATA).is_file():
        pictures = PictureReader(source, data / MAIN_DATA)
        with reading_hdf5(data / MAIN_DATA) as file:
            episodes = _episodes(file, metadata, data / MAIN_DATA, pictures)
    elif (data / "0").is_dir():
        pictures = PictureReader(source, *(path for path in data.glob("*/*") if path.suffix in _OPENERS))
        episodes = _arrow_episodes(data, metadata, pictures)
    else:
        raise JaxdtError(
            f"{directory} has no main_data.hdf5 (its format is {metadata.get('data_format')!r:.40}). If a download was "
            "cut off, delete the directory and load it again."
        )
    environment = pictures.environment(**_environment(metadata, source))
    return join_episodes(episodes, **environment, source=source)


def _episodes(
    file: "h5py.File", metadata: dict[str, Any], path: Path, pictures: PictureReader
) -> list[dict[str, np.ndarray]]:
    budget, episodes = Budget(path), []
    for number in range(_count(metadata, len(file), path)):
        group, arrays = member(file, f"episode_{number}", path), {}
        for name in _FIELDS:
            arrays[name] = _flattened(group, name, path, budget, pictures=pictures)
        if len(arrays["observations"]) != len(arrays["rewards"]) + 1:
            raise JaxdtError(
                f"{path}: observations of episode {number} has {len(arrays['observations'])} rows for "
                f"{len(arrays['rewards'])} steps; there must be one more, the last one."
            )
        arrays["observations"] = arrays["observations"][:-1]
        episodes.append(arrays)
    return episodes


def _flattened(
    group: Any, name: str, path: Path, budget: Budget, depth: int = 8, *, pictures: PictureReader | None = None
) -> np.ndarray:
    """A dataset's numbers, or of a group of observations all of them, a step a row, in the order of their names."""
    found = member(group, name, path)
    if hasattr(found, "keys") and depth and (name == "observations" or depth < 8):
        parts = [_flattened(found, part, path, budget, depth - 1) for part in _in_order(found)]
        if not parts or len({len(part) for part in parts}) > 1:
            raise JaxdtError(f"{path}: the parts of {found.name} must have as many rows; got {list(map(len, parts))}.")
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    return read_dataset(group, name, path, budget, pictures=pictures)


def _arrow_episodes(data: Path, metadata: dict[str, Any], pictures: PictureReader) -> list[dict[str, np.ndarray]]:
    """A directory an episode, whose table has one row more than steps: the last observation, and padding."""
    folders = [folder for folder in data.iterdir() if folder.is_dir()]
    episodes = []
    for number in range(_count(metadata, len(folders), data)):
        folder = data / str(number)
        files = [path for path in (folder.iterdir() if folder.is_dir() else ()) if path.suffix in _OPENERS]
        if len(files) != 1 or files[0].name.startswith("."):
            raise JaxdtError(f"{folder} must hold the file of one episode; load the dataset anew.")
        table = _OPENERS[files[0].suffix](files[0])
        for name in _FIELDS:
            if name not in table.schema.names:
                raise JaxdtError(f"{files[0]}: the column {name!r} is missing; load the dataset anew.")
        check_declared_size([table], _FIELDS, str(files[0]))
        columns = {name: list(_column(table, name, metadata, pictures)) for name in _FIELDS}
        if not columns["rewards"] or sum(map(len, columns["rewards"])) < 2:
            raise JaxdtError(f"{files[0]} has no steps; load the dataset anew.")
        episodes.append({name: np.concatenate(parts)[:-1] for name, parts in columns.items()})
    return episodes


def _column(table: ArrowFile, name: str, metadata: dict[str, Any], pictures: PictureReader) -> Iterator[np.ndarray]:
    """Its numbers in blocks, a step a row; pictures, which lie in it flat or as files, as they are kept."""
    row, shape = 0, _picture_shape(metadata) if name == "observations" else None
    for array in table.batches(name):
        if name == "observations" and are_files(array.type):
            place = f"{Path(table.path).parent.name}/{Path(table.path).name}: {name} of row"
            yield from pictures.decoded(file_contents(array), lambda i, row=row, place=place: f"{place} {row + i}")
        else:
            values = _struct_numbers(array, name, str(table.path))
            is_flat = shape is not None and values.shape[1:] == (math.prod(shape),) and values.dtype == np.uint8
            yield pictures.kept(values.reshape(-1, *shape)) if shape is not None and is_flat else values
        row += len(array)


def _picture_shape(metadata: dict[str, Any]) -> tuple[int, ...] | None:
    """Of the observations, where the metadata say that they are pictures of bytes."""
    with contextlib.suppress(TypeError, ValueError, KeyError, RecursionError):
        space = json.loads(metadata["observation_space"])
        shape = space["shape"]
        if space["dtype"] == "uint8" and len(shape) in (2, 3) and all(type(n) is int and n > 0 for n in shape):
            return tuple(shape)
    return None


def _struct_numbers(array: Any, name: str, source: str) -> np.ndarray:
    from pyarrow import types

    if not types.is_struct(array.type):
        return numbers_of(array, name, 0, source)
    parts = dict(zip((field.name for field in array.type), array.flatten(), strict=True))
    if not parts:
        raise JaxdtError(f"{source}: {name} has no parts; load the dataset anew.")
    numbers = [_struct_numbers(parts[part], name, source) for part in _in_order(parts)]
    return np.concatenate([part.reshape(len(part), -1) for part in numbers], axis=1)


def _in_order(parts: Collection[str]) -> list[str]:
    """By name; those of a Tuple, `_index_0` and so on, by their number."""
    numbered = {part: int(part.removeprefix("_index_")) for part in parts if re.fullmatch(r"_index_\d+", part)}
    return sorted(parts, key=lambda part: (numbered.get(part, -1), part))


def _count(metadata: dict[str, Any], most: int, path: Path) -> int:
    total = metadata.get("total_episodes")
    if type(total) is not int or not 0 < total <= most:
        raise JaxdtError(f"{path} holds {most} episodes but its metadata says {total!r:.40}; load it anew.")
    return total


def _metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = read_json(path)
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise JaxdtError(
            f"{path} cannot be read: {reason:.200}; delete the dataset's directory and load it again."
        ) from error
    if not isinstance(metadata, dict):
        raise JaxdtError(f"{path} must be Minari's metadata; got a {type(metadata).__name__}.")
    return metadata


def _environment(metadata: dict[str, Any], source: str) -> dict[str, Any]:
    """`env_id` and `env_kwargs` of what the dataset was recorded in; what may name code or a file is left out."""
    env_id, spec = None, {}
    with contextlib.suppress(TypeError, ValueError, KeyError, RecursionError):
        spec = json.loads(metadata["env_spec"])
        env_id = spec["id"] if is_plain_env_id(spec["id"]) else None
    if env_id is None:
        return {"env_id": None, "env_kwargs": None}
    kwargs, wrappers = _beside_the_id(env_id, spec), spec.get("additional_wrappers")
    is_plain = are_plain_kwargs(kwargs)
    if wrappers or not is_plain:
        given = "" if is_plain else f"give {flags_of(env_id, kwargs)} if you trust it"
        wrapped = "make it with its wrappers in a function, from Python (env=)" if wrappers else ""
        had = {"env_kwargs": {} if is_plain else kwargs, "additional_wrappers": wrappers}
        shown = ", ".join(f"{name} {json.dumps(value):.300}" for name, value in had.items() if value)
        warnings.warn(
            f"{source} was recorded in {env_id} with {shown}, which a file may not name; to evaluate in the same, "
            f"{' and '.join(filter(None, (given, wrapped)))}.",
            stacklevel=4,
        )
    if is_plain and game_of(env_id):
        kwargs = settings_of_registered(kwargs)
    return {"env_id": env_id, "env_kwargs": kwargs if is_plain else None}


def _beside_the_id(env_id: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments and time limit that a dataset's environment had and its id does not make."""
    kwargs, steps = spec.get("kwargs"), spec.get("max_episode_steps")
    if not kwargs and not steps:
        return {}
    import gymnasium

    known = None if game_of(env_id) else gymnasium.registry.get(env_id)  # ours are not made as ale_py registers them
    own = {name: json.dumps(value, default=str) for name, value in (known.kwargs if known else {}).items()}
    beside = {
        name: value
        for name, value in (kwargs.items() if isinstance(kwargs, dict) else ())
        if name != "render_mode" and own.get(name) != json.dumps(value)
    }
    if type(steps) is int and steps > 0 and (known is None or known.max_episode_steps != steps):
        beside["max_episode_steps"] = steps
    return beside


def _download(dataset_id: str, directory: Path) -> None:
    try:
        import minari
    except ImportError as error:
        raise JaxdtError(
            f"dataset '{PREFIX}{dataset_id}' is not in {_root()}; downloading it needs Minari: "
            "pip install 'jaxdt[minari]'."
        ) from error
    try:
        with _temporary_root() as temporary, contextlib.redirect_stdout(sys.stderr):  # what Minari prints is no result
            minari.download_dataset(dataset_id)
            directory.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(temporary / dataset_id, directory)
            except OSError:
                if not (directory / "data").is_dir():  # else another process was sooner
                    raise
    except Exception as error:  # the hub's client raises a dozen kinds
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise JaxdtError(
            f"dataset '{PREFIX}{dataset_id}' could not be downloaded: {reason.rstrip('.'):.200}; check the name and "
            f"the network. Already here: {_local()}."
        ) from error


@contextlib.contextmanager
def _temporary_root() -> Iterator[Path]:
    """Where Minari downloads to, so that a dataset appears whole or not at all."""
    kept, root = os.environ.get("MINARI_DATASETS_PATH"), _root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
        os.environ["MINARI_DATASETS_PATH"] = temporary
        try:
            yield Path(temporary)
        finally:
            del os.environ["MINARI_DATASETS_PATH"]
            if kept is not None:
                os.environ["MINARI_DATASETS_PATH"] = kept


def _local() -> str:
    names = (path.parent.parent.relative_to(_root()).as_posix() for path in _root().rglob("data/metadata.json"))
    found = sorted(name for name in names if not name.startswith("."))
    return ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else f"nothing in {_root()}"


def _root() -> Path:
    return Path(os.environ.get("MINARI_DATASETS_PATH") or os.path.expanduser("~/.minari/datasets"))
