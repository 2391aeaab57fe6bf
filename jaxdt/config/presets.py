"""Named recipes to start from."""

import dataclasses

from jaxdt.config.atari_dt import AtariDTConfig
from jaxdt.config.behavior_cloning import BehaviorCloningConfig
from jaxdt.config.decision_transformer import DecisionTransformerConfig
from jaxdt.config.iql import IQLConfig
from jaxdt.config.model import ModelConfig
from jaxdt.config.online_dt import OnlineDTConfig
from jaxdt.config.optimizer import OptimizerConfig
from jaxdt.config.reinformer import ReinformerConfig
from jaxdt.config.run import TrainConfig
from jaxdt.config.rvs import RvSConfig
from jaxdt.config.td3_bc import TD3BCConfig
from jaxdt.config.trajectory_transformer import TrajectoryTransformerConfig


PAPER = TrainConfig()

DEMO = TrainConfig(
    preset="demo",
    dataset="demo",
    steps=6_000,
    batch_size=128,
    paper_targets=False,
    target_quantiles=(0.1, 0.3, 0.8),
    eval_every=6_000,
    eval_episodes=10,
    save_every=2_000,
    log_every=100,
    algorithm=DecisionTransformerConfig(
        # - The shipped policies look at the newest state only, so two steps are context enough; the time that is saved
        #   goes into three times as many windows.
        # - So little training needs no dropout, and a gait is imitated more exactly without.
        model=ModelConfig(
            context_length=2, width=64, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0
        ),
        # At a constant rate the last few updates decide whether a gait holds; a falling one makes them small.
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=400, schedule="linear"),
    ),
)
"""Small enough for a laptop's CPU in minutes, on episodes collected from the shipped policies."""

HUGGINGFACE = TrainConfig(
    preset="huggingface",
    steps=None,
    passes=120,
    targets=(12_000.0,),
    eval_episodes=10,
    algorithm=DecisionTransformerConfig(
        model=ModelConfig(max_episode_length=4096, initialization="huggingface"),
        optimizer=OptimizerConfig(warmup_steps=None, warmup_fraction=0.1, schedule="linear", decay_biases=False),
    ),
)
"""The recipe of Hugging Face's tutorial (its notebook 101_train-decision-transformers and their trainer's defaults)."""

LARGE = TrainConfig(
    preset="large",
    batch_size=256,
    algorithm=DecisionTransformerConfig(
        model=ModelConfig(width=1024, num_layers=12, num_heads=16, context_length=64, dtype="bfloat16")
    ),
)
"""The paper's recipe with a model of 152 million parameters, for accelerators; not tuned, and no paper's."""

BEHAVIOR_CLONING = TrainConfig(preset="bc", algorithm=BehaviorCloningConfig())
"""The original's MLP-BC, with the paper's data, batch, schedule and evaluation; `best_fraction=0.1` makes it %BC."""

BC_CORL = TrainConfig(
    preset="bc-corl",
    batch_size=256,
    steps=1_000_000,
    eval_every=5_000,
    eval_episodes=10,
    algorithm=BehaviorCloningConfig(
        context_length=1, width=256, num_layers=2, dropout=0.0, optimizer=OptimizerConfig.adam(3e-4)
    ),
)
"""Behaviour cloning as CORL trains it: of the newest state alone, which cannot be answered by repeating old actions."""

RVS = TrainConfig(preset="rvs", batch_size=16_384, steps=122_000, paper_targets=False, algorithm=RvSConfig())
"""RvS-R as published: 2,000 passes over a million steps. It is asked for returns up to the data's best."""

RVS_SMALL = TrainConfig(
    preset="rvs-small",
    batch_size=256,
    steps=30_000,
    paper_targets=False,
    eval_every=10_000,
    eval_episodes=10,
    algorithm=RvSConfig(
        width=256,
        normalize_states=True,
        optimizer=OptimizerConfig.adam(3e-4),
    ),
)
"""RvS-R for a laptop's CPU, in minutes."""

IQL = TrainConfig(
    preset="iql", batch_size=256, steps=1_000_000, eval_every=5_000, eval_episodes=10, algorithm=IQLConfig()
)
"""Implicit Q-learning as its authors train it on locomotion data."""

TD3_BC = TrainConfig(
    preset="td3-bc", batch_size=256, steps=1_000_000, eval_every=5_000, eval_episodes=10, algorithm=TD3BCConfig()
)
"""TD3+BC as its authors train it."""

REBRAC = TrainConfig(
    preset="rebrac",
    batch_size=1024,
    steps=1_000_000,
    eval_every=5_000,
    eval_episodes=10,
    algorithm=TD3BCConfig(
        num_layers=3,
        layer_norm=True,
        initialization="rebrac",
        alpha=1.0,
        policy_value="smaller",
        actor_penalty=None,
        critic_penalty=None,
        distance="sum",
        normalize_states=False,
        optimizer=OptimizerConfig.adam(1e-3),
    ),
)
"""ReBRAC as its authors train it on locomotion data, with penalties that they tuned for each data set. Two deviations:

- The policy and the slow copies move at the second, fourth, ... update, as in TD3+BC; theirs at the first, third, ...
- The policy's slow copy follows it as it is after its step; theirs as it was before.
"""

ONLINE_DT = TrainConfig(
    preset="online-dt",
    batch_size=256,
    steps=5_000,
    eval_every=5_000,
    eval_episodes=10,
    algorithm=OnlineDTConfig(),
)
"""The Online Decision Transformer's pre-training, by its authors' code. Learning rate, decay and timesteps are those
that were tuned for each data set. What differs:

- Walker2d's sets are pre-trained with `--steps 10000`, AntMaze's with `--steps 7000 --width 1024 --return-scale 1`.
- Windows are drawn as everywhere here: no trajectory is left out, and padding is 0 after normalisation.
- Entropy is the mean over real steps; theirs over padding too.
- The temperature is saved with the weights; theirs begins anew when a run goes on.
"""

ONLINE_DT_SMALL = TrainConfig(
    preset="online-dt-small",
    steps=8_000,
    eval_every=8_000,
    eval_episodes=10,
    save_every=2_000,
    algorithm=OnlineDTConfig(
        # No more steps than it acts on: an update takes a quarter of the time of one of 20, and learned as much.
        model=ModelConfig(context_length=5, timestep_embedding=False),
        optimizer=OptimizerConfig(update_rule="lamb", learning_rate=1e-3, weight_decay=5e-4, warmup_steps=200),
    ),
)
"""The same for a laptop's CPU, in minutes."""

REINFORMER = TrainConfig(
    preset="reinformer",
    batch_size=128,
    steps=50_000,
    eval_every=5_000,
    eval_episodes=10,
    algorithm=ReinformerConfig(),
)
"""Reinformer as its authors train it on locomotion data; hopper-medium with `--batch-size 256`. What differs:

- An episode is drawn in proportion to its length (theirs: each once a pass), and windows reach its end, where they are
  padded on the left and attention leaves the padding out; theirs are whole, or padded on the right and not masked.
- Returns are divided by the mean of their size at real steps.

The logarithms of the actions' standard deviations begin at 0 and, since LAMB makes steps as long as what it moves, stay
near it: actions are fitted as by squared error, and `--sampling sample` draws widely.
"""

TRAJECTORY_TRANSFORMER = TrainConfig(
    preset="trajectory-transformer",
    batch_size=256,
    steps=195_300,
    eval_every=65_100,
    eval_episodes=15,
    save_every=6_510,
    log_every=70,
    algorithm=TrajectoryTransformerConfig(),
)
"""The Trajectory Transformer as its authors train it on locomotion data: fifty million windows; it plans
by what they chose for each of D4RL's sets. Deviations:

- Windows are drawn with replacement, not each once a pass, and the data's last step is kept.
- Where they have eighty passes instead of fifty (hopper- and walker2d-medium-replay) give `steps=312_500`, and where
  batches of 128 (ant-medium, -medium-replay and -random) `batch_size=128, steps=390_600`.
- On data of other names the learning rate falls once, along one cosine over the run (`token_schedule`).
"""

TRAJECTORY_TRANSFORMER_SMALL = TrainConfig(
    preset="trajectory-transformer-small",
    batch_size=64,
    steps=8_000,
    eval_every=8_000,
    eval_episodes=5,
    save_every=1_000,
    log_every=100,
    algorithm=TrajectoryTransformerConfig(
        # What planning sees at most is one step and a whole plan of five, so windows need be no longer.
        transitions=6,
        context_transitions=2,
        horizon=5,
        planning_window="growing",
        beam_width=16,
        action_nucleus=0.4,
        action_top_k=0,
        width=96,
        num_layers=3,
        # Each window is seen some ten times at most, and a third of the time goes into dropout.
        dropout=0.0,
        token_schedule=False,
        optimizer=dataclasses.replace(TrajectoryTransformerConfig().optimizer, learning_rate=1e-3),
    ),
)
"""The Trajectory Transformer for a laptop's CPU; small enough to plan with at each step."""

CARTPOLE = TrainConfig(
    preset="cartpole",
    dataset="cartpole",
    steps=2_000,
    targets=(50.0, 200.0, 500.0),
    eval_every=2_000,
    eval_episodes=20,
    save_every=1_000,
    log_every=100,
    algorithm=DecisionTransformerConfig(
        return_scale=20.0,
        model=ModelConfig(
            context_length=5,
            max_episode_length=500,
            width=64,
            embedding_dropout=0.0,
            attention_dropout=0.0,
            residual_dropout=0.0,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, schedule="linear"),
    ),
)
"""Discrete actions: CartPole-v1 from scripted policies that balance, and fall after more or less time."""

ATARI = TrainConfig(
    preset="atari",
    steps=19_530,
    batch_size=128,
    eval_every=3_906,
    eval_episodes=10,
    save_every=3_906,
    log_every=93,
    algorithm=AtariDTConfig(token_schedule=True),
)
"""The original's recipe for Atari: five passes over 500,000 steps. It evaluates after each."""

ATARI_PONG = dataclasses.replace(
    ATARI,
    preset="atari-pong",
    steps=4_880,
    batch_size=512,
    eval_every=976,
    save_every=976,
    log_every=61,
    algorithm=AtariDTConfig(token_schedule=True, context_length=50),
)
"""The same for Pong, which the original gives another context and batch."""

ATARI_SMALL = TrainConfig(
    preset="atari-small",
    steps=1_000,
    batch_size=32,
    eval_every=1_000,
    eval_episodes=10,
    save_every=500,
    log_every=50,
    algorithm=AtariDTConfig(
        context_length=4,
        # What moves in a game is a few pixels, which the original finds in half a million pictures.
        center_frames=True,
        timestep_embedding=False,
        num_layers=3,
        # Players of mixed quality agree on what matters and on nothing else, so their likely actions are better.
        temperature=0.5,
        optimizer=dataclasses.replace(AtariDTConfig().optimizer, learning_rate=1e-3),
    ),
)
"""Frames for a laptop's CPU and some ten episodes, in minutes."""

PRESETS = {
    "demo": DEMO,
    "cartpole": CARTPOLE,
    "paper": PAPER,
    "huggingface": HUGGINGFACE,
    "large": LARGE,
    "bc": BEHAVIOR_CLONING,
    "bc-corl": BC_CORL,
    "rvs": RVS,
    "rvs-small": RVS_SMALL,
    "iql": IQL,
    "td3-bc": TD3_BC,
    "rebrac": REBRAC,
    "online-dt": ONLINE_DT,
    "online-dt-small": ONLINE_DT_SMALL,
    "reinformer": REINFORMER,
    "trajectory-transformer": TRAJECTORY_TRANSFORMER,
    "trajectory-transformer-small": TRAJECTORY_TRANSFORMER_SMALL,
    "atari": ATARI,
    "atari-pong": ATARI_PONG,
    "atari-small": ATARI_SMALL,
}
