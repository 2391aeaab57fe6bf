"""The choices of the Decision Transformer for frames and discrete actions (Chen et al. 2021, their code for Atari)."""

import dataclasses
import math
import typing
from typing import Any, ClassVar, Literal, NamedTuple

from tyro.conf import OmitArgPrefixes

from jaxdt.config.checks import Sampling, at_least, at_most, check_sampling, one_of, within
from jaxdt.config.decision_transformer import Context
from jaxdt.config.optimizer import OptimizerConfig
from jaxdt.config.shared import AnyReturns, ChosenActions, OneOptimizer, fitted, mingpt_optimizer
from jaxdt.errors import JaxdtError
from jaxdt.types import Box, Spec


MeasuredAt = Literal["first", "newest"]
"""Which of a window's steps says the one timestep that its tokens are told."""


Positions = Literal["window", "step"]
"""What tells tokens where they stand: their place in the window, or the timestep of their step."""


STACK = 4
"""Pictures that are seen at once (Mnih et al. 2015)."""


class Convolution(NamedTuple):
    channels: int
    size: int
    stride: int


NATURE = (Convolution(32, 8, 4), Convolution(64, 4, 2), Convolution(64, 3, 1))
"""The original's, of Mnih et al. 2015."""
SMALL = (Convolution(16, 3, 1),)
"""Young and Tian 2019, MinAtar."""
_SMALLEST = 36
"""Side of the smallest pictures that those of `NATURE` can read."""


def convolutions_for(observation_shape: tuple[int, ...]) -> tuple[Convolution, ...]:
    """Of pictures (height, width) or (height, width, channels), by their size."""
    return NATURE if min(observation_shape[:2]) >= _SMALLEST else SMALL


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtariDTConfig(ChosenActions, OneOptimizer, AnyReturns):
    """A transformer that predicts discrete actions from returns-to-go, stacks of frames and earlier actions."""

    name: ClassVar[str] = "atari-dt"
    learns_values: ClassVar[bool] = False
    draws_single_steps: ClassVar[bool] = False
    acting_options: ClassVar[tuple[str, ...]] = ("context", "sampling", "temperature", "top_k", "timestep_when_acting")

    conditioned: bool = True
    """On returns-to-go. Otherwise it imitates the data, whatever it is asked for: the authors' `naive`, their behaviour
    cloning."""
    context_length: int = 30
    """Environment steps the policy sees; three tokens each."""
    windows_cross_episodes: bool = False
    """Training: of an episode shorter than a window, the steps before are those of the episode before it in the data,
    as in the authors' code, and count as its own do. False: they are padding, which is masked."""
    center_frames: bool = False
    """See of a picture how it differs from the data's mean picture, in standard deviations of all pixels, instead of
    its numbers divided by 255. What is small and moves, such as a ball, then stands out at once."""
    random_shift: int = 0
    """Training: the pictures of each window are moved by up to so many pixels each way (Kostrikov et al. 2021, who take
    4), so that few pictures are not learned by heart."""
    timestep_embedding: bool = True
    """Tell a window the timestep of its first step, each of which has a row of a table (with `positions="step"` each
    step its own). With few episodes that table learns by heart what they did, and all else is in vain; without it the
    policy does not know how late it is."""
    positions: Positions = "window"
    """How tokens are told where they stand; window: by their place in the window, and all by one timestep, as the
    authors do; step: each by its own step's timestep and nothing else. Then a token stays what it is while the window
    moves on, and what was computed of it can be kept (`context`); but steps beyond the data's longest episode share the
    timestep of its last."""
    width: int = 128
    """Size of a token's embedding."""
    num_layers: int = 6
    """Transformer blocks."""
    num_heads: int = 8
    """Attention heads; must divide the width."""
    dropout: float = 0.1
    """Probability of dropping an element, of embeddings, attention weights and what a block adds."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computations in the blocks; the weights, the optimiser and the loss are float32 in either case."""
    context: Context = "exact"
    """Acting; exact: from the last `context_length` steps, read anew at each; cached, for `positions="step"`: from keys
    and values computed once a step: faster, and the same policy until the episode is longer than the context, another
    one after."""
    sampling: Sampling = "sample"
    """Acting; greedy: the likeliest action; sample: drawn from the predicted distribution, as the authors do."""
    temperature: float = 1.0
    """Logits are divided by this before sampling; below 1 sharpens, above 1 flattens."""
    top_k: int = 0
    """Acting: actions are drawn from so many likeliest; 0: from all."""
    timestep_when_acting: MeasuredAt = "first"
    """A window is told one timestep. In training that is its first step's; first: so it is in acting; newest: in acting
    it is the newest step's, as in the authors' code."""
    token_schedule: bool = False
    """The authors' learning rate: rises over 10,240 tokens, and falls along half a cosine until six passes over the
    data have gone by, never below a tenth. False: by `schedule`, over the run, as it always is where another run's
    weights are trained on."""
    optimizer: OmitArgPrefixes[OptimizerConfig] = dataclasses.field(default_factory=mingpt_optimizer)
    """Without `decay-biases` the tables of actions, positions and timesteps are not decayed either."""

    def __post_init__(self):
        for name in ("context_length", "width", "num_layers", "num_heads"):
            at_least(self, name, 1)
            at_most(self, name, 4096)
        at_least(self, "top_k", 0)
        at_least(self, "random_shift", 0)
        if self.width % self.num_heads:
            raise JaxdtError(
                f"width must be divisible by num_heads; got width={self.width}, num_heads={self.num_heads}."
            )
        within(self, "dropout", 0.0, 1.0)
        check_sampling(self)
        one_of(self, "dtype", ("float32", "bfloat16"))
        one_of(self, "timestep_when_acting", typing.get_args(MeasuredAt))
        one_of(self, "positions", typing.get_args(Positions))
        one_of(self, "context", typing.get_args(Context))
        if self.positions == "step":
            self._check_steps_are_told_apart()
        elif self.context == "cached":
            raise JaxdtError(
                "context must be exact where tokens are told their place in the window, which changes at each step; "
                "got cached; train with positions='step' (--positions step) for it."
            )

    def _check_steps_are_told_apart(self) -> None:
        rule = "positions='step' (--positions step) tells steps apart by their own timesteps"
        if not self.timestep_embedding:
            raise JaxdtError(f"{rule}; give timestep_embedding=True (--timestep-embedding); got False.")
        if self.windows_cross_episodes:  # two beginnings of episodes in one window have the same timesteps
            raise JaxdtError(f"{rule}; give windows_cross_episodes=False (--no-windows-cross-episodes); got True.")
        if self.timestep_when_acting != "first":
            raise JaxdtError(
                f"{rule}; timestep_when_acting, the one timestep of a window, says nothing then and is left out; got "
                f"{self.timestep_when_acting}."
            )

    @property
    def takes_target(self) -> bool:
        return self.conditioned

    @property
    def summary(self) -> str:
        imitates = "" if self.conditioned else ", not conditioned"
        return (
            f"Decision Transformer of frames{imitates}, width {self.width}, {self.num_layers} layers, "
            f"context {self.context_length}"
        )

    @property
    def last_step(self) -> int | None:
        return None if self.token_schedule else self.optimizer.last_step

    def trained_on_from(self, trained: Any) -> "AtariDTConfig":
        """What fine-tuning weights that another config has trained uses; raises JaxdtError where they do not fit."""
        shape = ("context_length", "timestep_embedding", "positions", "width", "num_layers", "num_heads")
        fit = fitted(self, trained, ("conditioned", "center_frames", *shape))
        return dataclasses.replace(fit, token_schedule=False)

    def check_spec(self, spec: Spec) -> None:
        """Raises JaxdtError where observations are no pictures, actions not discrete, or lengths were not measured."""
        if len(spec.observation_shape) not in (2, 3):
            raise JaxdtError(
                f"{self.name} is for pictures, (height, width) or (height, width, channels); these observations have "
                f"the shape {spec.observation_shape}; choose another preset, such as paper."
            )
        if min(spec.observation_shape[:2]) < 3 or math.prod(spec.observation_shape) >= 2**24:
            raise JaxdtError(f"pictures must be at least 3 x 3 and below 2**24 numbers; got {spec.observation_shape}.")
        if 2 * self.random_shift >= min(spec.observation_shape[:2]):
            raise JaxdtError(
                f"random_shift must be less than half a side of the pictures, {spec.observation_shape}; got "
                f"{self.random_shift}."
            )
        if len(spec.observation_shape) == 3 and spec.observation_shape[0] <= 4 < min(spec.observation_shape[1:]):
            raise JaxdtError(
                "pictures must be (height, width) or (height, width, channels), one a step, for stacks are made here; "
                f"these have the shape {spec.observation_shape}; put channels last, and keep a stack's newest picture."
            )
        if self.token_schedule and spec.constants.get("windows", 0) < 1:
            raise JaxdtError(
                f"token_schedule goes by passes over the data, which must have more than {3 * self.context_length} "
                "steps; give token_schedule=False (--no-token-schedule)."
            )
        if isinstance(spec.action, Box):
            raise JaxdtError(
                f"{self.name} is for discrete actions, and these are vectors of {len(spec.action.low)} numbers; "
                "number the choices, or flatten the pictures and choose another preset."
            )
        mean = spec.constants.get("frame_mean")
        if self.center_frames and (mean is None or mean.shape != spec.observation_shape):
            raise JaxdtError("spec.constants.frame_mean must be a picture, the data's mean; measure it on the data.")
        if self.center_frames and not spec.constants.get("frame_std", 0) > 0:
            raise JaxdtError("spec.constants.frame_std must be a number above 0, measured on the training data.")
        for name, least, most in (("longest_episode", 1, 2**24), ("windows", 0, 2**40)):
            value = spec.constants.get(name)
            if value is None or value.shape != () or not least <= value < most:
                raise JaxdtError(
                    f"spec.constants.{name} must be a number from {least} to {most}, measured on the training data; "
                    f"got {value}."
                )
