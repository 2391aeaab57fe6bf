"""What one run writes while it trains: metrics, evaluations, plots and checkpoints, and what to go on from."""

from typing import Any

import jax
import numpy as np

from jaxdt.checkpoint import CheckpointWriter, checkpoint_steps, load_checkpoint, read_metadata
from jaxdt.errors import NonFiniteError
from jaxdt.metrics import NoTensorBoard, TensorBoard, append_line, cut_lines, read_evaluations, read_lines
from jaxdt.plots import plot_loss, plot_returns
from jaxdt.run.directory import RunDirectory, RunRecord, write_record
from jaxdt.training import Metrics, TrainState
from jaxdt.types import Evaluation


class Ledger:
    """The files of one run directory, open for writing, and what must be remembered between two entries."""

    def __init__(self, run: RunDirectory, record: RunRecord, data_returns: np.ndarray):
        self._run, self._record, self._data_returns = run, record, data_returns
        self._highest = max(record.config.targets or (0.0,))
        self._writer = CheckpointWriter(run.checkpoints)
        self._board = TensorBoard(run.tensorboard) if record.config.tensorboard else NoTensorBoard()
        self.losses: list[Any] = []
        """Of the updates since the last line of metrics.jsonl, one array a call, on the device until needed."""
        self.best_score: float | None = None
        """Highest mean return at the highest target so far."""

    def restore(self, state: TrainState) -> TrainState:
        """The latest checkpoint, or the state given where there is none; metric files are cut back to it."""
        run, steps = self._run, checkpoint_steps(self._run.checkpoints)
        if steps:
            stored = load_checkpoint(run.checkpoints, steps[-1], params=state.params, training=_training_part(state))
            state = state._replace(params=stored["params"], **stored["training"])
            metadata = read_metadata(run.checkpoints, steps[-1])
            self.losses = [np.asarray(metadata["losses"], np.float32)]
            self.best_score = metadata["best_score"] if metadata["best_target"] == self._highest else None
        for path in (run.metrics, run.evaluations):
            cut_lines(path, steps[-1] if steps else 0)
        return state

    def write_record(self) -> None:
        write_record(self._run, self._record)

    def not_finite(self, step: int, failed: int, whose: str = "") -> NonFiniteError:
        """What to raise after update `step` when update `failed` was the first with numbers that are not finite."""
        losses = self._losses()
        # Updates after the failed one changed nothing, and the losses of other batches may well be finite.
        until_then = losses[: len(losses) - (step - failed)]
        finite = [line["loss"] for line in read_lines(self._run.metrics)]
        finite += until_then[np.isfinite(until_then)].tolist()
        steps = checkpoint_steps(self._run.checkpoints)
        return NonFiniteError(
            f"{whose}the loss or gradient of update {failed}, or a weight after it, is not finite; the last finite "
            f"loss was {finite[-1] if finite else 'none'} and the last good checkpoint is "
            f"{steps[-1] if steps else 'none'}; lower --learning-rate or look at the data."
        )

    def log(self, step: int, metrics: Metrics, updates_per_second: float) -> None:
        numbers = {
            "loss": float(np.mean(self._losses(), dtype=np.float64)),
            "learning_rate": float(metrics["learning_rate"][-1]),
            "grad_norm": float(metrics["grad_norm"][-1]),
            "updates_per_second": updates_per_second,
        }
        append_line(self._run.metrics, {"step": step, **numbers})
        self._board.write(step, {f"training/{name}": value for name, value in numbers.items()})
        self.losses = []

    def note_evaluations(self, step: int, evaluations: list[Evaluation]) -> float:
        """Writes every target's result; returns the mean return at the highest target."""
        for evaluation in evaluations:
            append_line(self._run.evaluations, {"step": step, **evaluation.to_json()})
            name = f"evaluation/target_{evaluation.target:g}"
            mean, std = evaluation.return_mean, evaluation.return_std
            self._board.write(step, {f"{name}_return_mean": mean, f"{name}_return_std": std})
        return max(evaluations, key=lambda evaluation: evaluation.target).return_mean

    def note_failure(self, step: int, reason: str) -> None:
        append_line(self._run.evaluations, {"step": step, "failed": reason})

    def draw_plots(self) -> None:
        evaluations, _ = read_evaluations(self._run.evaluations)
        plot_loss(self._run.loss_plot, read_lines(self._run.metrics), evaluations)
        newest = [record for record in evaluations if record["step"] == evaluations[-1]["step"]]
        if newest:
            title = f"{self._record.config.env}, {newest[0]['step']} updates"
            plot_returns(self._run.returns_plot, newest, self._data_returns, title)

    def save(self, step: int, state: TrainState, score: float | None) -> None:
        """A checkpoint; `score`: what `note_evaluations` answered at this step, None where there was none."""
        metadata = {"losses": self._losses().tolist(), "best_score": self.best_score, "best_target": self._highest}
        training = _training_part(state)
        self._writer.save(
            step, params=state.params, training=training, metadata=metadata, score=score, target=self._highest
        )

    def close(self) -> None:
        self._board.close()

    def _losses(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *jax.device_get(self.losses)])


def _training_part(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}
