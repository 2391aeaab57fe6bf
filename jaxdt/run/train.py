"""Training: a checked run in its directory, from config and episodes to the last video."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from jaxdt.checkpoint import checkpoint_steps, set_damaged_aside
from jaxdt.config import TrainConfig
from jaxdt.data.demo import collect_demo_episodes, num_demo_episodes
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError, WriteError
from jaxdt.evaluation.environments import JaxEnvironment
from jaxdt.files import remove_unfinished, writing
from jaxdt.progress import Progress
from jaxdt.run.agent import Agent
from jaxdt.run.directory import RunDirectory, RunRecord, read_record, write_record
from jaxdt.run.evaluate import render_videos, video_paths
from jaxdt.run.lock import sole_process
from jaxdt.run.loop import train_and_evaluate
from jaxdt.run.prepare import prepare_run
from jaxdt.run.resume import agree_with_record, is_finished
from jaxdt.run.stopping import Stop, never


def train(
    config: TrainConfig,
    store: EpisodeStore | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    env: JaxEnvironment | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    stop: Stop = never,
    command: list[str] | None = None,
) -> Path:
    """Trains a Decision Transformer and leaves a run directory; returns its path.

    - `store`: the episodes; default: what `config.dataset` names.
    - `env`: a pure-JAX environment to evaluate in, instead of the Gymnasium id `config.env`.
    - `out`: default: the next free `runs/<preset>-<env>-<n>`.
    - `resume`: continue the run in `out` from its latest checkpoint; then `config` must agree with the run's
      own except for steps, targets and intervals. An absent or empty `out` starts from `config`.
    - `stop`: asked after every update; once it answers with a signal's number, the run is saved and StoppedError
      raised. `jaxdt.run.stopping.stop_signals` makes one that heeds SIGTERM and Ctrl-C.

    Raises JaxdtError for input that does not fit, before anything is written; NonFiniteError at the first
    update whose loss or gradient is not finite.
    """
    progress = progress or Progress()
    if out is None:
        if resume:
            raise JaxdtError("to resume a run, name its directory with out= (--out).")
        config, store = _with_store(config, store, progress)
        out = _next_free_directory(config, store)
    run = RunDirectory(out)
    if not (run.is_free or (run.holds_run and resume)):
        raise JaxdtError(
            f"{run.path} already holds a run; continue it with --resume, or choose another --out."
            if run.holds_run
            else f"{run.path} is not empty and holds no run; choose another --out."
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_saying_what_is_safe(run))
        previous = None
        if run.holds_run:
            previous = read_record(run)
            stack.enter_context(sole_process(run.path))
            config = _continued(config, previous, run)
            if is_finished(run, config):
                progress.say(f"{run.path} is finished: {config.steps} of {config.steps} updates done.")
                if config.video and not all(path.exists() for path in video_paths(run.videos, config.targets or ())):
                    _render(run, config, previous.env_id, progress)  # a kill came before the last of them
                return run.path
        config, store = _with_store(config, store, progress, run.episodes)
        if previous is not None and previous.data["fingerprint"] != store.fingerprint:
            raise JaxdtError(
                f"the episodes are not those that {run.path} was trained on (their fingerprints differ); "
                "resume with the same data, or choose another --out."
            )
        prepared = prepare_run(config, store, env, command, previous)
        if previous is None:
            stack.enter_context(_claimed(run))
            write_record(run, prepared.record)
        with writing(run.path):
            for directory in (run.path, run.loss_plot.parent):
                remove_unfinished(directory)
        if config.dataset == "demo" and not run.episodes.exists():
            store.save(run.episodes)
        train_and_evaluate(run, prepared, store.returns, progress, stop)
        if config.video:
            _render(run, config, prepared.record.env_id, progress)
    return run.path


def _render(run: RunDirectory, config: TrainConfig, env_id: str | None, progress: Progress) -> None:
    render_videos(Agent.load(run.path), run.videos, env_id, seed=config.eval_seed, progress=progress)


@contextlib.contextmanager
def _saying_what_is_safe(run: RunDirectory) -> Iterator[None]:
    try:
        yield
    except WriteError as error:
        steps = checkpoint_steps(run.checkpoints)
        if not run.holds_run:
            raise
        safe = f"the run is safe up to checkpoint {steps[-1]}" if steps else "no checkpoint was saved yet"
        raise WriteError(
            f"{error}; {safe}, and goes on with jaxdt train --resume --out {run.path} when that is put right"
        ) from error


def _continued(config: TrainConfig, previous: RunRecord, run: RunDirectory) -> TrainConfig:
    """The config of a run that goes on, from its newest undamaged checkpoint."""
    if "imported_from" in previous.data:
        raise JaxdtError(f"{run.path} was imported and has no training to resume; start a run from it with --init.")
    set_damaged_aside(run.checkpoints)
    return agree_with_record(config, previous)


@contextlib.contextmanager
def _claimed(run: RunDirectory) -> Iterator[None]:
    """Makes the directory, or takes a free one, and holds it; another process may have been quicker."""
    with writing(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
    with sole_process(run.path):
        if not run.is_free:
            raise JaxdtError(f"another process has begun a run in {run.path}; choose another --out.")
        yield


def _with_store(
    config: TrainConfig, store: EpisodeStore | None, progress: Progress, collected: Path | None = None
) -> tuple[TrainConfig, EpisodeStore]:
    """The episodes given, or those that the config names; `collected`: where a demo run keeps its own."""
    if store is not None:
        return config, store
    config = dataclasses.replace(config, dataset=config.dataset or "demo")
    assert config.dataset is not None
    if config.dataset != "demo":
        return config, load_episodes(config.dataset, map_above=config.map_above, progress=progress)
    if collected is not None and collected.exists():
        return config, load_episodes(collected)
    progress.start("collect demo episodes", num_demo_episodes(), "episode")
    try:
        return config, collect_demo_episodes(progress=lambda done, total: progress.advance(done))
    finally:
        progress.stop()


def _next_free_directory(config: TrainConfig, store: EpisodeStore) -> Path:
    name = f"{config.preset}-{config.env or store.env_id or 'none'}".replace("/", "-")
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{name}-{n}").exists())
