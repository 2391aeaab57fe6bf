"""jaxdt: the Decision Transformer and its kin in JAX. Names load on first use, so reading data needs no jax."""

import importlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from jaxdt.algorithms import make_algorithm as make_algorithm
    from jaxdt.algorithms.decision_transformer import make_train_step as make_train_step
    from jaxdt.choice import EnvironmentChoice as EnvironmentChoice, JaxEnvironment as JaxEnvironment
    from jaxdt.config import (
        AlgorithmConfig as AlgorithmConfig,
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
    from jaxdt.data.frames import FrameSampler as FrameSampler
    from jaxdt.data.loading import load_episodes as load_episodes
    from jaxdt.data.statistics import Statistics as Statistics
    from jaxdt.data.trajectories import TrajectoryRows as TrajectoryRows, TrajectorySampler as TrajectorySampler
    from jaxdt.data.transitions import TransitionSampler as TransitionSampler
    from jaxdt.data.windows import WindowSampler as WindowSampler
    from jaxdt.errors import (
        JaxdtError as JaxdtError,
        NonFiniteError as NonFiniteError,
        RunError as RunError,
        SimulationError as SimulationError,
        StoppedError as StoppedError,
        VersionError as VersionError,
        WriteError as WriteError,
    )
    from jaxdt.models import Apply as Apply, build_model as build_model
    from jaxdt.parallel import Layout as Layout, choose_layout as choose_layout
    from jaxdt.progress import Progress as Progress, console_progress as console_progress
    from jaxdt.run.agent import Agent as Agent
    from jaxdt.run.aggregates import Aggregate as Aggregate, Improvement as Improvement
    from jaxdt.run.comparison import Comparison as Comparison, Score as Score, Task as Task, compare as compare
    from jaxdt.run.evaluate import evaluate as evaluate
    from jaxdt.run.exporting import to_huggingface as to_huggingface
    from jaxdt.run.finetune import finetune as finetune
    from jaxdt.run.importing import from_huggingface as from_huggingface
    from jaxdt.run.mirrors import log as log
    from jaxdt.run.prepare import make_spec as make_spec
    from jaxdt.run.serving import to_onnx as to_onnx, to_stablehlo as to_stablehlo
    from jaxdt.run.stopping import stop_signals as stop_signals
    from jaxdt.run.train import train as train
    from jaxdt.training import TrainState as TrainState, TrainStep as TrainStep, compile_update as compile_update
    from jaxdt.types import (
        Algorithm as Algorithm,
        Box as Box,
        Discrete as Discrete,
        Evaluation as Evaluation,
        Evaluations as Evaluations,
        Policy as Policy,
        Sampler as Sampler,
        Spec as Spec,
        Transitions as Transitions,
        Window as Window,
    )

__version__ = "0.1.0"

_HOMES = {
    "Agent": "jaxdt.run.agent",
    "Aggregate": "jaxdt.run.aggregates",
    "Algorithm": "jaxdt.types",
    "AlgorithmConfig": "jaxdt.config",
    "Apply": "jaxdt.models",
    "AtariDTConfig": "jaxdt.config",
    "BehaviorCloningConfig": "jaxdt.config",
    "Box": "jaxdt.types",
    "Comparison": "jaxdt.run.comparison",
    "DecisionTransformerConfig": "jaxdt.config",
    "Discrete": "jaxdt.types",
    "EnvironmentChoice": "jaxdt.choice",
    "EpisodeStore": "jaxdt.data.episodes",
    "Evaluation": "jaxdt.types",
    "Evaluations": "jaxdt.types",
    "FinetuneConfig": "jaxdt.config",
    "FrameSampler": "jaxdt.data.frames",
    "IQLConfig": "jaxdt.config",
    "Improvement": "jaxdt.run.aggregates",
    "JaxEnvironment": "jaxdt.choice",
    "JaxdtError": "jaxdt.errors",
    "Layout": "jaxdt.parallel",
    "ModelConfig": "jaxdt.config",
    "NonFiniteError": "jaxdt.errors",
    "OnlineDTConfig": "jaxdt.config",
    "OptimizerConfig": "jaxdt.config",
    "Policy": "jaxdt.types",
    "Progress": "jaxdt.progress",
    "ReinformerConfig": "jaxdt.config",
    "RunError": "jaxdt.errors",
    "RvSConfig": "jaxdt.config",
    "Sampler": "jaxdt.types",
    "Score": "jaxdt.run.comparison",
    "SimulationError": "jaxdt.errors",
    "Spec": "jaxdt.types",
    "Statistics": "jaxdt.data.statistics",
    "StoppedError": "jaxdt.errors",
    "TD3BCConfig": "jaxdt.config",
    "Task": "jaxdt.run.comparison",
    "TrainConfig": "jaxdt.config",
    "TrainState": "jaxdt.training",
    "TrainStep": "jaxdt.training",
    "TrajectoryRows": "jaxdt.data.trajectories",
    "TrajectorySampler": "jaxdt.data.trajectories",
    "TrajectoryTransformerConfig": "jaxdt.config",
    "TransitionSampler": "jaxdt.data.transitions",
    "Transitions": "jaxdt.types",
    "VersionError": "jaxdt.errors",
    "Window": "jaxdt.types",
    "WindowSampler": "jaxdt.data.windows",
    "WriteError": "jaxdt.errors",
    "build_model": "jaxdt.models",
    "choose_layout": "jaxdt.parallel",
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
    "stop_signals": "jaxdt.run.stopping",
    "to_huggingface": "jaxdt.run.exporting",
    "to_onnx": "jaxdt.run.serving",
    "to_stablehlo": "jaxdt.run.serving",
    "train": "jaxdt.run.train",
}

__all__ = sorted(_HOMES)


if not TYPE_CHECKING:  # or checkers would take any name

    def __getattr__(name: str):
        if name not in _HOMES:
            raise AttributeError(f"module 'jaxdt' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
