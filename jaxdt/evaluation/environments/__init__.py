"""Environments as the rollout sees them: pure functions over a batch of episodes."""

from typing import Any

from jaxdt.choice import JaxEnvironment as JaxEnvironment, as_choice, is_jax_environment as is_jax_environment
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.environments.gymnasium import GymnasiumEnvironment as GymnasiumEnvironment
from jaxdt.evaluation.environments.mjx import CPU_BLOCK, MjxEnvironment
from jaxdt.evaluation.environments.pure_jax import VectorizedEnvironment as VectorizedEnvironment
from jaxdt.pools import make_pool
from jaxdt.simulator import MJX, gymnasium_id
from jaxdt.types import Environment


def make_environment(environment: Any) -> Environment:
    """Of an EnvironmentChoice, or its `env`; raises JaxdtError for what cannot be made or played."""
    choice = as_choice(environment)
    on_device = isinstance(choice.env, str) and choice.env.startswith(MJX)
    if not on_device and not is_jax_environment(choice.env):
        return GymnasiumEnvironment(choice, make_pool)
    if choice.kwargs:
        raise JaxdtError(f"{choice.name} takes no keyword arguments; leave them out (got {dict(choice.kwargs)}).")
    if on_device:
        env_id = gymnasium_id(choice.env)
        made = VectorizedEnvironment(MjxEnvironment(env_id), name=choice.env, env_id=env_id, cpu_block=CPU_BLOCK)
    else:
        user: Any = choice.env
        made = VectorizedEnvironment(user)
        made.check()
    made.max_episode_steps = choice.max_episode_steps or made.max_episode_steps
    return made
