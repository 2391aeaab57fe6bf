"""The Decision Transformer's choices (Chen et al. 2021)."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Suppress

from jaxdt.config.checks import (
    IS_A_FUNCTION,
    Sampling,
    check_normalization,
    check_same_algorithm,
    check_sampled_actions,
    check_sampling,
    one_of,
)
from jaxdt.config.model import ModelConfig, model_of_weights
from jaxdt.config.optimizer import OptimizerConfig
from jaxdt.config.shared import ChosenActions, OneOptimizer, ScaledReturns
from jaxdt.errors import JaxdtError
from jaxdt.types import Spec


Context = Literal["exact", "cached"]
"""How acting reads its context: every window anew, or from the keys and values of tokens as they were when new."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecisionTransformerConfig(OneOptimizer, ChosenActions, ScaledReturns):
    """A transformer that predicts actions from returns-to-go, states and earlier actions."""

    name: ClassVar[str] = "decision-transformer"
    takes_target: ClassVar[bool] = True
    """Whether its policy is asked for a return."""
    learns_values: ClassVar[bool] = False
    draws_single_steps: ClassVar[bool] = False
    acting_options: ClassVar[tuple[str, ...]] = ("context", "sampling", "temperature")
    """Fields that change how trained weights act and may be chosen anew each time they are played."""

    return_scale: float = 1000.0
    """Returns-to-go are divided by this, in reward units."""
    context: Context = "exact"
    """Acting; exact: every window read anew; cached: each token computed once, much faster, slightly another policy."""
    sampling: Sampling = "greedy"
    """Acting with discrete actions; greedy: the likeliest; sample: drawn from the predicted distribution."""
    temperature: float = 1.0
    """Logits are divided by this before sampling; below 1 sharpens, above 1 flattens."""
    network: Annotated[Callable[[ModelConfig], Any] | Literal["own"] | None, Suppress] = dataclasses.field(
        default=None, metadata=IS_A_FUNCTION
    )
    """A model of one's own, from Python: `network(model) -> (init, apply)`, of the sizes that `model` says, as
    `build_model` returns them (`apply` need not know `newest_only`). "own": that of a run; it must be given again."""
    model: OmitArgPrefixes[ModelConfig] = dataclasses.field(default_factory=ModelConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = dataclasses.field(default_factory=OptimizerConfig)

    def __post_init__(self):
        self.check_return_scale()
        one_of(self, "context", typing.get_args(Context))
        check_sampling(self)
        if self.network is not None and self.context != "exact":
            raise JaxdtError(f"context must be exact with a network of your own; got {self.context}.")
        if isinstance(self.network, str) and self.network != "own":
            raise JaxdtError(f"network must be a function of a ModelConfig; got {self.network!r:.80}.")

    @property
    def summary(self) -> str:
        """For people."""
        model = self.model
        if self.network is not None:
            return f"Decision Transformer, a network of one's own, context {model.context_length}"
        return f"Decision Transformer, width {model.width}, {model.num_layers} layers, context {model.context_length}"

    def trained_on_from(self, trained: Any) -> "DecisionTransformerConfig":
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        check_same_algorithm(self, trained)
        self.check_same_scale(trained)
        if (self.network is None) != (trained.network is None):
            whose = (
                "a network of one's own: give it" if self.network is None else "no network of your own: leave it out"
            )
            raise JaxdtError(f"the weights to start from are of {whose}, with network= from Python.")
        return dataclasses.replace(self, model=model_of_weights(self.model, trained.model, ModelConfig()))

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where a spec lacks what was measured, or its actions cannot be chosen so."""
        check_normalization(spec)
        check_sampled_actions(self, spec)
