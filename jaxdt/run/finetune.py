"""Online fine-tuning (Zheng et al. 2022): a checked run in its directory, from a trained run to the last evaluation."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdt import hosts
from jaxdt.checkpoint import Which, find_checkpoint, load_checkpoint, quarantine_damaged
from jaxdt.config import (
    FinetuneConfig,
    Finetuning,
    TrainConfig,
    default_exploration_target,
    functions_of,
    numbers,
    whole,
)
from jaxdt.data.demo import DEMOS
from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError
from jaxdt.progress import Progress, default_progress
from jaxdt.run.directory import RunDirectory, RunRecord, read_record, write_record
from jaxdt.run.each_seed import finetune_each_seed
from jaxdt.run.environment import choice_of_record, chosen, must_be_given_again, remembered
from jaxdt.run.exploration import check_explores
from jaxdt.run.prepare import Prepared, prepare_run
from jaxdt.run.resume import check_same_environment, check_same_start, is_finished
from jaxdt.run.rounds import explore_and_train
from jaxdt.run.seed_group import SeedGroup, open_seed_group, stored_seeds
from jaxdt.run.stopping import Stop, never
from jaxdt.run.train import going_on, held, saying_what_is_safe, tidy, with_store
from jaxdt.training import TrainState


def finetune(
    run: str | os.PathLike[str] | None = None,
    config: FinetuneConfig | None = None,
    store: Any = None,
    *,
    seeds: Any = None,
    out: str | os.PathLike[str] | None = None,
    env: Any = None,
    env_kwargs: Mapping[str, Any] | None = None,
    checkpoint: Which | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    stop: Stop = never,
    command: list[str] | None = None,
) -> Path:
    """Fine-tunes a trained run in its environment and leaves a run directory of the same kind; returns its path.

    Each round plays episodes with actions drawn from the policy, adds them to the best episodes of the data, and makes
    updates on both. Weights, optimiser and the count of updates go on from the run's `checkpoint`, default: the latest.

    - `run`: a run directory whose policy can draw actions. May be left out when resuming.
    - `config`: default: `FinetuneConfig()`, or when resuming as it was.
    - `store`: the episodes that the replay begins with, all that `load_episodes` takes; default: those of the run.
    - `seeds`: fine-tune once with each, one after the other, into `out/seed-<n>`, with `summary.json` and a plot over
      all; then `config.seed` is left as it is, and `run` may be a directory with a run of each seed.
    - `out`: default: `RUN-finetuned`. Explored episodes are in its `replay/`, a file a round, and stay there.
    - `env`, `env_kwargs`: what to explore and evaluate in, as `evaluate` takes it; default: the run's.
    - `resume`: continue the fine-tuning in `out`; of `config`, rounds, targets and intervals may change, and what else
      is as by default agrees. An absent or empty `out` starts from `run`. Rounds that were played are read again.
    - `stop`: asked after every call of updates; once it answers with a signal's number, the run is saved and
      StoppedError raised.

    Raises JaxdtError for input that does not fit, before anything is written; SimulationError where the environment
    fails in one round again and again; NonFiniteError at the first update whose loss or gradient is not finite;
    RunError where the last evaluation failed, once the weights are saved; WriteError where the system refuses to write.
    """
    if config is not None and not isinstance(config, FinetuneConfig):
        raise JaxdtError(f"config must be a FinetuneConfig; got {type(config).__name__}.")
    if hosts.count() > 1:
        raise JaxdtError(f"finetune runs in one process; got {hosts.count()}; start it without the others.")
    if out is None and run is None:
        raise JaxdtError("name the run to fine-tune, or with resume= its directory with out= (--out).")
    out = default_out(run or "") if out is None else Path(out)
    if seeds is not None:
        seeds = tuple(whole(seed, "seeds") for seed in numbers(seeds, "seeds"))
    given = _Given(store, env, env_kwargs, checkpoint, progress or default_progress(), stop, command)
    if seeds is not None or stored_seeds(out) or (run is not None and stored_seeds(run)):
        check, go = functools.partial(_check_one, given), functools.partial(_finetune_one, given, is_held=True)
        return finetune_each_seed(check, go, run, config, seeds, out, resume)
    return _finetune_one(given, run, config, out, resume=resume)


class _Given(NamedTuple):
    """What is the same for all seeds; as `finetune` takes it."""

    store: Any
    env: Any
    env_kwargs: Mapping[str, Any] | None
    checkpoint: Which | None
    progress: Progress
    stop: Stop
    command: list[str] | None


def _finetune_one(
    given: _Given,
    run: str | os.PathLike[str] | None,
    config: FinetuneConfig | None,
    out: Path,
    *,
    resume: bool = True,
    is_held: bool = False,
) -> Path:
    """`is_held`: the caller keeps other processes out."""
    group = _opened(run, out, resume)
    begun = group.has_begun
    with contextlib.ExitStack() as stack:
        stack.enter_context(saying_what_is_safe(group, "finetune"))
        if begun and not is_held:
            stack.enter_context(held(group))
        checked = _checked(given, run, config, group)
        if checked is None:
            steps = group.steps[-1]
            given.progress.say(
                f"{group.path} is finished: {steps} of {steps} updates done; --resume with more --rounds goes on."
            )
            return group.path
        prepared, store = checked
        stack.callback(prepared.environment.close)  # type: ignore[union-attr]
        if not begun and not is_held:
            stack.enter_context(held(group, new=True))
        _write_beginning(group.runs[0], prepared.record, store)
        if begun:
            given.progress.say(going_on(group, prepared.record.config.steps))
        start_from = functools.partial(_state_of, None if run is None else RunDirectory(run), prepared.record)
        explore_and_train(group, prepared, start_from, store.returns, given.progress, given.stop)
    return group.path


def _check_one(given: _Given, run: str | os.PathLike[str] | None, config: FinetuneConfig | None, out: Path) -> None:
    """Raises JaxdtError for what the fine-tuning of one seed would refuse."""
    checked = _checked(given, run, config, _opened(run, out, resume=True))
    if checked is not None:
        prepared, _ = checked
        if prepared.choice.parallel != 1 or isinstance(prepared.choice.env, str):  # else it may be the only one
            prepared.environment.close()  # type: ignore[union-attr]


def _checked(
    given: _Given, run: str | os.PathLike[str] | None, config: FinetuneConfig | None, group: SeedGroup
) -> tuple[Prepared, EpisodeStore] | None:
    """What a fine-tuning begins or goes on with, and the episodes as given; None: it is finished."""
    begun = group.has_begun
    source = group.runs[0] if begun else RunDirectory(run or "")
    record = read_record(source)
    if begun:
        record = _going_on(given, run, config, group, record)
        assert record.finetuning is not None
        asked_for = f"--rounds {record.finetuning.config.rounds}, to update {record.config.steps},"
        if is_finished(group, record.config, asked_for=asked_for):
            return None
    else:
        record = _beginning(source, record, config or FinetuneConfig(), given.checkpoint or "latest")
    check_explores(record.config.algorithm, record.spec, os.fspath(source.path))
    train_config, env = _with_environment(record, given.env, given.env_kwargs)
    if train_config.env == "none" and env is None:
        raise JaxdtError("fine-tuning plays episodes, and env is none: it needs an environment; give env= (--env).")
    any_episodes = given.store is not None and not begun
    train_config, store = _with_episodes(
        source, record, train_config, given.store, given.progress, any_episodes=any_episodes
    )
    return _prepared(record, train_config, store, env, given.command), store


def _opened(run: str | os.PathLike[str] | None, out: Path, resume: bool) -> SeedGroup:
    """The directory that is written."""
    if run is None and not RunDirectory(out).holds_run:
        raise JaxdtError(f"{out} holds no run to resume; check --out, or name the run to start from too.")
    return open_seed_group(out, TrainConfig(), None, resume)


def default_out(run: str | os.PathLike[str]) -> Path:
    path = Path(run)
    return path.with_name(f"{path.resolve().name if path.name in ('', '..') else path.name}-finetuned")


def _beginning(source: RunDirectory, record: RunRecord, config: FinetuneConfig, checkpoint: Which) -> RunRecord:
    """The record of a run that is fine-tuned from `source`."""
    trained = record.config
    for name in () if trained.algorithm.takes_target else ("exploration_target", "targets"):
        if (given := getattr(config, name)) is not None:
            raise JaxdtError(f"{trained.algorithm.name} is asked for no return; leave {name} (got {given}) out.")
    if trained.algorithm.takes_target and config.exploration_target is None:
        target = default_exploration_target(config.targets or trained.evaluation_targets)
        if target is None:
            raise JaxdtError(f"{source.path} names no target returns; give targets (--targets), or exploration_target.")
        config = dataclasses.replace(config, exploration_target=target)
    first = find_checkpoint(source.checkpoints, checkpoint)
    finetuning = Finetuning(run=os.fspath(source.path), first_step=first, config=config, checkpoint=checkpoint)
    if any(functions_of(trained.algorithm).values()):
        raise JaxdtError(f"{source.path} is of a network of one's own, which cannot be fine-tuned online.")
    trained = dataclasses.replace(
        trained,
        algorithm=trained.algorithm.for_finetuning(config.learning_rate),
        seed=config.seed,
        init=None,
        passes=None,
        video=False,
    )
    return with_finetuning(dataclasses.replace(record, config=trained, made_with={}), finetuning)


def _going_on(
    given: _Given,
    run: str | os.PathLike[str] | None,
    config: FinetuneConfig | None,
    group: SeedGroup,
    record: RunRecord,
) -> RunRecord:
    """The record of a run that was begun; raises JaxdtError where what is given disagrees with it."""
    if record.finetuning is None:
        raise JaxdtError(f"{group.path} was not fine-tuned; go on with jaxdt train --resume --out {group.path}.")
    stored = record.finetuning
    check_same_start(stored, run, given.checkpoint)
    if given.env is not None or given.env_kwargs is not None:
        check_same_environment(_with_environment(record, given.env, given.env_kwargs)[0], record.config)
    quarantine_damaged(group.runs[0].checkpoints)
    agreed = stored.config if config is None else config.going_on_from(stored.config)
    return with_finetuning(record, dataclasses.replace(stored, config=agreed))


def with_finetuning(record: RunRecord, finetuning: Finetuning) -> RunRecord:
    """The record with what its config says of how long training is and what is looked at."""
    config = finetuning.config
    train = dataclasses.replace(
        record.config,
        steps=finetuning.last_step,
        targets=config.targets or record.config.targets,
        eval_episodes=config.eval_episodes or record.config.eval_episodes,
        log_every=config.updates_per_round,
        eval_every=config.updates_per_round * config.evaluate_every,
        save_every=config.updates_per_round * config.save_every,
        updates_per_call=None,
    )
    return dataclasses.replace(record, config=train, finetuning=finetuning)


def _with_environment(record: RunRecord, env: Any, env_kwargs: Mapping[str, Any] | None) -> tuple[TrainConfig, Any]:
    """The record's config with what is explored, and the object to play in; None: what the config names."""
    config = record.config
    missing = must_be_given_again(config.env, config.env_kwargs)
    choice = chosen(choice_of_record(record), missing, env, env_kwargs)
    config = dataclasses.replace(
        config,
        env_kwargs=None if choice.kwargs is None else dict(choice.kwargs),
        max_episode_steps=choice.max_episode_steps,
        parallel_environments=choice.parallel,
    )
    return remembered(config, choice.env)


def _with_episodes(
    source: RunDirectory, record: RunRecord, config: TrainConfig, store: Any, progress: Progress, *, any_episodes: bool
) -> tuple[TrainConfig, EpisodeStore]:
    """The episodes that the replay begins with: those given, or those that the run was trained on.

    Not `any_episodes`: they must be those that the record describes.
    """
    if store is None and (record.data.get("spec") is None or config.dataset is None):
        raise JaxdtError(
            f"{source.path} does not name the episodes that it was trained on; give them, or others to begin with, "
            "with --dataset (store=)."
        )
    in_memory = store is not None and not isinstance(store, str | os.PathLike)
    config, episodes = with_store(config, store, progress, [source.episodes])
    are_its_own = record.data.get("fingerprint") == episodes.fingerprint
    if not (any_episodes or are_its_own):
        raise JaxdtError(
            f"the episodes are not those that {source.path} was trained on (their fingerprints differ); give the same "
            "data with --dataset (store=), or choose another --out."
        )
    if in_memory and not are_its_own:
        config = dataclasses.replace(config, dataset=None)  # the run's name is not theirs
    return config, episodes


def _prepared(
    record: RunRecord, config: TrainConfig, store: EpisodeStore, env: Any, command: list[str] | None
) -> Prepared:
    config = dataclasses.replace(config, devices=None)  # of the machine that it was trained on
    prepared = prepare_run(config, store, env, command, dataclasses.replace(record, config=config))
    filled = dataclasses.replace(prepared.record.config, updates_per_call=None)
    return prepared._replace(record=dataclasses.replace(prepared.record, config=filled, finetuning=record.finetuning))


def _write_beginning(run: RunDirectory, record: RunRecord, store: EpisodeStore) -> None:
    tidy(run)
    if not run.holds_run:
        write_record(run, record)
    if record.config.dataset in DEMOS and not run.episodes.exists():
        store.save(run.episodes)


def _state_of(source: RunDirectory | None, record: RunRecord, state: TrainState) -> TrainState:
    """Weights, optimiser's state and count of updates of the run that is fine-tuned; `state` is of the same form."""
    assert record.finetuning is not None
    if source is None:
        raise JaxdtError(
            f"no checkpoint was saved yet; name the run to start from too: jaxdt finetune {record.finetuning.run} "
            "--resume --out OUT."
        )
    step = record.finetuning.first_step
    params = load_checkpoint(source.checkpoints, step, params=state.params)["params"]
    state = state._replace(params=params)
    if "imported_from" in read_record(source).data:  # its optimiser begins
        return state._replace(step=jnp.asarray(step, jnp.int32))
    training = {"step": state.step, "opt_state": state.opt_state}
    training = load_checkpoint(source.checkpoints, step, training=training)["training"]
    return jax.tree.map(jnp.array, state._replace(**training))
