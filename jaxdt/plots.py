"""Figures of a run."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxdt import statistics
from jaxdt.files import open_atomically


def plot_loss(
    path: Path, metrics: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], *, first_step: int = 0
) -> None:
    """Training loss over updates, with lines where the run was evaluated; nothing before there is a loss.

    Where episodes are held out their loss too, and beside it the policy's action error on them. A last line that is of
    much fewer updates than the others is left out: its mean is noisier than theirs.
    """
    if not metrics:
        return
    counts = np.diff([m["step"] for m in metrics], prepend=first_step)
    if len(counts) > 1 and counts[-1] < counts[0] / 2:
        metrics = metrics[:-1]
    validates = "validation_action_error" in metrics[0]
    figure, panels = new_figure(1, 1 + validates)
    _plot_metric(panels[0], metrics, "loss", "training", "C0")
    if "validation_loss" in metrics[0]:
        _plot_metric(panels[0], metrics, "validation_loss", "held-out episodes", "C1")
        panels[0].legend(frameon=False)
    panels[0].set(ylabel=f"loss (of training the mean of {counts[0]} updates)", title="Loss")
    if validates:
        _plot_metric(panels[1], metrics, "validation_action_error", "held-out episodes", "C1")
        panels[1].set(ylabel="mean distance to the recorded action", title="Action error on held-out episodes")
    for axes in panels:
        axes.set(xlabel="updates")
        for step in sorted({e["step"] for e in evaluations}):
            axes.axvline(step, color="0.85", linewidth=0.8, zorder=0)
    save_figure(figure, path)


def _plot_metric(axes: Any, metrics: Sequence[dict[str, Any]], name: str, label: str, color: str) -> None:
    """Over updates; on a logarithmic axis unless a number is 0 or below, which a negative log-likelihood may be."""
    values = np.array([m[name] for m in metrics])
    marker = "." if len(values) < 30 else None
    axes.plot([m["step"] for m in metrics], values, color=color, linewidth=1.2, marker=marker, label=label)
    if all((line.get_ydata() > 0).all() for line in axes.lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, position: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    else:
        axes.set_yscale("linear")


def plot_returns(
    path: Path, evaluations: Sequence[dict[str, Any]], data_returns: Float[np.ndarray, " e"], title: str
) -> None:
    """Achieved against target return with one standard deviation, the diagonal, and the data's own returns.

    Of a policy that is asked for no return: what it achieved above the data's own returns.
    """
    if any(e["target"] is None for e in evaluations):
        return _plot_untargeted_returns(path, evaluations, data_returns, title)
    figure, (axes,) = new_figure()
    targets = np.array([e["target"] for e in evaluations])
    means = np.array([e["return_mean"] for e in evaluations])
    stds = np.array([e["return_std"] for e in evaluations])
    everything = np.concatenate([targets, means - stds, means + stds, data_returns])
    low, high = everything.min(), everything.max()
    margin = 0.05 * (high - low or 1.0)
    ends = np.array([low - margin, high + margin])
    axes.plot(ends, ends, color="0.6", linestyle="--", linewidth=1, label="achieved = target")
    axes.plot(
        data_returns,
        np.full(len(data_returns), ends[0]),
        "|",
        color="C1",
        markersize=12,
        alpha=0.6,
        label="returns in the data",
        clip_on=False,
    )
    count = len(evaluations[0]["returns"]) if evaluations else 0
    axes.errorbar(
        targets, means, stds, fmt="o-", color="C0", capsize=4, label=f"achieved (mean ± std, {count} episodes)"
    )
    axes.set(xlabel="target return", ylabel="achieved return", title=title, xlim=ends, ylim=ends)
    axes.legend(loc="upper left", frameon=False)
    save_figure(figure, path)


def _plot_untargeted_returns(
    path: Path, evaluations: Sequence[dict[str, Any]], data_returns: Float[np.ndarray, " e"], title: str
) -> None:
    figure, (axes,) = new_figure()
    axes.hist(data_returns, bins=30, color="C1", alpha=0.6, label="returns in the data")
    for i, evaluation in enumerate(evaluations):
        mean, std = evaluation["return_mean"], evaluation["return_std"]
        label = f"achieved (mean ± std, {len(evaluation['returns'])} episodes)" if i == 0 else None
        axes.axvline(mean, color="C0", label=label)
        axes.axvspan(mean - std, mean + std, color="C0", alpha=0.15)
    axes.set(xlabel="return", ylabel="episodes", title=title)
    axes.legend(loc="upper left", frameon=False)
    save_figure(figure, path)


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
    handles, labels = grid[0].get_legend_handles_labels()
    for axes in grid[1 : len(panels)]:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles, labels = [*handles, handle], [*labels, label]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * columns), frameon=False)
    for path in paths:
        save_figure(figure, path)


def _plain(text: str) -> str:
    """Names of anybody's, which matplotlib must not read as formulas."""
    return text.replace("$", r"\$")


def _plot_task(axes: Any, panel: TaskPanel, colors: dict[str, str]) -> None:
    longest = {int(curves.steps[-1]) for curves in panel.curves if len(curves.steps)}
    in_percent = len(longest) > 1  # methods of other costs an update are trained for other numbers of them
    for curves in panel.curves:
        if not len(curves.steps):
            continue
        x = 100 * curves.steps / curves.steps[-1] if in_percent else curves.steps
        color = colors[curves.method]
        axes.plot(x, curves.returns.mean(axis=0), color=color, linewidth=1.5, marker=".", label=_plain(curves.method))
        at_step = [statistics.bootstrap_interval(statistics.mean, [column]) for column in curves.returns.T]
        intervals = [interval for interval in at_step if interval is not None]
        if intervals:
            axes.fill_between(x, *zip(*intervals, strict=True), color=color, alpha=0.15, linewidth=0)
    axes.axhline(panel.data_return_max, color="0.4", linestyle="--", linewidth=1, label="best episode in the data")
    axes.axhline(panel.data_return_mean, color="0.4", linestyle=":", linewidth=1, label="mean of the data")
    axes.set(xlabel="% of the run's updates" if in_percent else "updates", ylabel="return", title=_plain(panel.title))


def _plot_finals(axes: Any, finals: Sequence[FinalScores], colors: dict[str, str], unit: str) -> None:
    for i, final in enumerate(reversed(finals)):
        color = colors[final.method]
        axes.plot(final.runs, np.full(len(final.runs), i), "o", color=color, alpha=0.35, markersize=4)
        if final.interval is not None:
            axes.plot(final.interval, (i, i), color=color, linewidth=6, alpha=0.4, solid_capstyle="butt")
        axes.plot(final.iqm, i, "|", color=color, markersize=16, markeredgewidth=2.5)
    axes.set(xlabel=unit, title="interquartile mean, 95 % interval, runs", ylim=(-0.6, len(finals) - 0.4))
    axes.set_yticks(range(len(finals)), [_plain(final.method) for final in reversed(finals)])


def plot_finetuning(
    path: Path, metrics: Sequence[Sequence[dict[str, Any]]], evaluations: Sequence[Sequence[dict[str, Any]]], title: str
) -> None:
    """Return against environment steps: of explored rounds, light, and of evaluations at the highest target.

    Both are lists of a run's lines, one a seed. What offline training reached stands at the left and as a level. Curves
    are means over seeds with 95 % bootstrap intervals from three seeds on; of one run, with one standard deviation over
    episodes. Nothing before there is an evaluation that all the runs have.
    """
    by_round = [_at_highest_target(records) for records in evaluations]
    rounds = sorted(set.intersection(*(set(each) for each in by_round)))
    if not rounds:
        return
    returns = np.array([[each[i]["return_mean"] for i in rounds] for each in by_round])
    steps = np.mean([[each[i]["environment_steps"] for i in rounds] for each in by_round], axis=0)
    figure, (axes,) = new_figure()
    for i, lines in enumerate(metrics):
        explored = [(line["environment_steps"], line["exploration_return_mean"]) for line in lines]
        label = "exploration" if i == 0 else None
        axes.plot(*np.reshape(explored, (-1, 2)).T, ".", color="C1", markersize=3, alpha=0.35, label=label)
    spread = returns[:1] * 0 + [[each[i]["return_std"] for i in rounds] for each in by_round[:1]]
    low, high = returns[0] - spread[0], returns[0] + spread[0]
    if len(returns) > 1:
        intervals = [statistics.bootstrap_interval(statistics.mean, [column]) for column in returns.T]
        bounds = [(y, y) if ends is None else ends for ends, y in zip(intervals, returns.mean(axis=0), strict=True)]
        low, high = np.array(bounds).T
    over = "± std over episodes" if len(returns) == 1 else f"mean of {len(returns)} seeds"
    axes.plot(steps, returns.mean(axis=0), "o-", color="C0", markersize=4, label=f"evaluation ({over})")
    axes.fill_between(steps, low, high, color="C0", alpha=0.15, linewidth=0)
    if rounds[0] == 0:
        axes.axhline(returns[:, 0].mean(), color="0.4", linestyle="--", linewidth=1, label="after offline training")
    axes.set(xlabel="environment steps", ylabel="return", title=_plain(title))
    axes.legend(loc="best", frameon=False)
    save_figure(figure, path)


def _at_highest_target(evaluations: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Of each round, its evaluation at the highest target."""
    ranked = sorted(evaluations, key=lambda e: -np.inf if e["target"] is None else e["target"])
    return {e["round"]: e for e in ranked}


def new_figure(rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure and its axes; of several panels, a flat sequence of them."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    several = rows * columns > 1
    size = (4.8 * columns, 3.6 * rows + 0.6) if several else (6.4, 4.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """As its ending says; without the time of writing, so that equal figures are equal files."""
    kind = path.suffix[1:]
    with open_atomically(path, "wb") as file:
        figure.savefig(file, format=kind, dpi=120, metadata={"CreationDate": None} if kind == "pdf" else None)
    # Figures refer to themselves, and Python takes long to notice: in a long run megabytes of them would pile up.
    gc.collect()
