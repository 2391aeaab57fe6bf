"""Every choice a run makes, as frozen dataclasses that check themselves, and the presets.

The defaults are the paper's gym recipe (Chen et al. 2021, appendix A; the original's `gym/experiment.py`).
"""

import dataclasses
import math
import typing
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Suppress

from jaxdt.errors import JaxdtError


Context = Literal["exact", "cached"]
"""How acting reads its context: every window anew, or from the keys and values of tokens as they were when new."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the transformer (paper section 3)."""

    state_dim: Suppress[int | None] = None
    """Length of an observation; None: taken from the data."""
    action_dim: Suppress[int | None] = None
    """Length of an action; None: taken from the data."""
    context_length: int = 20
    """Environment steps the policy sees; three tokens each."""
    max_episode_length: int = 1000
    """Number of timestep embeddings; later steps share the last one."""
    width: int = 128
    """Size of a token's embedding."""
    num_layers: int = 3
    """Transformer blocks."""
    num_heads: int = 1
    """Attention heads; must divide the width."""
    mlp_width: int | None = None
    """Hidden units of a block's MLP; None: four times the width."""
    activation: Literal["relu", "gelu", "gelu_new"] = "relu"
    """Of the MLP; gelu is the exact one, gelu_new its tanh approximation."""
    action_tanh: bool = True
    """Squash predicted actions into [-1, 1]."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in every LayerNorm but the embedding's, which keeps 1e-5 (Hugging Face's rule)."""
    initialization: Literal["original", "huggingface"] = "original"
    """Of the weights; original: PyTorch's defaults around a GPT-2; huggingface: N(0, 0.02), less by depth."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computations; the weights, the optimiser and the loss are float32 in either case."""
    embedding_dropout: float = 0.1
    """Probability of dropping an element after the embedding LayerNorm."""
    attention_dropout: float = 0.1
    """Probability of dropping an attention weight."""
    residual_dropout: float = 0.1
    """Probability of dropping an element of what a block adds to its input."""

    def __post_init__(self):
        for name in ("context_length", "max_episode_length", "width", "num_layers", "num_heads"):
            _at_least(self, name, 1)
        for name in ("state_dim", "action_dim", "mlp_width"):
            if getattr(self, name) is not None:
                _at_least(self, name, 1)
        for name in ("state_dim", "action_dim", "max_episode_length", "width", "num_layers", "mlp_width"):
            _at_most(self, name, 2**24)
        _at_most(self, "context_length", 4096)
        if self.width % self.num_heads:
            raise JaxdtError(
                f"width must be divisible by num_heads; got width={self.width}, num_heads={self.num_heads}."
            )
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            _within(self, name, 0.0, 1.0)
        if not 0 < self.layer_norm_epsilon < 1:
            raise JaxdtError(f"layer_norm_epsilon must be above 0 and below 1; got {self.layer_norm_epsilon}.")
        _one_of(self, "activation", ("relu", "gelu", "gelu_new"))
        _one_of(self, "initialization", ("original", "huggingface"))
        _one_of(self, "dtype", ("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a linear warm-up."""

    learning_rate: float = 1e-4
    """Step size after the warm-up."""
    warmup_steps: int | None = 10_000
    """Updates over which the learning rate rises linearly from 0; None: `warmup-fraction` of all."""
    warmup_fraction: float = 0.1
    """Share of all updates, where `warmup-steps` is None."""
    schedule: Literal["constant", "linear"] = "constant"
    """After the warm-up; linear: falls to 0 at the last update, and the warm-up starts at 0 exactly."""
    total_steps: Suppress[int | None] = None
    """Where a linear schedule ends; None: taken from the run's steps."""
    weight_decay: float = 1e-4
    """Decoupled decay, multiplied by the learning rate."""
    decay_biases: bool = True
    """Decay every parameter; otherwise not the biases and LayerNorms."""
    beta1: float = 0.9
    """Adam's decay rate of the mean gradient."""
    beta2: float = 0.999
    """Adam's decay rate of the mean squared gradient."""
    epsilon: float = 1e-8
    """Adam's term against division by zero."""
    max_grad_norm: float = 0.25
    """Gradients are scaled down to this global norm."""

    def __post_init__(self):
        for name in ("warmup_steps", "total_steps"):
            if getattr(self, name) is not None:
                _at_least(self, name, 0)
        _one_of(self, "schedule", ("constant", "linear"))
        _within(self, "warmup_fraction", 0.0, 1.0)
        for name in ("learning_rate", "weight_decay", "epsilon"):
            _within(self, name, 0.0, math.inf)
        for name in ("beta1", "beta2"):
            _within(self, name, 0.0, 1.0)
        if not 0 < self.max_grad_norm < math.inf:
            raise JaxdtError(
                f"max_grad_norm must be above 0 and finite; got {self.max_grad_norm} (1e9 switches clipping off)."
            )


INTERVALS = ("log_every", "eval_every", "save_every")
"""Of a TrainConfig, in updates."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run: data, model, optimiser, schedule and evaluation."""

    preset: Suppress[str] = "paper"
    """Name of the preset that the values started from."""
    init: str | None = None
    """Run directory to start from: its weights, model and normalisation; None: random weights."""
    dataset: str | None = None
    """Episodes: a file, hf:OWNER/NAME/CONFIG, minari:NAME, `demo`, or several joined by `+`; None: `demo`."""
    map_above: float | None = None
    """GiB; larger episodes are unpacked once into a cache on disk and mapped from it; None: a quarter of memory."""
    env: str | None = None
    """Environment to evaluate in, a Gymnasium id; `none`: no evaluation; None: the one the data names."""
    steps: int | None = 100_000
    """Updates in all; None: as many as `passes` make."""
    passes: int | None = None
    """Passes of one window an episode, as Hugging Face's trainer counts; the last batch of each is smaller."""
    batch_size: int = 64
    """Windows an update."""
    seed: int = 0
    """Of the initial weights, the windows and dropout; evaluation uses environment seeds of its own."""
    return_scale: float = 1000.0
    """Returns-to-go are divided by this, in reward units."""
    best_fraction: float = 1.0
    """Train on the best episodes only, up to this share of all steps (the paper's %BC rule)."""
    delayed_reward: bool = False
    """Move each episode's reward to its last step; return-to-go then stays constant."""
    clip_actions: bool = False
    """Clip recorded actions into the action space instead of refusing them."""
    targets: tuple[float, ...] | None = None
    """Target returns to evaluate at, in reward units; None: the preset's rule."""
    paper_targets: bool = True
    """Default targets: the paper's where it names the environment; otherwise `target-quantiles`."""
    target_quantiles: tuple[float, ...] = (0.2, 0.5, 0.8, 1.0)
    """Default targets: these quantiles of the data's returns (1 is the maximum)."""
    eval_every: int = 10_000
    """Updates between evaluations; one always follows the last update."""
    eval_episodes: int = 100
    """Episodes a target in each evaluation."""
    eval_seed: int = 1000
    """Environment seed of the first episode of each target; the next ones count up."""
    eval_context: Context = "exact"
    """How evaluation reads its context; cached: each token is computed once, much faster, slightly another policy."""
    save_every: int = 10_000
    """Updates between checkpoints; one always follows the last update."""
    save_every_minutes: float = 10.0
    """Minutes after which a checkpoint is saved although `save-every` is not reached."""
    log_every: int = 100
    """Updates between lines of metrics.jsonl."""
    updates_per_call: int | None = None
    """Updates of one compiled call, which steps and intervals must be multiples of; None: the most up to 10 that fit.
    It belongs to the run: another number may change the last bits of its weights."""
    video: bool = False
    """After training, render one episode a target to videos/ (needs the `video` extra)."""
    tensorboard: bool = False
    """Also write metrics for TensorBoard (needs the `tensorboard` extra)."""
    model: OmitArgPrefixes[ModelConfig] = dataclasses.field(default_factory=ModelConfig)
    optimizer: OmitArgPrefixes[OptimizerConfig] = dataclasses.field(default_factory=OptimizerConfig)

    def __post_init__(self):
        for name in ("steps", "passes", "batch_size", "eval_episodes", "updates_per_call", *INTERVALS):
            if getattr(self, name) is not None:
                _at_least(self, name, 1)
        for name in ("steps", *INTERVALS):
            if (getattr(self, name) or 0) % (self.updates_per_call or 1):
                raise JaxdtError(
                    f"{name} must be a multiple of updates_per_call; got {getattr(self, name)} and "
                    f"{self.updates_per_call}."
                )
        if self.steps is None and self.passes is None:
            raise JaxdtError("steps or passes must be given; both are None.")
        _one_of(self, "eval_context", typing.get_args(Context))
        for name in ("seed", "eval_seed"):
            _within(self, name, 0.0, 2.0**30)
        if self.map_above is not None:
            _within(self, "map_above", 0.0, math.inf)
        if not 0 < self.save_every_minutes < math.inf:
            raise JaxdtError(f"save_every_minutes must be above 0 and finite; got {self.save_every_minutes}.")
        if not 0 < self.return_scale < math.inf:
            raise JaxdtError(f"return_scale must be above 0 and finite; got {self.return_scale}.")
        if not 0 < self.best_fraction <= 1:
            raise JaxdtError(f"best_fraction must be above 0 and at most 1; got {self.best_fraction}.")
        if self.targets is not None and not (self.targets and all(map(math.isfinite, self.targets))):
            raise JaxdtError(f"targets must be one or more finite returns; got {list(self.targets)}.")
        if not (self.target_quantiles and all(0 <= q <= 1 for q in self.target_quantiles)):
            raise JaxdtError(f"target_quantiles must lie between 0 and 1; got {list(self.target_quantiles)}.")


def _at_least(config: Any, name: str, least: int) -> None:
    value = getattr(config, name)
    if value < least:
        raise JaxdtError(f"{name} must be at least {least}; got {value}.")


def _at_most(config: Any, name: str, most: int) -> None:
    value = getattr(config, name)
    if value is not None and value > most:
        raise JaxdtError(f"{name} must be at most {most}; got {value!s:.20}.")


def _within(config: Any, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    if not low <= value < high:
        raise JaxdtError(f"{name} must be at least {low:.12g} and below {high:.12g}; got {value}.")


def _one_of(config: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise JaxdtError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")


PAPER = TrainConfig()

DEMO = TrainConfig(
    preset="demo",
    dataset="demo",
    steps=4_000,
    paper_targets=False,
    target_quantiles=(0.1, 0.3, 0.8),
    eval_every=4_000,
    eval_episodes=10,
    save_every=2_000,
    log_every=100,
    # So little training needs no dropout, and a gait is imitated more exactly without.
    model=ModelConfig(context_length=5, width=64, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=400),
)
"""Small enough for a laptop's CPU in minutes, on episodes collected from the shipped policies."""

HUGGINGFACE = TrainConfig(
    preset="huggingface",
    steps=None,
    passes=120,
    targets=(12_000.0,),
    eval_episodes=10,
    model=ModelConfig(max_episode_length=4096, initialization="huggingface"),
    optimizer=OptimizerConfig(warmup_steps=None, warmup_fraction=0.1, schedule="linear", decay_biases=False),
)
"""The recipe of Hugging Face's tutorial (its notebook 101_train-decision-transformers and their trainer's defaults)."""

PRESETS = {"demo": DEMO, "huggingface": HUGGINGFACE, "paper": PAPER}

PAPER_TARGETS = {
    "HalfCheetah": (6000.0, 12000.0),
    "Hopper": (1800.0, 3600.0),
    "Walker2d": (2500.0, 5000.0),
}
"""Targets of the original's `gym/experiment.py`, by environment name without version."""

CHANGEABLE = (
    "map_above",
    "steps",
    "targets",
    "eval_every",
    "eval_episodes",
    "eval_context",
    "save_every",
    "save_every_minutes",
    "log_every",
    "video",
    "tensorboard",
)
"""What may differ when a run is resumed: how long and what is looked at, never what is learned."""
