"""jaxdt: the Decision Transformer and its kin in JAX. Names load on first use, so reading data needs no jax."""

import importlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from jaxdt.algorithms import make_algorithm as make_algorithm
    from jaxdt.algorithms.decision_transformer import make_train_step as make_train_step
    from jaxdt.config import (
        AtariDTConfig as AtariDTConfig,
        BehaviorCloningConfig as BehaviorCloningConfig,
        DecisionTransformerConfig as DecisionTransformerConfig,
        FinetuneConfig as FinetuneConfig,
        IQLConfig as IQLConfig,
        ModelConfig as ModelConfig,
        OnlineDTConfig as OnlineDTConfig,
        OptimizerConfig as OptimizerConfig,
        ReinformerConfig as ReinformerConfig,
        RvSConfig as RvSConfig,
        TD3BCConfig as TD3BCConfig,
        TrainConfig as TrainConfig,
        TrajectoryTransformerConfig as TrajectoryTransformerConfig,
        preset as preset,
    )
    from jaxdt.data.episodes import EpisodeStore as EpisodeStore
    from jaxdt.data.loading import load_episodes as load_episodes
    from jaxdt.data.transitions import TransitionSampler as TransitionSampler
    from jaxdt.data.windows import WindowSampler as WindowSampler
    from jaxdt.errors import JaxdtError as JaxdtError
    from jaxdt.models import build_model as build_model
    from jaxdt.progress import console_progress as console_progress
    from jaxdt.run.agent import Agent as Agent
    from jaxdt.run.comparison import Comparison as Comparison, compare as compare
    from jaxdt.run.evaluate import evaluate as evaluate
    from jaxdt.run.exporting import to_huggingface as to_huggingface
    from jaxdt.run.finetune import finetune as finetune
    from jaxdt.run.importing import from_huggingface as from_huggingface
    from jaxdt.run.prepare import make_spec as make_spec
    from jaxdt.run.serving import to_onnx as to_onnx, to_stablehlo as to_stablehlo
    from jaxdt.run.train import train as train
    from jaxdt.training import compile_update as compile_update
    from jaxdt.types import (
        Box as Box,
        Discrete as Discrete,
        Evaluation as Evaluation,
        Spec as Spec,
        Transitions as Transitions,
        Window as Window,
    )

__version__ = "0.1.0"

_HOMES = {
    "Agent": "jaxdt.run.agent",
    "AtariDTConfig": "jaxdt.config",
    "BehaviorCloningConfig": "jaxdt.config",
    "Box": "jaxdt.types",
    "Comparison": "jaxdt.run.comparison",
    "DecisionTransformerConfig": "jaxdt.config",
    "Discrete": "jaxdt.types",
    "EpisodeStore": "jaxdt.data.episodes",
    "Evaluation": "jaxdt.types",
    "FinetuneConfig": "jaxdt.config",
    "IQLConfig": "jaxdt.config",
    "JaxdtError": "jaxdt.errors",
    "ModelConfig": "jaxdt.config",
    "OnlineDTConfig": "jaxdt.config",
    "OptimizerConfig": "jaxdt.config",
    "ReinformerConfig": "jaxdt.config",
    "RvSConfig": "jaxdt.config",
    "Spec": "jaxdt.types",
    "TD3BCConfig": "jaxdt.config",
    "TrainConfig": "jaxdt.config",
    "TrajectoryTransformerConfig": "jaxdt.config",
    "TransitionSampler": "jaxdt.data.transitions",
    "Transitions": "jaxdt.types",
    "Window": "jaxdt.types",
    "WindowSampler": "jaxdt.data.windows",
    "build_model": "jaxdt.models",
    "compare": "jaxdt.run.comparison",
    "compile_update": "jaxdt.training",
    "console_progress": "jaxdt.progress",
    "evaluate": "jaxdt.run.evaluate",
    "finetune": "jaxdt.run.finetune",
    "from_huggingface": "jaxdt.run.importing",
    "load_episodes": "jaxdt.data.loading",
    "log": "jaxdt.run.mirrors",
    "make_algorithm": "jaxdt.algorithms",
    "make_spec": "jaxdt.run.prepare",
    "make_train_step": "jaxdt.algorithms.decision_transformer",
    "preset": "jaxdt.config",
    "to_huggingface": "jaxdt.run.exporting",
    "to_onnx": "jaxdt.run.serving",
    "to_stablehlo": "jaxdt.run.serving",
    "train": "jaxdt.run.train",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxdt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
