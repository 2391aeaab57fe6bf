"""Ways to learn a policy from episodes, one file each. What is here loads no jax before an algorithm is made."""

import functools
import importlib
import warnings
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
    TrainConfig,
    TrajectoryTransformerConfig,
)
from jaxdt.errors import JaxdtError
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


def make_algorithm(config: AlgorithmConfig, spec: Spec) -> Algorithm:
    """The algorithm that a config describes, for data and environment of a spec.

    What the config leaves to the data set's name is as for any other (`config.for_data(NAME)` looks it up). Kept: equal
    configs and specs give the same object, so that what is compiled for it is found again. Raises JaxdtError where they
    do not fit together.
    """
    check_method(config)
    if not isinstance(spec, Spec):
        raise JaxdtError(f"spec must be a Spec; got {_shown(spec)} (make one with jaxdt.make_spec(config, episodes)).")
    return _made(config.for_data(None), spec)


@functools.lru_cache(maxsize=16)
def _made(config: AlgorithmConfig, spec: Spec) -> Algorithm:
    algorithm = _file_of(config).make(config, spec)
    return algorithm._replace(sampler=functools.partial(_sample_any, algorithm.sampler, spec))


def _sample_any(sampler: Callable[..., Sampler], spec: Spec, store: Any, **drawn: Any) -> Sampler:
    """The sampler of episodes as models take them, whatever they are given as."""
    from jaxdt.data.actions import seem_mapped
    from jaxdt.data.loading import load_episodes

    recorded = load_episodes(store).with_observations_of(spec.observation_shape)
    if not recorded.as_models_take_them and (seem := seem_mapped(recorded.actions, spec.action)) is not None:
        warnings.warn(
            f"{seem}, by which they are mapped now; where they were before, as those of a store that was saved after "
            "with_actions_of, give dataclasses.replace(store, as_models_take_them=True).",
            stacklevel=2,
        )
    return sampler(recorded.with_actions_of(spec.action), **drawn)


def measure(config: AlgorithmConfig, store: "EpisodeStore") -> dict[str, np.ndarray]:
    """What an algorithm must know of all its training data: the constants of its spec."""
    check_method(config)
    return _file_of(config).measure(config.for_data(None), store)


def check_method(config: Any) -> None:
    """Raises JaxdtError for what is no config of a method here, such as that of a whole run."""
    if type(config) in _FILES:
        return
    if isinstance(config, TrainConfig):
        fix = "take config.algorithm, or config.algorithm.for_steps(config.steps) to train by it"
    elif isinstance(config, type) and config in _FILES:
        fix = f"write {config.__name__}()"
    else:
        known = ", ".join(kind.__name__ for kind in _FILES)
        fix = f"give one of {known}; a network of your own is network= of a DecisionTransformerConfig"
    raise JaxdtError(f"config must be that of a method; got {_shown(config)} ({fix}).")


def _shown(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"


def _file_of(config: AlgorithmConfig) -> Any:
    return importlib.import_module(f"jaxdt.algorithms.{_FILES[type(config)]}")
