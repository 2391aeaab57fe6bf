"""Networks as pure functions; the only room that imports `flax.nnx`."""

from jaxdt.models.atari_dt import AtariModel as AtariModel, build_atari_model as build_atari_model
from jaxdt.models.building import (
    Apply as Apply,
    DecodeStep as DecodeStep,
    build_decoder as build_decoder,
    build_model as build_model,
)
from jaxdt.models.functional import Init as Init, Params as Params
from jaxdt.models.mlp import ApplyMLP as ApplyMLP, build_mlp as build_mlp
from jaxdt.models.reinformer import Prediction as Prediction, build_reinformer as build_reinformer
from jaxdt.models.trajectory_transformer import (
    TrajectoryModel as TrajectoryModel,
    build_trajectory_model as build_trajectory_model,
)
