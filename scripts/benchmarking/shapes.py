"""What is measured on: the sizes, and episodes of these sizes. Loads neither jax nor torch."""

import dataclasses
import functools
from typing import Literal

import numpy as np

import jaxdt


ENV_ID = "HalfCheetah-v5"
TARGET = 6000.0
RETURN_SCALE = 1000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """The paper's recipe on HalfCheetah."""

    batch_size: int = 64
    context_length: int = 20
    width: int = 128
    num_layers: int = 3
    num_heads: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    rematerialize: bool = False
    scan_layers: bool = False
    state_dim: int = 17
    action_dim: int = 6
    max_episode_length: int = 1000
    num_episodes: int = 1000
    episode_length: int = 1000

    @property
    def batch_bytes(self) -> int:
        """Of one batch of windows: float32 states, actions and returns-to-go, int32 timesteps, a byte of mask."""
        return self.batch_size * self.context_length * (4 * (self.state_dim + self.action_dim + 2) + 1)


@functools.lru_cache(maxsize=2)
def make_store(num_episodes: int, episode_length: int, state_dim: int, action_dim: int) -> jaxdt.EpisodeStore:
    """Random episodes of equal length; the same in every process."""
    rng = np.random.default_rng(0)
    steps = num_episodes * episode_length
    return jaxdt.EpisodeStore.from_arrays(
        rng.standard_normal((steps, state_dim), np.float32),
        rng.uniform(-0.99, 0.99, (steps, action_dim)).astype(np.float32),
        rng.standard_normal(steps, np.float32),
        episode_ends=np.arange(1, num_episodes + 1) * episode_length,
        env_id=ENV_ID,
    )


def store_of(shapes: Shapes) -> jaxdt.EpisodeStore:
    return make_store(shapes.num_episodes, shapes.episode_length, shapes.state_dim, shapes.action_dim)


VALUES = Shapes(batch_size=256, context_length=1, width=256, num_layers=2)
"""The networks and batches of implicit Q-learning and TD3+BC, as their authors train them."""

PLANNING = Shapes(width=128, num_layers=4, num_heads=4, context_length=10, num_episodes=20)
"""The Trajectory Transformer's network and windows, as its authors train it."""

ATARI = Shapes(batch_size=128, context_length=30, num_layers=6, num_heads=8, action_dim=6, max_episode_length=2654)
"""The Decision Transformer for Atari, as its authors train it on Breakout; `action_dim`: Pong's, which is played, for
longer than Breakout by a policy that knows nothing."""
PICTURE = (84, 84)
GAME, GAME_TARGET = "ALE/Pong-v5", 20.0

ValueMethod = Literal["iql", "td3-bc"]

LARGE = Shapes(width=1024, num_layers=12, num_heads=16, context_length=64, dtype="bfloat16")
"""The model of the preset `large`."""
