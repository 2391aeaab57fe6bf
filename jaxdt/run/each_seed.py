"""Fine-tuning with several seeds, one after the other, each in a run directory of its own, and what they share."""

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jaxdt.config import FinetuneConfig, TrainConfig
from jaxdt.errors import JaxdtError, StoppedError
from jaxdt.loggers import read_evaluations, read_lines
from jaxdt.plots import plot_finetuning
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.environment import how_to_go_on
from jaxdt.run.seed_group import SeedGroup, check_seeds, open_seed_group, stored_seeds
from jaxdt.run.train import held


def finetune_each_seed(
    check_one: Callable[[Path | None, FinetuneConfig, Path], None],
    finetune_one: Callable[[Path | None, FinetuneConfig, Path], Path],
    run: str | os.PathLike[str] | None,
    config: FinetuneConfig | None,
    seeds: Sequence[int] | None,
    out: Path,
    resume: bool,
) -> Path:
    """Calls `finetune_one(run, config, out)` for each seed, into `out/seed-<n>`; what is finished returns at once.

    Before that `check_one`, with the same, for all, so that nothing is written where one is refused.
    `run`: one run, which all begin from, or a directory with one of each seed. `seeds`: default: those of `out` or
    `run`. Beside the runs are `summary.json` and `plots/finetuning.png`.
    """
    if config is not None and config.seed != FinetuneConfig.seed:
        raise JaxdtError(f"give seed or seeds, not both; got {config.seed} and {seeds} (leave seed out).")
    of_run = () if run is None else stored_seeds(run)
    seeds = seeds if seeds is not None else stored_seeds(out) or of_run
    check_seeds(TrainConfig(), seeds)
    group = open_seed_group(out, TrainConfig(), seeds, resume)
    with contextlib.ExitStack() as stack:
        begun = group.has_begun
        if begun:
            stack.enter_context(held(group))
        shared = _shared_config(config, group)
        calls = []
        for seed, directory in zip(group.seeds, group.runs, strict=True):
            start = None if run is None else Path(run) / f"seed-{seed}" if of_run else Path(run)
            calls.append((start, dataclasses.replace(shared, seed=seed), directory.path))
        for each in calls:
            check_one(*each)
        if not begun:
            stack.enter_context(held(group, new=True))
        for seed, each in zip(group.seeds, calls, strict=True):
            with _naming_the_seed(seed, run, group):
                finetune_one(*each)
            group.write_summary()
            _draw(group, [each for each in group.runs if each.holds_run])
    return group.path


def begun_with(group: SeedGroup) -> FinetuneConfig | None:
    """What the fine-tuning in a directory was begun with, of several seeds without the seed; None where none has."""
    records = [read_record(run) for run in group.runs if run.holds_run]
    config = next((record.finetuning.config for record in records if record.finetuning is not None), None)
    return dataclasses.replace(config, seed=FinetuneConfig.seed) if config is not None and group.seeds else config


def _shared_config(config: FinetuneConfig | None, group: SeedGroup) -> FinetuneConfig:
    """Of all seeds, those that have not begun too."""
    begun = begun_with(group)
    if begun is None:
        return config or FinetuneConfig()
    return begun if config is None else config.going_on_from(begun)


@contextlib.contextmanager
def _naming_the_seed(seed: int, run: str | os.PathLike[str] | None, group: SeedGroup) -> Iterator[None]:
    try:
        yield
    except StoppedError as error:
        again = how_to_go_on("finetune", group.path, next(read_record(each) for each in group.runs if each.holds_run))
        if run is not None:  # which those seeds start from that have not begun
            again = again.replace("jaxdt finetune ", f"jaxdt finetune {shlex.quote(os.fspath(run))} ", 1)
        raise StoppedError(f"seed {seed} {error}; or all seeds with {again}", error.signal_number) from error


def _draw(group: SeedGroup, runs: Sequence[RunDirectory]) -> None:
    """Of the seeds that are there so far."""
    config = read_record(runs[0]).config
    metrics = [read_lines(run.metrics) for run in runs]
    evaluations = [read_evaluations(run.evaluations)[0] for run in runs]
    path = RunDirectory(group.path).plots / f"finetuning.{config.plot_format}"
    plot_finetuning(path, metrics, evaluations, f"{config.env}, fine-tuned online")
