"""Evaluating a trained policy, and rendering what it does."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdt.checkpoint import Which
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.environments import JaxEnvironment, make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.evaluation.video import render_episode
from jaxdt.progress import Progress
from jaxdt.run.agent import Agent
from jaxdt.run.fit import check_fit
from jaxdt.simulator import gymnasium_id
from jaxdt.types import Evaluation


def evaluate(
    run: str | os.PathLike[str] | Agent,
    env: str | JaxEnvironment | None = None,
    targets: Sequence[float] | None = None,
    episodes: int = 10,
    seed: int = 0,
    *,
    checkpoint: Which = "latest",
    progress: Progress | None = None,
    **acting: Any,
) -> list[Evaluation]:
    """Plays `episodes` episodes at each target return, all side by side, and reports every target.

    - `run`: a run directory or an Agent. `env`: a Gymnasium id, `mjx:` and one, or a JaxEnvironment; default: the
      run's.
    - `targets`: in the environment's reward units; default: the run's. A policy that is asked for none takes none.
    - `acting`: options of the run's algorithm, such as `context="cached"`, which computes each token once, many times
      faster, and is slightly another policy once an episode is longer than the context; or, with discrete actions,
      `sampling="sample"` and `temperature`. Default: the Agent's, or the run's.
    - Episode `j` of every target starts from environment seed `seed + j`, so the same call gives the same result.

    An Agent keeps what was compiled for it last: called again with the same id and options, and as many
    targets and episodes, nothing is compiled anew. Raises JaxdtError for input that does not fit, SimulationError when
    an episode cannot go on.
    """
    loaded = run if isinstance(run, Agent) else Agent.load(run, checkpoint)
    environment, chosen = _choose(loaded, env, targets, episodes, seed)
    agent = loaded.acting_with(**acting)
    kept = _take_evaluator(agent, loaded, environment)
    evaluator = kept.evaluator
    evaluator.progress = progress or Progress()
    try:
        return evaluator.evaluate(agent.params, chosen, episodes, seed)[0]
    finally:
        evaluator.close()
        evaluator.progress = Progress()
        if isinstance(environment, str):
            loaded.kept_evaluators[:] = [kept]


def render_videos(
    agent: Agent,
    directory: Path,
    env: str | None = None,
    targets: Sequence[float] | None = None,
    seed: int = 0,
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """One `.mp4` a target: the episode that starts from `seed`, played and then replayed before a camera.

    What is evaluated by MJX (`mjx:`) is filmed in Gymnasium's task, which is the same but begins elsewhere.
    Raises JaxdtError naming what to install when the machine cannot render or encode.
    """
    environment, chosen = _choose(agent, env, targets, 1, seed)
    if not isinstance(environment, str):
        raise JaxdtError("videos are rendered by Gymnasium; give its environment id.")
    environment = gymnasium_id(environment)
    with contextlib.closing(_make_evaluator(agent, environment, record=True)) as evaluator:
        evaluator.progress = progress or Progress()
        played = evaluator.run_episodes(agent.params, chosen, 1, seed)
    assert played.trajectory is not None
    actions, lengths = np.asarray(played.trajectory.actions), np.asarray(played.lengths)
    paths = video_paths(directory, chosen)
    for i, path in enumerate(paths):
        render_episode(path, environment, seed, actions[: lengths[i], i], progress=progress)
    return paths


def video_paths(directory: Path, targets: Sequence[float | None]) -> list[Path]:
    """Where the video of each target is."""
    return [directory / ("episode.mp4" if target is None else f"target-{target:.12g}.mp4") for target in targets]


class _Kept(NamedTuple):
    key: tuple[Any, ...]
    """What the evaluator was compiled from, and must be equal for it to fit."""
    evaluator: Evaluator


def _take_evaluator(agent: Agent, keeper: Agent, environment: str | JaxEnvironment) -> _Kept:
    """The one that `keeper` keeps, if it fits; while it is in use another thread makes its own.

    None is kept for a JaxEnvironment, whose attributes may have changed since it was compiled.
    """
    key = (agent.config, agent.spec, environment, _registered(environment))
    with contextlib.suppress(IndexError):
        kept = keeper.kept_evaluators.pop()
        if key == kept.key:
            return kept
    return _Kept(key, _make_evaluator(agent, environment))


def _make_evaluator(agent: Agent, environment: str | JaxEnvironment, *, record: bool = False) -> Evaluator:
    made = make_environment(environment)
    try:
        check_fit(made.spec, made.name, agent.spec, "the model")
    except JaxdtError:
        made.close()
        raise
    return Evaluator(agent.policy, made, record=record)


def _registered(environment: str | JaxEnvironment) -> Any:
    """What Gymnasium makes of an id, for MJX too; registering it again gives another one."""
    if not isinstance(environment, str):
        return None
    import gymnasium

    return gymnasium.registry.get(gymnasium_id(environment))


def _choose(
    agent: Agent, env: str | JaxEnvironment | None, targets: Sequence[float] | None, episodes: int, seed: int
) -> tuple[str | JaxEnvironment, Sequence[float | None]]:
    environment = env if env is not None else agent.env_id
    if environment is None:
        raise JaxdtError(
            "the run names no environment of Gymnasium's own; give one with env= (--env), such as HalfCheetah-v5."
        )
    if targets is not None and not agent.config.takes_target:
        raise JaxdtError(f"{agent.config.name} is asked for no return; leave the targets {list(targets)} out.")
    chosen: Sequence[float | None] = agent.targets if targets is None else targets
    if not len(chosen):
        raise JaxdtError("the run names no target returns; give them with targets= (--targets).")
    if not np.isfinite([target for target in chosen if target is not None]).all():
        raise JaxdtError(f"targets must be finite; got {list(chosen)}.")
    if episodes < 1:
        raise JaxdtError(f"episodes must be at least 1; got {episodes}.")
    if not 0 <= seed < 2**31 - episodes:
        raise JaxdtError(f"seed must be at least 0 and seed + episodes below 2**31; got {seed}.")
    return environment, chosen
