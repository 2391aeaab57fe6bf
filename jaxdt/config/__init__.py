"""Every choice that a run makes, as frozen dataclasses that check themselves, and the presets. Loads no jax."""

from jaxdt.config.model import ModelConfig as ModelConfig, OptimizerConfig as OptimizerConfig
from jaxdt.config.presets import (
    DEMO as DEMO,
    HUGGINGFACE as HUGGINGFACE,
    PAPER as PAPER,
    PRESETS as PRESETS,
)
from jaxdt.config.run import (
    CHANGEABLE as CHANGEABLE,
    INTERVALS as INTERVALS,
    Context as Context,
    TrainConfig as TrainConfig,
)
