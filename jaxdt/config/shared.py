"""What several methods' configs answer in the same way."""

import dataclasses
import re
from typing import Any

from jaxdt.config.checks import Sampling, check_same_algorithm, inherited
from jaxdt.config.optimizer import OptimizerConfig


class OneOptimizer:
    """A config whose field `optimizer` says all of how long training may be, and that is the same for all data."""

    optimizer: OptimizerConfig

    def for_steps(self: Any, steps: int) -> Any:
        return dataclasses.replace(self, optimizer=self.optimizer.for_steps(steps))

    def for_data(self: Any, dataset: str | None) -> Any:
        del dataset
        return self

    @property
    def last_step(self) -> int | None:
        return self.optimizer.last_step


class AnyReturns:
    """A config that no scale of returns and no length of episodes keeps from learning."""

    def doubt_returns(self, returns: Any) -> str | None:
        del returns
        return None


class ChosenActions:
    """A config whose fields `sampling` and `temperature` say how discrete actions are chosen."""

    sampling: Sampling
    temperature: float

    @property
    def draws_actions(self) -> bool:
        return self.sampling == "sample"

    @property
    def drawing_temperature(self) -> float | None:
        """What logits are divided by before an action is drawn; None: the likeliest is taken."""
        return self.temperature if self.draws_actions else None


def d4rl_set(dataset: str | None) -> str:
    """Which of D4RL's sets of version 2 the data are that `--dataset` names, such as `hopper-medium`; "" for others.

    By the last part of the name: `D/hopper_medium-v2.hdf5`, `hf:O/N/CONFIG`. Medium + expert are medium-expert.
    """
    names = [re.fullmatch(r"(?:.*[/:])?([\w-]+)-v2(?:\.\w+)?/?", part) for part in (dataset or "").split("+")]
    sets = [found[1].replace("_", "-") if found else "" for found in names]
    if len(sets) == 2 and sets[0].endswith("-medium") and sets[1] == sets[0].replace("-medium", "-expert"):
        sets = [f"{sets[0]}-expert"]
    return sets[0] if len(sets) == 1 else ""


def fitted(given: Any, trained: Any, shape: tuple[str, ...]) -> Any:
    """`given` for weights that another config has trained: their `shape`, its own other fields, its optimiser always.

    Raises JaxdtError where `given` asks for another method or shape.
    """
    check_same_algorithm(given, trained)
    free = tuple(field.name for field in dataclasses.fields(given) if field.name not in shape)
    return dataclasses.replace(inherited(given, trained, free), optimizer=given.optimizer)
