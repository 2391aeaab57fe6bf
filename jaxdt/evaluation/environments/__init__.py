"""Environments as the rollout sees them: pure functions over a batch of episodes."""

from jaxdt.evaluation.environments.gymnasium import GymnasiumEnvironment as GymnasiumEnvironment
from jaxdt.evaluation.environments.mujoco_pool import make_pool
from jaxdt.evaluation.environments.pure_jax import (
    JaxEnvironment as JaxEnvironment,
    VectorizedEnvironment as VectorizedEnvironment,
)
from jaxdt.types import Environment


def make_environment(environment: str | JaxEnvironment) -> Environment:
    """The environment of a Gymnasium id, or one of a user's own; raises JaxdtError for an id that cannot be made."""
    if isinstance(environment, str):
        return GymnasiumEnvironment(environment, make_pool)
    return VectorizedEnvironment(environment)
