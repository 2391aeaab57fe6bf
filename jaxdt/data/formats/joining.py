"""Episodes read one by one, joined into a store."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError


def join_episodes(
    episodes: Sequence[Mapping[str, np.ndarray]], *, env_id: str | None = None, source: str
) -> EpisodeStore:
    """Each episode has the same arrays of `EpisodeStore.from_arrays`, by name, as long as its observations.

    Raises JaxdtError naming the source, the array and the episode where one does not fit the others.
    """
    for number, episode in enumerate(episodes):
        steps = len(episode["observations"])
        for name, values in episode.items():
            if len(values) != steps:
                raise JaxdtError(
                    f"{source}: {name} of episode {number} has {len(values)} steps but observations has {steps}; "
                    "they must agree."
                )
            if values.shape[1:] != episodes[0][name].shape[1:]:
                raise JaxdtError(
                    f"{source}: {name} of episode {number} has steps of shape {values.shape[1:]} but episode 0 of "
                    f"{episodes[0][name].shape[1:]}; they must agree."
                )
    joined = {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}
    ends = np.cumsum([len(episode["observations"]) for episode in episodes])
    return EpisodeStore.from_arrays(**joined, episode_ends=ends, env_id=env_id, source=source)
