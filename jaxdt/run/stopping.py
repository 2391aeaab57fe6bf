"""Stopping in good order when the machine or a person asks."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator


Stop = Callable[[], int | None]
"""Which signal has asked the run to stop; None: none."""

CAUGHT = (signal.SIGTERM, signal.SIGINT)

PATIENCE = 1.0
"""Seconds after the first signal before a second one counts."""

_ANSWER = "jaxdt: stopping and saving after what is being computed; once more to stop at once, unsaved."


def never() -> int | None:
    """Nothing asks."""
    return None


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within the block SIGTERM and SIGINT (Ctrl-C) only ask to stop, which is answered at once on standard error.

    A second one of either, a second or more after the first, ends the process at once: `timeout` and schedulers send
    two together. Outside the main thread, where signals cannot be caught, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    signals: list[int] = []
    reading, writing = os.pipe()
    if sys.platform != "win32":
        os.set_blocking(writing, False)

    def watch() -> None:
        # A thread of its own: Python's handlers wait until a compilation or an evaluation returns, this does not.
        first = 0.0
        while byte := os.read(reading, 1):
            if byte[0] not in CAUGHT:
                continue
            if not signals:
                first = time.monotonic()
                signals.append(byte[0])
                print(_ANSWER, file=sys.stderr, flush=True)
            elif time.monotonic() - first >= PATIENCE:
                os._exit(128 + byte[0])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    handlers = {number: signal.signal(number, lambda number, frame: None) for number in CAUGHT}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield lambda: signals[0] if signals else None
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writing)
        watcher.join()
        os.close(reading)
