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

from jaxdt.data.episodes import FIELDS, EpisodeStore
from jaxdt.data.returns import returns_to_go_of
from jaxdt.data.shards import file_state
from jaxdt.data.statistics import Statistics
from jaxdt.data.storage import JOURNAL, DirectoryStorage, FileWriter, copied, goes_to_file
from jaxdt.errors import JaxdtError
from jaxdt.files import private_cache, writing
from jaxdt.progress import Progress
from jaxdt.simulator import are_plain_kwargs, is_plain_env_id


_FORMAT = 2  # of an entry, and of what readers make of a file: entries of another one are replaced

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
    stem = re.sub(r"[^\w.-]", "_", Path(label).stem)[:40] + "-" + short_hash([name for name, _ in origin])
    entry = cache / f"{stem}-{short_hash([_FORMAT, origin])}"
    store = _opened(entry)
    if store is not None:
        return store
    busy = f"{label}: another process is unpacking it; waiting for that"
    with in_turn(cache / f".{stem}.lock", busy, progress):
        store = _opened(entry)
        if store is None:
            unfinished = cache / f".{stem}-{_FORMAT}.tmp"
            for other in (*cache.glob(f"{stem}-*"), *cache.glob(f".{stem}-*.tmp")):  # stale, damaged or half-made
                if other != unfinished:
                    shutil.rmtree(other, ignore_errors=True)
            with writing(entry), _kept_if_shards_are_done(unfinished):
                _fill(unfinished, load, f"unpack {label}", size, progress)
                (unfinished / "origin.json").write_text(json.dumps(origin), encoding="utf-8")
                if _origin(files) != origin:
                    raise JaxdtError(f"{label} was changed while it was read; load it again.")
                progress.say(f"{label} is unpacked; adding up its rewards and observations")
                _add_summary(unfinished)
                (unfinished / JOURNAL).unlink(missing_ok=True)
                os.replace(unfinished, entry)
            store = _opened(entry)
    if store is None:
        raise JaxdtError(f"{entry} cannot be read although it was just made; check the disk.")
    return store


def _origin(files: Sequence[tuple[str, Sequence[Path]]]) -> list[Any]:
    return [[name, [file_state(path) for path in paths]] for name, paths in files]


def short_hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _kept_if_shards_are_done(directory: Path) -> Iterator[None]:
    """Makes a directory, or takes what was left of one whose journal says that it has shards, and leaves it so."""

    def remove_if_useless() -> None:
        journal = directory / JOURNAL
        if not (journal.is_file() and journal.stat().st_size):
            shutil.rmtree(directory, ignore_errors=True)

    remove_if_useless()
    directory.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        remove_if_useless()
        raise


@contextlib.contextmanager
def in_turn(path: Path, busy: str, progress: Progress) -> Iterator[None]:
    """Says `busy` and waits where another process holds the lock at `path`; one that dies lets go."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(busy)
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

    def reached(part: float) -> None:
        nonlocal written
        written = int(part * size)
        wrote(0)

    progress.start(task, size // 2**20, "MiB")
    with contextlib.ExitStack() as stack:
        stack.callback(progress.stop)
        storage = stack.enter_context(contextlib.closing(DirectoryStorage(directory, wrote, reached)))
        store = load(storage)
        for name in (*FIELDS, "offsets"):
            values = getattr(store, name)
            if name in storage.filled:
                continue
            if goes_to_file(name, values.shape):  # of a reader that reads into memory
                copied(name, values, storage)
            else:
                np.save(directory / f"{name}.npy", values)
        (directory / "environment.json").write_text(json.dumps([store.env_id, store.env_kwargs]), encoding="utf-8")
        del store  # some systems remove or rename no file that is mapped


def _add_summary(directory: Path) -> None:
    """What every process would have to go through all steps for."""
    store = _opened(directory)
    if store is None:  # which is said when the entry is opened
        return
    with open(directory / "returns_to_go.npy", "w+b", buffering=0) as file:
        writer = FileWriter(file, store.rewards.shape, np.float32, directory, lambda size: None)
        for block in returns_to_go_of(store.rewards, store.offsets):
            writer.append(block)
        writer.done()
    if store.observations.ndim == 2:  # of pictures nothing asks for them
        np.save(directory / "statistics.npy", np.stack(store.statistics))
    (directory / "fingerprint.txt").write_text(store.fingerprint, encoding="utf-8")


def _opened(entry: Path) -> EpisodeStore | None:
    """The episodes of an entry; None where there is none, or one that is not whole."""
    try:
        found = {
            name: np.asarray(np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in (*FIELDS, "offsets")
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
    if env_id is not None and not is_plain_env_id(env_id):
        return None
    if kwargs is not None and not (isinstance(kwargs, dict) and are_plain_kwargs(kwargs)):
        return None
    store = EpisodeStore(
        **{name: values[: offsets[-1]] for name, values in found.items()},  # type: ignore[arg-type]
        offsets=offsets,
        env_id=env_id,
        env_kwargs=kwargs,
        mapped_in=entry,
    )
    vars(store).update(_summary(entry, store))  # its cached properties, which need not be found out anew
    return store


def _summary(entry: Path, store: EpisodeStore) -> dict[str, Any]:
    """What `_add_summary` put there, where it is whole; entries of before have none."""
    summary: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # damaged bytes make NumPy raise a dozen kinds
        values = np.asarray(np.load(entry / "returns_to_go.npy", mmap_mode="r", allow_pickle=False))
        if values.dtype == np.float32 and values.shape == store.rewards.shape:
            summary["returns_to_go"] = values
    with contextlib.suppress(Exception):
        values = np.load(entry / "statistics.npy", allow_pickle=False)
        if values.dtype == np.float32 and values.shape == (2, *store.observations.shape[1:]):
            summary["statistics"] = Statistics(*values)
    with contextlib.suppress(Exception):
        fingerprint = (entry / "fingerprint.txt").read_text(encoding="ascii")
        if re.fullmatch("[0-9a-f]{64}", fingerprint):
            summary["fingerprint"] = fingerprint
    return summary
