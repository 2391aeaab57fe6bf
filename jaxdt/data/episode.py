"""One episode of a store: a dict of its arrays that also knows which environment they are of."""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any


_NAMES = ("env_id", "env_kwargs")


def episode_of(arrays: Mapping[str, Any], env_id: str | None, env_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """An OrderedDict, since jax maps over the arrays of one, which may have attributes beside; over a subclass not."""
    episode = OrderedDict(arrays)
    vars(episode).update(env_id=env_id, env_kwargs=env_kwargs)
    return episode


def shared_environment(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`env_id` and `env_kwargs`, of `episode_of` or under these names in a dict, if all agree; else None."""
    known = [_environment(episode) for episode in episodes]
    agreed = {json.dumps(each, sort_keys=True, default=str) for each in known}
    return known[0] if len(agreed) == 1 else dict.fromkeys(_NAMES)


def _environment(episode: Mapping[str, Any]) -> dict[str, Any]:
    beside = vars(episode) if isinstance(episode, OrderedDict) else {}
    found = {name: episode.get(name, beside.get(name)) for name in _NAMES}
    return {**found, "env_id": None if found["env_id"] is None else str(found["env_id"])}
