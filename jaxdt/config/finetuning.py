"""Online fine-tuning's choices (Zheng et al. 2022): how much is explored, what is kept, how often one looks."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from jaxdt.config.checks import at_least, fits_float32, within
from jaxdt.errors import JaxdtError


CHANGEABLE = ("rounds", "targets", "eval_episodes", "evaluate_every", "save_every")
"""What may differ when fine-tuning goes on: how long and what is looked at."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Rounds: explore, remember, update."""

    rounds: int = 1500
    """Rounds in all: each explores, then makes updates."""
    updates_per_round: int = 300
    """Updates after each round's episodes."""
    episodes_per_round: int = 1
    """Episodes of a round, side by side, with actions drawn from the policy."""
    exploration_target: float | None = None
    """Return that exploration asks for, in reward units; None: the highest of `targets`, or of the run's, and its size
    again, which is twice a target above 0. A policy that is asked for none takes none."""
    replay_capacity: int = 1000
    """Episodes that are trained on: at first the best of the data, from the worst to the best; new ones join at the
    end, and the oldest leave."""
    learning_rate: float | None = None
    """Step size of the updates, constant after the run's warm-up; None: the run's own."""
    targets: tuple[float, ...] | None = None
    """Target returns to evaluate at; None: the run's."""
    eval_episodes: int | None = None
    """Episodes a target in each evaluation; None: as many as the run's."""
    evaluate_every: int = 10
    """Rounds between evaluations; one always comes before the first round, and one after the last."""
    save_every: int = 10
    """Rounds between checkpoints; one always follows the last round."""
    seed: int = 0
    """Of the environments that are explored, of drawn actions, batches and dropout."""

    def __post_init__(self):
        counts = ("rounds", "updates_per_round", "episodes_per_round", "replay_capacity", "evaluate_every")
        for name in (*counts, "save_every"):
            at_least(self, name, 1)
        if self.eval_episodes is not None:
            at_least(self, "eval_episodes", 1)
        within(self, "seed", 0.0, 2.0**30)
        if self.episodes_per_round > self.replay_capacity:
            raise JaxdtError(
                "episodes_per_round must be at most replay_capacity, or some would be forgotten before they are "
                f"trained on; got {self.episodes_per_round} and {self.replay_capacity}."
            )
        if self.learning_rate is not None and not 0 <= self.learning_rate < math.inf:
            raise JaxdtError(f"learning_rate must be at least 0 and finite; got {self.learning_rate}.")
        for target in (*(self.targets or ()), *([] if self.exploration_target is None else [self.exploration_target])):
            if not fits_float32(target):
                raise JaxdtError(f"targets must be finite returns; got {target}.")
        if self.targets == ():
            raise JaxdtError("targets must be one or more finite returns; got none.")

    def going_on_from(self, stored: "FinetuneConfig", *, default_agrees: bool = True) -> "FinetuneConfig":
        """The config of a fine-tuning that goes on, with what may change taken from this one.

        Raises JaxdtError where the two disagree; None agrees with all. `default_agrees`: so does what is as by default.
        """
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            name, given, own = field.name, getattr(self, field.name), getattr(stored, field.name)
            if given is None or given == own:
                continue
            if name not in CHANGEABLE:
                if default_agrees and given == field.default:
                    continue
                raise JaxdtError(
                    f"the fine-tuning was started with {name}={own!r} and cannot go on with {given!r}; leave it out, "
                    "or choose another --out."
                )
            changes[name] = given
        return dataclasses.replace(stored, **changes)


def default_exploration_target(targets: Sequence[float | None]) -> float | None:
    """The highest target and its size again; None where no return is asked for."""
    highest = max((target for target in targets if target is not None), default=None)
    return None if highest is None else highest + abs(highest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetuning:
    """What a fine-tuned run remembers of how it came to be."""

    run: str
    """The run that it started from, for people."""
    first_step: int
    """Updates that its weights had seen by then."""
    config: FinetuneConfig
    checkpoint: Literal["latest", "best"] = "latest"
    """Which of that run's they were."""

    def __post_init__(self):
        at_least(self, "first_step", 0)

    @property
    def last_step(self) -> int:
        return self.first_step + self.config.rounds * self.config.updates_per_round
