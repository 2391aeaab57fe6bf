"""Where Dopamine's replay logs lie and which of them are wanted, from a spec such as `dqn:DIR?buffers=50`."""

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

from jaxdt.config import whole
from jaxdt.data.formats.dqn_checkpoint import Checkpoint, checkpoint_of, listed
from jaxdt.errors import JaxdtError, did_you_mean
from jaxdt.games import GAMES


PREFIX = "dqn:"
_OPTIONS = ("buffers", "steps", "order", "seed")
_ORIGINAL = {"seed": 123, "steps": 500_000}


class ReplayLogs(NamedTuple):
    """What `read_dqn` reads, and how."""

    source: str
    """As the user gave it."""
    directory: Path
    checkpoints: list[Checkpoint]
    steps: int | None
    seed: int | None
    """Of the original's way of drawing; None: in order."""

    @property
    def name(self) -> str:
        """The same for what gives the same episodes."""
        numbers = ",".join(str(each.number) for each in self.checkpoints)
        return f"{PREFIX}{self.directory}?checkpoints={numbers}&steps={self.steps}&seed={self.seed}"

    @property
    def files(self) -> list[Path]:
        return [path for each in self.checkpoints for path in each.files.values()]

    @property
    def size(self) -> int:
        """Bytes that its episodes take at most, or about, where `steps` says how many."""
        rows = sum(each.rows for each in self.checkpoints)
        return min(rows, self.steps or rows) * (math.prod(self.checkpoints[0].frame) + 8)


def find_dqn(spec: str) -> ReplayLogs:
    """The checkpoints that `dqn:DIR?buffers=50&steps=500000&order=original&seed=123` names, every option left out or
    given once.

    DIR is `.../Breakout/1/replay_logs` or its parent; see `read_dqn`. Raises JaxdtError naming the spec or the file,
    what is wrong with it and the fix.
    """
    given, options = _parsed(spec)
    directory = Path(os.path.abspath(os.path.expanduser(given)))
    if not given or not os.path.isdir(directory):  # of any name
        raise JaxdtError(f"dataset {spec!r:.200}: {given!r:.200} is no directory; give {PREFIX}DIR of replay_logs.")
    found = listed(directory) or listed(directory / "replay_logs")
    if not found:
        raise JaxdtError(
            f"dataset {spec!r:.200}: {directory} holds no files such as $store$_observation_ckpt.0.gz; give the "
            "directory replay_logs of one run of a game, .../Breakout/1/replay_logs."
        )
    buffers = options.get("buffers", len(found))
    if buffers > len(found):
        raise JaxdtError(f"dataset {spec!r:.200}: there are {len(found)} checkpoints; buffers must be at most that.")
    checkpoints = [checkpoint_of(number, found[number]) for number in sorted(found)[-buffers:]]
    for other in checkpoints[1:]:
        if other.frame != checkpoints[0].frame:
            raise JaxdtError(
                f"{other.files['observation']}: pictures are {other.frame} but {checkpoints[0].frame} in checkpoint "
                f"{checkpoints[0].number}; put checkpoints of one size into a directory."
            )
    directory = next(iter(found[max(found)].values())).parent
    return ReplayLogs(spec, directory, checkpoints, options.get("steps"), options.get("seed"))


def short_name(spec: str) -> str:
    """A spec without the directories of the machine it was used on."""
    directory, mark, options = spec.removeprefix(PREFIX).partition("?")
    parts = _pieces(Path(directory))
    return f"{PREFIX}{'/'.join(parts[-2:] if game_of_directory(Path(directory)) else parts[-1:])}{mark}{options}"


def _pieces(directory: Path) -> tuple[str, ...]:
    return directory.parts[:-1] if directory.name == "replay_logs" else directory.parts


def game_of_directory(directory: Path) -> str | None:
    """`Breakout` of `.../Breakout/1/replay_logs` and of its parent."""
    *_, game, run = ("", "", *_pieces(directory))
    return game if game in GAMES and re.fullmatch(r"\d+", run) else None


def _parsed(spec: str) -> tuple[str, dict[str, int]]:
    """The directory, and those options that were given; of an order, its seed."""
    directory, mark, text = spec.removeprefix(PREFIX).rpartition("?")
    if not mark:
        return text, {}
    options: dict[str, str] = {}
    for name, _, value in (each.partition("=") for each in text.split("&")):
        if name not in _OPTIONS or name in options:
            reason = (
                "given twice" if name in options else f"none of {', '.join(_OPTIONS)}{did_you_mean(name, _OPTIONS)}"
            )
            raise JaxdtError(f"dataset {spec!r:.200}: the option {name!r:.40} is {reason}.")
        options[name] = value
    order = options.pop("order", "recorded")
    if order not in ("recorded", "original"):
        raise JaxdtError(f"dataset {spec!r:.200}: order must be recorded or original; got {order!r:.40}.")
    numbers = {name: _number(value, f"{name} of dataset {spec!r:.200}", name) for name, value in options.items()}
    if order == "original":
        numbers = _ORIGINAL | numbers
    elif "seed" in numbers:
        raise JaxdtError(f"dataset {spec!r:.200}: seed is for order=original, which draws; leave it out.")
    return directory, numbers


def _number(text: str, what: str, name: str) -> int:
    try:
        value = whole(float(text), what)
    except ValueError as error:
        raise JaxdtError(f"{what} must be a whole number; got {text!r:.40}.") from error
    low, high = (0, 2**32 - 1) if name == "seed" else (1, 2**53)
    if not low <= value <= high:
        raise JaxdtError(f"{what} must be at least {low} and at most {high}; got {text:.40}.")
    return value
