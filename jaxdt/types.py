"""The types that pass between rooms. Loads no jax: arrays are NumPy's or JAX's."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxdt.errors import JaxdtError


class Box(NamedTuple):
    """Continuous actions: vectors between two bounds."""

    low: Float[np.ndarray, " a"]
    high: Float[np.ndarray, " a"]


class Discrete(NamedTuple):
    """Discrete actions: one of the `n` whole numbers from `start` on."""

    n: int
    start: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """What data and environment fix, and what the algorithm measured on the data; stored with the weights.

    Equal and hashed by content, so that it can key what is compiled for it.
    """

    observation_shape: tuple[int, ...]
    observation_dtype: str = "float32"
    """As NumPy names it: float32, uint8, ..."""
    action: Box | Discrete
    constants: dict[str, Shaped[np.ndarray, "..."]] = dataclasses.field(default_factory=dict)
    """What an algorithm measured on its training data, by name, such as `state_mean` and `state_std`."""
    delayed_reward: bool = False
    """Trained on rewards moved to the episode's end: acting does not lower the return-to-go."""

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of one action: (a,), or () where actions are discrete."""
        return self.action.low.shape if isinstance(self.action, Box) else ()

    @property
    def action_dtype(self) -> str:
        return "float32" if isinstance(self.action, Box) else "int32"

    @cached_property
    def _content(self) -> tuple:
        def frozen(value: Any) -> Any:
            return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

        action = (type(self.action).__name__, *map(frozen, self.action))
        constants = tuple((name, frozen(value)) for name, value in sorted(self.constants.items()))
        return (self.observation_shape, self.observation_dtype, action, constants, self.delayed_reward)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    def to_json(self) -> dict[str, Any]:
        """What `spec_from_json` reads."""
        action = self.action._asdict()
        if isinstance(self.action, Box):
            action = {name: bound.tolist() for name, bound in action.items()}
        return {
            "observation_shape": list(self.observation_shape),
            "observation_dtype": self.observation_dtype,
            "action": action,
            "constants": {name: values.tolist() for name, values in self.constants.items()},
            "delayed_reward": self.delayed_reward,
        }


def spec_from_json(values: Any) -> Spec:
    """The Spec that `Spec.to_json` wrote, in a file of anybody's; raises JaxdtError naming the wrong field."""
    if not isinstance(values, dict):
        raise JaxdtError(f"spec must be a JSON object; got {type(values).__name__}.")
    shape, dtype, delayed = (values.get(n) for n in ("observation_shape", "observation_dtype", "delayed_reward"))
    if not (isinstance(shape, list) and shape and all(type(size) is int and 0 < size < 2**24 for size in shape)):
        raise JaxdtError(f"spec.observation_shape must be a list of whole numbers above 0; got {shape!r:.80}.")
    if dtype not in _OBSERVATION_DTYPES:
        raise JaxdtError(f"spec.observation_dtype must be one of {', '.join(_OBSERVATION_DTYPES)}; got {dtype!r:.40}.")
    if not isinstance(delayed, bool):
        raise JaxdtError(f"spec.delayed_reward must be true or false; got {delayed!r:.40}.")
    constants = values.get("constants")
    if not isinstance(constants, dict):
        raise JaxdtError(f"spec.constants must be a JSON object; got {type(constants).__name__}.")
    return Spec(
        observation_shape=tuple(shape),
        observation_dtype=dtype,
        action=_action_from_json(values.get("action")),
        constants={name: _numbers_from_json(value, f"spec.constants.{name}") for name, value in constants.items()},
        delayed_reward=delayed,
    )


_OBSERVATION_DTYPES = ("float32", "bool", *(f"{sign}int{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)))


def _action_from_json(values: Any) -> Box | Discrete:
    if isinstance(values, dict) and set(values) == {"low", "high"}:
        low, high = (_numbers_from_json(values[name], f"spec.action.{name}") for name in ("low", "high"))
        if low.ndim != 1 or low.shape != high.shape:
            raise JaxdtError(f"spec.action: low and high must be two lists as long; got {low.shape} and {high.shape}.")
        if (high < low).any():
            raise JaxdtError(f"spec.action.high must not be below low; got {values['high']!r:.80}.")
        return Box(low, high)
    if isinstance(values, dict) and set(values) == {"n", "start"}:
        n, start = values["n"], values["start"]
        if type(n) is int and type(start) is int and 0 < n < 2**16 and abs(start) < 2**30:
            return Discrete(n, start)
    raise JaxdtError(f"spec.action must have low and high, or n and start; got {values!r:.80}.")


def _numbers_from_json(values: Any, where: str) -> Float[np.ndarray, "..."]:
    try:
        numbers = np.asarray(values, np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise JaxdtError(f"{where} must be numbers; got {values!r:.80}.") from error
    if not numbers.size or not np.isfinite(numbers).all():
        raise JaxdtError(f"{where} must be one or more finite numbers; got {values!r:.80}.")
    return numbers


class Window(NamedTuple):
    """The last `t` environment steps of `b` episodes, real steps at the right (left padding).

    Paper section 3: a step is the triple return-to-go, state, action, in this order.
    """

    states: Float[Any, "b t *s"]
    """Normalised observations; 0 where padded."""
    actions: Float[Any, "b t a"] | Int[Any, "b t"]
    """In [-1, 1], or of discrete actions their numbers; 0 where padded."""
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
