"""The training loop: data -> model -> state -> restore -> for each update: log, evaluate, save."""

import collections
import contextlib
import itertools
import time
import warnings
from typing import Any

import jax
import numpy as np

from jaxdt.checkpoint import checkpoint_steps
from jaxdt.config import TrainConfig
from jaxdt.data.windows import WindowSampler
from jaxdt.errors import RunError, SimulationError, StoppedError
from jaxdt.models import build_model
from jaxdt.progress import Progress
from jaxdt.run.agent import Agent
from jaxdt.run.directory import RunDirectory
from jaxdt.run.evaluate import Player
from jaxdt.run.ledger import Ledger
from jaxdt.run.prepare import Prepared
from jaxdt.run.stopping import Stop
from jaxdt.training import TrainState, make_train_step
from jaxdt.types import Evaluation, Window


class _Clock:
    """Time spent on updates, evaluating and saving left out, since the last line of metrics.jsonl."""

    def __init__(self) -> None:
        self.updates, self.seconds = 0, 0.0
        self.start()

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._started

    def rate(self) -> float:
        """Updates a second; the count begins anew."""
        rate = self.updates / max(self.seconds, 1e-9)
        self.updates, self.seconds = 0, 0.0
        return rate


def train_and_evaluate(
    run: RunDirectory, prepared: Prepared, data_returns: np.ndarray, progress: Progress, stop: Stop
) -> None:
    """The whole run, top to bottom; where several things fall due: log, evaluate, save."""
    config = prepared.record.config
    assert config.steps is not None
    assert config.updates_per_call is not None
    count = config.updates_per_call
    sampler = _make_sampler(prepared, config)
    init, apply = build_model(config.model)
    init_key, dropout_key = jax.random.split(jax.random.key(config.seed))
    resumed = bool(checkpoint_steps(run.checkpoints))
    params = init(init_key) if config.init is None or resumed else Agent.load(config.init).params
    update, state = make_train_step(apply, params, config.optimizer, updates_per_call=count)
    with contextlib.ExitStack() as stack:
        ledgers = [stack.enter_context(contextlib.closing(Ledger(run, prepared.record, data_returns)))]
        state = ledgers[0].restore(state)
        state = jax.device_put(state, jax.devices()[0])  # all of it, or the second update compiles anew
        for ledger in ledgers:
            ledger.write_record()
        player = None
        if prepared.environment is not None:
            player = Player(
                config.model,
                apply,
                prepared.record.interface,
                prepared.environment,
                context=config.eval_context,
                progress=progress,
            )
            stack.enter_context(contextlib.closing(player))
        first = int(state.step)
        progress.start("train", config.steps, "update", first)
        stack.callback(progress.stop)
        sampler.position = first
        windows = _next_windows(sampler, count)
        recent: collections.deque[Any] = collections.deque(maxlen=3)
        clock, saved_at = _Clock(), time.perf_counter()
        for step in range(first + count, config.steps + 1, count):
            state, metrics = update(state, windows, dropout_key)
            windows = _next_windows(sampler, count)  # drawn while the device works
            for ledger in ledgers:
                ledger.losses.append(metrics["loss"])
            clock.updates += count
            if step == first + count:  # compiles
                jax.block_until_ready(state)
                clock = _Clock()
            last, asked = step == config.steps, stop()
            log_due = last or step % config.log_every == 0
            waited = time.perf_counter() - saved_at > 60 * config.save_every_minutes
            save_due = last or step % config.save_every == 0 or waited or asked is not None
            evaluate_due = player is not None and (last or step % config.eval_every == 0)
            recent.append(metrics["loss"])
            _show(progress, step, recent)
            if not (log_due or evaluate_due or save_due):
                continue
            _check_finite(ledgers, step, state)
            clock.stop()
            if log_due:
                rate = clock.rate()
                for ledger in ledgers:
                    ledger.log(step, metrics, rate)
            scores: list[float | None] = [None] * len(ledgers)
            if evaluate_due and player is not None:
                scores = _evaluate(ledgers, step, config, player, state, progress)
            evaluated = None not in scores
            if last or evaluated:
                for ledger in ledgers:
                    ledger.draw_plots()
            if save_due | _any_best(ledgers, scores):
                for ledger, score in zip(ledgers, scores, strict=True):
                    ledger.save(step, state, score)
                saved_at = time.perf_counter()
            if asked is not None and not last:
                raise StoppedError(
                    f"stopped after update {step} of {config.steps}; go on with jaxdt train --resume --out {run.path}",
                    asked,
                )
            if last and evaluate_due and not evaluated:
                raise RunError(f"the last evaluation failed; the weights are in {run.checkpoints}.")
            clock.start()


def _make_sampler(prepared: Prepared, config: TrainConfig) -> WindowSampler:
    return WindowSampler(
        prepared.store,
        config.model.context_length,
        config.batch_size,
        config.seed,
        config.return_scale,
        config.model.max_episode_length,
        prepared.store.num_episodes if config.passes is not None else None,
    )


def _next_windows(sampler: WindowSampler, count: int) -> Window:
    """The next `count` batches stacked, on the device."""
    return jax.device_put(Window(*map(np.stack, zip(*itertools.islice(sampler, count), strict=True))))


def _show(progress: Progress, step: int, recent: collections.deque[Any]) -> None:
    # The loss shown is two calls old, so that reading it does not wait for the device.
    progress.advance(step, **({"loss": float(recent[0][-1])} if len(recent) == recent.maxlen else {}))


def _check_finite(ledgers: list[Ledger], step: int, state: TrainState) -> None:
    for ledger, finite, done in zip(ledgers, np.ravel(state.finite), np.ravel(state.step), strict=True):
        if not finite:
            raise ledger.not_finite(step, failed=int(done) + 1)


def _evaluate(
    ledgers: list[Ledger], step: int, config: TrainConfig, player: Player, state: TrainState, progress: Progress
) -> list[float | None]:
    """Writes every target's result; returns each run's mean return at the highest target, None where it failed."""
    assert config.targets is not None
    try:
        evaluations = player.evaluate(state.params, config.targets, config.eval_episodes, config.eval_seed)
    except SimulationError as error:
        for ledger in ledgers:
            ledger.note_failure(step, str(error))
        warnings.warn(f"the evaluation after update {step} failed and training goes on: {error}", stacklevel=2)
        return [None] * len(ledgers)
    scores: list[float | None] = [ledger.note_evaluations(step, evaluations) for ledger in ledgers]
    progress.say(_summary(step, evaluations))
    return scores


def _any_best(ledgers: list[Ledger], scores: list[float | None]) -> bool:
    best = False
    for ledger, score in zip(ledgers, scores, strict=True):
        if score is not None and (ledger.best_score is None or score > ledger.best_score):
            ledger.best_score, best = score, True
    return best


def _summary(step: int, evaluations: list[Evaluation]) -> str:
    results = "; ".join(f"{e.target:.0f} -> {e.return_mean:.0f} ± {e.return_std:.0f}" for e in evaluations)
    return f"after update {step}, target -> achieved return: {results}"
