"""A run's numbers in TensorBoard, Weights & Biases or Trackio: while it is trained, or all of them afterwards."""

import os
from typing import Any

from jaxdt.config import flatten
from jaxdt.errors import JaxdtError
from jaxdt.loggers import (
    MIRRORS,
    Mirror,
    evaluation_scalars,
    open_mirror,
    read_evaluations,
    read_lines,
    training_scalars,
)
from jaxdt.run.directory import RunDirectory, RunRecord, read_record


def open_mirrors(run: RunDirectory, record: RunRecord) -> list[Mirror]:
    """Those that the run's config asks for."""
    asked_for = [kind for kind in MIRRORS if getattr(record.config, kind)]
    return [_opened(kind, run, record, record.config.project) for kind in asked_for]


def log(run: str | os.PathLike[str], *, to: str, project: str | None = None) -> None:
    """Gives all metrics and evaluations of a run to a mirror, as if it had had it from the beginning.

    `to`: `tensorboard`, `wandb` or `trackio`; `project`: default: the run's. Called again it makes another run there.
    Raises JaxdtError where the directory holds no run, or what the mirror needs is not installed; RunError where it
    takes no numbers.
    """
    if to not in MIRRORS:
        raise JaxdtError(f"a run is logged to one of {', '.join(MIRRORS)}; got {to!r:.40}.")
    directory = RunDirectory(run)
    record = read_record(directory)
    metrics, evaluations = read_lines(directory.metrics), read_evaluations(directory.evaluations)[0]
    mirror = _opened(to, directory, record, project or record.config.project, afterwards=True)
    by_step: dict[int, list[dict[str, Any]]] = {}
    for line in evaluations:
        by_step.setdefault(line["step"], []).append(line)
    scalars = [(line["step"], training_scalars(line)) for line in metrics]
    scalars += [(step, evaluation_scalars(played)) for step, played in by_step.items()]
    for step, numbers in sorted(scalars, key=lambda pair: pair[0]):
        mirror.write(step, numbers)
    mirror.close()


def _opened(kind: str, run: RunDirectory, record: RunRecord, project: str, *, afterwards: bool = False) -> Mirror:
    config = {name: value for name, value in flatten(record.config).items() if value is not None}
    name = run.path.resolve().name
    return open_mirror(kind, run.path, project=project, name=name, config=config, afterwards=afterwards)
