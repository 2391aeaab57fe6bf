"""Our own `.npz` of flat arrays."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.data.arrow_files import believable, decoded_bytes
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.places import LARGE, MEMORY, Place
from jaxdt.data.sizes import npy_head
from jaxdt.errors import JaxdtError, one_line
from jaxdt.simulator import is_plain_env_id


def load_npz(path: Path, place: Place = MEMORY) -> EpisodeStore:
    """Episodes of an `.npz`; raises JaxdtError naming the file, the array and the fix."""
    wanted = ("observations", "actions", "rewards", "terminations", "truncations", "episode_ends", "env_id")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            _check_members(archive.zip, wanted, path)
            arrays = {name: _read(archive, name, place) for name in wanted if name in archive.files}
    except JaxdtError:
        raise
    except Exception as error:  # damaged bytes make NumPy and zipfile raise a dozen kinds
        known = isinstance(error, OSError) or zipfile.is_zipfile(path)
        reason = one_line(error, 200) if known else "it is not a zip archive, or only part of one"
        raise JaxdtError(f"{path} cannot be read as an .npz file: {reason}; copy or make it again.") from error
    for name in ("observations", "actions", "rewards"):
        if name not in arrays:
            raise JaxdtError(f"{path}: the array {name!r} is missing; it has {', '.join(arrays) or 'none of ours'}.")
    if not {"episode_ends", "terminations", "truncations"} & set(arrays):
        raise JaxdtError(f"{path}: nothing says where episodes end; add the array 'episode_ends'.")
    env_id = _env_id(arrays.pop("env_id", None), path)
    return EpisodeStore.from_arrays(**arrays, env_id=env_id, source=str(path))


def _check_members(archive: zipfile.ZipFile, wanted: tuple[str, ...], path: Path) -> None:
    """Refuses what could take far more memory than the file: bzip2 and lzma inflate without a bound."""
    members = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in wanted]
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in members):
        raise JaxdtError(f"{path} is compressed as NumPy never does; write it with numpy.savez_compressed.")
    size = sum(_promised_bytes(archive, info) for info in members)
    if size > believable(path):
        raise JaxdtError(
            f"{path} would take {size / 2**20:.0f} MiB, far more than a file of {path.stat().st_size / 2**20:.1f} MiB "
            "holds; copy it again, or write it with numpy.savez."
        )


def _promised_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """The larger of what the archive and the array's own head say."""
    with archive.open(info) as member:
        shape, _, dtype = npy_head(member)
    return max(info.file_size, decoded_bytes(info.filename.removesuffix(".npy"), shape, dtype))


def _read(archive: np.lib.npyio.NpzFile, name: str, place: Place) -> np.ndarray:
    files: Any = archive.zip
    member = f"{name}.npy"
    if place.on_disk and name in LARGE and member in files.namelist():
        with files.open(member) as file:
            shape, fortran, dtype = npy_head(file)
            believable = 0 < math.prod(shape) * dtype.itemsize < files.getinfo(member).file_size
            if believable and shape and dtype.kind in "iuf" and not fortran:
                return _streamed(file, name, shape, dtype, place)
    return np.asarray(archive[name])


def _streamed(file: zipfile.ZipExtFile, name: str, shape: tuple[int, ...], dtype: np.dtype, place: Place) -> np.ndarray:
    filling = place.filling(name, shape, dtype)
    step = math.prod(shape[1:]) * dtype.itemsize
    steps = max(1, 2**24 // step)
    for start in range(0, shape[0], steps):
        count = min(steps, shape[0] - start)
        content = file.read(count * step)
        filling.append(np.frombuffer(content, dtype).reshape(count, *shape[1:]))
    return filling.done()


def _env_id(value: np.ndarray | None, path: Path) -> str | None:
    """A file may name an environment, never a module to import (`module:Name-v0`)."""
    if value is None:
        return None
    if value.ndim or value.dtype.kind != "U" or not is_plain_env_id(str(value)):
        raise JaxdtError(f"{path}: env_id must be a Gymnasium id such as HalfCheetah-v5; got {str(value)!r:.80}.")
    return str(value)
