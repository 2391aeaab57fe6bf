"""What can go wrong, in our words."""

import difflib
from collections.abc import Iterable
from typing import Any


_LONGEST = 1000


class JaxdtError(ValueError):
    """Bad input: the message is one sentence with the rule, the value received and the fix.

    Names and values in it may come from a hostile file: what a terminal would obey is escaped, what is endless is cut.
    """

    def __init__(self, message: str):
        begin = message[: _LONGEST + 1]
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in begin)
        super().__init__(shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 2]} …")


class VersionError(JaxdtError):
    """What another version of jaxdt wrote and this one cannot read."""


class RunError(RuntimeError):
    """A run that was asked for correctly and failed while running."""


class StoppedError(RunError):
    """A run that was asked to stop and can go on; `signal_number` says by what."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.signal_number)  # or what unpickles it would give the message alone


class NonFiniteError(RunError, FloatingPointError):
    """A loss or gradient that is no longer a number; names the update."""


class SimulationError(RunError):
    """An episode that could not be continued; names the episode and the environment step."""


class WriteError(RunError):
    """What the system would not write: a full disk, a read-only one, no permission; names the file and the reason."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)` with the nearest of the known words, or nothing where none is near."""
    near = difflib.get_close_matches(word, [*known], n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def one_line(error: BaseException, longest: int | None = None) -> str:
    """What an error of another library says, on one line of at most `longest` characters; its type if nothing."""
    return " ".join(str(error).split())[:longest] or type(error).__name__
