"""What several methods' configs answer in the same way."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxdt.config.checks import Sampling, check_same_algorithm, inherited
from jaxdt.config.optimizer import OptimizerConfig
from jaxdt.errors import JaxdtError


class OneOptimizer:
    """A config whose field `optimizer` says all of how long training may be, and that is the same for all data."""

    optimizer: OptimizerConfig
    authors_targets: ClassVar[Mapping[str, tuple[float, ...]]] = {}

    def for_steps(self: Any, steps: int) -> Any:
        chosen = self.for_data(None)
        return dataclasses.replace(chosen, optimizer=chosen.optimizer.for_steps(steps))

    def for_finetuning(self: Any, learning_rate: float | None) -> Any:
        optimizer = self.optimizer
        rate = optimizer.learning_rate if learning_rate is None else learning_rate
        optimizer = dataclasses.replace(optimizer, schedule="constant", total_steps=None, learning_rate=rate)
        return dataclasses.replace(self, optimizer=optimizer)

    def for_data(self: Any, dataset: str | None) -> Any:
        del dataset
        return self

    @property
    def last_step(self) -> int | None:
        return self.optimizer.last_step


def mingpt_optimizer() -> OptimizerConfig:
    """That of methods whose authors wrote them on minGPT's trainer."""
    return OptimizerConfig(
        learning_rate=6e-4,
        warmup_steps=None,
        warmup_fraction=0.02,
        schedule="cosine",
        weight_decay=0.1,
        decay_biases=False,
        beta2=0.95,
        max_grad_norm=1.0,
    )


class AnyReturns:
    """A config that no scale of returns and no length of episodes keeps from learning."""

    def doubt_returns(self, returns: Any) -> str | None:
        del returns
        return None


class ScaledReturns:
    """A config whose field `return_scale` divides the returns that its network sees."""

    return_scale: float | None

    def check_return_scale(self) -> None:
        if self.return_scale is not None and not 0 < self.return_scale < math.inf:
            raise JaxdtError(f"return_scale must be above 0 and finite; got {self.return_scale}.")

    def check_same_scale(self, trained: Any) -> None:
        if self.return_scale not in (None, trained.return_scale):
            raise JaxdtError(
                f"the weights have return_scale={trained.return_scale}; give them that, not {self.return_scale}."
            )

    def doubt_returns(self, returns: Any) -> str | None:
        """Where returns-to-go would be too small or too large to learn from."""
        largest, scale, fits = float(abs(returns).max()), self.return_scale, fitting_return_scale(returns)
        if scale is None or not largest or 0.1 <= largest / scale <= 100:
            return None
        wrong = "too small to tell targets apart" if largest < scale else "too large to learn from"
        return (
            f"the largest size of a return in the data, {largest:.3g}, divided by return_scale {scale:g} is {wrong}; "
            f"try return_scale={fits:g} (--return-scale {fits:g})."
        )


def fitting_return_scale(returns: Any) -> float:
    """The power of ten that brings the largest return of the data between 1 and 10, as the paper's is for gym."""
    largest = float(abs(returns).max())
    return 10.0 ** math.floor(math.log10(largest)) if largest else 1.0


class ChosenActions:
    """A config whose fields `sampling` and `temperature` say how actions are chosen of their distribution."""

    sampling: Sampling
    temperature: float

    @property
    def draws_actions(self) -> bool:
        return self.sampling == "sample"

    @property
    def drawing_temperature(self) -> float | None:
        """What log-probabilities are divided by before an action is drawn; None: the likeliest is taken."""
        return self.temperature if self.draws_actions else None


def d4rl_set(dataset: str | None) -> str:
    """Which of D4RL's sets of version 2 the data are that `--dataset` names, such as `hopper-medium`; "" for others.

    By the last part of the name: `D/hopper_medium-v2.hdf5`, `hf:O/N/CONFIG`. Medium + expert are medium-expert.
    """
    sets = [name or "" for name in names_of_sets(dataset)]
    sets.sort(reverse=True)  # medium, expert: they may be joined in any order
    if len(sets) == 2 and sets[0].endswith("-medium") and sets[1] == sets[0].replace("-medium", "-expert"):
        sets = [f"{sets[0]}-expert"]
    return sets[0] if len(sets) == 1 else ""


def fitted(given: Any, trained: Any, shape: tuple[str, ...]) -> Any:
    """`given` for weights that another config has trained: their `shape`, and its own other fields.

    Raises JaxdtError where `given` asks for another method or shape.
    """
    check_same_algorithm(given, trained)
    return inherited(given, trained, shape)


def names_of_sets(dataset: str | None, *, version: str = "-v2") -> list[str | None]:
    """Of each part of what `--dataset` was given the last piece of its name, such as `hopper-medium`, without version.

    `D/hopper_medium-v2.hdf5+hf:O/N/CONFIG+minari:D4RL/hopper/medium-v2`; None for a part that does not end with the
    `version`, a regular expression.
    """
    pattern = rf"(?:.*[/:])?([\w-]+?){version}(?:\.\w+)?/?"
    parts = (dataset or "").split("+")
    parts = ["-".join(part.split("/")[-2:]) if part.startswith("minari:") else part for part in parts]
    found = [re.fullmatch(pattern, part) for part in parts]
    return [each and each[1].replace("_", "-") for each in found]
