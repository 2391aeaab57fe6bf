"""A comparison as files: Markdown, LaTeX, CSV, JSON and figures."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt import plots
from jaxdt.files import open_atomically, writing
from jaxdt.run.aggregates import Interval
from jaxdt.run.comparison import Comparison, Score
from jaxdt.tables import html_table, html_text


IMPROVEMENT = "How likely a run of the row's method reaches more than one of the column's, 95 % interval:"


def write_files(comparison: Comparison, out: Path) -> list[Path]:
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": str(comparison) + "\n",
        "tex": latex(comparison),
        "csv": table_of_runs(comparison),
        "json": json.dumps(document(comparison), indent=1, allow_nan=False) + "\n",
    }
    for ending, text in texts.items():
        with open_atomically(out / f"comparison.{ending}") as file:
            file.write(text)
    figures = [out / "comparison.png", out / "comparison.pdf"]
    _draw(comparison, figures)
    return [*(out / f"comparison.{ending}" for ending in texts), *figures]


def markdown(comparison: Comparison) -> str:
    """The table of returns, how to read it, the probabilities of improvement and the notes."""
    head, rows = _table(comparison, "±")
    parts = [_markdown_table(head, rows), " ".join(_reading(comparison))]
    if comparison.improvements:
        parts.append(IMPROVEMENT)
        parts.append(_markdown_table(*_improvement_table(comparison)))
    if comparison.notes:
        parts.append("\n".join(f"- {note}" for note in comparison.notes))
    return "\n\n".join(parts)


def html(comparison: Comparison) -> str:
    """The same, for notebooks."""
    parts = [html_table(*_table(comparison, "±")), html_text(" ".join(_reading(comparison)))]
    if comparison.improvements:
        parts.append(html_text(IMPROVEMENT))
        parts.append(html_table(*_improvement_table(comparison)))
    return "\n".join([*parts, *map(html_text, comparison.notes)])


def latex(comparison: Comparison) -> str:
    """A `tabular` for the booktabs package, with what it says as comments above."""
    head, rows = _table(comparison, r"$\pm$")
    lines = [f"% {' '.join(line.split())}" for line in (*_reading(comparison), *comparison.notes)]
    lines.append(rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}")
    lines += [r"\toprule", _latex_row(head), r"\midrule", *map(_latex_row, rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def table_of_runs(comparison: Comparison) -> str:
    """A row a run, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = {score.score_name for score in comparison.scores}
    score_column = names.pop().lower().replace(" ", "_").replace("-", "_") if len(names) == 1 else "normalised_score"
    head = ("method", "task", "seed", "target", "updates", "episodes", "taken", "return_mean", score_column)
    writer.writerow(head)
    for score in comparison.scores:
        normalized = [None] * len(score.seeds) if score.normalized is None else score.normalized.tolist()
        taken = ["best" if comparison.best else "last"] * len(score.seeds)
        columns = (score.seeds, score.targets, score.steps, score.episodes, taken, score.returns.tolist(), normalized)
        writer.writerows((score.method, score.task, *row) for row in zip(*columns, strict=True))
    return text.getvalue()


def document(comparison: Comparison) -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "taken": "best" if comparison.best else "last",
        "methods": list(comparison.methods),
        "tasks": [dataclasses.asdict(task) for task in comparison.tasks],
        "scores": [
            {
                **_fields(score),
                "runs": [str(run) for run in score.runs],
                "return_mean": score.return_mean,
                "return_std": score.return_std,
                "return_interval": score.return_interval,
            }
            for score in comparison.scores
        ],
        "aggregated": comparison.aggregated,
        "aggregates": {name: _fields(each) for name, each in comparison.aggregates.items()},
        "improvements": [dataclasses.asdict(each) for each in comparison.improvements],
        "notes": list(comparison.notes),
    }


def _fields(each: Any) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(each).items()}


def _table(comparison: Comparison, plus_minus: str) -> tuple[list[str], list[list[str]]]:
    """A row a method: its seeds and updates, its return on each task, and over all tasks."""
    head = ["method", "seeds", "updates", *(task.name for task in comparison.tasks)]
    if comparison.aggregates:
        head.append(f"IQM of {comparison.aggregated}s, 95 %")
    rows = []
    for method in comparison.methods:
        cells = [comparison.score(method, task.name) for task in comparison.tasks]
        scores = [score for score in cells if score is not None]
        row = [method, _span(len(score.seeds) for score in scores), _span(n for score in scores for n in score.steps)]
        row += ["-" if score is None else _mean_and_std(score, plus_minus) for score in cells]
        if comparison.aggregates:
            aggregate = comparison.aggregates[method]
            row.append(_with_interval(aggregate.iqm, aggregate.interval, _decimals(aggregate.iqm)))
        rows.append(row)
    return head, rows


def _improvement_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    chances = {(i.method, i.other): _with_interval(i.probability, i.interval, 2) for i in comparison.improvements}
    rows = [
        [method, *(chances.get((method, other), "") for other in comparison.methods)] for method in comparison.methods
    ]
    return ["", *comparison.methods], rows


def _reading(comparison: Comparison) -> list[str]:
    """Sentences that say what the numbers of the table are."""
    episodes = _span(n for score in comparison.scores for n in score.episodes)
    taken = (
        "each run's best evaluation, which nobody can know beforehand: higher than what its method reaches"
        if comparison.best
        else "each run's last evaluation, at the highest return that it was asked for"
    )
    sentences = [f"Mean ± sample standard deviation over seeds of the mean return of {episodes} episodes: {taken}."]
    asked = [
        f"{score.method} for {_span((t for t in score.targets if t is not None), 'g')} on {score.task}"
        for score in comparison.scores
        if None not in score.targets
    ]
    if asked:
        sentences.append(f"Asked: {', '.join(asked)}.")
    known = "; ".join(
        f"{task.name} {_number(task.data_return_mean)}, {_number(task.data_return_max)}" for task in comparison.tasks
    )
    sentences.append(f"The data's mean return and best: {known}.")
    if comparison.aggregates:
        sentences.append("IQM: interquartile mean over all runs on the tasks, intervals by a stratified bootstrap.")
    return sentences


def _mean_and_std(score: Score, plus_minus: str) -> str:
    std = score.return_std
    decimals = _decimals(max(abs(score.return_mean), std or 0.0))
    text = f"{score.return_mean:.{decimals}f}"
    return text if std is None else f"{text} {plus_minus} {std:.{decimals}f}"


def _with_interval(value: float, interval: Interval | None, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text if interval is None else f"{text} [{interval[0]:.{decimals}f}, {interval[1]:.{decimals}f}]"


def _number(value: float) -> str:
    return f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    """Such that at least three digits show, however small the unit of reward."""
    return 0 if value == 0 else min(max(0, 2 - math.floor(math.log10(abs(value)))), 9)


def _span(numbers: Any, form: str = "d") -> str:
    """The one number, or the least and the most."""
    found = sorted(set(numbers))
    if not found:
        return "-"
    return format(found[0], form) + (f" to {format(found[-1], form)}" if len(found) > 1 else "")


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", r"\|") for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    r"""For LaTeX, but for the `$\pm$` of our own."""
    special = {character: f"\\{character}" for character in "&%#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "$": r"\$"}
    parts = text.split(r"$\pm$")
    return r"$\pm$".join("".join(special.get(character, character) for character in part) for part in parts)


def _draw(comparison: Comparison, paths: Sequence[Path]) -> None:
    panels = [
        plots.TaskPanel(
            title=task.name + (" (not comparable)" if task.conflicts else ""),
            curves=[
                plots.LearningCurves(score.method, score.curve_steps, score.curve)
                for score in comparison.scores
                if score.task == task.name
            ],
            data_return_mean=task.data_return_mean,
            data_return_max=task.data_return_max,
        )
        for task in comparison.tasks
    ]
    finals = [
        plots.FinalScores(method, aggregate.runs, aggregate.iqm, aggregate.interval)
        for method, aggregate in comparison.aggregates.items()
    ]
    unit = f"{comparison.aggregated}, each run's best evaluation" if comparison.best else comparison.aggregated
    plots.plot_comparison(paths, comparison.methods, panels, finals, unit)
