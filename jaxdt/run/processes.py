"""What several processes that train one run must have in common."""

import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

from jaxdt import hosts
from jaxdt.config import TrainConfig, flatten
from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError


Seen = TypeVar("Seen")


def check_processes(config: TrainConfig, seeds: Sequence[int]) -> None:
    """Raises JaxdtError for what several processes cannot do together."""
    if hosts.count() > 1 and seeds:
        raise JaxdtError(
            f"seeds cannot be divided among processes; got {len(seeds)} seeds and {hosts.count()} processes; leave "
            "seeds= (--seeds) out, and give each seed= (--seed) a run of its own."
        )
    if hosts.count() > 1 and config.video:
        raise JaxdtError(
            f"video must be left out where several processes train; got {hosts.count()} processes; leave video= "
            "(--video) out, and film afterwards with jaxdt evaluate RUN --video."
        )


def check_agreement(config: TrainConfig, episodes: EpisodeStore) -> None:
    """Raises JaxdtError in all processes where one trains something else than the first."""
    if hosts.count() == 1:
        return
    mine = {name: repr(value) for name, value in flatten(config).items() if not callable(value) and name != "dataset"}
    first, *others = hosts.exchange(mine | {"the episodes' fingerprint": episodes.fingerprint})
    for process, other in enumerate(others, start=1):
        for name in first:
            if first[name] != other.get(name):
                raise JaxdtError(
                    f"all processes must train the same; {name} is {first[name]:.60} in the first and "
                    f"{other.get(name, 'absent'):.60} in process {process}; start all with the same command and data."
                )


def check_same_weights(params: PyTree, run: str) -> None:
    """Raises JaxdtError in all processes where one has loaded other weights of a run to start from than the first."""
    if hosts.count() == 1:
        return
    mine = [zlib.crc32(np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(params)]
    if any(other != mine for other in hosts.exchange(mine)):
        raise JaxdtError(
            f"all processes must start from the same weights, and those of {run} are not the same for all (another job "
            "may be training it); start them again once it is finished."
        )


def check_shared(directory: Path) -> None:
    """Raises JaxdtError in a process that does not see what the first one has written there."""
    as_the_first_sees(lambda: (directory / ".holder").read_text(encoding="utf-8"), directory)


def _shows(look: Callable[[], Seen], wanted: Seen) -> bool:
    try:
        return look() == wanted
    except (JaxdtError, OSError):  # a file of which a part is there
        return False


def as_the_first_sees(look: Callable[[], Seen], directory: str | os.PathLike[str], patience: float = 40.0) -> Seen:
    """What `look()` tells of a run directory in the first process, as JSON, once it tells the same here.

    Network file systems may show to others half a minute later what one has written. What a process does with others
    must not follow from what it alone does not see yet. Raises JaxdtError after `patience` seconds.
    """
    wanted = hosts.told(look() if hosts.is_first() else None)
    until = time.monotonic() + patience
    while not hosts.is_first() and not _shows(look, wanted):
        if time.monotonic() > until:
            raise JaxdtError(
                f"the run directory must be on a disk that all processes share; got {os.fspath(directory)}, which "
                "does not hold here what it holds for the first one; choose another out= (--out)."
            )
        time.sleep(0.2)
    return wanted
