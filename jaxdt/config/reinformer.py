"""Reinformer's choices (Zhuang et al. 2024, and their code's defaults)."""

import dataclasses
import typing
from typing import Any, ClassVar

from tyro.conf import OmitArgPrefixes

from jaxdt.config.checks import (
    Sampling,
    at_least,
    at_most,
    check_continuous_actions,
    check_normalization,
    check_sampling,
    one_of,
    within,
)
from jaxdt.config.decision_transformer import Context
from jaxdt.config.optimizer import OptimizerConfig
from jaxdt.config.shared import ChosenActions, OneOptimizer, ScaledReturns, fitted, names_of_sets
from jaxdt.errors import JaxdtError
from jaxdt.types import Spec


def return_scale_of(dataset: str | None) -> float:
    """By the name of what `--dataset` was given: the authors' for HalfCheetah's sets, and for all others."""
    names = names_of_sets(dataset, version=r"(?:-v\d+)?")
    return 5000.0 if all((name or "").startswith("halfcheetah-") for name in names) else 1000.0


def _optimizer() -> OptimizerConfig:
    return OptimizerConfig(update_rule="lamb", warmup_steps=5_000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReinformerConfig(OneOptimizer, ChosenActions, ScaledReturns):
    """A transformer that predicts the largest return that its data make likely, and the action that leads there."""

    name: ClassVar[str] = "reinformer"
    takes_target: ClassVar[bool] = False
    learns_values: ClassVar[bool] = False
    draws_single_steps: ClassVar[bool] = False
    acting_options: ClassVar[tuple[str, ...]] = ("context", "sampling", "temperature")

    context_length: int = 5
    """Environment steps the policy sees; three tokens each."""
    max_episode_length: int = 4096
    """Number of timestep embeddings; later steps share the last one."""
    width: int = 256
    """Size of a token's embedding."""
    num_layers: int = 4
    """Transformer blocks."""
    num_heads: int = 8
    """Attention heads; must divide the width."""
    dropout: float = 0.1
    """Probability of dropping an element of what attention and a block's two parts give."""
    expectile: float = 0.99
    """Of the returns that a state is worth; 0.5 is their mean, 1 their maximum."""
    return_scale: float | None = None
    """Returns-to-go are divided by this, in reward units; None: 5000 for data named after HalfCheetah, else 1000."""
    context: Context = "exact"
    """Acting; exact: every window read anew; cached: each token computed once, much faster, slightly another policy."""
    sampling: Sampling = "greedy"
    """Acting; greedy: the mean of the distribution of actions; sample: drawn from it."""
    temperature: float = 1.0
    """Log-densities are divided by this before sampling; below 1 sharpens: 0.25 halves the distribution's width."""
    optimizer: OmitArgPrefixes[OptimizerConfig] = dataclasses.field(default_factory=_optimizer)

    def __post_init__(self):
        for name in ("context_length", "max_episode_length", "width", "num_layers", "num_heads"):
            at_least(self, name, 1)
            at_most(self, name, 4096 if name == "context_length" else 2**24)
        if self.width % self.num_heads:
            raise JaxdtError(
                f"width must be divisible by num_heads; got width={self.width}, num_heads={self.num_heads}."
            )
        within(self, "dropout", 0.0, 1.0)
        if not 0 < self.expectile < 1:
            raise JaxdtError(f"expectile must be above 0 and below 1; got {self.expectile}.")
        self.check_return_scale()
        one_of(self, "context", typing.get_args(Context))
        check_sampling(self)

    @property
    def summary(self) -> str:
        return f"Reinformer, width {self.width}, {self.num_layers} layers, context {self.context_length}"

    def for_data(self, dataset: str | None) -> "ReinformerConfig":
        return dataclasses.replace(self, return_scale=self.return_scale or return_scale_of(dataset))

    def trained_on_from(self, trained: Any) -> "ReinformerConfig":
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        shape = ("context_length", "max_episode_length", "width", "num_layers", "num_heads", "return_scale")
        return fitted(self, trained, shape)

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where a spec lacks what was measured, or has actions of another kind."""
        if self.return_scale is None:
            raise JaxdtError("return_scale must be a number here; got None (for_data fills it in).")
        check_continuous_actions(self, spec)
        check_normalization(spec)
