"""Our own `.npz` of flat arrays."""

import zipfile
from pathlib import Path

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError, one_line
from jaxdt.simulator import is_plain_env_id


def load_npz(path: Path) -> EpisodeStore:
    """Episodes of an `.npz`; raises JaxdtError naming the file, the array and the fix."""
    wanted = ("observations", "actions", "rewards", "terminations", "truncations", "episode_ends", "env_id")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in wanted if name in archive.files}
    except Exception as error:  # damaged bytes make NumPy and zipfile raise a dozen kinds
        known = isinstance(error, OSError) or zipfile.is_zipfile(path)
        reason = one_line(error) if known else "it is not a zip archive, or only part of one"
        raise JaxdtError(f"{path} cannot be read as an .npz file: {reason}; copy or make it again.") from error
    for name in ("observations", "actions", "rewards"):
        if name not in arrays:
            raise JaxdtError(f"{path}: the array {name!r} is missing; it has {', '.join(arrays) or 'none of ours'}.")
    if not {"episode_ends", "terminations", "truncations"} & set(arrays):
        raise JaxdtError(f"{path}: nothing says where episodes end; add the array 'episode_ends'.")
    env_id = _env_id(arrays.pop("env_id", None), path)
    return EpisodeStore.from_arrays(**arrays, env_id=env_id, source=str(path))


def _env_id(value: np.ndarray | None, path: Path) -> str | None:
    """A file may name an environment, never a module to import (`module:Name-v0`)."""
    if value is None:
        return None
    if value.ndim or value.dtype.kind != "U" or not is_plain_env_id(str(value)):
        raise JaxdtError(f"{path}: env_id must be a Gymnasium id such as HalfCheetah-v5; got {str(value)!r:.80}.")
    return str(value)
