"""Runs that were evaluated, as comparing reads them: their evaluations, conditions, and the method that they are of."""

import dataclasses
import glob
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from jaxdt.config import (
    CHANGEABLE,
    FILLED_IN,
    PRESETS,
    FinetuneConfig,
    TrainConfig,
    default_exploration_target,
    flatten,
)
from jaxdt.data.formats.dqn_spec import PREFIX as DQN, short_name
from jaxdt.errors import JaxdtError
from jaxdt.loggers import read_evaluations
from jaxdt.run.directory import RunDirectory, RunRecord, read_record


NOT_THE_METHOD = {
    *(name for name in CHANGEABLE if name != "steps"),
    *(
        "dataset",
        "env",
        "env_kwargs",
        "seed",
        "preset",
        "paper_targets",
        "target_quantiles",
        "eval_seed",
        "updates_per_call",
    ),
    "algorithm.optimizer.total_steps",
}
"""Choices that differ between seeds and tasks of one method, or say what is looked at."""

_HOW_LONG = ("steps", "passes")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FinishedRun:
    """One run's record and evaluations; it may still be going on."""

    path: Path
    record: RunRecord
    evaluations: list[dict[str, Any]]
    """As `evaluations.jsonl` has them, checked."""

    @property
    def seed(self) -> int:
        return self.record.config.seed

    @property
    def env(self) -> str:
        return printable(self.record.config.env or "none")

    @property
    def fingerprint(self) -> str:
        return str(self.record.data.get("fingerprint"))

    @property
    def data_name(self) -> str:
        """What the episodes were loaded from, for people."""
        return printable(dataset_name(str(self.record.data["spec"] or "arrays")))

    @property
    def data_returns(self) -> tuple[float, float]:
        """Mean and highest return of the episodes that it was trained on."""
        return self.record.data["return_mean"], self.record.data["return_max"]

    @property
    def conditions(self) -> dict[str, Any]:
        """What must be equal for two runs' returns to be of the same thing."""
        config, versions = self.record.config, self.record.made_with.get("versions")
        versions = versions if isinstance(versions, dict) else {}
        return {
            "environment": config.env or "none",
            "environment's arguments": json.dumps(config.env_kwargs or {}, sort_keys=True),
            "limit of an episode's steps": config.max_episode_steps,
            "first environment seed": config.eval_seed,
            "episodes an evaluation": len(self.last_evaluation["returns"]),
            "version of Gymnasium": versions.get("gymnasium"),
            "version of MuJoCo": versions.get("mujoco"),
        }

    @cached_property
    def last_evaluation(self) -> dict[str, Any]:
        """After the most updates, at the highest target."""
        return max(self.evaluations, key=lambda e: (e["step"], _rank(e["target"])))

    @cached_property
    def best_evaluation(self) -> dict[str, Any]:
        return max(self.evaluations, key=lambda e: e["return_mean"])

    @cached_property
    def method(self) -> dict[str, Any]:
        """Every choice that makes the method, by name; what was filled in from the data is none."""
        config = self.record.config
        left_out = NOT_THE_METHOD | _filled_in(config)
        if self.record.finetuning is not None:
            left_out |= {"steps"}  # which count from those of the run that it began from
        choices = {name: value for name, value in flatten(config).items() if name not in left_out}
        return {"method": config.algorithm.name, **choices, **_of_finetuning(self.record)}

    @property
    def is_finished(self) -> bool:
        """Whether it was evaluated after its last update."""
        return self.last_evaluation["step"] == self.record.config.steps

    def curve(self, target: float | None) -> dict[int, float]:
        """The mean return after each number of updates of its own at which that target was asked for."""
        first = self.record.first_step
        return {e["step"] - first: e["return_mean"] for e in self.evaluations if e["target"] == target}


def _of_finetuning(record: RunRecord) -> dict[str, Any]:
    """The choices of a run that was fine-tuned; those that are as by default say nothing."""
    if record.finetuning is None:
        return {}
    chosen, default = record.finetuning.config, FinetuneConfig()
    names = {name for name, value in flatten(chosen).items() if value != getattr(default, name)}
    names -= {"rounds", "seed", "targets", "eval_episodes", "evaluate_every", "save_every"}
    if chosen.exploration_target == default_exploration_target(record.config.evaluation_targets):
        names -= {"exploration_target"}
    return {f"finetuning.{name}": getattr(chosen, name) for name in ("rounds", *sorted(names))}


def _rank(target: float | None) -> float:
    return -math.inf if target is None else target


def read_run(path: Path) -> FinishedRun:
    """Raises JaxdtError where config.json or evaluations.jsonl are damaged."""
    run = RunDirectory(path)
    record = read_record(run)
    returns = [record.data.get(name, 0.0) for name in ("return_mean", "return_max")]
    if "imported_from" not in record.data and not all(map(_is_number, returns)):
        raise JaxdtError(f"{run.config} is damaged: the data's returns are {returns!r:.80}; restore it from a copy.")
    if not run.evaluations.is_file():
        return FinishedRun(path=path, record=record, evaluations=[])
    evaluations = read_evaluations(run.evaluations)[0]
    if evaluations and "imported_from" in record.data:
        raise JaxdtError(f"{run.path} was imported, and {run.evaluations.name} is none of its files; remove it.")
    for number, evaluation in enumerate(evaluations, start=1):
        if not _is_evaluation(evaluation):
            raise JaxdtError(f"{run.evaluations} is damaged: record {number} is no evaluation; restore it from a copy.")
    return FinishedRun(path=path, record=record, evaluations=evaluations)


def _is_evaluation(record: Any) -> bool:
    try:
        numbers = [record["return_mean"], record["return_std"], *record["returns"]]
        numbers += [value for value in (record["target"], record["normalized_mean"]) if value is not None]
        is_step = type(record["step"]) is int and 0 <= record["step"] < 2**31
        return is_step and bool(record["returns"]) and all(map(_is_number, numbers))
    except (KeyError, TypeError):
        return False


def _is_number(value: Any) -> bool:
    """Such as a return may be; far from where sums and figures overflow."""
    return type(value) in (int, float) and -1e100 < value < 1e100


def find_runs(runs: Mapping[str, Any] | Sequence[str | os.PathLike[str]]) -> list[tuple[str | None, Path]]:
    """Each run directory below what is given, once, with the name that it was given.

    Raises JaxdtError for a path that does not exist or holds no run.
    """
    if isinstance(runs, str | os.PathLike):
        runs = [runs]
    if not isinstance(runs, Mapping | Sequence):
        raise JaxdtError(f"runs must be a list of paths, or a dict of names and paths; got {runs!r:.80}.")
    found: dict[tuple[str | None, Path], Path] = {}
    for name, path in _named_paths(runs):
        below = _runs_below(path)
        if not below:
            why = "holds no run" if path.is_dir() else "does not exist"
            raise JaxdtError(f"{path} {why}; give directories that jaxdt train wrote, or that hold some.")
        for run in below:
            found.setdefault((name, run.resolve()), run)
    if not found:
        raise JaxdtError("compare needs runs: jaxdt compare runs/cheetah runs/cloned.")
    return [(name, path) for (name, _), path in found.items()]


def _named_paths(runs: Mapping[str, Any] | Sequence[str | os.PathLike[str]]) -> list[tuple[str | None, Path]]:
    if isinstance(runs, Mapping):
        groups = {name: [of] if not isinstance(of, list | tuple) else of for name, of in runs.items()}
        return [(printable(str(name)), _as_path(path)) for name, paths in groups.items() for path in paths]
    named: list[tuple[str | None, Path]] = []
    for run in map(_as_path, runs):
        name, equals, path = os.fspath(run).partition("=")
        if equals and name and path and not Path(run).exists():
            # A shell leaves the pattern of `NAME=runs/*/iql` as it is.
            named += [(printable(name), Path(each)) for each in sorted(glob.glob(path)) or [path]]
        else:
            named.append((None, Path(run)))
    return named


def _as_path(run: Any) -> Path:
    if not isinstance(run, str | os.PathLike):
        raise JaxdtError(f"a run is given as a path; got {run!r:.80}.")
    return Path(run)


def _runs_below(path: Path, above: frozenset[Path] = frozenset()) -> list[Path]:
    """The run itself, or those in its directories; what lies in a run is not looked at, nor a link to one above."""
    if RunDirectory(path).holds_run:
        return [path]
    above = above | {path.resolve()}
    if not path.is_dir():
        return []
    inside = sorted(each for each in path.iterdir() if each.is_dir() and each.resolve() not in above)
    return [run for each in inside for run in _runs_below(each, above)]


def name_methods(named: Sequence[tuple[str | None, FinishedRun]]) -> tuple[list[str], list[str]]:
    """Each run's method as people know it, and a note for each name whose runs were made differently.

    That is the name given, or the preset's with every choice that is not the preset's own. How long was trained is
    among them only where runs of one preset differ in it.
    """
    unnamed = [run for name, run in named if name is None]
    methods = [name or _preset_and_choices(run, unnamed) for name, run in named]
    notes = []
    for method in dict.fromkeys(methods):
        members = [run for name, (_, run) in zip(methods, named, strict=True) if name == method]
        differing = _differing([run.method for run in members])
        if differing:
            notes.append(f"the runs of {method} were made with different {', '.join(differing)}")
    return methods, notes


def unequal_training(cells: Mapping[tuple[str, str], Sequence[FinishedRun]]) -> list[str]:
    """A note for each task whose methods, `cells` of them by method and task, were not trained for as many updates."""
    notes = []
    for task in dict.fromkeys(task for _, task in cells):
        updates = {
            method: ", ".join(
                map(str, sorted({(run.record.config.steps or 0) - run.record.first_step for run in runs}))
            )
            for (method, each), runs in cells.items()
            if each == task
        }
        if len(set(updates.values())) > 1:
            listed = "; ".join(f"{count} ({method})" for method, count in updates.items())
            notes.append(f"{task}: the methods were trained for different numbers of updates: {listed}")
    return notes


def differences_from_preset(config: TrainConfig) -> dict[str, Any]:
    """What learning differs by from the preset that it started from, by the command's names; {} where that is gone."""
    own = _of_preset(config)
    left_out = NOT_THE_METHOD | _filled_in(config) | ({"passes"} if config.passes is None else set())
    return {
        name.split(".")[-1]: value
        for name, value in flatten(config).items()
        if name in own and name not in left_out and own[name] != value
    }


def _filled_in(config: TrainConfig) -> set[str]:
    """Choices that the preset leaves to the data, and the number of updates where it follows from passes."""
    filled = {name for name, value in _of_preset(config).items() if value is None and name.split(".")[-1] in FILLED_IN}
    return filled | {"steps"} if config.passes is not None else filled - {"steps"}


def _of_preset(config: TrainConfig) -> dict[str, Any]:
    """The choices of the preset that a config started from; {} where it is gone, or now of another method."""
    preset = PRESETS.get(config.preset)
    return {} if preset is None or type(preset.algorithm) is not type(config.algorithm) else flatten(preset)


def _preset_and_choices(run: FinishedRun, others: Sequence[FinishedRun]) -> str:
    """First what tells runs of one preset apart, for a long name is cut."""
    config, chosen = run.record.config, run.method
    own = _of_preset(config)
    differing = _differing([other.method for other in others if other.record.config.preset == config.preset])
    known = [name for name in chosen if (name in own or name.startswith("finetuning.")) and name not in _HOW_LONG]
    names = [
        name for name in dict.fromkeys([*differing, *known]) if name in chosen and own.get(name, ...) != chosen[name]
    ]
    return printable(" ".join([config.preset, *(f"{name.split('.')[-1]}={chosen[name]}" for name in names)]))


def _differing(methods: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for method in methods for name in method)
    return [name for name in names if any(method.get(name) != methods[0].get(name) for method in methods)]


def dataset_name(spec: str) -> str:
    """What `--dataset` was given, without directories and endings."""
    parts = spec.split("+")
    return "+".join(short_name(part) if part.startswith(DQN) else PurePath(part).stem for part in parts)


def printable(text: str) -> str:
    """A name that stands in a file of anybody's, without what could move a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)[:80]
