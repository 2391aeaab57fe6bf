"""What runs write while they train: metrics, evaluations, plots and checkpoints, and what they go on from."""

import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdt import hosts
from jaxdt.checkpoint import CheckpointWriter, checkpoint_steps, load_checkpoint, read_metadata
from jaxdt.errors import NonFiniteError
from jaxdt.loggers import append_line, cut_lines, evaluation_scalars, read_evaluations, read_lines, training_scalars
from jaxdt.plots import plot_finetuning, plot_loss, plot_returns
from jaxdt.run.directory import RunDirectory, RunRecord, write_record
from jaxdt.run.mirrors import open_mirrors
from jaxdt.run.processes import as_the_first_sees
from jaxdt.run.seed_group import SeedGroup
from jaxdt.stacking import stacked, unstacked
from jaxdt.training import Metrics, TrainState
from jaxdt.types import Evaluation


class RunWriter:
    """The files of all runs of a group, open for writing.

    States and metrics are those of all its seeds, stacked along a first axis where there are several. Of several
    processes the first alone writes, but for the arrays of checkpoints.
    """

    def __init__(self, group: SeedGroup, records: Sequence[RunRecord], data_returns: np.ndarray):
        self._group = group
        self._runs = [_OneRun(run, record, data_returns) for run, record in zip(group.runs, records, strict=True)]
        self.also: dict[str, Any] = {}
        """Numbers that every line of metrics.jsonl and evaluations.jsonl has besides."""
        self._drawn_at = -math.inf
        self._metrics: list[Metrics] = []  # of the calls since the last line of metrics.jsonl, on the device

    def restore(self, states: list[TrainState]) -> TrainState:
        """Each run's latest checkpoint, or the state given where there is none; metric files are cut back to it."""
        return stacked([run.restore(state) for run, state in zip(self._runs, states, strict=True)])

    def write_records(self) -> None:
        for run in self._runs if hosts.is_first() else ():
            write_record(run.directory, run.record)
        self._group.write_summary()

    def add(self, metrics: Metrics) -> None:
        """Metrics of one call's updates, which need not be computed yet."""
        self._metrics.append(metrics)

    def check_finite(self, step: int, state: TrainState) -> None:
        """Raises NonFiniteError naming the first update with numbers that are not finite."""
        self._collect()
        seeds = [f"of seed {seed}, " for seed in self._group.seeds] or [""]
        for seed, run, finite, done in zip(
            seeds, self._runs, np.ravel(state.finite), np.ravel(state.step), strict=True
        ):
            if not finite:
                raise run.not_finite(step, failed=int(done) + 1, seed=seed)

    def log(self, step: int, updates_per_second: float, measured: Sequence[dict[str, float]]) -> None:
        """A line of metrics.jsonl: the mean loss since the line before, and every other metric of the last update.

        `measured`: what else there is to say of each run.
        """
        self._collect()
        for run, numbers in zip(self._runs, measured, strict=True):
            run.log(step, updates_per_second, self.also | numbers)

    def write_evaluations(self, step: int, evaluations: Sequence[Sequence[Evaluation]]) -> None:
        """Every target's result of each run, the summary over them, and whether it is the best so far."""
        for run, each in zip(self._runs, evaluations, strict=True):
            run.write_evaluations(step, each, self.also)
        self._group.write_summary()

    def rank(self, step: int, measured: Sequence[dict[str, float]]) -> None:
        """By the actions of held-out episodes, where there is no environment to rank the weights in."""
        for run, numbers in zip(self._runs, measured, strict=True):
            if "validation_action_error" in numbers:
                run.rank(step, -numbers["validation_action_error"])

    def write_failure(self, step: int, reason: str) -> None:
        """An evaluation that could not go on."""
        for run in self._runs:
            run.append_evaluation({"step": step, **self.also, "failed": reason})
        self._group.write_summary()

    def forget_evaluation(self, step: int) -> None:
        """What was written of one that failed, or was cut off, before it is played again."""
        for run in self._runs:
            cut_lines(run.directory.evaluations, step - 1)

    @property
    def has_new_best(self) -> bool:
        """Whether a run has reached its highest score since the last checkpoint."""
        return any(run.has_new_best for run in self._runs)

    def draw_plots(self, *, may_wait: bool = False) -> None:
        """Training stands still meanwhile, so those that `may_wait` are drawn once a minute."""
        if may_wait and time.monotonic() - self._drawn_at < 60:
            return
        for run in self._runs if hosts.is_first() else ():
            run.draw_plots()
        self._drawn_at = time.monotonic()

    def save(self, step: int, state: TrainState) -> None:
        """A checkpoint of every run, so that they always have their latest ones in common."""
        self._collect()
        for run, each in zip(self._runs, unstacked(state, len(self._runs)), strict=True):
            run.save(step, each)

    def close(self) -> None:
        for run in self._runs:
            run.close()

    def _collect(self) -> None:
        """Takes the metrics from the device and gives each run its own."""
        for metrics in jax.device_get(self._metrics):
            for i, run in enumerate(self._runs):
                run.take(metrics if len(self._runs) == 1 else {name: values[i] for name, values in metrics.items()})
        self._metrics = []


class _OneRun:
    """The files of one run directory, and what must be remembered between two entries."""

    def __init__(self, directory: RunDirectory, record: RunRecord, data_returns: np.ndarray):
        self.directory, self.record, self._data_returns = directory, record, data_returns
        self._highest_target = 0.0 if record.config.env == "none" else _highest(record.config.evaluation_targets)
        self._checkpoints = CheckpointWriter(directory.checkpoints)
        self._mirrors = open_mirrors(directory, record) if hosts.is_first() else []
        self._losses = np.zeros(0, np.float32)  # of the updates since the last line of metrics.jsonl
        self._last: dict[str, float] = {}  # metrics of the last update
        self._score: tuple[int, float] | None = None  # the newest evaluation's step, and how good it was
        self._best_score: float | None = None
        self.has_new_best = False
        self._opened = time.monotonic()
        self._seconds_before = 0.0  # that the run took before it was opened, to its last line that is kept

    def restore(self, state: TrainState) -> TrainState:
        directory = self.directory
        steps = as_the_first_sees(lambda: checkpoint_steps(directory.checkpoints), directory.path)
        if steps:
            training = _training_part(state)
            stored = load_checkpoint(directory.checkpoints, steps[-1], params=state.params, training=training)
            state = state._replace(params=stored["params"], **stored["training"])
            metadata = read_metadata(directory.checkpoints, steps[-1])
            self._losses = np.asarray(metadata["losses"], np.float32)
            self._best_score = metadata["best_score"] if metadata["best_target"] == self._highest_target else None
        for path in (directory.metrics, directory.evaluations) if hosts.is_first() else ():
            cut_lines(path, steps[-1] if steps else -1)
        lines = read_lines(directory.metrics)
        self._seconds_before = float(lines[-1].get("seconds", 0.0)) if lines else 0.0
        return state

    def take(self, metrics: dict[str, np.ndarray]) -> None:
        self._losses = np.concatenate([self._losses, np.ravel(metrics["loss"])])
        self._last = {name: float(np.ravel(values)[-1]) for name, values in metrics.items()}

    def not_finite(self, step: int, failed: int, seed: str) -> NonFiniteError:
        """What to raise after update `step` when update `failed` was the first with numbers that are not finite."""
        # Updates after the failed one changed nothing, and the losses of other batches may well be finite.
        until_then = self._losses[: len(self._losses) - (step - failed)]
        finite = [line["loss"] for line in read_lines(self.directory.metrics)]
        finite += until_then[np.isfinite(until_then)].tolist()
        steps = checkpoint_steps(self.directory.checkpoints)
        return NonFiniteError(
            f"{seed}the loss or gradient of update {failed}, or a weight after it, is not finite; the last finite "
            f"loss was {finite[-1] if finite else 'none'} and the last good checkpoint is "
            f"{steps[-1] if steps else 'none'}; begin anew with a lower learning_rate= (--learning-rate), or look at "
            "the data."
        )

    def log(self, step: int, updates_per_second: float, measured: dict[str, Any]) -> None:
        loss = float(np.mean(self._losses, dtype=np.float64))
        others = {name: value for name, value in self._last.items() if name != "loss"}
        seconds = round(self._seconds_before + time.monotonic() - self._opened, 3)
        clock = {"updates_per_second": updates_per_second, "seconds": seconds}
        numbers = {"loss": loss, **dict(sorted(others.items())), **measured, **clock}
        if hosts.is_first():
            append_line(self.directory.metrics, {"step": step, **numbers})
        for mirror in self._mirrors:
            mirror.write(step, training_scalars(numbers))
        self._losses = np.zeros(0, np.float32)

    def write_evaluations(self, step: int, evaluations: Sequence[Evaluation], also: dict[str, Any]) -> None:
        records = [{"step": step, **also, **evaluation.to_json()} for evaluation in evaluations]
        for record in records:
            self.append_evaluation(record)
        for mirror in self._mirrors:
            mirror.write(step, evaluation_scalars(records))
        self.rank(step, next(each.return_mean for each in evaluations if each.target == self._highest_target))

    def rank(self, step: int, score: float) -> None:
        """`score`: of the weights after update `step`, the higher the better."""
        self._score = (step, score)
        if self._best_score is None or score > self._best_score:
            self._best_score, self.has_new_best = score, True

    def append_evaluation(self, record: dict[str, Any]) -> None:
        append_line(self.directory.evaluations, record)

    def draw_plots(self) -> None:
        evaluations, _ = read_evaluations(self.directory.evaluations)
        metrics, first = read_lines(self.directory.metrics), self.record.first_step
        config, directory = self.record.config, self.directory.plots
        plot_loss(directory / f"loss.{config.plot_format}", metrics, evaluations, first_step=first)
        if self.record.finetuning is not None:
            title = f"{config.env}, fine-tuned online"
            plot_finetuning(directory / f"finetuning.{config.plot_format}", [metrics], [evaluations], title)
        newest = [record for record in evaluations if record["step"] == evaluations[-1]["step"]]
        if newest:
            title = f"{config.env}, {newest[0]['step']} updates"
            plot_returns(directory / f"returns.{config.plot_format}", newest, self._data_returns, title)

    def save(self, step: int, state: TrainState) -> None:
        target = self._highest_target
        metadata = {"losses": self._losses.tolist(), "best_score": self._best_score, "best_target": target}
        score = self._score[1] if self._score is not None and self._score[0] == step else None
        self._checkpoints.save(
            step,
            params=state.params,
            training=_training_part(state),
            metadata=metadata,
            score=score,
            target=target,
        )
        self.has_new_best = False

    def close(self) -> None:
        for mirror in self._mirrors:
            mirror.close()


def _highest(targets: Sequence[float | None]) -> float | None:
    """None where the policy is asked for none; 0 where nothing is evaluated, as runs have always noted it."""
    return max((target for target in targets if target is not None), default=None if None in targets else 0.0)


def _training_part(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}
