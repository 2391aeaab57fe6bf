"""What several processes that train one run must have in common."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from jaxdt import hosts
from jaxdt.config import TrainConfig, flatten
from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError


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


def check_shared(directory: Path, patience: float = 40.0) -> None:
    """Raises JaxdtError in a process that does not see within `patience` seconds what the first one has written.

    Network file systems may show it to others half a minute later.
    """
    token = directory / ".holder"
    written = hosts.told(token.read_text(encoding="utf-8") if hosts.is_first() else None)
    until = time.monotonic() + patience
    while True:
        try:
            if token.read_text(encoding="utf-8") == written:
                return
        except OSError:
            pass
        if time.monotonic() > until:
            raise JaxdtError(
                f"the run directory must be on a disk that all processes share; got {os.fspath(directory)}, which "
                "holds nothing of the first one's here; choose another out= (--out)."
            )
        time.sleep(0.2)
