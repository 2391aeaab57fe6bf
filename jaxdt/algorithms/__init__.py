"""Ways to learn a policy from episodes, one file each. What is here loads no jax before an algorithm is made."""

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdt.config import (
    AlgorithmConfig,
    AtariDTConfig,
    BehaviorCloningConfig,
    DecisionTransformerConfig,
    IQLConfig,
    OnlineDTConfig,
    ReinformerConfig,
    RvSConfig,
    TD3BCConfig,
    TrajectoryTransformerConfig,
)
from jaxdt.types import Algorithm, Sampler, Spec


if TYPE_CHECKING:
    from jaxdt.data.episodes import EpisodeStore


_FILES: dict[type, str] = {
    DecisionTransformerConfig: "decision_transformer",
    BehaviorCloningConfig: "behavior_cloning",
    RvSConfig: "rvs",
    IQLConfig: "iql",
    TD3BCConfig: "td3_bc",
    OnlineDTConfig: "online_dt",
    ReinformerConfig: "reinformer",
    TrajectoryTransformerConfig: "trajectory_transformer",
    AtariDTConfig: "atari_dt",
}
"""Each has `make(config, spec)` and `measure(config, store)`, as below."""


@functools.lru_cache(maxsize=16)
def make_algorithm(config: AlgorithmConfig, spec: Spec) -> Algorithm:
    """The algorithm that a config describes, for data and environment of a spec.

    Kept: equal configs and specs give the same object, so that what is compiled for it is found again. Raises
    JaxdtError where they do not fit together.
    """
    algorithm = _file_of(config).make(config, spec)
    return algorithm._replace(sampler=functools.partial(_sample_any, algorithm.sampler, spec))


def _sample_any(sampler: Callable[..., Sampler], spec: Spec, store: Any, **drawn: Any) -> Sampler:
    """The sampler of what is a store already, or of what makes one, whose actions are then still the environment's."""
    from jaxdt.data.episodes import EpisodeStore
    from jaxdt.data.loading import load_episodes

    if not isinstance(store, EpisodeStore):
        recorded = load_episodes(store).with_observations_of(spec.observation_shape)
        store = recorded.with_actions_of(spec.action)
    return sampler(store, **drawn)


def measure(config: AlgorithmConfig, store: "EpisodeStore") -> dict[str, np.ndarray]:
    """What an algorithm must know of all its training data: the constants of its spec."""
    return _file_of(config).measure(config, store)


def _file_of(config: AlgorithmConfig) -> Any:
    return importlib.import_module(f"jaxdt.algorithms.{_FILES[type(config)]}")
