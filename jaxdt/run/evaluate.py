"""Evaluating a trained policy, and rendering what it does."""

import contextlib
import dataclasses
import inspect
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdt.checkpoint import Which
from jaxdt.choice import EnvironmentChoice
from jaxdt.config import ACTING_OPTIONS, fits_float32, numbers, whole
from jaxdt.errors import JaxdtError, RunError, did_you_mean
from jaxdt.evaluation.environments import make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.evaluation.rollout import Episodes, sees_pictures
from jaxdt.evaluation.video import Take, render_episode, try_filming
from jaxdt.files import open_atomically
from jaxdt.games import game_of
from jaxdt.parallel import devices_to_play_on
from jaxdt.plots import plot_plan as draw_plan
from jaxdt.progress import Progress
from jaxdt.run.agent import Agent, agent_of, seeds_from
from jaxdt.run.environment import chosen, filmed
from jaxdt.run.fit import check_fit
from jaxdt.run.plans import expectations, plan_errors
from jaxdt.simulator import gymnasium_id
from jaxdt.types import Evaluations


def evaluate(
    run: str | os.PathLike[str] | Agent,
    env: Any = None,
    targets: Any = None,
    episodes: int | np.integer = 10,
    seed: int | np.integer = 0,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: Any = None,
    parallel_environments: Any = None,
    checkpoint: Which = "latest",
    plot_plan: str | os.PathLike[str] | None = None,
    videos: str | os.PathLike[str] | None = None,
    video_frames: int | None = None,
    video_every: int = 1,
    progress: Progress | None = None,
    **acting: Any,
) -> Evaluations:
    """Plays `episodes` episodes at each target return, all side by side; one Evaluation a target comes back.

    - `run`: a run directory or an Agent.
    - `env`: a Gymnasium id, `mjx:` and one, an EnvSpec, a gymnasium.Env, a function that makes one, or a
      JaxEnvironment; default: the run's. A gymnasium.Env is made anew from its spec for each episode, unless
      `parallel_environments` is 1. `env_kwargs`: what its constructor is given beside; default: in the run's own
      environment the run's.
    - `max_episode_steps`: after which an episode is cut off; default: in the run's own environment the run's limit, if
      it was given one, else the environment's own, or where it has none 1000, or as many as the longest episode that
      the run was trained on.
    - `parallel_environments`: episodes at once; default: the run's, or all.
    - `plot_plan`: of a policy that plans, where to draw what its plans expected beside what then happened, in the first
      episode, and how far off they are by how many steps ahead, over all; the numbers are written beside it, as
      `.json`.
    - `videos`: a directory for a film of each target's first episode, of every `video_every`-th step and at most
      `video_frames` pictures; with it or `plot_plan` every step of all episodes is in memory until then. What is
      evaluated by MJX (`mjx:`) is filmed in Gymnasium's task, which is the same but begins elsewhere.
    - `targets`: one or more returns, in the environment's reward units; default: the run's. A policy that is asked for
      none takes none.
    - `acting`: options of the run's algorithm, such as `context="cached"`, which computes each token once, many times
      faster, and is slightly another policy once an episode is longer than the context; or, with discrete actions,
      `sampling="sample"` and `temperature`; or, of a policy that plans, `beam_width=32`, `horizon=5`. Default: the
      Agent's, or the run's.
    - Episode `j` of every target starts from environment seed `seed + j`, so the same call gives the same result.

    An Agent keeps what was compiled for it last: called again with the same id and options, and as many
    targets and episodes, nothing is compiled anew. Raises JaxdtError for input that does not fit, SimulationError when
    an episode cannot go on.
    """
    episodes, seed = whole(episodes, "episodes"), whole(seed, "seed")
    _check_names(acting)
    loaded = agent_of(run, checkpoint, **acting)
    choice = chosen(
        loaded.environment, loaded.missing_environment, env, env_kwargs, max_episode_steps, parallel_environments
    )
    if videos is not None:
        try_video(choice)  # before anything is played
    drawing = Drawing(plot_plan, videos, video_frames, video_every)
    evaluations, draw = evaluate_and_draw(loaded, choice, targets, episodes, seed, drawing, progress, **acting)
    try:
        draw()
    except (JaxdtError, RunError) as error:  # what was played shall not be lost
        warnings.warn(f"the evaluation is complete, but not all was drawn: {error}", stacklevel=2)
    return evaluations


def _check_names(acting: Mapping[str, Any]) -> None:
    """An argument of `evaluate` that is written wrongly would be taken for an option of the algorithm."""
    known = [*inspect.signature(evaluate).parameters][:-1]
    for name in acting.keys() - set(ACTING_OPTIONS):
        if near := did_you_mean(name, [*known, *ACTING_OPTIONS]):
            raise JaxdtError(f"evaluate has no {name}{near}.")


class Drawing(NamedTuple):
    """What is drawn of an evaluation, as `evaluate` says."""

    plot_plan: str | os.PathLike[str] | None
    videos: str | os.PathLike[str] | None
    video_frames: int | None
    video_every: int


def evaluate_and_draw(
    loaded: Agent,
    choice: EnvironmentChoice,
    targets: Any,
    episodes: int,
    seed: int,
    drawing: Drawing,
    progress: Progress | None = None,
    **acting: Any,
) -> tuple[Evaluations, Callable[[], None]]:
    """What `evaluate` returns, and what then draws its figure and films; that it can film is the caller's to try."""
    plot_plan, videos, video_frames, video_every = drawing
    asked_for = _checked_targets(loaded, targets, episodes, seed)
    agent = loaded.acting_with(**acting)
    options: dict[str, Any] = {}
    if plot_plan is not None:
        check_plans(agent)
        if Path(plot_plan).suffix not in (".png", ".pdf", ".svg"):
            raise JaxdtError(f"plot_plan must be a file that ends in .png, .pdf or .svg; got {str(plot_plan)!r}.")
    if videos is not None:
        options = {
            "frames": _at_least_1(video_frames, "video_frames"),
            "every": _at_least_1(video_every, "video_every"),
        }
    record = plot_plan is not None or (videos is not None and filmed(choice) == choice)
    kept = _take_evaluator(agent, loaded, choice, record=record)
    evaluator = kept.evaluator
    evaluator.progress = progress or Progress()
    try:
        with agent.naming_wrong_weights():
            played = evaluator.run_episodes(agent.params, asked_for, episodes, seed)
        evaluations = evaluator.summarize(played, asked_for, episodes)[0]
    finally:
        evaluator.close()  # there may be only one simulator
        evaluator.progress = Progress()
        if kept.key is not None:
            loaded.kept_evaluators[:] = [kept]

    def draw() -> None:
        if plot_plan is not None:
            _draw_plan(Path(plot_plan), played, evaluator.environment.name)
        if videos is not None:
            takes, each = played, episodes
            if filmed(choice) != choice:
                takes, each = _play_to_film(agent, filmed(choice), asked_for, seed, progress), 1
            _film(Path(videos), filmed(choice), takes, asked_for, each, seed, progress=progress, **options)

    return evaluations, draw


def check_plans(agent: Agent) -> None:
    """Raises JaxdtError where the agent's policy makes no plans that `evaluate` could draw."""
    if agent.policy.expect is None:
        raise JaxdtError(f"{agent.config.name} makes no plans; leave plot_plan (--plot-plan) out.")
    if sees_pictures(agent.spec):
        raise JaxdtError("an episode's pictures are not kept to draw plans beside; leave plot_plan (--plot-plan) out.")


def _draw_plan(path: Path, played: Episodes, environment: str) -> None:
    """The figure, and what is in its last panel as numbers."""
    episodes = expectations(played)
    errors = plan_errors(episodes)
    draw_plan(path, episodes[0], errors, f"{environment}: plans, and what then happened")
    numbers = {name: [None if np.isnan(x) else float(x) for x in values] for name, values in errors._asdict().items()}
    with open_atomically(path.with_suffix(".json")) as file:
        json.dump({"steps_ahead": list(range(len(errors.expected))), **numbers}, file, indent=1, allow_nan=False)


def render_videos(
    agent: Agent,
    directory: Path,
    env: Any = None,
    targets: Sequence[float] | None = None,
    seed: int = 0,
    *,
    frames: int | None = None,
    every: int = 1,
    progress: Progress | None = None,
) -> list[Path]:
    """One `.mp4` a target: the episode that starts from `seed`, played and then replayed before a camera.

    As `evaluate` with `videos`, without an evaluation. Raises JaxdtError naming what to install when the machine cannot
    render or encode.
    """
    choice = filmed(chosen(agent.environment, agent.missing_environment, env, None, None, None))
    asked_for = _checked_targets(agent, targets, 1, seed)
    played = _play_to_film(agent, choice, asked_for, seed, progress)
    return _film(directory, choice, played, asked_for, 1, seed, frames=frames, every=every, progress=progress)


def _play_to_film(
    agent: Agent, choice: EnvironmentChoice, targets: Sequence[float | None], seed: int, progress: Progress | None
) -> Episodes:
    """One recorded episode a target."""
    with contextlib.closing(_make_evaluator(agent, choice, record=True)) as evaluator:
        evaluator.progress = progress or Progress()
        return evaluator.run_episodes(agent.params, targets, 1, seed)


def _film(
    directory: Path,
    choice: EnvironmentChoice,
    played: Episodes,
    targets: Sequence[float | None],
    episodes: int,
    seed: int,
    **options: Any,
) -> list[Path]:
    """The first of each target's `episodes`; `options` of `render_episode`."""
    assert played.trajectory is not None
    actions, rewards = np.asarray(played.trajectory.actions), np.asarray(played.trajectory.rewards)
    lengths, paths = np.asarray(played.lengths), video_paths(directory, targets)
    for i, (path, target) in enumerate(zip(paths, targets, strict=True)):
        if path not in paths[:i]:  # the same target again
            first = i * episodes
            steps = slice(lengths[first])
            render_episode(path, choice, Take(seed, actions[steps, first], rewards[steps, first], target), **options)
    return list(dict.fromkeys(paths))


def try_video(choice: EnvironmentChoice) -> None:
    """Renders a first frame of what `evaluate` would film; raises JaxdtError as it does."""
    try_filming(filmed(choice))


def _at_least_1(value: Any, name: str) -> int | None:
    if value is not None and (value := whole(value, name)) < 1:
        raise JaxdtError(f"{name} must be at least 1; got {value}.")
    return value


def video_paths(directory: Path, targets: Sequence[float | None]) -> list[Path]:
    """Where the video of each target is."""
    short = ["" if target is None else f"{target:.12g}" for target in targets]
    alike = {
        name
        for name in short
        if len({target for target, other in zip(targets, short, strict=True) if other == name}) > 1
    }
    names = [repr(float(target or 0)) if name in alike else name for target, name in zip(targets, short, strict=True)]
    return [directory / (f"target-{name}.mp4" if name else "episode.mp4") for name in names]


class _Kept(NamedTuple):
    key: tuple[Any, ...] | None
    """What the evaluator was compiled from, and must be equal for it to fit; None: it is not kept."""
    evaluator: Evaluator


def _take_evaluator(agent: Agent, keeper: Agent, choice: EnvironmentChoice, *, record: bool) -> _Kept:
    """The one that `keeper` keeps, if it fits; while it is in use another thread makes its own.

    Kept are those of ids: the attributes of an object may have changed since it was compiled.
    """
    key = None
    with contextlib.suppress(TypeError, ValueError):  # keyword arguments that are no JSON
        if isinstance(choice.env, str):
            given = json.dumps(dict(choice.kwargs or {}), sort_keys=True)
            plain = dataclasses.replace(choice, kwargs=None)
            key = (agent.config, agent.spec, plain, given, _registered(choice.env), record)
    with contextlib.suppress(IndexError):
        kept = keeper.kept_evaluators.pop()
        if key is not None and key == kept.key:
            return kept
    return _Kept(key, _make_evaluator(agent, choice, record=record))


def _make_evaluator(agent: Agent, choice: EnvironmentChoice, *, record: bool = False) -> Evaluator:
    made = make_environment(choice)
    try:
        check_fit(made.spec, made.name, agent.spec, "the model")
    except JaxdtError:
        made.close()
        raise
    return Evaluator(agent.policy, made, parallel=choice.parallel, record=record, devices=devices_to_play_on())


def _registered(env_id: str) -> Any:
    """What Gymnasium makes of an id, for MJX too; registering it again gives another one, but of a game."""
    import gymnasium

    return game_of(env_id) or gymnasium.registry.get(gymnasium_id(env_id))


def _checked_targets(agent: Agent, targets: Any, episodes: int, seed: int) -> Sequence[float | None]:
    if targets is not None and not agent.config.takes_target:
        raise JaxdtError(f"{agent.config.name} is asked for no return; leave the targets {targets!s:.80} out.")
    given = None if targets is None else numbers(targets, "targets")
    if given is not None and not len(given):
        raise JaxdtError("targets must be one or more returns; got none (leave --targets out for the run's).")
    asked_for: Sequence[float | None] = agent.targets if given is None else given
    if not len(asked_for):
        raise JaxdtError("the run names no target returns; give them with targets= (--targets).")
    if not all(fits_float32(target) for target in asked_for if target is not None):
        raise JaxdtError(f"targets must be finite, in float32 too; got {list(asked_for)}.")
    if episodes < 1:
        raise JaxdtError(f"episodes must be at least 1; got {episodes}.")
    seeds_from(seed, episodes)
    return asked_for
