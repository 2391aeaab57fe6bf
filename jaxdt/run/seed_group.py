"""The run directories that one call of train writes: one, or one for each seed with their summary beside them."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.config import TrainConfig
from jaxdt.errors import JaxdtError
from jaxdt.files import open_atomically
from jaxdt.loggers import read_evaluations
from jaxdt.run.directory import RunDirectory, RunRecord, read_record
from jaxdt.run.environment import with_what_a_file_may_say


class SeedGroup:
    """`path` is the run directory itself, or with `seeds` holds one `seed-<n>` each, and `summary.json`."""

    def __init__(self, path: str | os.PathLike[str], seeds: Sequence[int] = ()):
        self.path, self.seeds = Path(path), tuple(seeds)
        self.runs = [RunDirectory(self.path / f"seed-{seed}") for seed in seeds] or [RunDirectory(path)]
        self.summary = self.path / "summary.json"

    @property
    def has_begun(self) -> bool:
        """The summary is written before the runs: it says of which seeds they are."""
        return bool(stored_seeds(self.path)) if self.seeds else self.runs[0].holds_run

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints that all the runs have, rising."""
        from jaxdt.checkpoint import checkpoint_steps  # loads jax, which looking at a dataset does not need

        return sorted(set.intersection(*(set(checkpoint_steps(run.checkpoints)) for run in self.runs)))

    def configs(self, config: TrainConfig) -> list[TrainConfig]:
        """Each run's, of the one that they share."""
        return [dataclasses.replace(config, seed=seed) for seed in self.seeds] or [config]

    def records(self, record: RunRecord) -> list[RunRecord]:
        """Each run's, of the one that they share."""
        return [dataclasses.replace(record, config=config) for config in self.configs(record.config)]

    def write_summary(self) -> None:
        """Of several seeds, what `evaluations.jsonl` says of them all; of one run nothing."""
        if self.seeds:
            document = {"seeds": self.seeds, "evaluations": self._summaries()}
            with open_atomically(self.summary) as file:
                json.dump(document, file, indent=1, allow_nan=False)

    def _summaries(self) -> list[dict[str, Any]]:
        """One for each step and target that all the runs were evaluated at.

        Of fine-tuning for each round, since runs may begin it after other numbers of updates; `step` is the fewest.
        """
        evaluations = [read_evaluations(run.evaluations)[0] for run in self.runs]
        by_key = [{(_place(record), record["target"]): record for record in records} for records in evaluations]
        shared = [[records[key] for records in by_key] for key in by_key[0] if all(key in each for each in by_key)]
        return [
            {"step": min(record["step"] for record in records), **_round(records[0]), **summarize(records)}
            for records in shared
        ]


def _place(record: dict[str, Any]) -> int:
    return record.get("round", record["step"])


def _round(record: dict[str, Any]) -> dict[str, int]:
    return {"round": record["round"]} if "round" in record else {}


def summarize(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs' evaluations at one target, as `Evaluation.to_json` gives them: mean ± std over the runs.

    `return_std` and the like are sample standard deviations (n - 1) of the runs' means; None of one run.
    """
    summary: dict[str, Any] = {"target": evaluations[0]["target"]}
    names = {"return": "return_mean", "normalized": "normalized_mean"}
    if any("success_rate" in evaluation for evaluation in evaluations):  # of those that saw none it is not said
        evaluations = [{"success_rate": 0.0, **evaluation} for evaluation in evaluations]
        names["success"] = "success_rate"
    for name, of_a_run in names.items():
        means = [evaluation[of_a_run] for evaluation in evaluations]
        known = None not in means
        summary |= {
            f"{name}_means": means if known else None,
            f"{name}_mean": float(np.mean(means)) if known else None,
            f"{name}_std": float(np.std(means, ddof=1)) if known and len(means) > 1 else None,
        }
    return {**summary, "reference": evaluations[0]["reference"]}


def stored_seeds(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """The seeds whose runs a directory holds, as its summary says; () where it is no directory of that kind."""
    return tuple(read_summary(path)["seeds"])


def read_summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `summary.json` of a directory holds; no seeds and no evaluations where it has none of ours."""
    try:
        document = json.loads(SeedGroup(path).summary.read_text(encoding="utf-8"))
        if all(type(seed) is int for seed in document["seeds"]) and isinstance(document["evaluations"], list):
            return document
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"seeds": [], "evaluations": []}


def stored_config(path: str | os.PathLike[str]) -> TrainConfig | None:
    """What the run in a directory was started with, or those of several seeds; None where it holds none.

    Without what must be given again, since a file may not say it.
    """
    group = SeedGroup(path, stored_seeds(path))
    begun = [run for run in group.runs if run.holds_run]
    if not begun:
        return None
    config = with_what_a_file_may_say(read_record(begun[0]).config)
    return dataclasses.replace(config, seed=TrainConfig.seed) if group.seeds else config


def open_seed_group(
    path: str | os.PathLike[str], config: TrainConfig, seeds: Sequence[int] | None, resume: bool
) -> SeedGroup:
    """Raises JaxdtError where the seeds cannot be, or the directory holds something else than is asked for."""
    stored, run = stored_seeds(path), RunDirectory(path)
    if seeds is not None or stored:
        check_seeds(config, stored if seeds is None else seeds)
    if stored and not resume:
        raise JaxdtError(
            f"{path} already holds the runs of the seeds {_listed(stored)}; continue them with --resume, or choose "
            "another --out."
        )
    if stored and seeds is not None and sorted(seeds) != sorted(stored):
        raise JaxdtError(
            f"{path} holds the runs of the seeds {_listed(stored)} and cannot go on with {_listed(seeds)}; leave "
            "--seeds out, or choose another --out."
        )
    if seeds is not None and run.holds_run:
        raise JaxdtError(f"{path} holds a single run; leave --seeds out to continue it, or choose another --out.")
    group = SeedGroup(path, stored or seeds or ())
    if not (run.is_free or (group.has_begun and resume)):
        raise JaxdtError(
            f"{path} already holds a run; continue it with --resume, or choose another --out."
            if run.holds_run
            else f"{path} is not empty and holds no run; choose another --out."
        )
    return group


def check_seeds(config: TrainConfig, seeds: Sequence[int]) -> None:
    """Each must be one that `config.seed` may be, which itself stays as it is by default."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise JaxdtError(f"seeds must be one or more numbers, each given once; got {list(seeds)}.")
    if config.seed != TrainConfig.seed:
        raise JaxdtError(f"give seed or seeds, not both; got {config.seed} and {list(seeds)} (leave seed out).")
    SeedGroup("", seeds).configs(config)


def _listed(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))
