"""Minari datasets. Minari finds and downloads them; the files are read here, since Minari may make environments."""

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.hdf5 import member, read_dataset, reading_hdf5
from jaxdt.data.formats.limits import array_bytes, size_limit
from jaxdt.data.joining import join_episodes
from jaxdt.errors import JaxdtError, one_line
from jaxdt.files import read_json
from jaxdt.simulator import is_plain_env_id


if TYPE_CHECKING:
    import h5py

PREFIX = "minari:"


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
    """Episodes of a Minari dataset, see `find_minari`; actions must be vectors or whole numbers.

    No code that a dataset names is run. Raises JaxdtError naming the dataset or its file and the fix.
    """
    directory = find_minari(dataset_id)
    metadata = _metadata(directory / "data" / "metadata.json")
    path = directory / "data" / "main_data.hdf5"
    if not path.is_file():
        raise JaxdtError(
            f"{directory} has no main_data.hdf5 (its format is {metadata.get('data_format')!r:.40}); only Minari's "
            "hdf5 is read. If a download was cut off, delete the directory and load it again."
        )
    with reading_hdf5(path) as file:
        episodes = _episodes(file, metadata, path)
    return join_episodes(episodes, env_id=_env_id(metadata), source=f"{PREFIX}{dataset_id}")


def _episodes(file: "h5py.File", metadata: dict[str, Any], path: Path) -> list[dict[str, np.ndarray]]:
    total, bytes_left = metadata.get("total_episodes"), size_limit(path)
    if type(total) is not int or not 0 < total <= len(file):
        raise JaxdtError(f"{path} holds {len(file)} episodes but its metadata says {total!r:.40}; load it anew.")
    episodes = []
    for number in range(total):
        group, arrays = member(file, f"episode_{number}", path), {}
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            arrays[name] = read_dataset(group, name, path, bytes_left)
            bytes_left -= array_bytes(name, arrays[name].shape, arrays[name].dtype)
        if len(arrays["observations"]) != len(arrays["rewards"]) + 1:
            raise JaxdtError(
                f"{path}: observations of episode {number} has {len(arrays['observations'])} rows for "
                f"{len(arrays['rewards'])} steps; there must be one more, the last one."
            )
        arrays["observations"] = arrays["observations"][:-1]
        episodes.append(arrays)
    return episodes


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


def _env_id(metadata: dict[str, Any]) -> str | None:
    """The environment's id; the rest of its description, which names code, is not looked at."""
    with contextlib.suppress(TypeError, ValueError, KeyError, RecursionError):
        env_id = json.loads(metadata["env_spec"])["id"]
        return env_id if is_plain_env_id(env_id) else None
    return None


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
            os.replace(temporary / dataset_id, directory)
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
