"""Fine-tuning with several seeds, one after the other, each in a run directory of its own, and what they share."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxdt.config import FinetuneConfig, TrainConfig
from jaxdt.errors import JaxdtError, StoppedError
from jaxdt.files import writing
from jaxdt.loggers import read_evaluations, read_lines
from jaxdt.plots import plot_finetuning
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.seed_group import SeedGroup, check_seeds, open_seed_group, stored_seeds


def finetune_each_seed(
    finetune_one: Callable[[Path | None, FinetuneConfig | None, Path], Path],
    run: str | os.PathLike[str] | None,
    config: FinetuneConfig | None,
    seeds: Sequence[int] | None,
    out: Path,
    resume: bool,
) -> Path:
    """Calls `finetune_one(run, config, out)` for each seed, into `out/seed-<n>`; what is finished returns at once.

    `run`: one run, which all begin from, or a directory with one of each seed. `seeds`: default: those of `out` or
    `run`. Beside the runs are `summary.json` and `plots/finetuning.png`.
    """
    if config is not None and config.seed != FinetuneConfig.seed:
        raise JaxdtError(f"give seed or seeds, not both; got {config.seed} and {seeds} (leave seed out).")
    of_run = () if run is None else stored_seeds(run)
    seeds = seeds if seeds is not None else stored_seeds(out) or of_run
    check_seeds(TrainConfig(), seeds)
    group = open_seed_group(out, TrainConfig(), seeds, resume)
    with writing(group.path):
        group.path.mkdir(parents=True, exist_ok=True)
    group.write_summary()
    for seed, directory in zip(group.seeds, group.runs, strict=True):
        start = None if run is None else Path(run) / f"seed-{seed}" if of_run else Path(run)
        its_config = None if config is None else dataclasses.replace(config, seed=seed)
        try:
            finetune_one(start, its_config, directory.path)
        except StoppedError as error:
            named = "" if run is None else f"{run} "
            message = f"seed {seed} {error}; or all seeds with jaxdt finetune {named}--resume --out {group.path}"
            raise StoppedError(message, error.signal_number) from error
        group.write_summary()
        _draw(group, [each for each in group.runs if each.holds_run])
    return group.path


def _draw(group: SeedGroup, runs: Sequence[RunDirectory]) -> None:
    """Of the seeds that are there so far."""
    title = f"{read_record(runs[0]).config.env}, fine-tuned online"
    metrics = [read_lines(run.metrics) for run in runs]
    evaluations = [read_evaluations(run.evaluations)[0] for run in runs]
    plot_finetuning(RunDirectory(group.path).finetuning_plot, metrics, evaluations, title)
