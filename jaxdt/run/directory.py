"""The files of a run directory: all that acting, resuming and looking need."""

import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxdt.config import Finetuning, TrainConfig
from jaxdt.errors import JaxdtError, VersionError, one_line
from jaxdt.files import is_free, open_atomically, read_json
from jaxdt.run import upgrade
from jaxdt.run.config_json import config_from_json, config_to_json, finetuning_from_json
from jaxdt.types import Spec, spec_from_json


FORMAT = 2
"""Of config.json as this version writes it; earlier ones are brought up to it when they are read."""


class RunDirectory:
    """Names of the files in a run directory."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.evaluations = self.path / "evaluations.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.episodes = self.path / "episodes.npz"
        self.plots = self.path / "plots"
        self.replay = self.path / "replay"
        self.videos = self.path / "videos"

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
    """As given, with `env`, `targets` and whatever depends on the number of updates filled in."""
    spec: Spec
    data: dict[str, Any]
    """`spec` (what `load_episodes` takes), `fingerprint`, counts and returns of the episodes."""
    made_with: dict[str, Any]
    """Versions, device and command line."""
    finetuning: Finetuning | None = None
    """Of a run that was fine-tuned online."""

    @property
    def first_step(self) -> int:
        """Updates that were made before the run began."""
        return 0 if self.finetuning is None else self.finetuning.first_step

    @property
    def env_id(self) -> str | None:
        """Environment id, None for a run without a simulator or with an environment of one's own."""
        return None if self.config.env in ("none", "custom") else self.config.env


def write_record(run: RunDirectory, record: RunRecord) -> None:
    document = {
        "format": FORMAT,
        "config": config_to_json(record.config),
        "spec": record.spec.to_json(),
        "data": record.data,
        "made_with": record.made_with,
    }
    if record.finetuning is not None:
        document["finetuning"] = dataclasses.asdict(record.finetuning)
    with open_atomically(run.config) as file:
        json.dump(document, file, indent=1, allow_nan=False)


def read_record(run: RunDirectory) -> RunRecord:
    """Raises JaxdtError when the directory holds no run or its config.json is damaged."""
    if not run.holds_run:
        single_runs = sorted(str(path.parent) for path in run.path.glob("seed-*/config.json"))
        if single_runs:
            raise JaxdtError(f"{run.path} holds the runs of several seeds; give one of them: {', '.join(single_runs)}.")
        raise JaxdtError(f"{run.path} holds no run: config.json is missing; give a directory that jaxdt train wrote.")
    document = None
    try:
        document = read_json(run.config)
        document = _of_this_format(document)
        record = RunRecord(
            config=config_from_json(document["config"]),
            spec=spec_from_json(document["spec"]),
            data=document["data"],
            made_with=document["made_with"],
            finetuning=finetuning_from_json(document.get("finetuning")),
        )
        record.config.algorithm.check_spec(record.spec)
    except VersionError as error:
        raise VersionError(f"{run.config}: {error}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(document, dict) and "model_type" in document:
            message = f"{run.path} is a Hugging Face model and no run; make it one with jaxdt import {run.path} RUN."
            raise JaxdtError(message) from error
        raise JaxdtError(f"{run.config} is damaged: {one_line(error, 300)}; restore it from a copy.") from error
    for name in ("data", "made_with"):
        if not isinstance(getattr(record, name), dict):
            raise JaxdtError(f"{run.config} is damaged: {name} must be a JSON object; restore it from a copy.")
    missing = [] if "imported_from" in record.data else sorted(_DATA - record.data.keys())
    if missing:
        raise JaxdtError(f"{run.config} is damaged: data has no {missing[0]}; restore it from a copy.")
    return record


_DATA = {"spec", "fingerprint", "num_episodes", "num_steps", "return_mean", "return_min", "return_max"}


def describe_making(command: list[str] | None) -> dict[str, Any]:
    """Versions, device, command line and time of this process; `started` in UTC."""
    import jax

    packages = ("jaxdt", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gymnasium", "mujoco")
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "device": str(jax.devices()[0].device_kind),
        "platform": jax.default_backend(),
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "command": command if command is not None else [os.path.basename(argument) for argument in sys.argv[:1]],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


_BEGINNING = ("command", "started", "git_commit")
"""What a run keeps of how it began."""


def made_again(previous: dict[str, Any], newest: dict[str, Any]) -> dict[str, Any]:
    """Of a run that goes on: how it began, where it runs now, and in `resumed` how it was gone on with each time."""
    if not previous:
        return newest
    before = previous.get("resumed")
    resumed = [*(before if isinstance(before, list) else []), {name: newest.get(name) for name in _BEGINNING}]
    return {**newest, **{name: previous.get(name) for name in _BEGINNING}, "resumed": resumed}


def git_commit() -> str | None:
    """Of the current directory; None where it is in no repository."""
    try:
        told = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() if told.returncode == 0 else None


def _of_this_format(document: dict[str, Any]) -> dict[str, Any]:
    found = document.get("format", 1)  # the first versions wrote none
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise VersionError(
            f"it is of format {found!r:.40}, and this version of jaxdt reads formats up to {FORMAT}; read it "
            "with the version that wrote it, or a newer one."
        )
    return upgrade.from_format_1(document) if found == 1 else document


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
