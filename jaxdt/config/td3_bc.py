"""TD3+BC's choices (Fujimoto and Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning")."""

import dataclasses
from typing import Any, ClassVar

from tyro.conf import OmitArgPrefixes

from jaxdt.config.checks import (
    at_least,
    check_continuous_actions,
    check_normalization,
    within,
)
from jaxdt.config.optimizer import OptimizerConfig
from jaxdt.config.shared import OneOptimizer, fitted
from jaxdt.errors import JaxdtError
from jaxdt.types import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class TD3BCConfig(OneOptimizer):
    """A deterministic policy that climbs the critics and stays near the data's actions."""

    name: ClassVar[str] = "td3-bc"
    takes_target: ClassVar[bool] = False
    learns_values: ClassVar[bool] = True
    acting_options: ClassVar[tuple[str, ...]] = ()

    width: int = 256
    """Hidden units of a layer, in policy and critics."""
    num_layers: int = 2
    """Hidden layers."""
    alpha: float = 2.5
    """Weight of the critics' value, which is divided by its mean size, against the squared distance from the data."""
    discount: float = 0.99
    """Of the next step's value."""
    target_rate: float = 0.005
    """Share of the networks that their slow copies take over at every second update."""
    policy_noise: float = 0.2
    """Standard deviation of the noise on the next action, of actions in [-1, 1]."""
    noise_clip: float = 0.5
    """The noise is clipped to it."""
    normalize_states: bool = True
    """By the data's mean and standard deviation + 1e-3; otherwise the networks see what was recorded (AntMaze)."""
    optimizer: OmitArgPrefixes[OptimizerConfig] = dataclasses.field(default_factory=lambda: OptimizerConfig.adam(3e-4))

    def __post_init__(self):
        for name in ("width", "num_layers"):
            at_least(self, name, 1)
        within(self, "discount", 0.0, 1.0)
        for name in ("alpha", "policy_noise", "noise_clip"):
            within(self, name, 0.0, float("inf"))
        if not 0 < self.target_rate <= 1:
            raise JaxdtError(f"target_rate must be above 0 and at most 1; got {self.target_rate}.")

    @property
    def summary(self) -> str:
        return f"TD3+BC, width {self.width}, {self.num_layers} layers, alpha {self.alpha:g}"

    @property
    def draws_actions(self) -> bool:
        return False

    def trained_on_from(self, trained: Any) -> "TD3BCConfig":
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        return fitted(self, trained, ("width", "num_layers", "normalize_states"))

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where a spec lacks what was measured, or has actions of another kind."""
        check_continuous_actions(self, spec)
        check_normalization(spec)
