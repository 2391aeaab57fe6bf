"""Ways to learn a policy from episodes, one file each. What is here loads no jax before an algorithm is made."""

import functools
import importlib
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
from jaxdt.types import Algorithm, Spec


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
    return _file_of(config).make(config, spec)


def measure(config: AlgorithmConfig, store: "EpisodeStore") -> dict[str, np.ndarray]:
    """What an algorithm must know of all its training data: the constants of its spec."""
    return _file_of(config).measure(config, store)


def _file_of(config: AlgorithmConfig) -> Any:
    return importlib.import_module(f"jaxdt.algorithms.{_FILES[type(config)]}")
