"""A whole run: data, method, schedule and evaluation."""

import dataclasses
import math
import typing
from typing import Literal

from tyro.conf import AvoidSubcommands, OmitArgPrefixes, Suppress

from jaxdt.config.atari_dt import AtariDTConfig
from jaxdt.config.behavior_cloning import BehaviorCloningConfig
from jaxdt.config.checks import KeywordArguments, as_json, at_least, fits_float32, one_of, within
from jaxdt.config.decision_transformer import DecisionTransformerConfig
from jaxdt.config.iql import IQLConfig
from jaxdt.config.online_dt import OnlineDTConfig
from jaxdt.config.reinformer import ReinformerConfig
from jaxdt.config.rvs import RvSConfig
from jaxdt.config.td3_bc import TD3BCConfig
from jaxdt.config.trajectory_transformer import TrajectoryTransformerConfig
from jaxdt.errors import JaxdtError


AlgorithmConfig = (
    DecisionTransformerConfig
    | BehaviorCloningConfig
    | RvSConfig
    | IQLConfig
    | TD3BCConfig
    | OnlineDTConfig
    | ReinformerConfig
    | TrajectoryTransformerConfig
    | AtariDTConfig
)
"""What a policy is learned by, each as `AlgorithmOptions` says; `jaxdt.algorithms.make_algorithm` makes it."""

ACTING_OPTIONS = tuple(dict.fromkeys(name for kind in typing.get_args(AlgorithmConfig) for name in kind.acting_options))
"""Of all methods, each once."""

INTERVALS = ("log_every", "eval_every", "save_every")
"""Of a TrainConfig, in updates."""

_COUNTS = (
    "cut_after",
    *("steps", "passes", "batch_size", "devices", "eval_episodes", "updates_per_call"),
    *("max_episode_steps", "parallel_environments", "video_frames", "video_every"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run: data, algorithm, schedule and evaluation."""

    preset: Suppress[str] = "paper"
    """Name of the preset that the values started from."""
    init: str | None = None
    """Run directory to start from: its weights, model and normalisation; the episodes are `dataset`'s, and so is the
    environment; None: random weights."""
    dataset: str | None = None
    """Episodes: a file, hf:OWNER/NAME/CONFIG, minari:NAME, dqn:DIR (Dopamine's logs of an Atari game), s3://BUCKET/DIR
    and its like, `demo`, `cartpole`, `acrobot`, or several joined by `+`; None: `demo`."""
    map_above: float | None = None
    """GiB; larger episodes are unpacked once into a cache on disk and mapped from it; None: a quarter of memory."""
    cut_after: int | None = None
    """Steps after which an episode was cut off, for data that only say where the environment ended one (HDF5 files with
    `terminals` and no `timeouts`); None: as the data say."""
    env: str | None = None
    """Environment to evaluate in, a Gymnasium id, or `mjx:` and one of MuJoCo's: on the device (needs the `mjx` extra);
    `none`: no evaluation; None: the one the data names."""
    env_kwargs: KeywordArguments = None
    """What the environment's constructor is given beside, as JSON: '{"include_cfrc_ext_in_observation": false}'; None:
    what the data say, if they are of that environment; '{}': nothing."""
    max_episode_steps: int | None = None
    """Steps after which an episode of evaluation is cut off; None: the limit that data of that environment give, else
    the environment's own, or where it has none the longest episode of the data, at least 1000."""
    parallel_environments: int | None = None
    """Episodes of evaluation at once, each in a simulator: 1 where there can be only one; None: all."""
    steps: int | None = 100_000
    """Updates in all; None: as many as `passes` make."""
    passes: int | None = None
    """Passes of one window an episode, as Hugging Face's trainer counts; the last batch of each is smaller."""
    batch_size: int = 64
    """Windows an update, whatever the number of devices, over which they are divided."""
    devices: int | None = None
    """How many GPUs, TPUs or parts of a CPU train; they must divide `batch-size` or the number of seeds.
    None: all GPUs or TPUs that do; a CPU whole. When a run goes on, another number changes rounding only."""
    shard_parameters: bool = False
    """Of several devices each holds its part of the weights and the optimiser's state, for models that fill one
    device's memory; the same losses to rounding, and more to send. To be played the weights must fit into one."""
    seed: int = 0
    """Of the initial weights, the windows and dropout; evaluation uses environment seeds of its own."""
    best_fraction: float = 1.0
    """Train on the episodes of highest return only, as many as make up this share of all."""
    best_fraction_of: Literal["steps", "episodes"] = "steps"
    """Of what `best-fraction` is the share; steps: the paper's %BC; episodes: CORL's."""
    validation_fraction: float = 0.0
    """Share of the episodes, drawn at random, that are not trained on; with every line of metrics.jsonl the loss and
    the policy's action error on them are measured. So that `--env none` shows something."""
    delayed_reward: bool = False
    """Move each episode's reward to its last step; return-to-go then stays constant."""
    clip_actions: bool = False
    """Clip recorded actions into the action space instead of refusing them."""
    normalized_actions: bool = False
    """Recorded actions are in [-1, 1] already, whatever the environment's own bounds."""
    constant_std: float | None = None
    """Standard deviation by which observations that are constant in the data are divided; None: 1e-6, as the original
    does, so that they become huge where they move after all. 1 leaves them small. With `init` the weights' own stay."""
    targets: tuple[float, ...] | Literal["auto"] | None = None
    """Target returns to evaluate at, in reward units, of a policy that is asked for one; auto: the 0.99 expectile of
    the data's returns, near the best but less hostage to one lucky episode; None: the preset's rule."""
    paper_targets: bool = True
    """Default targets: the paper's where it names the environment; otherwise `target-quantiles`."""
    target_quantiles: tuple[float, ...] = (0.2, 0.5, 0.8, 1.0)
    """Default targets: these quantiles of the data's returns (1 is the maximum)."""
    eval_every: int = 10_000
    """Updates between evaluations, or where there is no environment between measurements on held-out episodes that tell
    which weights are the best; one always follows the last update."""
    eval_episodes: int = 100
    """Episodes a target in each evaluation."""
    eval_seed: int = 1000
    """Environment seed of the first episode of each target; the next ones count up."""
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
    """After training, film one episode a target, to videos/ (needs the `video` extra)."""
    video_frames: int | None = None
    """Most pictures of a film; None: all of the episode."""
    video_every: int = 1
    """Film every so-many-th step; the film takes as long as the episode."""
    plot_format: Literal["png", "svg", "pdf"] = "png"
    """Of the figures in plots/."""
    tensorboard: bool = False
    """Also write metrics for TensorBoard (needs the `tensorboard` extra)."""
    wandb: bool = False
    """Also send metrics to Weights & Biases, or without a key keep them beside the run (needs the `wandb` extra)."""
    trackio: bool = False
    """Also give metrics to Trackio (needs the `trackio` extra)."""
    project: str = "jaxdt"
    """What the run belongs to there."""
    algorithm: OmitArgPrefixes[AvoidSubcommands[AlgorithmConfig]] = dataclasses.field(
        default_factory=DecisionTransformerConfig
    )

    def __post_init__(self):
        for name in (*_COUNTS, *INTERVALS):
            if getattr(self, name) is not None:
                at_least(self, name, 1)
        for name in ("steps", *INTERVALS):
            if (getattr(self, name) or 0) % (self.updates_per_call or 1):
                raise JaxdtError(
                    f"{name} must be a multiple of updates_per_call; got {getattr(self, name)} and "
                    f"{self.updates_per_call}."
                )
        if self.steps is None and self.passes is None:
            raise JaxdtError("steps or passes must be given; both are None.")
        for name in ("seed", "eval_seed"):
            within(self, name, 0.0, 2.0**30)
        object.__setattr__(self, "env_kwargs", as_json(self.env_kwargs, "env_kwargs"))
        if self.map_above is not None:
            within(self, "map_above", 0.0, math.inf)
        if not 0 < self.save_every_minutes < math.inf:
            raise JaxdtError(f"save_every_minutes must be above 0 and finite; got {self.save_every_minutes}.")
        if self.constant_std is not None and not 0 < self.constant_std < math.inf:
            raise JaxdtError(f"constant_std must be above 0 and finite; got {self.constant_std}.")
        if not 0 < self.best_fraction <= 1:
            raise JaxdtError(f"best_fraction must be above 0 and at most 1; got {self.best_fraction}.")
        one_of(self, "best_fraction_of", ("steps", "episodes"))
        one_of(self, "plot_format", ("png", "svg", "pdf"))
        if not 0 <= self.validation_fraction < 1:
            raise JaxdtError(f"validation_fraction must be at least 0 and below 1; got {self.validation_fraction}.")
        if self.delayed_reward and self.algorithm.learns_values:
            raise JaxdtError(
                f"{self.algorithm.name} learns what single steps are worth, and delayed_reward takes their rewards "
                "away; leave it out."
            )
        if isinstance(self.targets, str) and self.targets != "auto":
            raise JaxdtError(f"targets must be auto, or one or more finite returns; got {self.targets!r:.40}.")
        numbers = (0.0,) if self.targets is None or self.targets == "auto" else self.targets
        if not (numbers and all(map(fits_float32, numbers))):
            raise JaxdtError(f"targets must be auto, or one or more finite returns; got {list(numbers)}.")
        if self.targets is not None and not self.algorithm.takes_target:
            given = self.targets if self.targets == "auto" else list(self.targets)
            raise JaxdtError(f"{self.algorithm.name} is asked for no return; leave targets out (got {given}).")
        if not (self.target_quantiles and all(0 <= q <= 1 for q in self.target_quantiles)):
            raise JaxdtError(f"target_quantiles must lie between 0 and 1; got {list(self.target_quantiles)}.")

    @property
    def part_of_data(self) -> str:
        """For people: what part of the data is trained on."""
        if self.best_fraction == 1:
            return "all"
        return f"the best {self.best_fraction:g} of the {self.best_fraction_of}"

    @property
    def evaluation_targets(self) -> tuple[float | None, ...]:
        """Target returns of each evaluation; (None,) where the policy is asked for none, () before they are chosen."""
        if not self.algorithm.takes_target:
            return (None,)
        return () if self.targets is None or self.targets == "auto" else self.targets


MOVED = {
    "model": "TrainConfig(algorithm=DecisionTransformerConfig(model=...))",
    "optimizer": "TrainConfig(algorithm=DecisionTransformerConfig(optimizer=...))",
    "return_scale": "TrainConfig(algorithm=DecisionTransformerConfig(return_scale=...))",
    "eval_context": "TrainConfig(algorithm=DecisionTransformerConfig(context=...))",
}
"""What a TrainConfig once had, and where that is now."""

CHANGEABLE = (
    "cut_after",
    "map_above",
    "devices",
    "shard_parameters",
    "max_episode_steps",
    "parallel_environments",
    "steps",
    "targets",
    "eval_every",
    "eval_episodes",
    "save_every",
    "save_every_minutes",
    "log_every",
    "video",
    "video_frames",
    "video_every",
    "plot_format",
    "tensorboard",
    "wandb",
    "trackio",
    "project",
)
"""What may differ when a run is resumed, and the algorithm's acting options: how long and what is looked at, never what
is learned."""

FILLED_IN = (
    "env",
    "env_kwargs",
    "max_episode_steps",
    "parallel_environments",
    "targets",
    "steps",
    "updates_per_call",
    "state_dim",
    "action_dim",
    "num_actions",
    "warmup_steps",
    "total_steps",
    "actor_penalty",
    "critic_penalty",
    "learning_rate",
    "weight_decay",
    "timestep_embedding",
    "return_scale",
    "token_schedule",
)
"""What is chosen for the data or the number of updates, where it is None, before a run begins."""
