"""TD3+BC's choices (Fujimoto and Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning").

And those that make it ReBRAC (Tarasov et al. 2023, "Revisiting the Minimalist Approach to Offline Reinforcement
Learning"): the preset `rebrac`.
"""

import dataclasses
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
from jaxdt.config.shared import AnyReturns, OneOptimizer, d4rl_set, fitted
from jaxdt.errors import JaxdtError
from jaxdt.types import Spec


TUNED_PENALTIES = {
    "halfcheetah-random": (0.001, 0.1),
    "halfcheetah-medium": (0.001, 0.01),
    "halfcheetah-expert": (0.01, 0.01),
    "halfcheetah-medium-expert": (0.01, 0.1),
    "halfcheetah-medium-replay": (0.01, 0.001),
    "halfcheetah-full-replay": (0.001, 0.1),
    "hopper-random": (0.001, 0.01),
    "hopper-medium": (0.01, 0.01),
    "hopper-expert": (0.1, 0.1),
    "hopper-medium-expert": (0.1, 0.01),
    "hopper-medium-replay": (0.05, 0.5),
    "hopper-full-replay": (0.01, 0.01),
    "walker2d-random": (0.01, 0.0),
    "walker2d-medium": (0.05, 0.1),
    "walker2d-expert": (0.01, 0.5),
    "walker2d-medium-expert": (0.01, 0.01),
    "walker2d-medium-replay": (0.05, 0.01),
    "walker2d-full-replay": (0.01, 0.01),
}
"""ReBRAC's penalties of policy and critics, as its authors tuned them for each of D4RL's sets of version 2, by playing
in the simulator. No other method here is tuned so: say it where they are compared."""
OTHER_PENALTIES = (0.01, 0.01)
"""Of data that the table does not name: the pair that is in it most often."""


def penalties_of(dataset: str | None) -> tuple[float, float]:
    """Of the data that `--dataset` names."""
    return TUNED_PENALTIES.get(d4rl_set(dataset), OTHER_PENALTIES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TD3BCConfig(OneOptimizer, AnyReturns):
    """A deterministic policy that climbs the critics and stays near the data's actions."""

    name: ClassVar[str] = "td3-bc"
    takes_target: ClassVar[bool] = False
    learns_values: ClassVar[bool] = True
    draws_single_steps: ClassVar[bool] = True
    acting_options: ClassVar[tuple[str, ...]] = ()

    width: int = 256
    """Hidden units of a layer, in policy and critics."""
    num_layers: int = 2
    """Hidden layers."""
    layer_norm: bool = False
    """LayerNorm behind each hidden layer of the critics. ReBRAC: on."""
    initialization: Literal["pytorch", "rebrac"] = "pytorch"
    """Of the weights; rebrac: hidden biases 0.1, last layers within 0.001 (policy) and 0.003 (critics) of 0."""
    alpha: float = 2.5
    """Weight of the critics' value, which is divided by its mean size, in the policy's aim. ReBRAC: 1."""
    policy_value: Literal["first", "smaller"] = "first"
    """Which critic's value the policy climbs. ReBRAC: the smaller one's."""
    actor_penalty: float | None = 1.0
    """Weight of the squared distance from the data's action in the policy's aim.
    None: ReBRAC's, which its authors tuned for each of D4RL's locomotion sets (version 2) by playing in the simulator;
    it is found by the data's name, and 0.01 for all other data."""
    critic_penalty: float | None = 0.0
    """Weight of the next action's squared distance from the data's, which is taken off its value. None: as above."""
    distance: Literal["mean", "sum"] = "mean"
    """Squared distance of two actions: the mean over an action's numbers, or ReBRAC's sum."""
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
        for name in ("alpha", "policy_noise", "noise_clip", "actor_penalty", "critic_penalty"):
            if getattr(self, name) is not None:
                within(self, name, 0.0, float("inf"))
        one_of(self, "initialization", ("pytorch", "rebrac"))
        one_of(self, "policy_value", ("first", "smaller"))
        one_of(self, "distance", ("mean", "sum"))
        if not 0 < self.target_rate <= 1:
            raise JaxdtError(f"target_rate must be above 0 and at most 1; got {self.target_rate}.")

    @property
    def summary(self) -> str:
        said = f"TD3+BC, width {self.width}, {self.num_layers} layers, alpha {self.alpha:g}"
        penalties = (self.actor_penalty, self.critic_penalty)
        if penalties == (1.0, 0.0):
            return said
        return f"{said}, penalties {' and '.join('of the data' if p is None else f'{p:g}' for p in penalties)}"

    @property
    def draws_actions(self) -> bool:
        return False

    def for_data(self, dataset: str | None) -> "TD3BCConfig":
        actor, critic = penalties_of(dataset)
        return dataclasses.replace(
            self,
            actor_penalty=actor if self.actor_penalty is None else self.actor_penalty,
            critic_penalty=critic if self.critic_penalty is None else self.critic_penalty,
        )

    def trained_on_from(self, trained: Any) -> "TD3BCConfig":
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        return fitted(self, trained, ("width", "num_layers", "layer_norm", "normalize_states"))

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where a penalty is open, a spec lacks what was measured or has actions of another kind."""
        if None in (self.actor_penalty, self.critic_penalty):
            raise JaxdtError(
                f"actor_penalty and critic_penalty must be numbers here; got {self.actor_penalty} and "
                f"{self.critic_penalty} (for_data fills them in)."
            )
        check_continuous_actions(self, spec)
        check_normalization(spec)
