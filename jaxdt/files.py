"""Files that appear whole or not at all, a cache for what can be made again, and JSON that may come from anywhere."""

import contextlib
import errno
import fnmatch
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from jaxdt.errors import JaxdtError, WriteError


REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file would be larger than this process may write",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EIO: "the disk does not answer (input/output error)",
}
_MAX_JSON_BYTES = 2**24


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the system refuses to write in the block becomes a WriteError that names `path`, a file or directory."""
    try:
        yield
    except JaxdtError:
        raise
    except Exception as error:  # libraries wrap it in kinds of their own
        reason = _refusal(error)
        if reason is None:
            raise
        raise WriteError(f"{path} cannot be written: {reason}") from error


def _refusal(error: BaseException | None) -> str | None:
    """Why the system refused, also where a library quotes its error; None: it did not."""
    while error is not None:
        for number, reason in REFUSALS.items():
            if (isinstance(error, OSError) and error.errno == number) or os.strerror(number) in str(error):
                return reason
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file beside `path` that takes its place when the block ends without an error.

    Raises WriteError naming `path` where the system refuses.
    """
    with writing(path), _temporary_beside(Path(path), mode) as file:
        yield file


@contextlib.contextmanager
def _temporary_beside(path: Path, mode: str) -> Iterator[IO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        os.chmod(name, 0o666 & ~_umask())
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def directory_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes a temporary directory beside `path`, absent or empty, that takes its place when the block ends well.

    Raises WriteError naming `path` where the system refuses.
    """
    with writing(path), _temporary_directory_beside(Path(path).resolve()) as temporary:
        yield temporary


@contextlib.contextmanager
def _temporary_directory_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        os.replace(temporary, path)  # replaces an empty directory, never a full one
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def private_cache(name: str) -> Path | None:
    """The directory `name` in jaxdt's cache, which only its user may write to; None where there can be none.

    The cache is `$XDG_CACHE_HOME/jaxdt`, by default `~/.cache/jaxdt`.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "jaxdt" / name
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = root.stat()
    except OSError:
        return None
    is_ours = os.name == "nt" or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
    return root if is_ours and os.access(root, os.W_OK) else None


def is_free(path: Path, besides: Sequence[str] = ()) -> bool:
    """Whether a directory can be made there: absent, or empty but for files that match one of `besides`."""
    if not path.is_dir():
        return not path.exists()
    return all(any(fnmatch.fnmatch(child.name, pattern) for pattern in besides) for child in path.iterdir())


def check_is_free(path: Path) -> None:
    """Raises JaxdtError where a directory to write to holds something."""
    if not is_free(path):
        raise JaxdtError(f"{path} is not empty; choose another output directory.")


def remove_unfinished(directory: Path) -> None:
    """Removes what processes that were killed left of `open_atomically`; only where no other process writes."""
    for path in directory.glob(".*.tmp"):
        if path.is_file():
            path.unlink()


def read_json(path: Path) -> Any:
    """A JSON document; raises ValueError or OSError when it is none, is too large or is nested too deep."""
    with open(path, "rb") as file:
        content = file.read(_MAX_JSON_BYTES + 1)
    if len(content) > _MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {_MAX_JSON_BYTES // 2**20} MiB")
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
