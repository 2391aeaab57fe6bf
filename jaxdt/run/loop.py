"""The training loop: data -> model -> state -> restore -> for each update: log, evaluate, save."""

import collections
import contextlib
import dataclasses
import itertools
import time
import warnings
from typing import Any

import jax
import numpy as np

from jaxdt.checkpoint import CheckpointWriter, checkpoint_steps, load_checkpoint, read_metadata
from jaxdt.config import TrainConfig
from jaxdt.data.windows import WindowSampler
from jaxdt.errors import NonFiniteError, RunError, SimulationError, StoppedError
from jaxdt.metrics import NoTensorBoard, TensorBoard, append_line, cut_lines, read_evaluations, read_lines
from jaxdt.models import build_model
from jaxdt.plots import plot_loss, plot_returns
from jaxdt.progress import Progress
from jaxdt.run.agent import Agent
from jaxdt.run.directory import RunDirectory, write_record
from jaxdt.run.evaluate import Player
from jaxdt.run.prepare import Prepared
from jaxdt.run.stopping import Stop
from jaxdt.training import TrainState, make_train_step
from jaxdt.types import Evaluation, Window


@dataclasses.dataclass
class _Books:
    """What the loop remembers between updates; saved with every checkpoint."""

    losses: list[Any]
    """Of the updates since the last line of metrics.jsonl, one array a call, on the device until they are needed."""
    best_score: float | None
    """Highest mean return at the highest target so far."""
    timed: int = 0
    """Of those updates, how many `seconds` covers: not the first of the process, which compiles."""
    seconds: float = 0.0
    """Spent on them, evaluating and saving left out."""


def train_and_evaluate(
    run: RunDirectory, prepared: Prepared, data_returns: np.ndarray, progress: Progress, stop: Stop
) -> None:
    """The whole run, top to bottom; where several things fall due: log, evaluate, save."""
    config, interface = prepared.record.config, prepared.record.interface
    assert config.steps is not None
    assert config.updates_per_call is not None
    count = config.updates_per_call
    sampler = WindowSampler(
        prepared.store,
        config.model.context_length,
        config.batch_size,
        config.seed,
        config.return_scale,
        config.model.max_episode_length,
        prepared.store.num_episodes if config.passes is not None else None,
    )
    init, apply = build_model(config.model)
    init_key, dropout_key = jax.random.split(jax.random.key(config.seed))
    resumed = bool(checkpoint_steps(run.checkpoints))
    params = init(init_key) if config.init is None or resumed else Agent.load(config.init).params
    update, state = make_train_step(apply, params, config.optimizer, updates_per_call=count)
    with contextlib.ExitStack() as stack:
        writer = CheckpointWriter(run.checkpoints)
        board = stack.enter_context(contextlib.closing(_open_board(run, config)))
        highest = max(config.targets or (0.0,))
        state, books = _restore(run, state, highest)
        state = jax.device_put(state, jax.devices()[0])  # all of it, or the second update compiles anew
        write_record(run, prepared.record)
        player = None
        if prepared.environment is not None:
            context = config.eval_context
            player = Player(config.model, apply, interface, prepared.environment, context=context, progress=progress)
            stack.enter_context(contextlib.closing(player))
        first = int(state.step)
        progress.start("train", config.steps, "update", first)
        stack.callback(progress.stop)
        sampler.position = first
        windows = _next_windows(sampler, count)
        recent: collections.deque[Any] = collections.deque(maxlen=3)
        clock = saved_at = time.perf_counter()
        for step in range(first + count, config.steps + 1, count):
            state, metrics = update(state, windows, dropout_key)
            windows = _next_windows(sampler, count)  # drawn while the device works
            books.losses.append(metrics["loss"])
            books.timed += count
            if step == first + count:
                jax.block_until_ready(state)
                clock, books.timed = time.perf_counter(), 0
            last, asked = step == config.steps, stop()
            log_due = last or step % config.log_every == 0
            waited = time.perf_counter() - saved_at > 60 * config.save_every_minutes
            save_due = last or step % config.save_every == 0 or waited or asked is not None
            evaluate_due = player is not None and (last or step % config.eval_every == 0)
            recent.append(metrics["loss"])
            _show(progress, step, recent)
            if not (log_due or evaluate_due or save_due):
                continue
            _check_finite(run, step, state, books)
            books.seconds += time.perf_counter() - clock
            if log_due:
                _log(run, board, step, metrics, books)
            score = None
            if evaluate_due and player is not None:
                score = _evaluate(run, board, step, config, player, state, progress)
            if last or score is not None:
                draw_plots(run, config, data_returns)
            is_best = score is not None and (books.best_score is None or score > books.best_score)
            if is_best:
                books.best_score = score
            if save_due or is_best:
                _save(writer, step, state, books, score, highest)
                saved_at = time.perf_counter()
            if asked is not None and not last:
                raise StoppedError(
                    f"stopped after update {step} of {config.steps}; go on with jaxdt train --resume --out {run.path}",
                    asked,
                )
            if last and evaluate_due and score is None:
                raise RunError(f"the last evaluation failed; the weights are in {run.checkpoints}.")
            clock = time.perf_counter()


def _open_board(run: RunDirectory, config: TrainConfig) -> NoTensorBoard:
    return TensorBoard(run.tensorboard) if config.tensorboard else NoTensorBoard()


def _restore(run: RunDirectory, state: TrainState, target: float) -> tuple[TrainState, _Books]:
    """The latest checkpoint, or the state given where there is none; metric files are cut back to it."""
    steps = checkpoint_steps(run.checkpoints)
    books = _Books(losses=[], best_score=None)
    if steps:
        stored = load_checkpoint(run.checkpoints, steps[-1], params=state.params, training=_training_part(state))
        state = state._replace(params=stored["params"], **stored["training"])
        metadata = read_metadata(run.checkpoints, steps[-1])
        best = metadata["best_score"] if metadata["best_target"] == target else None
        books = _Books(losses=[np.asarray(metadata["losses"], np.float32)], best_score=best)
    for path in (run.metrics, run.evaluations):
        cut_lines(path, steps[-1] if steps else 0)
    return state, books


def _training_part(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _next_windows(sampler: WindowSampler, count: int) -> Window:
    """The next `count` batches stacked, on the device."""
    return jax.device_put(Window(*map(np.stack, zip(*itertools.islice(sampler, count), strict=True))))


def _show(progress: Progress, step: int, recent: collections.deque[Any]) -> None:
    # The loss shown is two calls old, so that reading it does not wait for the device.
    progress.advance(step, **({"loss": float(recent[0][-1])} if len(recent) == recent.maxlen else {}))


def _losses(books: _Books) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *jax.device_get(books.losses)])


def _check_finite(run: RunDirectory, step: int, state: TrainState, books: _Books) -> None:
    if bool(state.finite):
        return
    failed, losses = int(state.step) + 1, _losses(books)
    # Updates after the failed one changed nothing, and the losses of other batches may well be finite.
    until_then = losses[: len(losses) - (step - failed)]
    finite = [line["loss"] for line in read_lines(run.metrics)] + until_then[np.isfinite(until_then)].tolist()
    steps = checkpoint_steps(run.checkpoints)
    raise NonFiniteError(
        f"the loss or gradient of update {failed}, or a weight after it, is not finite; the last finite loss was "
        f"{finite[-1] if finite else 'none'} and the last good checkpoint is "
        f"{steps[-1] if steps else 'none'}; lower --learning-rate or look at the data."
    )


def _log(run: RunDirectory, board: NoTensorBoard, step: int, metrics: dict[str, jax.Array], books: _Books) -> None:
    numbers = {
        "loss": float(np.mean(_losses(books), dtype=np.float64)),
        "learning_rate": float(metrics["learning_rate"][-1]),
        "grad_norm": float(metrics["grad_norm"][-1]),
        "updates_per_second": books.timed / max(books.seconds, 1e-9),
    }
    append_line(run.metrics, {"step": step, **numbers})
    board.write(step, {f"training/{name}": value for name, value in numbers.items()})
    books.losses, books.timed, books.seconds = [], 0, 0.0


def _evaluate(
    run: RunDirectory,
    board: NoTensorBoard,
    step: int,
    config: TrainConfig,
    player: Player,
    state: TrainState,
    progress: Progress,
) -> float | None:
    """Writes every target's result; returns the mean return at the highest target, None if it failed."""
    assert config.targets is not None
    try:
        evaluations = player.evaluate(state.params, config.targets, config.eval_episodes, config.eval_seed)
    except SimulationError as error:
        append_line(run.evaluations, {"step": step, "failed": str(error)})
        warnings.warn(f"the evaluation after update {step} failed and training goes on: {error}", stacklevel=2)
        return None
    for evaluation in evaluations:
        append_line(run.evaluations, {"step": step, **evaluation.to_json()})
        name = f"evaluation/target_{evaluation.target:g}"
        board.write(step, {f"{name}_return_mean": evaluation.return_mean, f"{name}_return_std": evaluation.return_std})
    progress.say(_summary(step, evaluations))
    return max(evaluations, key=lambda evaluation: evaluation.target).return_mean


def _summary(step: int, evaluations: list[Evaluation]) -> str:
    results = "; ".join(f"{e.target:.0f} -> {e.return_mean:.0f} ± {e.return_std:.0f}" for e in evaluations)
    return f"after update {step}, target -> achieved return: {results}"


def draw_plots(run: RunDirectory, config: TrainConfig, data_returns: np.ndarray) -> None:
    evaluations, _ = read_evaluations(run.evaluations)
    plot_loss(run.loss_plot, read_lines(run.metrics), evaluations)
    newest = [record for record in evaluations if record["step"] == evaluations[-1]["step"]]
    if newest:
        title = f"{config.env}, {newest[0]['step']} updates"
        plot_returns(run.returns_plot, newest, data_returns, title)


def _save(
    writer: CheckpointWriter, step: int, state: TrainState, books: _Books, score: float | None, target: float
) -> None:
    metadata = {"losses": _losses(books).tolist(), "best_score": books.best_score, "best_target": target}
    writer.save(
        step, params=state.params, training=_training_part(state), metadata=metadata, score=score, target=target
    )
