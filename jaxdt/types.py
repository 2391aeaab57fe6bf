"""The types that pass between rooms. Loads no jax: arrays are NumPy's or JAX's."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Num

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


class Window(NamedTuple):
    """The last `t` environment steps of `b` episodes, real steps at the right (left padding).

    Paper section 3: a step is the triple return-to-go, state, action, in this order.
    """

    states: Float[Any, "b t *s"]
    """Normalised observations; 0 where padded."""
    actions: Float[Any, "b t a"] | Int[Any, "b t"]
    """In [-1, 1], or the numbers of discrete ones; 0 where padded."""
    returns_to_go: Float[Any, "b t"]
    """Undiscounted sum of rewards from this step to the episode's end, divided by the return scale."""
    timesteps: Int[Any, "b t"]
    """Steps since the episode began, int32, below the model's `max_episode_length`."""
    mask: Bool[Any, "b t"]
    """True at real steps, False at padding."""


class Transitions(NamedTuple):
    """Single steps, for methods that learn values: `b` of them."""

    observations: Num[Any, "b *s"]
    """As recorded."""
    actions: Float[Any, "b a"] | Int[Any, " b"]
    """In [-1, 1], or 0 ... n-1."""
    rewards: Float[Any, " b"]
    next_observations: Num[Any, "b *s"]
    """Where terminated: the observation itself, which nothing may look at."""
    terminations: Bool[Any, " b"]
    """True where the environment ended the episode, so that nothing follows."""
    next_actions: Float[Any, "b a"] | Int[Any, " b"] | None = None
    """That the data's next step took, for methods that ask for it. Where terminated: of no meaning, as above."""


class Policy(NamedTuple):
    """Acts in `b` episodes side by side, in the environment's own units; its functions are pure."""

    start: Callable[[Any], Any]
    """`start(targets (b,)) -> memory` before the first step; targets in reward units, ignored by some policies."""
    act: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]]
    """`act(params, memory, observation (b, *s), reward (b,), keys (b,)) -> (memory, action (b, *a))`.

    `reward` is what the last action earned, 0 at the first step. Each episode draws from its own key; without keys
    (None) nothing is drawn at random.
    """
    expect: Callable[[Any], Any] | None = None
    """`expect(memory) -> (b, h, n)`, of a policy that plans, after acting: the flat observations that the plan made in
    this step expects in this and the next `h` - 1 ones; NaN where none was made."""


@runtime_checkable
class Sampler(Protocol):
    """Endless batches; batch `i` depends on the seed and `i` alone, so `position` is the stream's whole state.

    The first axis of every array is the batch, which several devices divide among them.
    """

    position: int
    """Number of the next batch."""

    def batch(self, index: int) -> Any: ...


class Algorithm(NamedTuple):
    """A way to learn a policy from episodes."""

    init: Callable[[Any], Any]
    """`init(key) -> TrainState`."""
    update: Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]]
    """`update(state, batch, key) -> (state, metrics)`: one update, pure; neither jitted nor counted nor checked here.

    `metrics` are scalars by name; `loss` is there always: it is what is shown and averaged.
    """
    policy: Policy
    sampler: Callable[..., Sampler]
    """`sampler(store, *, batch_size, seed, windows_per_pass=None) -> Sampler`; an EpisodeStore's actions are in [-1, 1]
    or 0 ... n-1; those of anything else that `load_episodes` takes are the environment's, and brought there."""
    validate: Callable[[Any, Any], dict[str, Any]]
    """`validate(params, batch) -> metrics`, pure: scalars measured on episodes that are not trained on.

    Nothing is dropped or drawn. `action_error` is there always: the mean distance of the policy's actions to the
    recorded ones, each number in [-1, 1]; of discrete ones the share that differ. `loss` where it says the same of
    them as of the training data, which those of value methods do not.
    """


@runtime_checkable
class Environment(Protocol):
    """A batch of episodes as pure functions; what follows an episode's end is ignored."""

    name: str
    """For people."""
    env_id: str | None
    """Gymnasium's, where it has one."""
    spec: Spec
    """Without constants."""
    max_episode_steps: int
    on_step: Callable[[int], None]
    """Called on the host after each step of the batch, with its number; where there is no host, never."""

    def reset(self, seeds: Any) -> tuple[Any, Any]:
        """`(state, observation (b, *s))`; episode `i` depends on `seeds[i]` alone."""
        ...

    def step(self, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """`(state, observation, reward (b,), terminated (b,), truncated (b,))`."""
        ...

    def raise_failure(self, name_episode: Callable[[int], str]) -> None:
        """Raises SimulationError if an episode failed since the last reset; `name_episode(i)` names episode `i`."""
        ...

    def close(self) -> None:
        """Lets go of what it holds on the host; it may be reset again."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Episodes played at one target return."""

    target: float | None
    """Return asked for, in the environment's own reward units; None of a policy that is asked for none."""
    returns: Float[np.ndarray, " e"]
    """Return achieved by each episode (undiscounted, unscaled)."""
    lengths: Int[np.ndarray, " e"]
    """Environment steps of each episode."""
    normalized: Float[np.ndarray, " e"] | None = None
    """D4RL-normalised scores (0 random, 100 expert), of games gamer-normalised (100 human); None without reference."""
    reference: str | None = None
    """Which reference the scores use: D4RL's, e.g. `halfcheetah`, or a game's, e.g. `Pong`."""

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

    def __repr__(self) -> str:
        target = "" if self.target is None else f"target={self.target:g}, "
        reached = f"return_mean={self.return_mean:g}, return_std={self.return_std:g}"
        score = "" if self.normalized_mean is None else f", normalized_mean={self.normalized_mean:.3g}"
        return f"Evaluation({target}{reached}{score}, {len(self.returns)} episodes)"

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
