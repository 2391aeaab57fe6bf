"""Implicit Q-learning's choices (Kostrikov et al. 2022, and their code's defaults for locomotion)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tyro.conf import OmitArgPrefixes

from jaxdt.config.checks import (
    at_least,
    check_continuous_actions,
    check_normalization,
    one_of,
    within,
)
from jaxdt.config.optimizer import OptimizerConfig
from jaxdt.config.shared import AnyReturns, fitted
from jaxdt.errors import JaxdtError
from jaxdt.types import Spec


Rewards = Literal["return-range", "minus-one", "as-recorded"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class IQLConfig(AnyReturns):
    """Values by expectile regression on the data's own actions, and a policy weighted by advantages."""

    name: ClassVar[str] = "iql"
    takes_target: ClassVar[bool] = False
    learns_values: ClassVar[bool] = True
    draws_single_steps: ClassVar[bool] = True
    acting_options: ClassVar[tuple[str, ...]] = ()
    authors_targets: ClassVar[Mapping[str, tuple[float, ...]]] = {}

    width: int = 256
    """Hidden units of a layer, in the policy and in both kinds of value functions."""
    num_layers: int = 2
    """Hidden layers."""
    expectile: float = 0.7
    """Of the action values that a state is worth; 0.5 is their mean, 1 their maximum. AntMaze: 0.9."""
    inverse_temperature: float = 3.0
    """How much more an action of higher advantage counts; 0 clones all alike. AntMaze: 10."""
    discount: float = 0.99
    """Of the next step's value."""
    target_rate: float = 0.005
    """Share of the critics that their slow copies take over at each update."""
    rewards: Rewards = "return-range"
    """return-range: such that best and worst episode differ by 1000; minus-one: 1 less (AntMaze); or as-recorded."""
    normalize_states: bool = False
    """By the data's mean and standard deviation; otherwise the networks see what was recorded."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit of the policy. Adroit and kitchen: 0.1."""
    optimizer: OmitArgPrefixes[OptimizerConfig] = dataclasses.field(default_factory=lambda: OptimizerConfig.adam(3e-4))
    """Of all networks, but for the schedule of the policy's learning rate."""
    policy_schedule: Literal["cosine", "constant"] = "cosine"
    """Of the policy's learning rate; cosine: falls to 0 at the last update, along half a cosine."""

    def __post_init__(self):
        for name in ("width", "num_layers"):
            at_least(self, name, 1)
        for name in ("dropout", "discount"):
            within(self, name, 0.0, 1.0)
        within(self, "inverse_temperature", 0.0, float("inf"))
        if not 0 < self.expectile < 1:
            raise JaxdtError(f"expectile must be above 0 and below 1; got {self.expectile}.")
        if not 0 < self.target_rate <= 1:
            raise JaxdtError(f"target_rate must be above 0 and at most 1; got {self.target_rate}.")
        one_of(self, "rewards", ("return-range", "minus-one", "as-recorded"))
        one_of(self, "policy_schedule", ("cosine", "constant"))

    @property
    def policy_optimizer(self) -> OptimizerConfig:
        return dataclasses.replace(self.optimizer, schedule=self.policy_schedule)

    @property
    def summary(self) -> str:
        return f"implicit Q-learning, width {self.width}, {self.num_layers} layers, expectile {self.expectile:g}"

    def for_steps(self, steps: int) -> "IQLConfig":
        optimizer = self.optimizer.for_steps(steps)
        return dataclasses.replace(
            self, optimizer=dataclasses.replace(optimizer, total_steps=optimizer.total_steps or steps)
        )

    def for_finetuning(self, learning_rate: float | None) -> "IQLConfig":
        rate = self.optimizer.learning_rate if learning_rate is None else learning_rate
        optimizer = dataclasses.replace(self.optimizer, schedule="constant", total_steps=None, learning_rate=rate)
        return dataclasses.replace(self, policy_schedule="constant", optimizer=optimizer)

    def for_data(self, dataset: str | None) -> "IQLConfig":
        del dataset
        return self

    @property
    def draws_actions(self) -> bool:
        return False

    @property
    def last_step(self) -> int | None:
        return self.policy_optimizer.last_step or self.optimizer.last_step

    def trained_on_from(self, trained: Any) -> "IQLConfig":
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        shape = ("width", "num_layers", "normalize_states", "rewards")  # the scale of rewards is the run's
        return fitted(self, trained, shape)

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where a spec lacks what was measured, or has actions of another kind."""
        check_continuous_actions(self, spec)
        check_normalization(spec)
        scale = spec.constants.get("reward_scale")
        if scale is None or scale.shape != () or not 0 < scale < float("inf"):
            raise JaxdtError(f"spec.constants.reward_scale must be one number above 0; got {scale}.")
