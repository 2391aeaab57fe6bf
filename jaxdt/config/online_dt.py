"""The Online Decision Transformer's choices (Zheng, Zhang and Grover 2022, and their code's defaults)."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from tyro.conf import OmitArgPrefixes

from jaxdt.config.checks import (
    Sampling,
    at_least,
    check_normalization,
    check_same_algorithm,
    check_sampling,
    one_of,
)
from jaxdt.config.decision_transformer import Context
from jaxdt.config.model import ModelConfig, model_of_weights
from jaxdt.config.optimizer import OptimizerConfig
from jaxdt.config.shared import ChosenActions, OneOptimizer, ScaledReturns, names_of_sets
from jaxdt.errors import JaxdtError
from jaxdt.types import Spec


class Tuned(NamedTuple):
    """What differs between data sets."""

    learning_rate: float
    weight_decay: float
    timestep_embedding: bool = False


TUNED = {
    "hopper-medium": Tuned(1e-4, 5e-4, True),
    "hopper-medium-replay": Tuned(2e-3, 1e-4, True),
    "walker2d-medium": Tuned(1e-3, 1e-3),
    "walker2d-medium-replay": Tuned(1e-3, 1e-3),
    "halfcheetah-medium": Tuned(1e-4, 5e-4),
    "halfcheetah-medium-replay": Tuned(1e-4, 5e-4),
    "ant-medium": Tuned(1e-4, 1e-4),
    "ant-medium-replay": Tuned(1e-4, 1e-4),
    "antmaze-umaze": Tuned(1e-3, 0.0, True),
    "antmaze-umaze-diverse": Tuned(1e-3, 0.0, True),
}
"""By the data's name, as public scripts that repeat the paper have it; Hopper's timesteps are the paper's, which they
leave out."""
OTHER = Tuned(1e-4, 5e-4)
"""Of data that the table does not name: the program's defaults."""


def tuned_for(dataset: str | None) -> Tuned:
    """By the name of what `--dataset` was given, of any version or none: `hopper-medium.npz`."""
    names = set(names_of_sets(dataset, version=r"(?:-v\d+)?"))
    return TUNED.get(names.pop() or "", OTHER) if len(names) == 1 else OTHER


def _model() -> ModelConfig:
    return ModelConfig(width=512, num_layers=4, num_heads=4, timestep_embedding=None)


def _optimizer() -> OptimizerConfig:
    return OptimizerConfig(update_rule="lamb", learning_rate=None, weight_decay=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineDTConfig(OneOptimizer, ChosenActions, ScaledReturns):
    """A Decision Transformer whose actions are drawn from a distribution that is kept from narrowing."""

    name: ClassVar[str] = "online-dt"
    takes_target: ClassVar[bool] = True
    learns_values: ClassVar[bool] = False
    draws_single_steps: ClassVar[bool] = False
    acting_options: ClassVar[tuple[str, ...]] = ("context", "acting_context_length", "sampling", "temperature")
    authors_targets: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "hopper": (3600.0,),
        "walker2d": (5000.0,),
        "halfcheetah": (6000.0,),
        "ant": (5000.0,),
    }

    return_scale: float = 1000.0
    """Returns-to-go are divided by this, in reward units."""
    acting_context_length: int | None = 5
    """Environment steps the policy sees while acting, at most `context-length`; None: as many as in training."""
    context: Context = "exact"
    """Acting; exact: every window read anew; cached: each token computed once, much faster, slightly another policy."""
    sampling: Sampling = "greedy"
    """Acting; greedy: the middle of the distribution, or the likeliest discrete action; sample: drawn from it."""
    temperature: float = 1.0
    """Log-probabilities are divided by this before sampling; below 1 sharpens: 0.25 halves a Gaussian's width."""
    model: OmitArgPrefixes[ModelConfig] = dataclasses.field(default_factory=_model)
    optimizer: OmitArgPrefixes[OptimizerConfig] = dataclasses.field(default_factory=_optimizer)

    def __post_init__(self):
        self.check_return_scale()
        if self.acting_context_length is not None:
            at_least(self, "acting_context_length", 1)
        one_of(self, "context", typing.get_args(Context))
        check_sampling(self)

    @property
    def summary(self) -> str:
        model, acting = self.model, self.acting.model.context_length
        return (
            f"Online Decision Transformer, width {model.width}, {model.num_layers} layers, context "
            f"{model.context_length}, {acting} acting"
        )

    @property
    def acting(self) -> "OnlineDTConfig":
        """The same with the context that it acts with."""
        most = self.model.context_length
        model = dataclasses.replace(self.model, context_length=min(self.acting_context_length or most, most))
        return dataclasses.replace(self, model=model)

    def for_data(self, dataset: str | None) -> "OnlineDTConfig":
        tuned, model, optimizer = tuned_for(dataset), self.model, self.optimizer
        if model.timestep_embedding is None:
            model = dataclasses.replace(model, timestep_embedding=tuned.timestep_embedding)
        for name in ("learning_rate", "weight_decay"):
            if getattr(optimizer, name) is None:
                optimizer = dataclasses.replace(optimizer, **{name: getattr(tuned, name)})
        return dataclasses.replace(self, model=model, optimizer=optimizer)

    def trained_on_from(self, trained: Any) -> "OnlineDTConfig":
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        check_same_algorithm(self, trained)
        self.check_same_scale(trained)
        return dataclasses.replace(self, model=model_of_weights(self.model, trained.model, _model()))

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where a choice is left to the data, or a spec lacks what was measured."""
        chosen = (self.optimizer.learning_rate, self.optimizer.weight_decay, self.model.timestep_embedding)
        if None in chosen:
            raise JaxdtError(
                f"learning_rate, weight_decay and timestep_embedding must be chosen here; got {chosen} (for_data fills "
                "them in)."
            )
        check_normalization(spec)
