"""`jaxdt evaluate`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from jaxdt.cli.common import device_line, keep_compiled_programs
from jaxdt.cli.parsing import parse
from jaxdt.cli.report import evaluation_table, evaluations_document, runs_table
from jaxdt.config import ACTING_OPTIONS, Context, KeywordArguments, MeasuredAt, PlanningWindow, Sampling
from jaxdt.errors import JaxdtError, RunError
from jaxdt.files import open_atomically


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Play episodes at target returns, all side by side, and print what they reach."""

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN ...")]]
    """Run directories; for several, mean and standard deviation over them are printed too."""
    env: str | None = None
    """Gymnasium id, or `mjx:` and one; None: the run's."""
    env_kwargs: KeywordArguments = None
    """What the environment's constructor is given beside, as JSON; None: in the run's own environment the run's."""
    max_episode_steps: int | None = None
    """Steps after which an episode is cut off; None: in the run's own environment the run's limit, if it was given one,
    else the environment's own, or where it has none 1000, or the longest episode that the run was trained on."""
    parallel_environments: int | None = None
    """Episodes at once, each in a simulator: 1 where there can be only one; None: the run's, or all."""
    targets: tuple[float, ...] | None = None
    """Target returns, in the environment's reward units; None: the run's."""
    episodes: int = 10
    """Episodes a target."""
    seed: int = 0
    """Environment seed of each target's first episode; the next ones count up."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which weights; best: of the highest mean return at the run's highest target, or where training had no environment
    of the least error on held-out episodes."""
    context: Context | None = None
    """exact: every window read anew; cached: each token computed once, much faster, slightly another policy; None: as
    the run was evaluated."""
    acting_context_length: int | None = None
    """Environment steps that an Online Decision Transformer sees while acting; None: the run's."""
    sampling: Sampling | None = None
    """Of discrete actions, and of methods that predict a distribution; greedy: the likeliest; sample: drawn from the
    predicted distribution; None: the run's."""
    temperature: float | None = None
    """With `--sampling sample`: log-probabilities are divided by this before an action is drawn; below 1 sharpens,
    above 1 flattens; None: the run's."""
    top_k: int | None = None
    """Of a Decision Transformer of frames: actions are drawn from so many likeliest; 0: from all; None: the run's."""
    timestep_when_acting: MeasuredAt | None = None
    """Of a Decision Transformer of frames: the one timestep that a window is told, its first step's or its newest's;
    None: the run's."""
    horizon: int | None = None
    """Of a policy that plans: environment steps of a plan; None: the run's."""
    beam_width: int | None = None
    """Of a policy that plans: plans that are kept at each of its steps; None: the run's."""
    expansion: int | None = None
    """Of a policy that plans: ways in which each plan goes on before the best are kept; None: the run's."""
    context_transitions: int | None = None
    """Of a policy that plans: environment steps that the model sees at most, with a growing window beside the plan;
    None: the run's."""
    planning_window: PlanningWindow | None = None
    """Of a policy that plans; sliding: the model sees the last `--context-transitions` steps of a plan; growing: all of
    it; None: the run's."""
    plan_every: int | None = None
    """Of a policy that plans: environment steps between plans; None: the run's."""
    action_nucleus: float | None = None
    """Of a policy that plans: actions are drawn from the likeliest that have this probability together; 1: from all;
    None: the run's."""
    action_top_k: int | None = None
    """Of a policy that plans: actions are drawn from so many likeliest; 0: from all; None: the run's."""
    observation_nucleus: float | None = None
    """Of a policy that plans: as `action-nucleus`, for observations; None: the run's."""
    observation_top_k: int | None = None
    """Of a policy that plans: as `action-top-k`, for observations."""
    plot_plan: bool = False
    """Of a policy that plans: also draw what its plans expected beside what then happened, to RUN/plots/plan.png, and
    how far off they were, by steps ahead, to plan.json beside it."""
    json: Path | None = None
    """Also write every episode's return and length to this file."""
    video: bool = False
    """Also film each target's first episode, to RUN/videos (needs the `video` extra)."""
    video_frames: int | None = None
    """Most pictures of a film; None: all of the episode."""
    video_every: int = 1
    """Film every so-many-th step; the film takes as long as the episode."""


def evaluate_command(arguments: list[str]) -> None:
    parsed = parse(EvaluateArguments, arguments, "jaxdt evaluate")
    if not parsed.runs:
        raise JaxdtError("evaluate needs a run directory: jaxdt evaluate runs/cheetah.")
    from jaxdt.progress import console_progress
    from jaxdt.run.agent import Agent
    from jaxdt.run.directory import RunDirectory, read_record
    from jaxdt.run.environment import check_alike, chosen
    from jaxdt.run.evaluate import Drawing, check_plans, evaluate_and_draw, try_video, video_paths

    progress = console_progress()
    acting = {name: getattr(parsed, name) for name in ACTING_OPTIONS}
    agents = [Agent.load(path, parsed.checkpoint, **acting) for path in parsed.runs]
    takers = [agent for agent in agents if agent.config.takes_target]
    if parsed.targets is None and len({agent.targets for agent in takers}) > 1:
        raise JaxdtError("the runs have different targets; give --targets to compare them.")
    given = parsed.env_kwargs, parsed.max_episode_steps, parsed.parallel_environments
    owns = [(agent.environment, agent.missing_environment) for agent in agents]
    choices = [chosen(own, missing, parsed.env, *given) for own, missing in owns]
    if len(agents) > 1:
        check_alike(choices)
    for choice in choices if parsed.video else ():  # before anything is played
        try_video(choice)
    for agent in agents if parsed.plot_plan else ():
        check_plans(agent)
    keep_compiled_programs()
    progress.say(device_line())
    results, undrawn = [], []
    for path, agent, choice in zip(parsed.runs, agents, choices, strict=True):
        targets = parsed.targets if agent in takers or not takers else None  # the others are asked for none
        run = RunDirectory(path)
        plan = run.plots / f"plan.{read_record(run).config.plot_format}" if parsed.plot_plan else None
        drawing = Drawing(plan, run.videos if parsed.video else None, parsed.video_frames, parsed.video_every)
        evaluations, draw = evaluate_and_draw(agent, choice, targets, parsed.episodes, parsed.seed, drawing, progress)
        results.append(evaluations)
        print(evaluation_table(str(path), evaluations))
        try:
            draw()
        except (JaxdtError, RunError) as error:  # what is played is told first
            undrawn.append((path, error))
            continue
        if plan is not None:
            print(f"wrote {plan} and {plan.with_suffix('.json')}")
        if parsed.video:
            films = video_paths(run.videos, [evaluation.target for evaluation in evaluations])
            print("\n".join(f"wrote {film}" for film in dict.fromkeys(films)))
    if len(results) > 1 and len({tuple(e.target for e in evaluations) for evaluations in results}) == 1:
        print(runs_table(results))
    if parsed.json is not None:
        runs = [str(path) for path in parsed.runs]
        with open_atomically(parsed.json) as file:
            json.dump(evaluations_document(runs, results), file, indent=1)
        print(f"wrote {parsed.json}")
    for path, error in undrawn[1:]:
        progress.say(f"{path}: {error}")
    if undrawn:
        raise undrawn[0][1]
