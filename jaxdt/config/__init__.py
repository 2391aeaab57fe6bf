"""Every choice that a run makes, as frozen dataclasses that check themselves, and the presets. Loads no jax."""

import typing

from jaxdt.config.acting import with_acting_options as with_acting_options
from jaxdt.config.atari_dt import AtariDTConfig as AtariDTConfig, MeasuredAt as MeasuredAt
from jaxdt.config.behavior_cloning import BehaviorCloningConfig as BehaviorCloningConfig
from jaxdt.config.checks import (
    IS_A_FUNCTION as IS_A_FUNCTION,
    KeywordArguments as KeywordArguments,
    Sampling as Sampling,
    check_same_algorithm as check_same_algorithm,
    fits_float32 as fits_float32,
    flatten as flatten,
    functions_of as functions_of,
)
from jaxdt.config.choosing import preset as preset
from jaxdt.config.decision_transformer import (
    Context as Context,
    DecisionTransformerConfig as DecisionTransformerConfig,
)
from jaxdt.config.finetuning import (
    FinetuneConfig as FinetuneConfig,
    Finetuning as Finetuning,
    default_exploration_target as default_exploration_target,
)
from jaxdt.config.iql import IQLConfig as IQLConfig
from jaxdt.config.model import ModelConfig as ModelConfig
from jaxdt.config.online_dt import OnlineDTConfig as OnlineDTConfig
from jaxdt.config.optimizer import OptimizerConfig as OptimizerConfig
from jaxdt.config.plain import (
    number as number,
    numbers as numbers,
    take_plain_values,
    whole as whole,
)
from jaxdt.config.presets import (
    ATARI as ATARI,
    ATARI_PONG as ATARI_PONG,
    ATARI_SMALL as ATARI_SMALL,
    BC_CORL as BC_CORL,
    BEHAVIOR_CLONING as BEHAVIOR_CLONING,
    CARTPOLE as CARTPOLE,
    DEMO as DEMO,
    HUGGINGFACE as HUGGINGFACE,
    IQL as IQL,
    LARGE as LARGE,
    ONLINE_DT as ONLINE_DT,
    ONLINE_DT_SMALL as ONLINE_DT_SMALL,
    PAPER as PAPER,
    PRESETS as PRESETS,
    REBRAC as REBRAC,
    REINFORMER as REINFORMER,
    RVS as RVS,
    RVS_SMALL as RVS_SMALL,
    TD3_BC as TD3_BC,
    TRAJECTORY_TRANSFORMER as TRAJECTORY_TRANSFORMER,
    TRAJECTORY_TRANSFORMER_SMALL as TRAJECTORY_TRANSFORMER_SMALL,
)
from jaxdt.config.protocol import AlgorithmOptions as AlgorithmOptions
from jaxdt.config.reinformer import ReinformerConfig as ReinformerConfig
from jaxdt.config.run import (
    ACTING_OPTIONS as ACTING_OPTIONS,
    CHANGEABLE as CHANGEABLE,
    FILLED_IN as FILLED_IN,
    INTERVALS as INTERVALS,
    MOVED,
    AlgorithmConfig as AlgorithmConfig,
    TrainConfig as TrainConfig,
)
from jaxdt.config.rvs import RvSConfig as RvSConfig
from jaxdt.config.td3_bc import TD3BCConfig as TD3BCConfig
from jaxdt.config.trajectory_transformer import (
    PlanningWindow as PlanningWindow,
    TrajectoryTransformerConfig as TrajectoryTransformerConfig,
)


for _kind in (ModelConfig, OptimizerConfig, *typing.get_args(AlgorithmConfig), TrainConfig, FinetuneConfig):
    take_plain_values(_kind, MOVED if _kind is TrainConfig else {})
