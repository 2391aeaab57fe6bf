"""The types that pass between rooms. Loads no jax: arrays are NumPy's or JAX's."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Window(NamedTuple):
    """The last `t` environment steps of `b` episodes, real steps at the right (left padding).

    Paper section 3: a step is the triple return-to-go, state, action, in this order.
    """

    states: Float[Any, "b t *s"]
    """Normalised observations; 0 where padded."""
    actions: Float[Any, "b t a"]
    """In [-1, 1]; 0 where padded."""
    returns_to_go: Float[Any, "b t"]
    """Undiscounted sum of rewards from this step to the episode's end, divided by the return scale."""
    timesteps: Int[Any, "b t"]
    """Steps since the episode began, int32, below the model's `max_episode_length`."""
    mask: Bool[Any, "b t"]
    """True at real steps, False at padding."""


class Turn(NamedTuple):
    """What a policy is shown at one step of `b` episodes that run side by side."""

    states: Float[Any, "b *s"]
    """Normalised observations."""
    returns_to_go: Float[Any, " b"]
    """What is still to be reached, divided by the return scale."""
    timestep: Int[Any, ""]
    """Steps since the episodes began, below the model's `max_episode_length`."""


class Policy(NamedTuple):
    """Acts in `b` episodes side by side; both functions are pure."""

    start: Callable[[int], Any]
    """`start(b) -> memory` before the first step."""
    act: Callable[[Any, Any, Turn], tuple[Any, Any]]
    """`act(params, memory, turn) -> (memory, actions (b, a) in [-1, 1])`."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Interface:
    """What stands between a policy and its environment; without it weights are useless."""

    state_mean: Float[np.ndarray, "*s"]
    state_std: Float[np.ndarray, "*s"]
    """Standard deviation + 1e-6 of the training observations."""
    action_low: Float[np.ndarray, " a"]
    action_high: Float[np.ndarray, " a"]
    """The action space that [-1, 1] is mapped onto."""
    return_scale: float = 1000.0
    delayed_reward: bool = False
    """Trained on rewards moved to the episode's end: acting does not lower the return-to-go."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Episodes played at one target return."""

    target: float
    """Return asked for, in the environment's own reward units."""
    returns: Float[np.ndarray, " e"]
    """Return achieved by each episode (undiscounted, unscaled)."""
    lengths: Int[np.ndarray, " e"]
    """Environment steps of each episode."""
    normalized: Float[np.ndarray, " e"] | None = None
    """D4RL-normalised scores (0 random, 100 expert), None where D4RL has no reference."""
    reference: str | None = None
    """Which D4RL reference the scores use, e.g. `halfcheetah`."""

    @property
    def return_mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def return_std(self) -> float:
        """Population standard deviation over episodes, as the original reports."""
        return float(np.std(self.returns))

    @property
    def length_mean(self) -> float:
        return float(np.mean(self.lengths))

    @property
    def normalized_mean(self) -> float | None:
        return None if self.normalized is None else float(np.mean(self.normalized))

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "returns": [float(value) for value in self.returns],
            "lengths": [int(value) for value in self.lengths],
            "return_mean": self.return_mean,
            "return_std": self.return_std,
            "normalized_mean": self.normalized_mean,
            "reference": self.reference,
        }
