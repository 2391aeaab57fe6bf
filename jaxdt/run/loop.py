"""The training loop: data -> algorithm -> state -> restore -> for each update: log, evaluate, save."""

import collections
import contextlib
import functools
import itertools
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PRNGKeyArray, PyTree

from jaxdt import hosts
from jaxdt.algorithms import make_algorithm
from jaxdt.config import AlgorithmConfig, TrainConfig, functions_of
from jaxdt.errors import RunError, SimulationError, StoppedError
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.parallel import Layout, Vote, describe_share
from jaxdt.progress import Progress, decimals
from jaxdt.run.agent import Agent
from jaxdt.run.directory import RunRecord
from jaxdt.run.environment import how_to_go_on
from jaxdt.run.prepare import Prepared
from jaxdt.run.processes import check_same_weights
from jaxdt.run.seed_group import SeedGroup, summarize
from jaxdt.run.stopping import Stop
from jaxdt.run.validation import Validation
from jaxdt.run.writer import RunWriter
from jaxdt.stacking import stacked
from jaxdt.training import TrainState, TrainStep, compile_update
from jaxdt.types import Evaluation, Sampler, Spec


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


class Due(NamedTuple):
    """What is to be done after an update, in this order."""

    log: bool
    evaluate: bool
    """In the environment, or where there is none on held-out episodes."""
    save: bool


def what_is_due(config: TrainConfig, step: int, *, overdue: bool, stopping: bool) -> Due:
    """After update `step`; everything falls due after the last one. `overdue`: the last save is long ago."""
    last = step == config.steps
    return Due(
        log=last or step % config.log_every == 0,
        evaluate=last or step % config.eval_every == 0,
        save=last or stopping or step % config.save_every == 0 or overdue,
    )


def train_and_evaluate(
    group: SeedGroup,
    prepared: Prepared,
    samplers: Sequence[Sampler],
    data_returns: np.ndarray,
    progress: Progress,
    stop: Stop,
) -> None:
    """The whole run, top to bottom. Of several seeds: all runs at once, in one program."""
    config, spec, layout = prepared.record.config, prepared.record.spec, prepared.layout
    records = group.records(prepared.record)
    assert config.steps is not None
    assert config.updates_per_call is not None
    count = config.updates_per_call
    algorithm = make_algorithm(config.algorithm, spec)
    init, update = compiled(config.algorithm, spec, count, layout)
    first = next(iter(hosts.told(group.steps)[-1:]), 0)
    for sampler in samplers:
        sampler.position = first
    with contextlib.ExitStack() as stack:
        progress.start("train", config.steps, "update", first)
        stack.callback(progress.stop)
        writer = stack.enter_context(contextlib.closing(RunWriter(group, records, data_returns)))
        batches = next_batches(samplers, count, layout)
        with _compiling_beside(init, update, batches, layout):
            state, key = _first_state(group, writer, records, init, layout)
        if layout.splits_state:
            progress.say(describe_share(state))
        writer.write_records()
        evaluator = None
        if prepared.environment is not None:
            training_seeds = group.seeds if len(records) > 1 else ()
            evaluator = Evaluator(
                algorithm.policy,
                prepared.environment,
                training_seeds=training_seeds,
                parallel=config.parallel_environments,
                progress=progress,
                devices=layout.here,
            )
        evaluate = functools.partial(hosts.by_first, evaluate_and_write, writer, evaluator)
        if first == config.steps:  # its environment failed after the last update
            hosts.by_first(writer.forget_evaluation, first)
            evaluated = evaluate(first, config, layout.on_first(state.params), progress)
            check_played(evaluated, group, prepared.record, "train")
            writer.save(first, layout.to_save(state))
            writer.draw_plots()
        recent: collections.deque[Any] = collections.deque(maxlen=3)
        validate, clock, saved_at = Validation(prepared), _Clock(), time.perf_counter()
        vote = Vote(layout)
        for step in range(first + count, config.steps + 1, count):
            state, metrics = update(state, batches, key)
            batches = next_batches(samplers, count, layout)  # drawn while the device works
            writer.add(metrics)
            recent.append(metrics["loss"])
            clock.updates += count
            if step == first + count:  # compiles
                jax.block_until_ready(state)
                clock = _Clock()
            last, minutes = step == config.steps, (time.perf_counter() - saved_at) / 60
            stopped_by, overdue = vote(stop() or 0, minutes > config.save_every_minutes)
            due = what_is_due(config, step, overdue=bool(overdue), stopping=bool(stopped_by))
            _show(progress, step, recent)
            if not any(due):
                continue
            writer.check_finite(step, state)
            clock.stop()
            held_out = validate(state.params) if due.log or (due.evaluate and evaluator is None) else []
            if due.log:
                writer.log(step, clock.rate(), held_out)
            evaluated = False
            if due.evaluate and evaluator is not None:
                # Kept under no name: of shared out weights this is a whole copy, for which training has no room.
                evaluated = evaluate(step, config, layout.on_first(state.params), progress)
            elif due.evaluate:
                writer.rank(step, held_out)
            if last:
                progress.say("drawing plots and saving")
            if last or evaluated:
                writer.draw_plots(may_wait=not last)
            if due.save or (due.evaluate and hosts.told(writer.has_new_best)):
                writer.save(step, layout.to_save(state))
                saved_at = time.perf_counter()
                vote.forget(1)  # others may ask to stop
            if stopped_by and not last:
                writer.draw_plots()
                raise StoppedError(
                    f"stopped after update {step} of {config.steps}; go on with "
                    f"{how_to_go_on('train', group.path, prepared.record)}",
                    stopped_by,
                )
            if last and evaluator is not None:
                check_played(evaluated, group, prepared.record, "train")
            clock.start()


def check_played(evaluated: bool, group: SeedGroup, record: RunRecord, command: str) -> None:
    """Raises RunError where the last evaluation of `jaxdt COMMAND` could not be played."""
    if not evaluated:
        where = " ".join(str(run.checkpoints) for run in group.runs)
        again = how_to_go_on(command, group.path, record)
        raise RunError(f"the last evaluation failed; the weights are in {where}, and {again} evaluates them again.")


@functools.lru_cache(maxsize=4)
def compiled(
    config: AlgorithmConfig, spec: Spec, updates_per_call: int, layout: Layout
) -> tuple[Callable[[PRNGKeyArray], TrainState], TrainStep]:
    """Kept, so that another run of the same algorithm in this process compiles nothing anew."""
    algorithm = make_algorithm(config, spec)
    update = compile_update(algorithm.update, updates_per_call=updates_per_call, layout=layout)
    return layout.compile_init(algorithm.init), update


@contextlib.contextmanager
def _compiling_beside(
    init: Callable[[PRNGKeyArray], TrainState], update: Any, batches: PyTree[Array], layout: Layout
) -> Iterator[None]:
    """Compiles the update, for what it will be called with, beside what is done meanwhile; JAX then finds it again."""

    def placed(tree: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            layout.state(tree),
        )

    def compile_it() -> None:
        keys = [jax.eval_shape(jax.random.key, 0)] * layout.seeds
        state = jax.eval_shape(lambda keys: stacked([init(key) for key in keys]), keys)
        with contextlib.suppress(Exception):  # the first update meets it again
            update.lower(placed(state), batches, placed(jax.eval_shape(stacked, keys))).compile()

    thread = threading.Thread(target=compile_it, name="compiling")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _first_state(
    group: SeedGroup,
    writer: RunWriter,
    records: list[RunRecord],
    init: Callable[[PRNGKeyArray], TrainState],
    layout: Layout,
) -> tuple[TrainState, Key[Array, "*seeds"]]:
    """Where each run goes on from, or begins, and its key for what updates draw."""
    start_from = None if group.steps else records[0].config.init
    given = None
    if start_from is not None:
        given = Agent.load(start_from, **functions_of(records[0].config.algorithm)).params
        check_same_weights(given, start_from)
    states, update_keys = [], []
    for record in records:
        init_key, update_key = run_keys(record.config.seed)
        state = init(init_key)
        if given is not None:
            state = state._replace(params=jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), given))
        states.append(state)
        update_keys.append(update_key)
    # Placed all of it, or the second update compiles anew.
    return layout.place_state((writer.restore(states), stacked(update_keys)))


@jax.jit
def run_keys(seed: Int[Array, ""]) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """Of the initial weights and of what updates draw."""
    init_key, update_key = jax.random.split(jax.random.key(seed))
    return init_key, update_key


def next_batches(samplers: Sequence[Sampler], count: int, layout: Layout | None = None) -> PyTree[Array]:
    """The next `count` batches of each run stacked, on the devices; None: on the default one."""
    each_seeds = []
    for sampler in samplers:
        batches = [sampler.batch(sampler.position + i) for i in range(count)]
        sampler.position += count
        each_seeds.append(jax.tree.map(lambda *leaves: np.stack(leaves), *batches))
    batches = stacked(each_seeds, np.stack)
    return jax.device_put(batches) if layout is None else layout.place_batches(batches)


def _show(progress: Progress, step: int, recent: collections.deque[Any]) -> None:
    # The loss shown is two calls old, so that reading it does not wait for the device.
    shown = {"loss": float(np.mean(np.asarray(recent[0])[..., -1]))} if len(recent) == recent.maxlen else {}
    progress.advance(step, **shown)


def evaluate_and_write(
    writer: RunWriter,
    evaluator: Evaluator | None,
    step: int,
    config: TrainConfig,
    params: PyTree[Array],
    progress: Progress,
) -> bool:
    """Writes every target's result; returns whether the evaluation could be played."""
    assert evaluator is not None
    try:
        evaluations = evaluator.evaluate(params, config.evaluation_targets, config.eval_episodes, config.eval_seed)
    except SimulationError as error:
        writer.write_failure(step, str(error))
        warnings.warn(f"the evaluation after update {step} failed and training goes on: {error}", stacklevel=2)
        return False
    progress.say(_summary(step, evaluations))
    writer.write_evaluations(step, evaluations)
    return True


def _summary(step: int, evaluations: Sequence[Sequence[Evaluation]]) -> str:
    """Each target's return: mean ± std over episodes, or over the runs where there are several."""
    if len(evaluations) == 1:
        parts = [(e.target, e.return_mean, e.return_std) for e in evaluations[0]]
    else:
        summaries = [summarize([e.to_json() for e in at_target]) for at_target in zip(*evaluations, strict=True)]
        parts = [(s["target"], s["return_mean"], s["return_std"]) for s in summaries]
    form = decimals(*itertools.chain(*parts))
    form = ".0f" if form == ".1f" else form
    results = "; ".join(
        f"{'' if target is None else f'{target:{form}} -> '}{mean:{form}} ± {std or 0.0:{form}}"
        for target, mean, std in parts
    )
    head = "achieved return" if parts[0][0] is None else "target -> achieved return"
    over = f" over {len(evaluations)} seeds" if len(evaluations) > 1 else ""
    return f"after update {step}, {head}{over}: {results}"
