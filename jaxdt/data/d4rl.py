"""What D4RL's dataset names say of the environment."""

import re


_ENVIRONMENTS = {
    "halfcheetah": ("HalfCheetah-v4", 17),
    "hopper": ("Hopper-v4", 11),
    "walker2d": ("Walker2d-v4", 17),
    "ant": ("Ant-v4", 27),
}
"""Gymnasium id and size of its observation. Version 4 keeps the model of D4RL's version 2; 5 does not."""

_KINDS = "random|medium|expert|medium-replay|medium-expert|full-replay"


def d4rl_env_id(name: str | None, state_dim: int) -> str | None:
    """The Gymnasium id for a name such as `halfcheetah-expert-v2`; None where it has another observation size."""
    match = re.fullmatch(rf"(\w+?)-(?:{_KINDS})-v2", name or "")
    env_id, size = _ENVIRONMENTS.get(match[1] if match else "", (None, None))
    return env_id if size == state_dim else None
