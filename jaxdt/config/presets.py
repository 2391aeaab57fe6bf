"""Named recipes to start from."""

from jaxdt.config.model import ModelConfig, OptimizerConfig
from jaxdt.config.run import TrainConfig


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
