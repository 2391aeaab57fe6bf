"""Runs of several methods set side by side: which belong together, what each reached, and what may not be compared."""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxdt import statistics
from jaxdt.config import functions_of
from jaxdt.data.d4rl import score_name
from jaxdt.errors import JaxdtError
from jaxdt.games import game_of
from jaxdt.run.aggregates import (
    Aggregate,
    Improvement,
    Interval,
    aggregate_of,
    improvement_of,
    references_by_task,
)
from jaxdt.run.finished import FinishedRun, find_runs, name_methods, printable, read_run, unequal_training
from jaxdt.simulator import gymnasium_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """An environment and the episodes that were learned from."""

    name: str
    data: str
    """What the episodes are, as the first run names them."""
    data_return_mean: float
    data_return_max: float
    conflicts: tuple[str, ...]
    """Why scores on it may not be compared; it is then left out of every figure over tasks."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """What one method reached on one task: one number a seed, the mean return of that run's episodes."""

    method: str
    task: str
    seeds: tuple[int, ...]
    runs: tuple[Path, ...]
    """Each seed's directory."""
    returns: Float[np.ndarray, " n"]
    normalized: Float[np.ndarray, " n"] | None
    """D4RL's scores, of games gamer-normalised ones; None where no reference is known."""
    score_name: str
    """Of `normalized`."""
    targets: tuple[float | None, ...]
    """Return that each run was asked for."""
    steps: tuple[int, ...]
    """Updates after which each run was evaluated."""
    episodes: tuple[int, ...]
    """How many each run's mean return is of."""
    curve_steps: Int[np.ndarray, " p"]
    """Where all seeds were evaluated, at `targets`."""
    curve: Float[np.ndarray, "n p"]

    @property
    def return_mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def return_std(self) -> float | None:
        """Sample standard deviation over seeds (n - 1), None of one."""
        return float(np.std(self.returns, ddof=1)) if len(self.returns) > 1 else None

    @property
    def return_interval(self) -> Interval | None:
        """Of the mean; None of fewer than three seeds."""
        return statistics.bootstrap_interval(statistics.mean, [self.returns])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What `jaxdt compare` found; as text, it is a page of Markdown."""

    methods: tuple[str, ...]
    tasks: tuple[Task, ...]
    scores: tuple[Score, ...]
    best: bool
    """Whether each run's best evaluation was taken, which nobody can know beforehand, instead of its last."""
    aggregates: Mapping[str, Aggregate]
    """By method, over the tasks that all methods were run on; empty where these cannot be put together."""
    aggregated: str
    """What they are over: `D4RL score`, `gamer-normalised score`, of both `normalised score`; or a task's `return`."""
    improvements: tuple[Improvement, ...]
    notes: tuple[str, ...]
    """What a reader must know: what may not be compared, what was left out, what is not finished."""

    def score(self, method: str, task: str) -> Score | None:
        return next((s for s in self.scores if (s.method, s.task) == (method, task)), None)

    def __repr__(self) -> str:
        runs = sum(len(score.seeds) for score in self.scores)
        return f"Comparison({', '.join(self.methods)} on {', '.join(t.name for t in self.tasks)}; {runs} runs)"

    def __str__(self) -> str:
        from jaxdt.run.comparison_files import markdown

        return markdown(self)

    def _repr_markdown_(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from jaxdt.run.comparison_files import html

        return html(self)

    def write(self, out: str | os.PathLike[str]) -> list[Path]:
        """Writes `comparison.md`, `.tex`, `.csv`, `.json`, `.png` and `.pdf` into a directory; returns their paths."""
        from jaxdt.run.comparison_files import write_files

        return write_files(self, Path(out))


def compare(
    runs: Mapping[str, Any] | Sequence[str | os.PathLike[str]],
    *,
    best: bool = False,
    references: Mapping[str, tuple[float, float]] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Sets runs side by side, by method and task; seeds are what is counted, episodes are only averaged within one.

    - `runs`: run directories, or directories with runs in them at any depth, such as those of several seeds; `NAME=RUN`
      names a method, and so does a dict of names and one or more such paths. Runs without a name are one method where
      all their choices but the seed, the data and what is looked at are equal.
    - `best`: take each run's best evaluation, over updates and targets, and say so. By default the last one counts, at
      the highest target return that it was asked for.
    - `references`: the returns that are 0 and 100 in an environment, such as those of random and of expert play, by
      its id with version or without; in place of D4RL's, or where none are known. Only with them, or D4RL's, are
      several tasks put together.
    - `out`: also write the table and the figure there, see `Comparison.write`.

    Means ± are sample standard deviations over seeds. Intervals are 95 % of a bootstrap stratified by task, from three
    seeds on; they, the interquartile mean and the probability of improvement are those of Agarwal et al. 2021.

    Raises JaxdtError where a path holds no run, no run was evaluated, a method has one seed twice on a task, or a
    reference is of no run's environment.
    """
    named = [(name, read_run(path)) for name, path in find_runs(runs)]
    notes = [f"left out, for it was not evaluated: {run.path}" for _, run in named if not run.evaluations]
    if any(run.env == "custom" for _, run in named):
        notes.append("custom is an environment of one's own: whether it was the same one cannot be known")
    if any("own" in functions_of(run.record.config.algorithm).values() for _, run in named):
        notes.append("own is a network of one's own: whether it was the same one cannot be known")
    named = [(name, run) for name, run in named if run.evaluations]
    if not named:
        raise JaxdtError("none of these runs was evaluated; give runs that were trained with an environment.")
    methods, name_notes = name_methods(named)
    tasks = _name_tasks([run for _, run in named])
    cells: dict[tuple[str, str], list[FinishedRun]] = {}
    for method, task, (_, run) in zip(methods, tasks, named, strict=True):
        cells.setdefault((method, task), []).append(run)
    for key, members in cells.items():
        cells[key] = _sorted_by_seed(key, members)
    described = tuple(
        _describe_task(task, {m: runs for (m, t), runs in cells.items() if t == task}, best)
        for task in dict.fromkeys(tasks)
    )
    envs = {task: (runs[0].env, _without_version(runs[0].env)) for (_, task), runs in cells.items()}
    envs = {task: (*names, *(name.rpartition(":")[2] for name in names)) for task, names in envs.items()}
    known = references_by_task(references or {}, envs)
    scores = tuple(_score(*key, members, best, known.get(key[1])) for key, members in cells.items())
    notes = [*name_notes, *unequal_training(cells), *notes]
    comparison = _compare(tuple(dict.fromkeys(methods)), described, scores, best, notes)
    if out is not None:
        comparison.write(out)
    return comparison


def _name_tasks(runs: Sequence[FinishedRun]) -> list[str]:
    """Each run's: the environment, with its data where those of several runs differ."""
    keys = [(_without_version(run.env), run.fingerprint) for run in runs]
    names: dict[tuple[str, str], str] = {}
    for run, key in zip(runs, keys, strict=True):
        alone = len({fingerprint for env, fingerprint in keys if env == key[0]}) == 1
        name = run.env if alone else f"{run.env} on {run.data_name}"
        taken = name in (other for each, other in names.items() if each != key)
        names.setdefault(key, f"{name} ({run.fingerprint[:8]})" if taken else name)
    return [names[key] for key in keys]


def _without_version(env: str) -> str:
    game = game_of(env)
    return gymnasium_id(env).rsplit("-v", 1)[0] if game is None else f"ALE/{game}"


def _sorted_by_seed(key: tuple[str, str], runs: list[FinishedRun]) -> list[FinishedRun]:
    runs = sorted(runs, key=lambda run: run.seed)
    for first, second in itertools.pairwise(runs):
        if first.seed == second.seed:
            raise JaxdtError(
                f"{key[0]} on {key[1]} has the seed {first.seed} twice, in {first.path} and {second.path}, and one "
                "seed is one run; leave one out, or name them NAME=RUN."
            )
    return runs


def _describe_task(name: str, methods: Mapping[str, Sequence[FinishedRun]], best: bool) -> Task:
    """With what differs between runs on it that makes their scores different things."""
    runs = [run for members in methods.values() for run in members]
    conflicts = []
    for what in runs[0].conditions:
        by_value: dict[Any, list[str]] = {}  # of versions, those that are known
        for method, members in methods.items():
            for run in members:
                value = run.conditions[what]
                if not (what.startswith("version") and value is None):
                    by_value.setdefault(str(value), []).append(method)
        if len(by_value) > 1:
            listed = "; ".join(f"{printable(value)} ({', '.join(dict.fromkeys(m))})" for value, m in by_value.items())
            conflicts.append(f"{name}: the {what} differs: {listed}")
    for method, members in methods.items():
        conflicts += _conflicts_within(f"{method} on {name}", members, best)
    mean, highest = runs[0].data_returns
    return Task(
        name=name,
        data=runs[0].data_name,
        data_return_mean=float(mean),
        data_return_max=float(highest),
        conflicts=tuple(conflicts),
    )


def _score(
    method: str, task: str, runs: Sequence[FinishedRun], best: bool, reference: tuple[float, float] | None
) -> Score:
    """`reference`: returns that are 0 and 100; None: those that are known of the environment."""
    chosen = [run.best_evaluation if best else run.last_evaluation for run in runs]
    curves = [run.curve(evaluation["target"]) for run, evaluation in zip(runs, chosen, strict=True)]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    normalized, name = [evaluation["normalized_mean"] for evaluation in chosen], score_name(chosen[0].get("reference"))
    if reference is not None:
        low, high = reference
        normalized = [100 * (evaluation["return_mean"] - low) / (high - low) for evaluation in chosen]
        name = "normalised score"
    return Score(
        method=method,
        task=task,
        seeds=tuple(run.seed for run in runs),
        runs=tuple(run.path for run in runs),
        returns=np.array([evaluation["return_mean"] for evaluation in chosen], np.float64),
        normalized=None if None in normalized else np.array(normalized, np.float64),
        score_name=name,
        targets=tuple(evaluation["target"] for evaluation in chosen),
        steps=tuple(evaluation["step"] for evaluation in chosen),
        episodes=tuple(len(evaluation["returns"]) for evaluation in chosen),
        curve_steps=np.array(steps, np.int64),
        curve=np.array([[curve[step] for step in steps] for curve in curves], np.float64).reshape(len(runs), -1),
    )


def _conflicts_within(name: str, runs: Sequence[FinishedRun], best: bool) -> list[str]:
    """What keeps the runs of one method on one task from being one row of numbers."""
    conflicts = [
        f"{name}, seed {run.seed}, is not finished: it was last evaluated after {run.last_evaluation['step']} of "
        f"{run.record.config.steps} updates"
        for run in runs
        if not run.is_finished
    ]
    targets = {str(run.last_evaluation["target"]) for run in runs}
    if len(targets) > 1 and not best:
        conflicts.append(f"{name}: the seeds were asked for different returns: {', '.join(sorted(targets))}")
    return conflicts


def _compare(
    methods: tuple[str, ...], tasks: tuple[Task, ...], scores: tuple[Score, ...], best: bool, notes: list[str]
) -> Comparison:
    by_cell = {(score.method, score.task): score for score in scores}
    for task in tasks:
        missing = [method for method in methods if (method, task.name) not in by_cell]
        if missing:
            notes.append(f"{task.name}: no runs of {', '.join(missing)} (NAME=RUN joins runs made differently)")
        notes += [f"may not be compared: {conflict}" for conflict in task.conflicts]
    whole = [t.name for t in tasks if not t.conflicts and all((m, t.name) in by_cell for m in methods)]
    if len(whole) < len(tasks):
        notes.append(f"over tasks, only these count: {', '.join(whole) or 'none'}")
    rows = {method: [by_cell[method, task] for task in whole] for method in methods}
    has_scores = all(score.normalized is not None for row in rows.values() for score in row)
    names = {score.score_name for row in rows.values() for score in row}
    score = names.pop() if len(names) == 1 else "normalised score"
    aggregates, aggregated = {}, score if has_scores else "return"
    if len(whole) == 1 or (whole and has_scores):
        for method, row in rows.items():
            values = [score.normalized if has_scores else score.returns for score in row]
            aggregates[method] = aggregate_of([each for each in values if each is not None])
    elif whole:
        notes.append(
            "no interquartile mean over tasks: no reference returns are known for some of them; give those with "
            "references= (--references ENV=RANDOM,BEST)"
        )
    pairs = [(one, other) for one in methods for other in methods if one != other and whole]
    returns = {method: [score.returns for score in row] for method, row in rows.items()}
    return Comparison(
        methods=methods,
        tasks=tasks,
        scores=scores,
        best=best,
        aggregates=aggregates,
        aggregated=aggregated,
        improvements=tuple(improvement_of(one, other, returns[one], returns[other]) for one, other in pairs),
        notes=tuple(notes),
    )
