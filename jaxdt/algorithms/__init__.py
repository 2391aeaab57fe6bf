"""Ways to learn a policy from episodes, one file each. What is here loads no jax before an algorithm is made."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from jaxdt.config import AlgorithmConfig, BehaviorCloningConfig, DecisionTransformerConfig
from jaxdt.types import Algorithm, Spec


if TYPE_CHECKING:
    from jaxdt.data.episodes import EpisodeStore


@functools.lru_cache(maxsize=16)
def make_algorithm(config: AlgorithmConfig, spec: Spec) -> Algorithm:
    """The algorithm that a config describes, for data and environment of a spec.

    Kept: equal configs and specs give the same object, so that what is compiled for it is found again. Raises
    JaxdtError where they do not fit together.
    """
    match config:
        case DecisionTransformerConfig():
            from jaxdt.algorithms import decision_transformer

            return decision_transformer.make(config, spec)
        case BehaviorCloningConfig():
            from jaxdt.algorithms import behavior_cloning

            return behavior_cloning.make(config, spec)


def measure(config: AlgorithmConfig, store: "EpisodeStore") -> dict[str, np.ndarray]:
    """What an algorithm must know of all its training data: the constants of its spec."""
    from jaxdt.algorithms import normalization

    match config:
        case DecisionTransformerConfig() | BehaviorCloningConfig():
            return normalization.measure(store)
