"""RvS-R's choices (Emmons et al. 2022, "RvS: What is Essential for Offline RL via Supervised Learning?")."""

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
from jaxdt.errors import JaxdtError
from jaxdt.types import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class RvSConfig(OneOptimizer, ChosenActions, AnyReturns):
    """An MLP that predicts the action from the state and the average reward that is asked for from here on."""

    name: ClassVar[str] = "rvs"
    takes_target: ClassVar[bool] = True
    learns_values: ClassVar[bool] = False
    draws_single_steps: ClassVar[bool] = False
    acting_options: ClassVar[tuple[str, ...]] = ("sampling", "temperature")

    width: int = 1024
    """Hidden units of a layer."""
    num_layers: int = 2
    """Hidden layers."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit."""
    normalize_states: bool = False
    """By the data's mean and standard deviation; otherwise the network sees what was recorded."""
    sampling: Sampling = "greedy"
    """Acting with discrete actions; greedy: the likeliest; sample: drawn from the predicted distribution."""
    temperature: float = 1.0
    """Logits are divided by this before sampling; below 1 sharpens, above 1 flattens."""
    optimizer: OmitArgPrefixes[OptimizerConfig] = dataclasses.field(default_factory=lambda: OptimizerConfig.adam(1e-3))

    def __post_init__(self):
        for name in ("width", "num_layers"):
            at_least(self, name, 1)
        within(self, "dropout", 0.0, 1.0)
        check_sampling(self)

    @property
    def summary(self) -> str:
        return f"RvS-R, width {self.width}, {self.num_layers} layers"

    def trained_on_from(self, trained: Any) -> "RvSConfig":
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        return fitted(self, trained, ("width", "num_layers", "normalize_states"))

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where a spec lacks what was measured, or its actions cannot be chosen so."""
        check_normalization(spec)
        check_sampled_actions(self, spec)
        steps = spec.constants.get("longest_episode")
        if steps is None or steps.shape != () or not 1 <= steps < 2**31:
            raise JaxdtError(f"spec.constants.longest_episode must be the data's most steps an episode; got {steps}.")
