"""The loop of online fine-tuning: for each round explore, remember, update; then log, evaluate, save."""

import collections
import contextlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdt.algorithms import make_algorithm
from jaxdt.config import FinetuneConfig, Finetuning
from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import SimulationError, StoppedError
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.loggers import read_evaluations
from jaxdt.progress import Progress
from jaxdt.run.environment import how_to_go_on
from jaxdt.run.exploration import Exploration, seed_of_batches, that_explores
from jaxdt.run.loop import check_played, compiled, evaluate_and_write, next_batches, run_keys
from jaxdt.run.prepare import MOST_UPDATES_PER_CALL, Prepared
from jaxdt.run.seed_group import SeedGroup
from jaxdt.run.stopping import Stop
from jaxdt.run.validation import Validation
from jaxdt.run.writer import RunWriter
from jaxdt.training import TrainState


def explore_and_train(
    group: SeedGroup,
    prepared: Prepared,
    start_from: Callable[[TrainState], TrainState],
    data_returns: np.ndarray,
    progress: Progress,
    stop: Stop,
) -> None:
    """All rounds that are left. `start_from(state)`: the state before the first, like the one given."""
    record, layout, finetuning = prepared.record, prepared.layout, prepared.record.finetuning
    assert finetuning is not None
    count = _updates_per_call(finetuning.config)
    init, update = compiled(record.config.algorithm, record.spec, count, layout)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(RunWriter(group, [record], data_returns)))
        init_key, update_key = run_keys(finetuning.config.seed)
        state = init(init_key)
        state = writer.restore([state if group.steps else start_from(state)])
        state, key = layout.place_state((state, update_key))
        writer.write_records()
        rounds = _Rounds(group, prepared, finetuning, writer, progress, stop)
        progress.start("fine-tune", finetuning.config.rounds, "round", rounds.before(int(state.step))[0])
        stack.callback(progress.stop)
        rounds.go_on(state, lambda state, batches: update(state, batches, key))


def _updates_per_call(config: FinetuneConfig) -> int:
    """The most that divide a round."""
    return max(n for n in range(1, MOST_UPDATES_PER_CALL + 1) if config.updates_per_round % n == 0)


class _Rounds:
    """What all rounds share."""

    def __init__(
        self,
        group: SeedGroup,
        prepared: Prepared,
        finetuning: Finetuning,
        writer: RunWriter,
        progress: Progress,
        stop: Stop,
    ):
        self._group, self._prepared, self._writer = group, prepared, writer
        self._progress, self._stop = progress, stop
        self._finetuning, self._config = finetuning, finetuning.config
        algorithm, spec = prepared.record.config.algorithm, prepared.record.spec
        assert prepared.environment is not None
        environment, parallel, layout = prepared.environment, prepared.choice.parallel, prepared.layout
        policy = make_algorithm(algorithm, spec).policy
        self._evaluator = Evaluator(policy, environment, parallel=parallel, progress=progress, devices=layout.here)
        drawing = make_algorithm(that_explores(algorithm), spec).policy
        explorer = Evaluator(drawing, environment, parallel=parallel, record=True, devices=layout.here)
        self._exploration = Exploration(
            group.runs[0].replay,
            self._config,
            explorer,
            self._as_trained,
            env_kwargs=prepared.choice.made_with,
            only_one=parallel == 1,
        )
        self._validation = Validation(prepared)
        self._saved_at = time.perf_counter()
        self._shown: dict[str, float] = {}  # the newest evaluation, beside the progress

    def before(self, step: int) -> tuple[int, int]:
        """The rounds that are finished after update `step`, and how many updates of the next one are made."""
        return divmod(step - self._finetuning.first_step, self._config.updates_per_round)

    def go_on(self, state: TrainState, update: Callable[..., Any]) -> None:
        done, inside = self.before(int(state.step))
        replay, environment_steps = self._exploration.replay_after(done, self._prepared.store)
        self._note(done, environment_steps)
        if not self._group.steps:  # what offline training reached
            self._evaluate(state)
            self._save(state)
        if done == self._config.rounds:  # its environment failed after the last round
            self._writer.forget_evaluation(int(state.step))
            check_played(self._evaluate(state), self._group, self._prepared.record, "finetune")
            self._save(state)
            self._writer.draw_plots()
        for number in range(done + 1, self._config.rounds + 1):
            explored = self._explore(number, state)
            replay = self._exploration.join(replay, explored)
            environment_steps += explored.num_steps
            self._note(number, environment_steps)
            began = time.perf_counter()
            state = self._train(number, inside, replay, state, update)
            self._writer.check_finite(int(state.step), state)
            rate = (self._config.updates_per_round - inside) / (time.perf_counter() - began)
            self._finish(number, rate, explored, replay, state)
            inside = 0

    def _note(self, number: int, environment_steps: int) -> None:
        failed = self._exploration.failed_tries_until(number)
        self._writer.also = {"round": number, "environment_steps": environment_steps, "failed_tries": failed}

    def _explore(self, number: int, state: TrainState) -> EpisodeStore:
        """The episodes of a round; raises SimulationError where its environment fails again and again."""
        step = int(state.step)
        try:
            return self._exploration.episodes(number, self._prepared.layout.on_first(state.params), step)
        except SimulationError as error:
            if step not in self._group.steps:
                self._save(state)
            raise SimulationError(
                f"{error}; all that was learned is saved, and {self._how_to_go_on} tries again."
            ) from error

    def _as_trained(self, store: EpisodeStore) -> EpisodeStore:
        spec = self._prepared.record.spec
        store = store.with_actions_of(spec.action)
        return store.with_delayed_rewards() if spec.delayed_reward else store

    def _train(
        self, number: int, inside: int, replay: EpisodeStore, state: TrainState, update: Callable[..., Any]
    ) -> TrainState:
        """The updates of a round, from number `inside` of them on."""
        count, layout = _updates_per_call(self._config), self._prepared.layout
        sampler = self._prepared._replace(store=replay).sampler(seed_of_batches(self._config.seed, number))
        sampler.position = inside
        recent = collections.deque[Any](maxlen=3)
        batches = next_batches([sampler], count, layout)
        for made in range(inside + count, self._config.updates_per_round + 1, count):
            state, metrics = update(state, batches)
            if made < self._config.updates_per_round:
                batches = next_batches([sampler], count, layout)  # drawn while the device works
            self._writer.add(metrics)
            recent.append(metrics["loss"])
            jax.block_until_ready(recent[0])  # or calls would pile up
            if made < self._config.updates_per_round:
                self._save_between(state)
        return state

    def _save_between(self, state: TrainState) -> None:
        """Within a round: where a signal has come, which is then heeded, or the last checkpoint is old."""
        stopped_by = self._stop()
        if stopped_by is not None or self._is_old:
            self._writer.check_finite(int(state.step), state)
            self._save(state)
        self._heed(stopped_by, state)

    def _finish(
        self, number: int, rate: float, explored: EpisodeStore, replay: EpisodeStore, state: TrainState
    ) -> None:
        """What falls due after a round, of which `rate` updates were made a second."""
        config, step, last = self._config, int(state.step), number == self._config.rounds
        reached = float(explored.returns.mean())
        returns = {"exploration_return_mean": reached, "replay_return_mean": float(replay.returns.mean())}
        self._writer.log(step, rate, [returns | measured for measured in self._validation(state.params)])
        due = last or number % config.evaluate_every == 0
        evaluated = due and self._evaluate(state)
        if last:
            self._progress.say("drawing plots and saving")
        if last or evaluated:
            self._writer.draw_plots(may_wait=not last)
        stopped_by = self._stop()
        if any((last, stopped_by, number % config.save_every == 0, self._is_old, self._writer.has_new_best)):
            self._save(state)
        steps = self._writer.also["environment_steps"]
        self._progress.advance(number, exploration=reached, **self._shown, environment_steps=steps)
        if last:
            check_played(evaluated, self._group, self._prepared.record, "finetune")
        self._heed(None if last else stopped_by, state)

    def _evaluate(self, state: TrainState) -> bool:
        """Returns whether it could be played."""
        params, config = self._prepared.layout.on_first(state.params), self._prepared.record.config
        played = evaluate_and_write(self._writer, self._evaluator, int(state.step), config, params, self._progress)
        if played:
            newest = read_evaluations(self._group.runs[0].evaluations)[0][-1]
            self._shown["evaluation"] = newest["return_mean"]
        return played

    def _save(self, state: TrainState) -> None:
        self._writer.save(int(state.step), self._prepared.layout.to_save(state))
        self._saved_at = time.perf_counter()

    @property
    def _is_old(self) -> bool:
        """Whether so much time has passed since the last checkpoint that another one is due."""
        return (time.perf_counter() - self._saved_at) / 60 > self._prepared.record.config.save_every_minutes

    @property
    def _how_to_go_on(self) -> str:
        return how_to_go_on("finetune", self._group.path, self._prepared.record)

    def _heed(self, stopped_by: int | None, state: TrainState) -> None:
        """Raises StoppedError where a signal has come; the state is saved already."""
        if stopped_by is not None:
            self._writer.draw_plots()
            step = int(state.step)
            done = f"{self.before(step)[0]} of {self._config.rounds} rounds"
            message = f"stopped after update {step}, {done} finished; go on with {self._how_to_go_on}"
            raise StoppedError(message, stopped_by)
