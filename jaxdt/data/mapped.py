"""Datasets too large for memory: unpacked once into `.npy` files in the user's cache, and mapped from there."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.storage import LARGE, DirectoryStorage, copied, goes_to_file
from jaxdt.errors import JaxdtError
from jaxdt.files import directory_atomically, private_cache
from jaxdt.progress import Progress
from jaxdt.simulator import are_plain_kwargs, is_plain_env_id


_FORMAT = 1  # of an entry, and of what readers make of a file: entries of another one are replaced

_KINDS = {
    "observations": ("iuf", range(2, 65)),
    "actions": ("fi", (1, 2)),
    "rewards": ("f", (1,)),
    "terminations": ("b", (1,)),
    "truncations": ("b", (1,)),
}
"""Kinds of dtype and numbers of dimensions that each array of an entry may have."""


def most_in_memory() -> int:
    """Bytes that a dataset may take in memory where nobody says: a quarter of the machine's, or of the container's.

    1 GiB where the system does not say how much there is.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 4 * 2**30
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory // 4


def load_mapped(
    files: Sequence[tuple[str, Sequence[Path]]],
    label: str,
    load: Callable[[DirectoryStorage], EpisodeStore],
    size: int,
    progress: Progress,
) -> EpisodeStore:
    """The episodes that `load` makes of datasets, from the cache, where they are put first if need be.

    - `files`: each dataset's name and files. An entry belongs to their names, paths, sizes and times of change; one
      of files that have changed is replaced.
    - `size`: bytes that they are expected to take, for the progress shown.

    Raises JaxdtError where there is no cache or no room in it.
    """
    cache = private_cache("episodes")
    if cache is None:
        raise JaxdtError(
            f"{label} is too large for memory and there is no directory to unpack it into; make ~/.cache writable by "
            "you alone, set XDG_CACHE_HOME, or let it into memory with a larger map_above= (--map-above, GiB)."
        )
    origin = _origin(files)
    stem = re.sub(r"[^\w.-]", "_", Path(label).stem)[:40] + "-" + _short_hash([name for name, _ in origin])
    entry = cache / f"{stem}-{_short_hash([_FORMAT, origin])}"
    store = _opened(entry)
    if store is not None:
        return store
    with _sole_unpacker(cache / f".{stem}.lock", label, progress):
        store = _opened(entry)
        if store is None:
            for other in (*cache.glob(f"{stem}-*"), *cache.glob(f".{stem}-*.tmp")):  # stale, damaged or half-made
                shutil.rmtree(other, ignore_errors=True)
            with directory_atomically(entry) as directory:
                _fill(directory, load, f"unpack {label}", size, progress)
                (directory / "origin.json").write_text(json.dumps(origin), encoding="utf-8")
                if _origin(files) != origin:
                    raise JaxdtError(f"{label} was changed while it was read; load it again.")
            store = _opened(entry)
    if store is None:
        raise JaxdtError(f"{entry} cannot be read although it was just made; check the disk.")
    return store


def _origin(files: Sequence[tuple[str, Sequence[Path]]]) -> list[Any]:
    return [[name, [_state(path) for path in paths]] for name, paths in files]


def _state(path: Path) -> list[Any]:
    found = path.stat()
    return [os.path.abspath(path), found.st_size, found.st_mtime_ns]


def _short_hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _sole_unpacker(path: Path, label: str, progress: Progress) -> Iterator[None]:
    """Waits for another process that unpacks the same files; one that dies lets go."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"{label}: another process is unpacking it; waiting for that")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fill(
    directory: Path, load: Callable[[DirectoryStorage], EpisodeStore], task: str, size: int, progress: Progress
) -> None:
    written = 0

    def wrote(more: int) -> None:
        nonlocal written
        written += more
        progress.advance(min(written, size) // 2**20)

    progress.start(task, size // 2**20, "MiB")
    with contextlib.ExitStack() as stack:
        stack.callback(progress.stop)
        storage = stack.enter_context(contextlib.closing(DirectoryStorage(directory, wrote)))
        store = load(storage)
        for name in (*LARGE, "terminations", "truncations", "offsets"):
            path, values = directory / f"{name}.npy", getattr(store, name)
            if not goes_to_file(name, values.shape):
                np.save(path, values)
            elif not path.exists():  # of a reader that reads into memory
                copied(name, values, storage)
        (directory / "environment.json").write_text(json.dumps([store.env_id, store.env_kwargs]), encoding="utf-8")
        del store  # some systems remove or rename no file that is mapped


def _opened(entry: Path) -> EpisodeStore | None:
    """The episodes of an entry; None where there is none, or one that is not whole."""
    try:
        found = {
            name: np.asarray(np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in (*LARGE, "terminations", "truncations", "offsets")
        }
        env_id, kwargs = json.loads((entry / "environment.json").read_text(encoding="utf-8"))
    except Exception:  # damaged bytes make NumPy raise a dozen kinds
        return None
    offsets = np.array(found.pop("offsets"))
    if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) < 2:
        return None
    if offsets[0] != 0 or (np.diff(offsets) <= 0).any():
        return None
    for name, values in found.items():
        kind, dimensions = _KINDS[name]
        kept = np.float32 if values.dtype.kind == "f" else values.dtype
        if values.dtype.kind not in kind or values.dtype != kept or values.ndim not in dimensions:
            return None
        if 0 in values.shape or len(values) < offsets[-1]:
            return None
    actions = found["actions"]
    if actions.dtype != (np.int32 if actions.ndim == 1 else np.float32):
        return None
    if env_id is not None and not (isinstance(env_id, str) and is_plain_env_id(env_id)):
        return None
    if kwargs is not None and not (isinstance(kwargs, dict) and are_plain_kwargs(kwargs)):
        return None
    found = {name: values[: offsets[-1]] for name, values in found.items()}
    return EpisodeStore(
        observations=found["observations"],
        actions=np.array(found["actions"]) if actions.ndim == 1 else found["actions"],
        rewards=np.array(found["rewards"]),
        terminations=np.array(found["terminations"]),
        truncations=np.array(found["truncations"]),
        offsets=offsets,
        env_id=env_id,
        env_kwargs=kwargs,
        mapped_in=entry,
    )
