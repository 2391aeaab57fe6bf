"""One process a run directory."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from jaxdt.errors import JaxdtError
from jaxdt.files import open_atomically, writing


@contextlib.contextmanager
def sole_process(directory: Path) -> Iterator[None]:
    """Holds a run directory for writing; a process that dies lets go of it. Readers need not ask.

    Raises JaxdtError naming the process that holds it already.
    """
    lock, holder = FileLock(directory / ".lock"), directory / ".holder"
    try:
        with writing(directory):
            lock.acquire(timeout=0)
    except Timeout as error:
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise JaxdtError(
            f"{directory} is being trained by {who}; wait until it ends, or choose another --out."
        ) from error
    try:
        with open_atomically(holder) as file:
            file.write(f"process {os.getpid()} on {platform.node() or 'this machine'}")
        yield
    finally:
        with contextlib.suppress(OSError):  # of a disk that has become read-only
            holder.unlink(missing_ok=True)
        lock.release()
