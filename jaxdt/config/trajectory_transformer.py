"""The Trajectory Transformer's choices, by its authors' code.

Janner et al. 2021, "Offline Reinforcement Learning as One Big Sequence Modeling Problem".
"""

import dataclasses
import math
import typing
from typing import Any, ClassVar, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes

from jaxdt.config.checks import at_least, at_most, one_of, within
from jaxdt.config.optimizer import OptimizerConfig
from jaxdt.config.shared import AnyReturns, OneOptimizer, d4rl_set, fitted, mingpt_optimizer
from jaxdt.errors import JaxdtError
from jaxdt.types import Box, Discrete, Spec


PlanningWindow = Literal["sliding", "growing"]
"""What the model sees of a plan: its last transitions, or all of it."""

AUTHORS_PLANNING = {"horizon": 15, "beam_width": 128, "action_nucleus": 0.4, "action_top_k": 0}
"""Where no other values are named below."""
AUTHORS_PLANNING_OF = {
    "halfcheetah-medium": {"horizon": 5, "beam_width": 32},
    "halfcheetah-medium-replay": {"horizon": 5, "beam_width": 32},
    "halfcheetah-medium-expert": {"beam_width": 32},
    "walker2d-medium-expert": {"horizon": 5},
    "walker2d-medium-replay": {"horizon": 20, "beam_width": 32, "action_nucleus": 1.0, "action_top_k": 40},
    "ant-medium": {"horizon": 5},
    "ant-medium-replay": {"horizon": 5},
    "ant-random": {"horizon": 5},
}
"""What the authors chose for each of D4RL's sets of version 2."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectoryTransformerConfig(OneOptimizer, AnyReturns):
    """A transformer that predicts every number of an episode in turn, and a beam search for the best that it predicts.

    Each number of a transition, its observation, action, reward and value, is a token: one of `bins` bins.
    """

    name: ClassVar[str] = "trajectory-transformer"
    takes_target: ClassVar[bool] = False
    learns_values: ClassVar[bool] = True
    draws_single_steps: ClassVar[bool] = False
    acting_options: ClassVar[tuple[str, ...]] = (
        *("horizon", "beam_width", "expansion", "context_transitions", "planning_window", "plan_every"),
        *("action_nucleus", "action_top_k", "observation_nucleus", "observation_top_k"),
    )

    bins: int = 100
    """Of each number of a transition."""
    binning: Literal["quantile", "uniform"] = "quantile"
    """quantile: bins of as many steps of the data each; uniform: of one width."""
    transitions: int = 10
    """Environment steps of a window that is trained on."""
    discount: float = 0.99
    """Of later rewards, in the values and in the worth of a plan."""
    termination_penalty: float | None = -100.0
    """Reward of a step at which the environment ended the episode, instead of its own; None: its own."""
    observation_weight: float = 1.0
    """Of an observation's tokens in the loss."""
    action_weight: float = 5.0
    """Of an action's tokens in the loss."""
    reward_weight: float = 1.0
    """Of the reward's token in the loss."""
    value_weight: float = 1.0
    """Of the value's token in the loss."""
    width: int = 128
    """Size of a token's embedding."""
    num_layers: int = 4
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads; must divide the width."""
    dropout: float = 0.1
    """Probability of dropping an element, of embeddings, attention weights and what a block adds."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computations in the blocks; the weights, the optimiser and the loss are float32 in either case."""
    horizon: int | None = None
    """Acting: environment steps of a plan. None: the authors' for the data's name, or 15."""
    beam_width: int | None = None
    """Acting: plans that are kept at each of its steps. None: the authors' for the data's name, or 128."""
    expansion: int = 2
    """Acting: ways in which each of them goes on before the best are kept."""
    context_transitions: int = 5
    """Acting: environment steps that the model sees at most, the one that is being chosen included; 2 or more. With
    `planning-window` growing, those before the plan and that one; the plan comes on top."""
    planning_window: PlanningWindow = "sliding"
    """Acting; sliding: the model sees the last `context-transitions` steps of a plan; growing: all of it and what was
    before, which is cheaper and must fit into `transitions`."""
    plan_every: int = 1
    """Acting: environment steps between plans; the actions between are the last plan's."""
    action_nucleus: float | None = None
    """Acting: actions' tokens are drawn from the likeliest that have this probability together; 1: from all.
    None: the authors' for the data's name, or 0.4."""
    action_top_k: int | None = None
    """Acting: actions' tokens are drawn from so many likeliest; 0: from all. None: the authors' for the data's name,
    or 0."""
    observation_nucleus: float = 1.0
    """Acting: as `action-nucleus`, for observations, where more than one may be drawn (`observation-top-k` 0)."""
    observation_top_k: int = 1
    """Acting: as `action-top-k`, for observations."""
    token_schedule: bool | None = None
    """The authors' learning rate: rises over the tokens of one pass over the data and falls along half a cosine until
    the twentieth, then rises and falls again, never below a tenth; a pass is over all episodes, whatever
    `best-fraction` takes. False: one cosine over the run, by `schedule`.
    None: theirs where the data's name is one of D4RL's sets of version 2, and one cosine otherwise, as it always is
    where another run's weights are trained on."""
    optimizer: OmitArgPrefixes[OptimizerConfig] = dataclasses.field(default_factory=mingpt_optimizer)
    """Without `decay-biases` the tables of tokens and positions are not decayed either."""

    def __post_init__(self):
        for name in ("transitions", "context_transitions", "bins"):
            at_least(self, name, 2)
        for name in ("width", "num_layers", "num_heads", "expansion", "plan_every"):
            at_least(self, name, 1)
        for name in ("transitions", "bins", "width"):
            at_most(self, name, 4096)
        for name in ("horizon", "beam_width", "action_top_k"):
            if getattr(self, name) is not None:
                at_least(self, name, 0 if name == "action_top_k" else 1)
        at_least(self, "observation_top_k", 0)
        for name in ("horizon", "beam_width", "expansion", "plan_every"):
            if getattr(self, name) is not None:
                at_most(self, name, 4096)
        if self.width % self.num_heads:
            raise JaxdtError(
                f"width must be divisible by num_heads; got width={self.width}, num_heads={self.num_heads}."
            )
        within(self, "dropout", 0.0, 1.0)
        within(self, "discount", 0.0, math.nextafter(1.0, 2.0))
        for name in ("observation_weight", "action_weight", "reward_weight", "value_weight"):
            within(self, name, 0.0, math.inf)
        if self.termination_penalty is not None and not math.isfinite(self.termination_penalty):
            raise JaxdtError(f"termination_penalty must be finite, or None; got {self.termination_penalty}.")
        for name in ("action_nucleus", "observation_nucleus"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise JaxdtError(f"{name} must be above 0 and at most 1 (from all); got {share}.")
        one_of(self, "binning", ("quantile", "uniform"))
        one_of(self, "dtype", ("float32", "bfloat16"))
        one_of(self, "planning_window", typing.get_args(PlanningWindow))
        self._check_planning()

    def _check_planning(self) -> None:
        if self.context_transitions > self.transitions:
            raise JaxdtError(
                f"context_transitions must be at most transitions, which the model was made for; got "
                f"{self.context_transitions} and {self.transitions}."
            )
        if self.horizon is None:
            return
        if self.plan_every > self.horizon:
            raise JaxdtError(
                f"plan_every must be at most horizon, a plan's length; got {self.plan_every} and {self.horizon}."
            )
        longest = self.context_transitions - 1 + self.horizon
        if self.planning_window == "growing" and longest > self.transitions:
            raise JaxdtError(
                f"with planning_window='growing' context_transitions - 1 + horizon must be at most transitions, which "
                f"the model was made for; got {longest} and {self.transitions}; take a shorter horizon, or 'sliding'."
            )

    @property
    def summary(self) -> str:
        said = f"Trajectory Transformer, width {self.width}, {self.num_layers} layers"
        return said if self.horizon is None else f"{said}, horizon {self.horizon}, beam width {self.beam_width}"

    @property
    def draws_actions(self) -> bool:
        return (self.action_top_k, self.observation_top_k) != (1, 1)

    @property
    def last_step(self) -> int | None:
        return None if self.token_schedule else self.optimizer.last_step

    def for_data(self, dataset: str | None) -> "TrajectoryTransformerConfig":
        known = d4rl_set(dataset)
        chosen: dict[str, Any] = {**AUTHORS_PLANNING, **AUTHORS_PLANNING_OF.get(known, {})}
        chosen["token_schedule"] = known != ""
        return dataclasses.replace(self, **{name: v for name, v in chosen.items() if getattr(self, name) is None})

    def trained_on_from(self, trained: Any) -> "TrajectoryTransformerConfig":
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        made = ("bins", "binning", "transitions", "discount", "termination_penalty", "width", "num_layers", "num_heads")
        return dataclasses.replace(fitted(self, trained, made), token_schedule=False)

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where choices are open, or a spec lacks the edges of bins or has too many actions."""
        for name in (*AUTHORS_PLANNING, "token_schedule"):
            if getattr(self, name) is None:
                raise JaxdtError(f"{name} must be chosen here; it is None (for_data fills it in).")
        if isinstance(spec.action, Discrete) and spec.action.n > self.bins:
            raise JaxdtError(
                f"each discrete action is a token, of which there are {self.bins}; these are {spec.action.n} actions; "
                "give more bins."
            )
        edges, shape = spec.constants.get("edges"), (self.bins + 1, row_size(spec))
        if edges is None or edges.shape != shape:
            raise JaxdtError(
                f"spec.constants.edges must be the edges of bins of shape {shape}, fitted on the training data; got "
                f"{'none' if edges is None else f'the shape {edges.shape}'}."
            )
        if (np.diff(edges, axis=0) < 0).any():
            raise JaxdtError("spec.constants.edges must not fall from one bin to the next.")
        if self.token_schedule:
            self._check_token_schedule(spec.constants.get("windows"), row_size(spec))

    def _check_token_schedule(self, windows: Any, row: int) -> None:
        if windows is None or windows.shape != () or windows < 1:
            raise JaxdtError(
                f"spec.constants.windows, of a pass over the data, must be a number above 0; got {windows}."
            )
        tokens = self.transitions * row
        if windows * tokens > 2**30:
            raise JaxdtError(
                f"token_schedule counts the tokens of a pass, at most 2**30; got {windows:.0f} windows of {tokens}; "
                "take token_schedule=False."
            )


def row_size(spec: Spec) -> int:
    """Numbers, and so tokens, of a transition: observation, action, reward and value."""
    return math.prod(spec.observation_shape) + num_action_tokens(spec) + 2


def num_action_tokens(spec: Spec) -> int:
    """One for each number of a vector, or one for a discrete action."""
    return len(spec.action.low) if isinstance(spec.action, Box) else 1
