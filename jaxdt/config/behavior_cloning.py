"""Behaviour cloning's choices (the original's MLP-BC, its `gym/decision_transformer/models/mlp_bc.py`)."""

import dataclasses
from typing import Any, ClassVar

from tyro.conf import OmitArgPrefixes

from jaxdt.config.checks import (
    Sampling,
    at_least,
    check_normalization,
    check_sampled_actions,
    check_sampling,
    within,
)
from jaxdt.config.optimizer import OptimizerConfig
from jaxdt.config.shared import AnyReturns, ChosenActions, OneOptimizer, fitted
from jaxdt.types import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class BehaviorCloningConfig(OneOptimizer, ChosenActions, AnyReturns):
    """An MLP that predicts the action from the last states; it is asked for no return."""

    name: ClassVar[str] = "behavior-cloning"
    takes_target: ClassVar[bool] = False
    learns_values: ClassVar[bool] = False
    draws_single_steps: ClassVar[bool] = False
    acting_options: ClassVar[tuple[str, ...]] = ("sampling", "temperature")

    context_length: int = 20
    """Environment steps whose states the policy sees."""
    width: int = 128
    """Hidden units of a layer."""
    num_layers: int = 3
    """Hidden layers."""
    dropout: float = 0.1
    """Probability of dropping a hidden unit."""
    sampling: Sampling = "greedy"
    """Acting with discrete actions; greedy: the likeliest; sample: drawn from the predicted distribution."""
    temperature: float = 1.0
    """Logits are divided by this before sampling; below 1 sharpens, above 1 flattens."""
    optimizer: OmitArgPrefixes[OptimizerConfig] = dataclasses.field(
        default_factory=lambda: OptimizerConfig(max_grad_norm=None)
    )

    def __post_init__(self):
        for name in ("context_length", "width", "num_layers"):
            at_least(self, name, 1)
        within(self, "dropout", 0.0, 1.0)
        check_sampling(self)

    @property
    def summary(self) -> str:
        return f"behaviour cloning, width {self.width}, {self.num_layers} layers, context {self.context_length}"

    def trained_on_from(self, trained: Any) -> "BehaviorCloningConfig":
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        return fitted(self, trained, ("context_length", "width", "num_layers"))

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where a spec lacks what was measured, or its actions cannot be chosen so."""
        check_normalization(spec)
        check_sampled_actions(self, spec)
