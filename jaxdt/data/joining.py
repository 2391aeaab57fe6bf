"""Episodes read one by one, and stores, joined into one store."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdt.data.episodes import FIELDS, EpisodeStore
from jaxdt.data.shards import Environment
from jaxdt.data.storage import Storage, chunks
from jaxdt.errors import JaxdtError


def join_episodes(
    episodes: Sequence[Mapping[str, np.ndarray]],
    *,
    env_id: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    source: str,
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
    return EpisodeStore.from_arrays(**joined, episode_ends=ends, env_id=env_id, env_kwargs=env_kwargs, source=source)


def concatenate(stores: Sequence[EpisodeStore], names: Sequence[str], storage: Storage) -> EpisodeStore:
    """Several stores as one; `names` are for the error when they do not belong together."""
    first = stores[0]
    if len(stores) == 1:
        return first
    for store, name in zip(stores[1:], names[1:], strict=True):
        if store.is_discrete != first.is_discrete:
            kinds = ["discrete" if one.is_discrete else "continuous" for one in (first, store)]
            raise JaxdtError(
                f"datasets joined by + must agree on the kind of actions; those of {names[0]} are {kinds[0]}, those of "
                f"{name} {kinds[1]} (load them apart)."
            )
        for field in ("observations", "actions"):
            ours, theirs = getattr(first, field).shape[1:], getattr(store, field).shape[1:]
            if ours != theirs:
                raise JaxdtError(
                    f"datasets joined by + must agree on the size of {field}; "
                    f"{names[0]} has {ours}, {name} has {theirs}."
                )
    mapped = {store.as_models_take_them for store in stores}
    if len(mapped) > 1:
        raise JaxdtError("datasets joined by + must all have the environment's actions, or all with_actions_of's.")
    starts = np.cumsum([0] + [store.num_steps for store in stores[:-1]])
    ends = [store.offsets[1:] + start for store, start in zip(stores, starts, strict=True)]
    env_id, env_kwargs = shared_environment([(store.env_id, store.env_kwargs) for store in stores], names)
    return EpisodeStore(
        offsets=np.concatenate([[0], *ends]),
        env_id=env_id,
        env_kwargs=env_kwargs,
        as_models_take_them=mapped.pop(),
        **{field: _joined(field, [getattr(store, field) for store in stores], storage) for field in FIELDS},  # type: ignore[arg-type]
    )


def shared_environment(found: Sequence[Environment], names: Sequence[str]) -> Environment:
    """That of several datasets, by those that say any; of time limits the longest."""
    env_ids = {env_id for env_id, _ in found if env_id is not None}
    if len(env_ids) > 1:
        raise JaxdtError(
            f"datasets joined by + must be of one environment; got {', '.join(sorted(env_ids))} "
            f"from {', '.join(names)}."
        )
    known = [kwargs for _, kwargs in found if kwargs is not None]
    limits = [kwargs["max_episode_steps"] for kwargs in known if "max_episode_steps" in kwargs]
    others = [{name: value for name, value in kwargs.items() if name != "max_episode_steps"} for kwargs in known]
    if any(each != others[0] for each in others):
        raise JaxdtError(
            f"datasets joined by + must be of one environment; got the env_kwargs {', '.join(map(str, others))} from "
            f"{', '.join(names)} (load them apart and give from_arrays what they have in common)."
        )
    shared = dict(others[0]) if others else {}
    if limits:
        shared["max_episode_steps"] = -1 if -1 in limits else max(limits)
    return next(iter(env_ids), None), shared or None


def _joined(field: str, arrays: Sequence[np.ndarray], storage: Storage) -> np.ndarray:
    shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
    writer = storage.array_writer(field, shape, np.result_type(*arrays))
    for array in arrays:
        for chunk in chunks(array):
            writer.append(chunk)
    return writer.done()
