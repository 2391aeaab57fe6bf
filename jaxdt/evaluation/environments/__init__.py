"""Environments as the rollout sees them: pure functions over a batch of episodes."""

from jaxdt.evaluation.environments.gymnasium import GymnasiumEnvironment as GymnasiumEnvironment
from jaxdt.evaluation.environments.mjx import CPU_BLOCK, MjxEnvironment
from jaxdt.evaluation.environments.mujoco_pool import make_pool
from jaxdt.evaluation.environments.pure_jax import (
    JaxEnvironment as JaxEnvironment,
    VectorizedEnvironment as VectorizedEnvironment,
)
from jaxdt.simulator import MJX, gymnasium_id
from jaxdt.types import Environment


def make_environment(environment: str | JaxEnvironment) -> Environment:
    """Of a Gymnasium id, `mjx:` and one, or one of a user's own; raises JaxdtError for an id that cannot be made."""
    if not isinstance(environment, str):
        return VectorizedEnvironment(environment)
    if environment.startswith(MJX):
        task = MjxEnvironment(gymnasium_id(environment))
        return VectorizedEnvironment(task, name=environment, env_id=gymnasium_id(environment), cpu_block=CPU_BLOCK)
    return GymnasiumEnvironment(environment, make_pool)
