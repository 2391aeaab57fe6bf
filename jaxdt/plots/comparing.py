"""The figure of a comparison of methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxdt import statistics
from jaxdt.plots.figures import count_in_whole_numbers, legend_below, new_figure, plain, save_figure


class LearningCurves(NamedTuple):
    """One method's runs on one task."""

    method: str
    steps: Int[np.ndarray, " p"]
    returns: Float[np.ndarray, "n p"]
    """A row a seed."""


class TaskPanel(NamedTuple):
    title: str
    curves: Sequence[LearningCurves]
    data_return_mean: float
    data_return_max: float


class FinalScores(NamedTuple):
    """One method's runs on all tasks."""

    method: str
    runs: Float[np.ndarray, " n"]
    iqm: float
    interval: tuple[float, float] | None


def plot_comparison(
    paths: Sequence[Path], methods: Sequence[str], panels: Sequence[TaskPanel], finals: Sequence[FinalScores], unit: str
) -> None:
    """Learning curves, one panel a task, and where scores can be put together, their interquartile means.

    Curves are means over seeds with 95 % bootstrap intervals from three seeds on; `unit` says what the means are of.
    """
    count = len(panels) + bool(finals)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure, grid = new_figure(rows, columns)
    colors = {method: f"C{i % 10}" for i, method in enumerate(methods)}
    for axes, panel in zip(grid, panels, strict=False):
        _plot_task(axes, panel, colors)
    if finals:
        _plot_finals(grid[len(panels)], finals, colors, unit)
    for axes in grid[count:]:
        axes.set_visible(False)
    legend_below(figure, grid[: len(panels)])
    for path in paths:
        save_figure(figure, path)


def _plot_task(axes: Any, panel: TaskPanel, colors: dict[str, str]) -> None:
    longest = {int(curves.steps[-1]) for curves in panel.curves if len(curves.steps)}
    in_percent = len(longest) > 1  # methods of other costs an update are trained for other numbers of them
    for curves in panel.curves:
        if not len(curves.steps):
            continue
        x = 100 * curves.steps / curves.steps[-1] if in_percent else curves.steps
        color = colors[curves.method]
        axes.plot(x, curves.returns.mean(axis=0), color=color, linewidth=1.5, marker=".", label=plain(curves.method))
        at_step = [statistics.bootstrap_interval(statistics.mean, [column]) for column in curves.returns.T]
        intervals = [interval for interval in at_step if interval is not None]
        if intervals:
            axes.fill_between(x, *zip(*intervals, strict=True), color=color, alpha=0.15, linewidth=0)
    if axes.collections:
        axes.fill([], [], color="0.4", alpha=0.3, linewidth=0, label="95 % interval over seeds")
    axes.axhline(panel.data_return_max, color="0.4", linestyle="--", linewidth=1, label="best episode in the data")
    axes.axhline(panel.data_return_mean, color="0.4", linestyle=":", linewidth=1, label="mean of the data")
    axes.set(xlabel="% of the run's updates" if in_percent else "updates", ylabel="return", title=plain(panel.title))
    count_in_whole_numbers(axes.xaxis)


def _plot_finals(axes: Any, finals: Sequence[FinalScores], colors: dict[str, str], unit: str) -> None:
    for i, final in enumerate(reversed(finals)):
        color = colors[final.method]
        axes.plot(final.runs, np.full(len(final.runs), i), "o", color=color, alpha=0.35, markersize=4)
        if final.interval is not None:
            axes.plot(final.interval, (i, i), color=color, linewidth=6, alpha=0.4, solid_capstyle="butt")
        axes.plot(final.iqm, i, "|", color=color, markersize=16, markeredgewidth=2.5)
    axes.set(xlabel=unit, title="interquartile mean, 95 % interval, runs", ylim=(-0.6, len(finals) - 0.4))
    axes.set_yticks(range(len(finals)), [plain(final.method) for final in reversed(finals)])
