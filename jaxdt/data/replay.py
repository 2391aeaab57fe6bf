"""The episodes that online fine-tuning trains on: a queue of whole ones, the oldest first, in memory."""

import dataclasses

import numpy as np

from jaxdt.data.episodes import FIELDS, EpisodeStore
from jaxdt.data.joining import concatenate
from jaxdt.data.storage import MEMORY


FAILED_TRIES = "failures.jsonl"
"""Beside the files of explored episodes: tries of rounds whose environment failed. It holds no episodes."""


def best_episodes(store: EpisodeStore, capacity: int) -> EpisodeStore:
    """The `capacity` episodes of highest return, or all, from the worst to the best; copies, of no environment."""
    order = np.argsort(store.returns, kind="stable")[-capacity:]
    rows = np.concatenate([np.arange(*store.offsets[e : e + 2].tolist()) for e in order])
    columns = {name: getattr(store, name)[rows] for name in FIELDS}
    offsets = np.concatenate([[0], np.cumsum(store.lengths[order])])
    return EpisodeStore(**columns, offsets=offsets, as_models_take_them=store.as_models_take_them)


def with_newer(replay: EpisodeStore, *newer: EpisodeStore, capacity: int) -> EpisodeStore:
    """The last `capacity` episodes of the replay and the newer ones behind it."""
    kept: list[EpisodeStore] = []
    for store in reversed([replay, *newer]):
        room = capacity - sum(each.num_episodes for each in kept)
        if room:
            kept.insert(0, _last(store, min(room, store.num_episodes)))
    return concatenate(kept, ["the replay"] * len(kept), MEMORY)


def _last(store: EpisodeStore, episodes: int) -> EpisodeStore:
    first = store.offsets[-1 - episodes]
    return dataclasses.replace(
        store,
        **{name: getattr(store, name)[first:] for name in FIELDS},
        offsets=store.offsets[-1 - episodes :] - first,
        env_id=None,  # the data may have been recorded in another version of the one that is explored
        statistics_before_filters=None,
    )
