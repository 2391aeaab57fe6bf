"""The types that pass between rooms. Loads no jax: arrays are NumPy's or JAX's."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from jaxdt.spec import (
    Box as Box,
    Discrete as Discrete,
    Spec as Spec,
    numbers_from_json as numbers_from_json,
    spec_from_json as spec_from_json,
)
from jaxdt.tables import html_table


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
    or 0 ... n-1; those of anything else that `load_episodes` takes are the environment's, and brought there. Where
    several processes train, each gives `share=` too: the rows of every batch, a slice, that are its own."""
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
    on_device: bool
    """Whether the host takes no part in it, so that several devices may play a share of the batch each."""

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
        """Lets go of what it holds on the host, but what is slow to make and can begin anew; it may be reset again."""
        ...


@runtime_checkable
class HostEnvironment(Environment, Protocol):
    """An environment that is simulated on the host."""

    stopped: bool
    """While it is True every episode ends at its next step."""

    def another(self, episodes: int) -> "HostEnvironment | None":
        """One more of it, for a thread of its own to play so many at the same time.

        None: it allows no such thing, or is no sooner done with so few.
        """
        ...

    @property
    def failed_at(self) -> int | None:
        """The step since the last reset at which an episode failed, and all ended."""
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
    succeeded: Bool[np.ndarray, " e"] | None = None
    """Whether a step's `info` had a true `success` or `is_success`; None where no simulator has said either so far."""

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

    @property
    def success_rate(self) -> float | None:
        """Share of the episodes that succeeded."""
        return None if self.succeeded is None else float(np.mean(self.succeeded))

    def __repr__(self) -> str:
        target = "" if self.target is None else f"target={self.target:g}, "
        reached = f"return_mean={self.return_mean:g}, return_std={self.return_std:g}"
        score = "" if self.normalized_mean is None else f", normalized_mean={self.normalized_mean:.3g}"
        success = "" if self.success_rate is None else f", success_rate={self.success_rate:.3g}"
        return f"Evaluation({target}{reached}{score}{success}, {len(self.returns)} episodes)"

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "returns": [float(value) for value in self.returns],
            "lengths": [int(value) for value in self.lengths],
            "return_mean": self.return_mean,
            "return_std": self.return_std,
            "normalized_mean": self.normalized_mean,
            "reference": self.reference,
            **({} if self.success_rate is None else {"success_rate": self.success_rate}),
        }


class Evaluations(list[Evaluation]):
    """One a target; a notebook shows them as a table."""

    def _repr_html_(self) -> str:
        columns: dict[str, Callable[[Evaluation], str]] = {
            "target": lambda each: "" if each.target is None else f"{each.target:g}",
            "return": lambda each: f"{each.return_mean:.1f} ± {each.return_std:.1f}",
            "score": lambda each: "" if each.normalized_mean is None else f"{each.normalized_mean:.1f}",
            "success": lambda each: "" if each.success_rate is None else f"{each.success_rate:.0%}",
            "episodes": lambda each: f"{len(each.returns):,}",
            "mean length": lambda each: f"{each.length_mean:.1f}",
        }
        shown = {name: [show(each) for each in self] for name, show in columns.items()}
        shown = {name: cells for name, cells in shown.items() if any(cells)}  # a policy may be asked for no return
        return html_table([*shown], zip(*shown.values(), strict=True))
