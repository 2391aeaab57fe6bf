"""Our own `.npz` of flat arrays."""

import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.data.episodes import FIELDS, EpisodeStore
from jaxdt.data.fields import ending_fields, flat_episodes
from jaxdt.data.formats.limits import Budget, are_pictures, array_bytes, kept_bytes, write_readable
from jaxdt.data.formats.pictures import (
    COLOUR_SCREEN,
    grey_pictures,
    is_screen,
    warn_of_screens,
    with_their_resizing,
)
from jaxdt.data.storage import LARGE, MEMORY, Storage
from jaxdt.errors import JaxdtError, one_line
from jaxdt.files import open_atomically
from jaxdt.games import GREY_PICTURE
from jaxdt.simulator import checked_env_id, checked_env_kwargs, registered_id


_LONGEST_HEAD = 2**16
_ENVIRONMENT = ("env_id", "env_kwargs")
"""Texts: what the episodes were recorded in, its keyword arguments as JSON."""


def load_npz(path: Path, storage: Storage = MEMORY, *, cut_after: int | None = None) -> EpisodeStore:
    """Episodes of an `.npz` of flat arrays; `fields.ENDINGS` has the names of those that say where episodes end.

    Observations that are Atari's colour screens become what `pictures.grey_pictures` makes of them, with a warning;
    a game's `env_kwargs` then say to resize so.
    Raises JaxdtError naming the file, the array and the fix.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            names = {name: name for name in (*LARGE, *_ENVIRONMENT) if name in archive.files}
            names |= ending_fields(archive.files)
            check_members(archive.zip, tuple(names.values()), path)
            has_screens = _has_screens(archive.zip)
            if has_screens:
                warn_of_screens(str(path))
            arrays = {ours: _read(archive, theirs, storage) for ours, theirs in names.items()}
    except JaxdtError:
        raise
    except Exception as error:  # damaged bytes make NumPy and zipfile raise a dozen kinds
        known = isinstance(error, OSError) or zipfile.is_zipfile(path)
        reason = one_line(error, 200) if known else "it is not a zip archive, or only part of one"
        raise JaxdtError(f"{path} cannot be read as an .npz file: {reason}; copy or make it again.") from error
    for name in ("observations", "actions", "rewards"):
        if name not in arrays:
            raise JaxdtError(f"{path}: the array {name!r} is missing; it has {', '.join(arrays) or 'none of ours'}.")
    env_id = arrays.pop("env_id", None)
    if env_id is not None:
        env_id = checked_env_id(str(env_id) if env_id.ndim else env_id.item(), str(path))
    kwargs = arrays.pop("env_kwargs", None)
    if kwargs is not None:
        kwargs = checked_env_kwargs(str(kwargs), env_id, str(path))
    if has_screens:
        kwargs = with_their_resizing(env_id, kwargs)
    columns = flat_episodes(arrays, names, source=str(path), cut_after=cut_after)
    return EpisodeStore.from_arrays(**columns, env_id=env_id, env_kwargs=kwargs, source=str(path))


def write_npz(store: EpisodeStore, path: str | os.PathLike[str]) -> None:
    """What `load_npz` reads; raises JaxdtError where the path does not end in .npz."""
    arrays: dict[str, Any] = {name: getattr(store, name) for name in FIELDS} | {"episode_ends": store.offsets[1:]}
    if store.env_id is not None:
        arrays["env_id"] = np.array(registered_id(store.env_id))
    if store.env_kwargs is not None:
        arrays["env_kwargs"] = np.array(json.dumps(store.env_kwargs))
    if not str(path).endswith(".npz"):
        raise JaxdtError(f"episodes are saved as .npz; got {str(path)!r}.")
    with open_atomically(path, "wb") as file:
        write_readable(store, file, lambda out, compressed: (np.savez, np.savez_compressed)[compressed](out, **arrays))


def check_members(archive: zipfile.ZipFile, wanted: tuple[str, ...], path: Path) -> None:
    """Refuses what could take far more memory than the file: bzip2 and lzma inflate without a bound."""
    members = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in wanted]
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in members):
        raise JaxdtError(f"{path} is compressed as NumPy never does; write it with numpy.savez_compressed.")
    budget, total = Budget(path), 0
    for size, pictures in (_declared_bytes(archive, info) for info in members):
        total += size
        if not budget.has(size, pictures=pictures):
            raise JaxdtError(
                f"{path} would take {total / 2**20:.0f} MiB or more, far more than a file of "
                f"{path.stat().st_size / 2**20:.1f} MiB holds; copy it again, or write it with numpy.savez."
            )
        budget.spend(size, pictures=pictures)


def _declared_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[int, bool]:
    """The larger of what the archive and the array's own head say, and whether they are pictures.

    Of screens, what is made of them piece by piece.
    """
    with archive.open(info) as member:
        shape, fortran, dtype = npy_head(member)
    name = info.filename.removesuffix(".npy")
    if name == "observations" and is_screen(shape, dtype) and not fortran:
        return max(info.file_size, math.prod(shape)) // math.prod(COLOUR_SCREEN) * math.prod(GREY_PICTURE), True
    return array_bytes(name, shape, dtype, info.file_size), are_pictures(name, shape, dtype)


def _has_screens(archive: zipfile.ZipFile) -> bool:
    if "observations.npy" not in archive.namelist():
        return False
    with archive.open("observations.npy") as file:
        shape, fortran, dtype = npy_head(file)
    return is_screen(shape, dtype) and not fortran


def _read(archive: np.lib.npyio.NpzFile, name: str, storage: Storage) -> np.ndarray:
    files: Any = archive.zip
    member = f"{name}.npy"
    if name == "observations" and _has_screens(files):
        with files.open(member) as file:
            shape, *_ = npy_head(file)
            return _grey(file, shape[0], storage)
    if storage.on_disk and name in LARGE and member in files.namelist():
        with files.open(member) as file:
            shape, fortran, dtype = npy_head(file)
            plausible = 0 < math.prod(shape) * dtype.itemsize < files.getinfo(member).file_size
            if plausible and shape and dtype.kind in "iuf" and not fortran:
                return _streamed(file, name, shape, dtype, storage)
    return np.asarray(archive[name])


def _streamed(
    file: zipfile.ZipExtFile, name: str, shape: tuple[int, ...], dtype: np.dtype, storage: Storage
) -> np.ndarray:
    writer = storage.array_writer(name, shape, dtype)
    step = math.prod(shape[1:]) * dtype.itemsize
    steps = max(1, 2**24 // step)
    for start in range(0, shape[0], steps):
        count = min(steps, shape[0] - start)
        content = file.read(count * step)
        writer.append(np.frombuffer(content, dtype).reshape(count, *shape[1:]))
    return writer.done()


def _grey(file: zipfile.ZipExtFile, count: int, storage: Storage) -> np.ndarray:
    writer = storage.array_writer("observations", (count, *GREY_PICTURE), np.uint8)
    for start in range(0, count, 128):
        shape = (min(128, count - start), *COLOUR_SCREEN)
        writer.append(grey_pictures(np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)))
    return writer.done()


def npz_size(path: Path) -> int:
    """Bytes of its observations, actions and rewards in memory, by their heads."""
    size = 0
    with zipfile.ZipFile(path) as archive:
        for name in LARGE:
            if f"{name}.npy" in archive.namelist():
                with archive.open(f"{name}.npy") as file:
                    shape, _, dtype = npy_head(file)
                if name == "observations" and is_screen(shape, dtype):
                    shape = (shape[0], *GREY_PICTURE)
                size += kept_bytes(name, shape, dtype)
    return size


def npy_head(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and dtype; raises ValueError."""
    is_first = np.lib.format.read_magic(file) == (1, 0)
    length = file.read(2 if is_first else 4)
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEAD:  # before that many bytes are inflated
        raise ValueError(f"its head is to have {size} bytes, and that of an array has at most {_LONGEST_HEAD}")
    head = io.BytesIO(length + file.read(size))
    return np.lib.format.read_array_header_1_0(head) if is_first else np.lib.format.read_array_header_2_0(head)
