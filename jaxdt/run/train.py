"""Training: a checked run in its directory, from config and episodes to the last video."""

import contextlib
import dataclasses
import difflib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxdt import hosts
from jaxdt.checkpoint import quarantine_damaged
from jaxdt.choice import EnvironmentChoice
from jaxdt.config import PRESETS, TrainConfig, functions_of, numbers, whole
from jaxdt.data.demo import DEMOS
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError, WriteError
from jaxdt.evaluation.environments import GymnasiumEnvironment
from jaxdt.files import remove_unfinished, writing
from jaxdt.progress import Progress, default_progress
from jaxdt.run.agent import Agent
from jaxdt.run.beforehand import check_beforehand
from jaxdt.run.directory import RunDirectory, RunRecord, read_record, write_record
from jaxdt.run.environment import choice_of, choice_of_record, how_to_go_on, remembered
from jaxdt.run.evaluate import render_videos, video_paths
from jaxdt.run.lock import sole_process
from jaxdt.run.loop import train_and_evaluate
from jaxdt.run.prepare import Prepared, prepare_run
from jaxdt.run.processes import as_the_first_sees, check_agreement, check_processes, check_shared
from jaxdt.run.resume import agree_with_records, is_finished, meet_at_one_checkpoint
from jaxdt.run.seed_group import SeedGroup, check_seeds, open_seed_group
from jaxdt.run.stopping import Stop, never


MANY_SIMULATORS = 100
"""Side by side; that there will be more is said beforehand."""


@hosts.in_step()
def train(
    config: TrainConfig,
    store: Any = None,
    *,
    seeds: Any = None,
    out: str | os.PathLike[str] | None = None,
    env: Any = None,
    resume: bool = False,
    progress: Progress | None = None,
    stop: Stop = never,
    command: list[str] | None = None,
) -> Path:
    """Trains a policy and leaves a run directory; returns its path.

    - `store`: the episodes, all that `load_episodes` takes; default: what `config.dataset` names.
    - `seeds`: train one run of each in one program, `out/seed-<n>`, instead of the one of `config.seed`, which must
      then be left as it is by default; `out/summary.json` has mean ± std over them. Resuming, they may be left out.
    - `env`: what to evaluate in, instead of `config.env`: a Gymnasium id, an EnvSpec, a gymnasium.Env, a function that
      makes one, or a JaxEnvironment. The run remembers an id, and an EnvSpec or Env that an id and keyword arguments
      of JSON make again; any other must be given again to `evaluate` and to resume.
    - `out`: default: the next free `runs/<preset>-<env>-<n>`.
    - `resume`: continue the run in `out` from its latest checkpoint; then `config` must agree with the run's
      own except for steps, targets and intervals. An absent or empty `out` starts from `config`.
    - `progress`: what shows how far it is; default: bars in a terminal or a notebook, and elsewhere nothing.
    - `stop`: asked after every update; once it answers with a signal's number, the run is saved and StoppedError
      raised. `jaxdt.stop_signals` makes one that heeds SIGTERM and Ctrl-C.

    Raises JaxdtError for input that does not fit, before anything is written; NonFiniteError at the first
    update whose loss or gradient is not finite; RunError where the last evaluation failed, once the weights are saved
    (resuming plays it again); WriteError where the system refuses to write.

    Several processes, each after `jax.distributed.initialize()`, train one run together: all call this with the same.
    What one of them refuses all refuse; where one is lost the others end at once, with exit code 1.
    """
    if not isinstance(config, TrainConfig):
        raise JaxdtError(f"config must be a TrainConfig; got {_and_what_to_write(config)}.")
    if seeds is not None:
        seeds = tuple(whole(seed, "seeds") for seed in numbers(seeds, "seeds"))
    progress = progress or (default_progress() if hosts.is_first() else Progress())
    config, env = remembered(config, env)
    demo = DEMOS.get(config.dataset or "demo") if store is None else None
    check_beforehand(config, env, seeds=None if resume else len(seeds or (config.seed,)), demo=demo)
    episodes: EpisodeStore | None = None
    if out is None:
        if resume:
            raise JaxdtError("to resume a run, name its directory with out= (--out).")
        if seeds is not None:
            check_seeds(config, seeds)
        config, episodes = with_store(config, store, progress)
        out = Path(hosts.told(os.fspath(_next_free_directory(config, episodes))))
    as_the_first_sees(lambda: RunDirectory(out).holds_run, out)
    group = open_seed_group(out, config, seeds, resume)
    check_processes(config, group.seeds)
    with contextlib.ExitStack() as stack:
        stack.enter_context(saying_what_is_safe(group, "train"))
        begun = group.has_begun
        if begun:
            stack.enter_context(held(group))
        records = [read_record(run) if run.holds_run else None for run in group.runs]
        previous = next(filter(None, records), None)
        if previous is not None:
            config = _continued(config, group, records)
            if hosts.told(is_finished(group, config)):
                group.write_summary()
                progress.say(_finished(group, config))
                targets = (previous.config if config.targets == "auto" else config).evaluation_targets
                for run in group.runs if config.video else ():  # a kill may have come before the last video
                    if not all(path.exists() for path in video_paths(run.videos, targets)):
                        choice = choice_of(config, env, choice_of_record(previous).default_limit)
                        _render(run, config, choice, progress, targets)
                return group.path
            if store is None and previous.data.get("spec") is None and config.dataset in (None, *DEMOS):
                raise JaxdtError(
                    f"{group.path} was trained on episodes that were given in Python; give them again, with store= or "
                    "as a file (--dataset)."
                )
        if episodes is None:
            with _saying_that_data_may_move(config, previous):
                config, episodes = with_store(config, store, progress, [run.episodes for run in group.runs])
        if any(record.data["fingerprint"] != episodes.fingerprint for record in filter(None, records)):
            raise JaxdtError(
                f"the episodes are not those that {group.path} was trained on (their fingerprints differ); "
                "resume with the same data, or choose another --out."
            )
        prepared = prepare_run(config, episodes, env, command, previous, seeds=len(group.runs))
        check_agreement(prepared.record.config, episodes)
        if prepared.environment is not None:
            stack.callback(prepared.environment.close)
        # What they refuse is said before anything is written.
        samplers = [prepared.sampler(each.seed) for each in group.configs(prepared.record.config)]
        if config.targets == "auto":
            progress.say(f"target of the data: {prepared.record.config.evaluation_targets[0]:g}")
        if (many := _simulators_at_once(prepared, len(group.runs))) > MANY_SIMULATORS:
            progress.say(
                f"an evaluation plays its {many} episodes side by side, each in a simulator of its own; if they are "
                "large, --parallel-environments (parallel_environments=) bounds how many there are"
            )
        if not begun:
            stack.enter_context(held(group, new=True))
        hosts.by_first(_make_ready, group, prepared, episodes)
        if len(prepared.layout.devices) > 1:
            progress.say(prepared.layout.describe(config.batch_size))
        if begun:
            progress.say(going_on(group, prepared.record.config.steps))
        train_and_evaluate(group, prepared, samplers, episodes.returns, progress, stop)
        for run in group.runs if config.video else ():
            if prepared.environment is not None:
                prepared.environment.close()  # there may be only one
            _render(run, config, prepared.choice, progress)
    return group.path


def _simulators_at_once(prepared: Prepared, seeds: int) -> int:
    """How many of Gymnasium's an evaluation makes where nothing bounds them."""
    config, environment = prepared.record.config, prepared.environment
    if isinstance(environment, GymnasiumEnvironment) and environment.has_simulators_of_gymnasium:
        episodes = seeds * len(config.evaluation_targets) * config.eval_episodes
        return 0 if config.parallel_environments else episodes
    return 0


def _make_ready(group: SeedGroup, prepared: Prepared, episodes: EpisodeStore) -> None:
    meet_at_one_checkpoint(group)  # after every check, for it throws checkpoints away
    for run, record in zip(group.runs, group.records(prepared.record), strict=True):
        tidy(run)
        if not run.holds_run:
            write_record(run, record)
        if record.config.dataset in DEMOS and not run.episodes.exists():
            episodes.save(run.episodes)


def _and_what_to_write(config: Any) -> str:
    if isinstance(config, str):
        near = difflib.get_close_matches(config, PRESETS, n=1)
        return f'{config!r:.80} (for a preset write train(jaxdt.preset("{near[0] if near else "paper"}"), episodes))'
    return f"{type(config).__name__} (give it first: train(jaxdt.TrainConfig(steps=10_000), episodes))"


@contextlib.contextmanager
def _saying_that_data_may_move(config: TrainConfig, previous: RunRecord | None) -> Iterator[None]:
    """Where the data of a run that goes on are not found by the name that it knows."""
    try:
        yield
    except JaxdtError as error:
        if previous is None or config.dataset != previous.config.dataset:
            raise
        raise JaxdtError(
            f"{str(error).rstrip('.')}. If the run's data lie elsewhere now, name that place with --dataset (dataset=)."
        ) from error


def going_on(group: SeedGroup, steps: int | None) -> str:
    """Where a run that goes on does so, for people."""
    done = group.steps[-1] if group.steps else None
    if done is None:
        return f"{group.path} begins anew, for it has no checkpoint yet"
    return f"{group.path} goes on after update {done} of {steps}"


def _finished(group: SeedGroup, config: TrainConfig) -> str:
    """That a run is finished, and how it may be trained for longer all the same."""
    assert config.steps is not None
    said = f"{group.path} is finished: {config.steps} of {config.steps} updates done"
    if config.algorithm.last_step is None:
        return f"{said}; --resume with --steps {2 * config.steps} (steps=) makes it as long again."
    trained = group.runs[0].path
    return (
        f"{said}, and its learning rate is 0 now; --init {trained} (init=) with --dataset (dataset=) trains its "
        "weights further, as a new run."
    )


def _render(
    run: RunDirectory,
    config: TrainConfig,
    choice: EnvironmentChoice,
    progress: Progress,
    targets: Sequence[float | None] | None = None,
) -> None:
    """`targets`: default: the run's."""
    film = {"frames": config.video_frames, "every": config.video_every, "progress": progress}
    agent = Agent.load(run.path, **functions_of(config.algorithm))
    asked_for = [target for target in targets or () if target is not None] or None
    render_videos(agent, run.videos, choice, asked_for, seed=config.eval_seed, **film)


@contextlib.contextmanager
def saying_what_is_safe(group: SeedGroup, command: str) -> Iterator[None]:
    """A refusal of the system to write, with what is saved and the command that goes on."""
    try:
        yield
    except WriteError as error:
        begun = [run for run in group.runs if run.holds_run]
        if not begun:
            raise
        steps = group.steps
        safe = f"the run is safe up to checkpoint {steps[-1]}" if steps else "no checkpoint was saved yet"
        again = how_to_go_on(command, group.path, read_record(begun[0]))
        raise WriteError(f"{error}; {safe}, and goes on with {again} when that is put right") from error


def _continued(config: TrainConfig, group: SeedGroup, records: list[RunRecord | None]) -> TrainConfig:
    """The config of runs that go on, each from an undamaged checkpoint."""
    for run, record in zip(group.runs, records, strict=True):
        if record is not None and "imported_from" in record.data:
            raise JaxdtError(
                f"{run.path} was imported and has no training to resume; start a run from it with --init and --dataset."
            )
        if record is not None and record.finetuning is not None:
            raise JaxdtError(f"{run.path} was fine-tuned; go on with jaxdt finetune --resume --out {run.path}.")
        hosts.by_first(quarantine_damaged, run.checkpoints)
    return agree_with_records(config, group, records)


@contextlib.contextmanager
def held(group: SeedGroup, *, new: bool = False) -> Iterator[None]:
    """Makes the directories that are missing and holds them all; of new ones, another process may have been quicker."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_made_and_held(group.path))
        if new:
            if not hosts.told(RunDirectory(group.path).is_free):
                raise JaxdtError(f"another process has begun a run in {group.path}; choose another --out.")
            group.write_summary()
        if group.seeds:
            for run in group.runs:
                stack.enter_context(_made_and_held(run.path))
        yield


@contextlib.contextmanager
def _made_and_held(directory: Path) -> Iterator[None]:
    """By the first of several processes, for all of them."""
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            with writing(directory):
                directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(sole_process(directory))
        if hosts.count() > 1:
            check_shared(directory)
        yield


def tidy(run: RunDirectory) -> None:
    with writing(run.path):
        for directory in (run.path, run.plots):
            remove_unfinished(directory)


def with_store(
    config: TrainConfig, store: Any, progress: Progress, collected: Sequence[Path] = ()
) -> tuple[TrainConfig, EpisodeStore]:
    """The episodes given, or those that the config names; `collected`: where runs keep what was collected for them."""
    if isinstance(store, str | os.PathLike):
        config, store = dataclasses.replace(config, dataset=os.fspath(store)), None
    if store is not None:
        named = None if config.dataset in DEMOS else config.dataset  # a preset's demo is not what was given
        return dataclasses.replace(config, dataset=named), load_episodes(store, cut_after=config.cut_after)
    if config.init is not None and config.dataset is None:
        theirs = read_record(RunDirectory(config.init)).config.dataset
        raise JaxdtError(
            f"which episodes the weights of {config.init} are trained on is not said; give them with dataset= "
            f"(--dataset){'' if theirs is None else f', such as those that it was trained on, {theirs}'}."
        )
    config = dataclasses.replace(config, dataset=config.dataset or "demo")
    assert config.dataset is not None
    kept = next((path for path in collected if path.exists()), None) if config.dataset in DEMOS else None
    return config, load_episodes(
        kept or config.dataset, map_above=config.map_above, cut_after=config.cut_after, progress=progress
    )


def _next_free_directory(config: TrainConfig, store: EpisodeStore) -> Path:
    name = f"{config.preset}-{config.env or store.env_id or 'none'}".replace("/", "-").replace(":", "-")
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{name}-{n}").exists())
