"""What data and environment fix, and what a method measured. Loads no jax."""

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

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
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What an algorithm measured on its training data: float32 arrays by name, such as `state_mean`."""
    delayed_reward: bool = False
    """Trained on rewards moved to the episode's end: acting does not lower the return-to-go."""

    def __post_init__(self):
        """Brings what a user gives to the types above; raises JaxdtError for what cannot be."""
        shape = tuple(int(size) for size in self.observation_shape)
        if not shape or not all(0 < size < 2**24 for size in shape):
            raise JaxdtError(f"observation_shape must be one or more sizes above 0; got {list(shape)!r:.80}.")
        try:
            dtype = np.dtype(self.observation_dtype)
        except TypeError as error:
            raise JaxdtError(f"observation_dtype must be NumPy's name; got {self.observation_dtype!r:.40}.") from error
        if dtype.kind not in "biuf":
            raise JaxdtError(f"observation_dtype must be of numbers; got {dtype.name}.")
        constants = {name: numbers_from_json(value, f"the constant {name}") for name, value in self.constants.items()}
        canonical = {"observation_shape": shape, "observation_dtype": dtype.name, "constants": constants}
        for name, value in {**canonical, "action": _checked_action(self.action)}.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shown = f"observations {self.observation_shape} {self.observation_dtype}"
        if isinstance(self.action, Box):
            low, high = float(self.action.low.min()), float(self.action.high.max())
            shown += f", actions {self.action_shape} in [{low:g}, {high:g}]"
        else:
            shown += f", {self.action.n} discrete actions from {self.action.start}"
        shown += "".join(f", {name} {values.shape}" for name, values in self.constants.items())
        return f"Spec({shown}{', delayed reward' if self.delayed_reward else ''})"

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


def _checked_action(action: Box | Discrete) -> Box | Discrete:
    if isinstance(action, Discrete):
        n, start = int(action.n), int(action.start)
        if not 0 < n < 2**24 or abs(start) >= 2**30:
            raise JaxdtError(f"discrete actions must be at least one and below 2**24, from a start; got {n}, {start}.")
        return Discrete(n, start)
    low, high = (numbers_from_json(bound, f"the actions' {name}") for name, bound in action._asdict().items())
    if low.ndim != 1 or low.shape != high.shape:
        raise JaxdtError(f"the actions' low and high must be two lists as long; got {low.shape} and {high.shape}.")
    if (high < low).any():
        raise JaxdtError(f"the actions' high must not be below low; got {high.tolist()!r:.80}.")
    return Box(low, high)


def spec_from_json(values: Any) -> Spec:
    """The Spec that `Spec.to_json` wrote, in a file of anybody's; raises JaxdtError naming the wrong field."""
    if not isinstance(values, dict):
        raise JaxdtError(f"spec must be a JSON object; got {type(values).__name__}.")
    shape, dtype, delayed = (values.get(n) for n in ("observation_shape", "observation_dtype", "delayed_reward"))
    if not (isinstance(shape, list) and all(type(size) is int for size in shape)):
        raise JaxdtError(f"spec.observation_shape must be a list of whole numbers; got {shape!r:.80}.")
    if not isinstance(dtype, str):
        raise JaxdtError(f"spec.observation_dtype must be NumPy's name; got {dtype!r:.40}.")
    if not isinstance(delayed, bool):
        raise JaxdtError(f"spec.delayed_reward must be true or false; got {delayed!r:.40}.")
    constants = values.get("constants")
    if not isinstance(constants, dict):
        raise JaxdtError(f"spec.constants must be a JSON object; got {type(constants).__name__}.")
    return Spec(
        observation_shape=tuple(shape),
        observation_dtype=dtype,
        action=_action_from_json(values.get("action")),
        constants=constants,
        delayed_reward=delayed,
    )


def _action_from_json(values: Any) -> Box | Discrete:
    if isinstance(values, dict) and set(values) == {"low", "high"}:
        return Box(values["low"], values["high"])
    if isinstance(values, dict) and set(values) == {"n", "start"} and all(type(v) is int for v in values.values()):
        return Discrete(values["n"], values["start"])
    raise JaxdtError(f"spec.action must have low and high, or n and start; got {values!r:.80}.")


def numbers_from_json(values: Any, where: str, dtype: Any = np.float32) -> Float[np.ndarray, "..."]:
    """Nested lists of finite numbers as an array; raises JaxdtError, which begins with `where`, for anything else."""
    try:
        numbers = np.asarray(values, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise JaxdtError(f"{where} must be numbers; got {values!r:.80}.") from error
    if not numbers.size or not np.isfinite(numbers).all():
        raise JaxdtError(f"{where} must be one or more finite numbers; got {values!r:.80}.")
    return numbers
