"""The files of a run directory: all that acting, resuming and looking need."""

import dataclasses
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.config import ModelConfig, TrainConfig
from jaxdt.errors import JaxdtError, one_line
from jaxdt.files import is_free, open_atomically, read_json
from jaxdt.run.config_json import config_from_json, config_to_json
from jaxdt.simulator import is_plain_env_id
from jaxdt.types import Interface


FORMAT = 1
"""Of config.json; what is written without a format is of this one too."""


class RunDirectory:
    """Names of the files in a run directory."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.evaluations = self.path / "evaluations.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.episodes = self.path / "episodes.npz"
        self.loss_plot = self.path / "plots" / "loss.png"
        self.returns_plot = self.path / "plots" / "returns.png"
        self.videos = self.path / "videos"
        self.tensorboard = self.path / "tensorboard"

    @property
    def holds_run(self) -> bool:
        return self.config.is_file()

    @property
    def is_free(self) -> bool:
        """Absent, empty, or with nothing but what a run leaves that was killed before its config.json."""
        unfinished = (".holder.*.tmp", ".config.json.*.tmp", ".summary.json.*.tmp")
        return is_free(self.path, besides=(".lock", ".holder", *unfinished))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `config.json` holds."""

    config: TrainConfig
    """As given, with `env`, `targets` and the model's sizes filled in."""
    interface: Interface
    data: dict[str, Any]
    """`spec`, `fingerprint`, counts and returns of the episodes."""
    made_with: dict[str, Any]
    """Versions, device and command line."""

    @property
    def model(self) -> ModelConfig:
        return self.config.model

    @property
    def env_id(self) -> str | None:
        """Gymnasium id, None for a run without a simulator or with an environment of one's own."""
        return None if self.config.env in ("none", "custom") else self.config.env


def write_record(run: RunDirectory, record: RunRecord) -> None:
    interface = dataclasses.asdict(record.interface)
    document = {
        "format": FORMAT,
        "config": config_to_json(record.config),
        "interface": {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in interface.items()},
        "data": record.data,
        "made_with": record.made_with,
    }
    with open_atomically(run.config) as file:
        json.dump(document, file, indent=1, allow_nan=False)


def read_record(run: RunDirectory) -> RunRecord:
    """Raises JaxdtError when the directory holds no run or its config.json is damaged."""
    if not run.holds_run:
        of_seeds = sorted(str(path.parent) for path in run.path.glob("seed-*/config.json"))
        if of_seeds:
            raise JaxdtError(f"{run.path} holds the runs of several seeds; give one of them: {', '.join(of_seeds)}.")
        raise JaxdtError(f"{run.path} holds no run: config.json is missing; give a directory that jaxdt train wrote.")
    document = None
    try:
        document = read_json(run.config)
        _check_format(run, document.get("format", FORMAT))
        record = RunRecord(
            config=config_from_json(document["config"]),
            interface=_read_interface(document["interface"]),
            data=document["data"],
            made_with=document["made_with"],
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(document, dict) and "model_type" in document:
            message = f"{run.path} is a Hugging Face model and no run; make it one with jaxdt import {run.path} RUN."
            raise JaxdtError(message) from error
        raise JaxdtError(f"{run.config} is damaged: {one_line(error, 300)}; restore it from a copy.") from error
    _check_record(run, record)
    return record


def environment_of_record(record: RunRecord) -> str | None:
    """The run's environment, None where it must be given again: a file may name no module to import."""
    return record.env_id if record.env_id is not None and is_plain_env_id(record.env_id) else None


def describe_making(command: list[str] | None) -> dict[str, Any]:
    """Versions, device and command line of this process."""
    import jax

    packages = ("jaxdt", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gymnasium", "mujoco")
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "device": str(jax.devices()[0].device_kind),
        "platform": jax.default_backend(),
        "device_count": jax.device_count(),
        "command": command if command is not None else [os.path.basename(argument) for argument in sys.argv[:1]],
    }


def _check_format(run: RunDirectory, found: Any) -> None:
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise JaxdtError(
            f"{run.config} is of format {found!r:.40}, and this version of jaxdt reads formats up to {FORMAT}; read it "
            "with the version that wrote it, or a newer one."
        )


def _read_interface(values: dict[str, Any]) -> Interface:
    arrays = {
        name: np.asarray(values[name], np.float32) for name in ("state_mean", "state_std", "action_low", "action_high")
    }
    return Interface(
        **arrays, return_scale=float(values["return_scale"]), delayed_reward=bool(values["delayed_reward"])
    )


def _check_record(run: RunDirectory, record: RunRecord) -> None:
    model, interface = record.model, record.interface
    sizes = {
        "state_mean": (interface.state_mean.size, model.state_dim),
        "state_std": (interface.state_std.size, model.state_dim),
        "action_low": (interface.action_low.size, model.action_dim),
        "action_high": (interface.action_high.size, model.action_dim),
    }
    for name, (size, expected) in sizes.items():
        if size != expected:
            raise JaxdtError(f"{run.config} is damaged: {name} has {size} numbers and should have {expected}.")
        if not np.isfinite(getattr(interface, name)).all():
            raise JaxdtError(f"{run.config} is damaged: {name} has numbers that are not finite float32.")
    rules = {
        "state_std must be above 0": (interface.state_std > 0).all(),
        "state_std must have the shape of state_mean": interface.state_std.shape == interface.state_mean.shape,
        "action_low must be a list of numbers": interface.action_low.ndim == 1,
        "action_high must be a list of numbers": interface.action_high.ndim == 1,
        "action_high must not be below action_low": (interface.action_high >= interface.action_low).all(),
        "return_scale must be above 0 and finite": 0 < interface.return_scale < np.inf,
        "data must be a JSON object": isinstance(record.data, dict),
        "made_with must be a JSON object": isinstance(record.made_with, dict),
    }
    for rule, holds in rules.items():
        if not holds:
            raise JaxdtError(f"{run.config} is damaged: {rule}; restore it from a copy.")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
