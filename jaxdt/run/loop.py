"""The training loop: data -> model -> state -> restore -> for each update: log, evaluate, save."""

import collections
import contextlib
import functools
import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray

from jaxdt.config import ModelConfig, OptimizerConfig, TrainConfig
from jaxdt.data.windows import WindowSampler
from jaxdt.errors import RunError, SimulationError, StoppedError
from jaxdt.models import Apply, Params, build_model
from jaxdt.progress import Progress
from jaxdt.run.agent import Agent
from jaxdt.run.directory import RunRecord
from jaxdt.run.evaluate import Player
from jaxdt.run.experiment import Experiment, summarize
from jaxdt.run.ledger import Ledger
from jaxdt.run.prepare import Prepared
from jaxdt.run.stopping import Stop
from jaxdt.seeds import stacked, unstacked
from jaxdt.training import TrainState, TrainStep, initial_state, make_update
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
    experiment: Experiment, prepared: Prepared, data_returns: np.ndarray, progress: Progress, stop: Stop
) -> None:
    """The whole run, top to bottom; where several things fall due: log, evaluate, save.

    Of several seeds: all runs at once, in one program. One run alone is neither stacked nor mapped.
    """
    config, records = prepared.record.config, experiment.records(prepared.record)
    assert config.steps is not None
    assert config.updates_per_call is not None
    count = config.updates_per_call
    samplers = [_make_sampler(prepared, record.config) for record in records]
    init, apply, update = _make_model(config.model, config.optimizer, count, several_seeds=len(records) > 1)
    with contextlib.ExitStack() as stack:
        ledgers = [
            stack.enter_context(contextlib.closing(Ledger(run, record, data_returns)))
            for run, record in zip(experiment.runs, records, strict=True)
        ]
        state, dropout_key = _first_state(experiment, ledgers, records, init)
        for ledger in ledgers:
            ledger.write_record()
        experiment.write_summary()
        player = _make_player(experiment, prepared, apply, progress)
        if player is not None:
            stack.enter_context(contextlib.closing(player))
        first = int(np.ravel(state.step)[0])
        progress.start("train", config.steps, "update", first)
        stack.callback(progress.stop)
        for sampler in samplers:
            sampler.position = first
        windows = next_windows(samplers, count)
        recent: collections.deque[Any] = collections.deque(maxlen=3)
        clock, saved_at = _Clock(), time.perf_counter()
        for step in range(first + count, config.steps + 1, count):
            state, metrics = update(state, windows, dropout_key)
            windows = next_windows(samplers, count)  # drawn while the device works
            of_runs = unstacked(metrics, len(ledgers))
            for ledger, its_metrics in zip(ledgers, of_runs, strict=True):
                ledger.losses.append(its_metrics["loss"])
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
            _check_finite(experiment, ledgers, step, state)
            clock.stop()
            if log_due:
                rate = clock.rate()
                for ledger, its_metrics in zip(ledgers, of_runs, strict=True):
                    ledger.log(step, its_metrics, rate)
            scores: list[float | None] = [None] * len(ledgers)
            if evaluate_due and player is not None:
                scores = _evaluate(ledgers, step, config, player, state, progress)
                experiment.write_summary()
            evaluated = None not in scores
            if last or evaluated:
                for ledger in ledgers:
                    ledger.draw_plots()
            # If one run saves its best, all save: they always have their latest checkpoints in common.
            if _note_best(ledgers, scores) or save_due:
                for ledger, its_state, score in zip(ledgers, unstacked(state, len(ledgers)), scores, strict=True):
                    ledger.save(step, its_state, score)
                saved_at = time.perf_counter()
            if asked is not None and not last:
                raise StoppedError(
                    f"stopped after update {step} of {config.steps}; go on with jaxdt train --resume --out "
                    f"{experiment.path}",
                    asked,
                )
            if last and evaluate_due and not evaluated:
                where = " ".join(str(run.checkpoints) for run in experiment.runs)
                raise RunError(f"the last evaluation failed; the weights are in {where}.")
            clock.start()


@functools.lru_cache(maxsize=4)
def _make_model(
    model: ModelConfig, optimizer: OptimizerConfig, updates_per_call: int, *, several_seeds: bool
) -> tuple[Callable[[PRNGKeyArray], Params], Apply, TrainStep]:
    """Kept, so that another run of the same model in this process compiles nothing anew."""
    init, apply = build_model(model)
    update = make_update(apply, optimizer, updates_per_call=updates_per_call, several_seeds=several_seeds)
    return jax.jit(init), apply, update


def _make_sampler(prepared: Prepared, config: TrainConfig) -> WindowSampler:
    return WindowSampler(
        prepared.store,
        context_length=config.model.context_length,
        batch_size=config.batch_size,
        seed=config.seed,
        return_scale=config.return_scale,
        max_episode_length=config.model.max_episode_length,
        windows_per_pass=prepared.store.num_episodes if config.passes is not None else None,
    )


def _make_player(experiment: Experiment, prepared: Prepared, apply: Apply, progress: Progress) -> Player | None:
    """Plays the models of all runs side by side; None where there is no environment to play in."""
    if prepared.environment is None:
        return None
    config = prepared.record.config
    return Player(
        config.model,
        apply,
        prepared.record.interface,
        prepared.environment,
        context=config.eval_context,
        training_seeds=experiment.seeds if len(experiment.runs) > 1 else (),
        progress=progress,
    )


def _first_state(
    experiment: Experiment, ledgers: list[Ledger], records: list[RunRecord], init: Callable[[PRNGKeyArray], Params]
) -> tuple[TrainState, Key[Array, "*seeds"]]:
    """Where each run goes on from, or begins, and its key for dropout."""
    config, resumed = records[0].config, bool(experiment.steps)
    given = None if config.init is None or resumed else Agent.load(config.init).params
    states, dropout_keys = [], []
    for ledger, record in zip(ledgers, records, strict=True):
        init_key, dropout_key = jax.random.split(jax.random.key(record.config.seed))
        params = init(init_key) if given is None else given
        states.append(ledger.restore(initial_state(params, config.optimizer)))
        dropout_keys.append(dropout_key)
    # On the device all of it, or the second update compiles anew.
    return jax.device_put(stacked(states), jax.devices()[0]), stacked(dropout_keys)


def next_windows(samplers: list[WindowSampler], count: int) -> Window:
    """The next `count` batches of each run stacked, on the device."""
    batches = [Window(*map(np.stack, zip(*itertools.islice(sampler, count), strict=True))) for sampler in samplers]
    return jax.device_put(stacked(batches, np.stack))


def _show(progress: Progress, step: int, recent: collections.deque[Any]) -> None:
    # The loss shown is two calls old, so that reading it does not wait for the device.
    shown = {"loss": float(np.mean(np.asarray(recent[0])[..., -1]))} if len(recent) == recent.maxlen else {}
    progress.advance(step, **shown)


def _check_finite(experiment: Experiment, ledgers: list[Ledger], step: int, state: TrainState) -> None:
    names = [f"of seed {seed}, " for seed in experiment.seeds] or [""]
    for name, ledger, finite, done in zip(names, ledgers, np.ravel(state.finite), np.ravel(state.step), strict=True):
        if not finite:
            raise ledger.not_finite(step, failed=int(done) + 1, whose=name)


def _evaluate(
    ledgers: list[Ledger], step: int, config: TrainConfig, player: Player, state: TrainState, progress: Progress
) -> list[float | None]:
    """Writes every target's result; returns each run's mean return at the highest target, None where it failed."""
    assert config.targets is not None
    try:
        of_runs = player.evaluate_each(state.params, config.targets, config.eval_episodes, config.eval_seed)
    except SimulationError as error:
        for ledger in ledgers:
            ledger.note_failure(step, str(error))
        warnings.warn(f"the evaluation after update {step} failed and training goes on: {error}", stacklevel=2)
        return [None] * len(ledgers)
    progress.say(_summary(step, of_runs))
    return [ledger.note_evaluations(step, its) for ledger, its in zip(ledgers, of_runs, strict=True)]


def _note_best(ledgers: list[Ledger], scores: list[float | None]) -> bool:
    """Whether a run has reached its highest score so far."""
    best = False
    for ledger, score in zip(ledgers, scores, strict=True):
        if score is not None and (ledger.best_score is None or score > ledger.best_score):
            ledger.best_score, best = score, True
    return best


def _summary(step: int, of_runs: list[list[Evaluation]]) -> str:
    """Each target's return: mean ± std over episodes, or over the runs where there are several."""
    if len(of_runs) == 1:
        parts = [(e.target, e.return_mean, e.return_std) for e in of_runs[0]]
    else:
        summaries = [summarize([e.to_json() for e in of_target]) for of_target in zip(*of_runs, strict=True)]
        parts = [(s["target"], s["return_mean"], s["return_std"]) for s in summaries]
    results = "; ".join(f"{target:.0f} -> {mean:.0f} ± {std:.0f}" for target, mean, std in parts)
    over = f" over {len(of_runs)} seeds" if len(of_runs) > 1 else ""
    return f"after update {step}, target -> achieved return{over}: {results}"
