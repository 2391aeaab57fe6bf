"""Dopamine's logs of DQN, the DQN-replay dataset of Atari games (Agarwal et al. 2020): `dqn:DIR`."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.dqn_checkpoint import BLANKS, Steps, kept_frames, ranges, read_steps
from jaxdt.data.formats.dqn_spec import ReplayLogs, game_of_directory
from jaxdt.data.storage import MEMORY, Storage
from jaxdt.errors import JaxdtError
from jaxdt.progress import Progress
from jaxdt.simulator import usable_cores


RECORDED_WITH = {"resize": "area", "repeat_action_probability": 0.25, "noop_max": 0}
"""How the environment was made, beside its id."""

_ORIGINAL_ROWS, _ORIGINAL_TRAJECTORIES = 100_000, 11  # of a checkpoint, of a visit to it


class _Part(NamedTuple):
    """Episodes of one checkpoint that follow one another in the store too."""

    checkpoint: int
    starts: Int[np.ndarray, " e"]
    ends: Int[np.ndarray, " e"]


def read_dqn(logs: ReplayLogs, storage: Storage = MEMORY, progress: Progress | None = None) -> EpisodeStore:
    """Whole episodes of the last `buffers` checkpoints (default: all), one picture a step.

    - Blank rows: the 3 that Dopamine writes at an episode's start (zero frame, action 0, reward 0; anything else there
      is an error) are dropped. The original trains on them.
    - A checkpoint's last row belongs to another one and is dropped; so is what comes before its first terminal (the
      rest of an episode that began in the checkpoint before) and after its last.
    - Terminals are terminations. Dopamine wrote them where it cut an episode off after 27,000 steps, too.
    - Order: as recorded, from the first of these checkpoints on, and with `steps` the first episodes that have as many
      steps together (`buffers=1` begins where DQN was best).
    - `order=original`: the episodes that the original's `create_dataset.py` draws with `seed` (default 123). A
      checkpoint is drawn at random and gives its next 11 trajectories (10 and one more), until there are `steps`
      (default 500,000); only its first 100,000 rows are used, and where 11 no longer end within them nothing is.
      What is dropped above counts, so that the draw is the original's, and a little less than `steps` remains. Where
      checkpoints are missing, it is drawn among those that are there.
    - Returns-to-go and timesteps are the store's: the original's timesteps, off by one after its first episode, are
      right here.
    - `env_id` is known of a directory `.../GAME/RUN` or `.../GAME/RUN/replay_logs`, and `env_kwargs` are then
      `RECORDED_WITH`: sticky actions, no no-ops, pictures averaged over areas. The original evaluates without sticky
      actions, after up to 30 no-ops and with another resizing.
    - Rewards are as Dopamine logged them, clipped to [-1, 1].

    Frames go blockwise, several checkpoints at once, to where they stay. Raises JaxdtError naming the file, the rule
    and the fix.
    """
    steps_of = cache(lambda index: read_steps(logs.checkpoints[index]))
    parts = _as_recorded(logs, steps_of) if logs.seed is None else _as_the_original(logs, steps_of)
    lengths = np.concatenate([part.ends - part.starts for part in parts])
    ends = np.cumsum(lengths)
    terminations = np.zeros(ends[-1], bool)
    terminations[ends - 1] = True
    rows = [(steps_of(part.checkpoint), ranges(part.starts, part.ends)) for part in parts]
    game = game_of_directory(logs.directory)
    return EpisodeStore.from_arrays(
        _read_frames(logs, parts, ends - lengths, steps_of, storage, progress or Progress()),
        np.concatenate([steps.actions[kept] for steps, kept in rows]),
        np.concatenate([steps.rewards[kept] for steps, kept in rows]),
        terminations,
        episode_ends=ends,
        env_id=game and f"{game}NoFrameskip-v4",
        env_kwargs=RECORDED_WITH if game else None,
        source=logs.source,
    )


def _as_recorded(logs: ReplayLogs, steps_of: Callable[[int], Steps]) -> list[_Part]:
    parts, total = [], 0
    for index in range(len(logs.checkpoints)):
        starts, ends = steps_of(index).starts, steps_of(index).ends
        if logs.steps is not None:
            before = total + np.cumsum(ends - starts) - (ends - starts)
            count = int(np.searchsorted(before, logs.steps))
            starts, ends = starts[:count], ends[:count]
        if len(starts):
            parts.append(_Part(index, starts, ends))
            total += int((ends - starts).sum())
        if logs.steps is not None and total >= logs.steps:
            break
    if not parts or total < (logs.steps or 0):
        raise JaxdtError(
            f"{logs.source}: {len(logs.checkpoints)} checkpoints hold {total} steps of whole episodes; "
            + ("leave steps out or ask for fewer." if parts else "give more checkpoints.")
        )
    return parts


def _as_the_original(logs: ReplayLogs, steps_of: Callable[[int], Steps]) -> list[_Part]:
    """The draws of `create_dataset.py` at its commit f04280e, lines 36 to 76; its rows are counted, ours are kept."""
    assert logs.steps is not None
    generator = np.random.RandomState(logs.seed)  # the original's; NumPy keeps its numbers for ever
    cursors, spent = np.zeros(len(logs.checkpoints), int), set()
    parts, total = [], 0
    while total < logs.steps:
        if len(spent) == len(cursors):
            raise JaxdtError(
                f"{logs.source}: the original's way of drawing finds {total} rows in {len(cursors)} checkpoints; ask "
                "for fewer steps or give more checkpoints."
            )
        index = int(generator.choice(len(cursors)))
        starts, ends = steps_of(index).starts, steps_of(index).ends
        first_end = starts[:1] - BLANKS  # of the rest of an episode, a trajectory to the original
        terminals = np.concatenate([first_end, ends])
        passed = int(np.searchsorted(terminals, cursors[index], side="right"))
        last = passed + _ORIGINAL_TRAJECTORIES - 1
        if last >= len(terminals) or terminals[last] >= _ORIGINAL_ROWS:
            spent.add(index)
            continue
        kept = slice(max(passed - 1, 0), last)
        parts.append(_Part(index, starts[kept], ends[kept]))
        total += int(terminals[last] - cursors[index])
        cursors[index] = terminals[last]
    return parts


def _read_frames(
    logs: ReplayLogs,
    parts: list[_Part],
    places: Int[np.ndarray, " e"],
    steps_of: Callable[[int], Steps],
    storage: Storage,
    progress: Progress,
) -> UInt8[np.ndarray, "n h w"]:
    """`places`: the row of the store at which each episode begins."""
    starts, ends = (np.concatenate([getattr(part, name) for part in parts]) for name in ("starts", "ends"))
    origin = np.concatenate([np.full(len(part.starts), part.checkpoint) for part in parts])
    writer = storage.array_writer("observations", (int((ends - starts).sum()), *logs.checkpoints[0].frame), np.uint8)
    failures: list[BaseException] = []
    reports = _Reports(progress, 0 if storage.on_disk else math.prod(writer.shape), f"read {logs.source}")

    def read(index: int) -> None:
        mine = origin == index
        to_end = bool(ends[mine][-1] == steps_of(index).ends[-1])  # at most the rest of an episode more
        try:
            checkpoint = logs.checkpoints[index]
            for place, block in kept_frames(checkpoint, starts[mine], ends[mine], places[mine], to_end=to_end):
                if failures:
                    return
                writer.put(place, block)
                reports.add(block.nbytes)
        except BaseException as error:
            failures.append(error)

    with reports, ThreadPoolExecutor(min(usable_cores(), len(parts))) as pool:
        try:
            list(pool.map(read, map(int, np.unique(origin))))
        except BaseException as error:  # Ctrl-C, which the threads hear of so
            failures.append(error)
    if failures:
        raise failures[0]
    return writer.done()


class _Reports:
    """What several threads have done of `size` bytes, shown as MiB; nothing where that is 0."""

    def __init__(self, progress: Progress, size: int, task: str):
        self._progress, self._size, self._task = progress, size, task
        self._lock, self._done = threading.Lock(), 0

    def add(self, count: int) -> None:
        if self._size:
            with self._lock:
                self._done += count
                self._progress.advance(self._done // 2**20)

    def __enter__(self) -> None:
        if self._size:
            self._progress.start(self._task, self._size // 2**20, "MiB")

    def __exit__(self, *_: object) -> None:
        if self._size:
            self._progress.stop()
