"""`jaxdt compare` and `jaxdt log`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from jaxdt.cli.parsing import parse
from jaxdt.errors import JaxdtError


@dataclasses.dataclass(frozen=True)
class CompareArguments:
    """Set methods side by side: what each reached on each task, with intervals over seeds.

    Runs of one method are found by their choices; `NAME=RUN` names them instead. A run counts as one number, the mean
    return of its last evaluation's episodes at its highest target. What may not be compared is said.
    """

    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN ...")]]
    """Run directories, or directories with runs in them at any depth; NAME=RUN gives the method's name."""
    best: bool = False
    """Take each run's best evaluation instead of its last, which nobody can know beforehand; the table says so."""
    references: Annotated[tuple[str, ...], arg(metavar="ENV=RANDOM,BEST ...")] = ()
    """Returns that are 0 and 100 in an environment, for a table over tasks of which D4RL knows none."""
    out: Path | None = None
    """Also write comparison.md, .tex, .csv, .json, .png and .pdf into this directory."""


@dataclasses.dataclass(frozen=True)
class LogArguments:
    """Give all metrics and evaluations of runs to TensorBoard, Weights & Biases or Trackio.

    Exact whatever happened while they were trained, and needs none of these at that time.
    """

    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN ...")]]
    """Run directories."""
    to: Literal["tensorboard", "wandb", "trackio"]
    """Which; each needs the extra of its name."""
    project: str | None = None
    """What they belong to there; default: each run's own."""


def log_command(arguments: list[str]) -> None:
    parsed = parse(LogArguments, arguments, "jaxdt log")
    if not parsed.runs:
        raise JaxdtError(f"log needs a run: jaxdt log runs/cheetah --to {parsed.to}.")
    from jaxdt.run.mirrors import log

    for run in parsed.runs:
        log(run, to=parsed.to, project=parsed.project)
        print(f"logged {run} to {parsed.to}")


def _reference(given: str) -> tuple[str, tuple[float, float]]:
    env, _, pair = given.rpartition("=")
    try:
        low, high = map(float, pair.split(","))
    except ValueError as error:
        raise JaxdtError(
            f"--references takes ENV=RANDOM,BEST, such as Mine-v0=0,250, behind the runs; got {given!r:.80}."
        ) from error
    return env, (low, high)


def compare_command(arguments: list[str]) -> None:
    parsed = parse(CompareArguments, arguments, "jaxdt compare")
    from jaxdt.run.comparison import compare

    references = dict(map(_reference, parsed.references))
    comparison = compare(parsed.runs, best=parsed.best, references=references)
    print(comparison)
    if parsed.out is not None:
        print("\n".join(f"wrote {path}" for path in comparison.write(parsed.out)))
