"""Figures of one run: its loss, what it was asked for and reached, and its fine-tuning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdt import statistics
from jaxdt.plots.figures import count_in_whole_numbers, legend_below, new_figure, plain, save_figure


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
        legend_below(figure, panels)
    panels[0].set(ylabel=f"loss (of training the mean of {counts[0]} updates)", title="Loss")
    if validates:
        _plot_metric(panels[1], metrics, "validation_action_error", "held-out episodes", "C1")
        panels[1].set(ylabel="mean distance to the recorded action", title="Action error on held-out episodes")
    for axes in panels:
        axes.set(xlabel="updates")
        count_in_whole_numbers(axes.xaxis)
        for step in sorted({e["step"] for e in evaluations}):
            axes.axvline(step, color="0.85", linewidth=0.8, zorder=0)
    save_figure(figure, path)


def _plot_metric(axes: Any, metrics: Sequence[dict[str, Any]], name: str, label: str, color: str) -> None:
    """Over updates; on a logarithmic axis where numbers span a factor of ten, or its ticks could go without labels."""
    values = np.array([m[name] for m in metrics])
    marker = "." if len(values) < 30 else None
    axes.plot([m["step"] for m in metrics], values, color=color, linewidth=1.2, marker=marker, label=label)
    shown = np.concatenate([line.get_ydata() for line in axes.lines])
    if 0 < 10 * shown.min() <= shown.max():  # a negative log-likelihood may be below 0
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
    legend_below(figure, [axes])
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
    count_in_whole_numbers(axes.yaxis)
    legend_below(figure, [axes])
    save_figure(figure, path)


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
        axes.plot(*np.reshape(explored, (-1, 2)).T, ".", color="C1", markersize=6, alpha=0.6, label=label)
    over = "± std over episodes" if len(returns) == 1 else f"mean of {len(returns)} seeds"
    spread = returns[:1] * 0 + [[each[i]["return_std"] for i in rounds] for each in by_round[:1]]
    low, high = returns[0] - spread[0], returns[0] + spread[0]
    if len(returns) > 1:
        intervals = [statistics.bootstrap_interval(statistics.mean, [column]) for column in returns.T]
        bounds = [(y, y) if ends is None else ends for ends, y in zip(intervals, returns.mean(axis=0), strict=True)]
        low, high = np.array(bounds).T
        over += ", 95 % interval" if any(intervals) else ""
    axes.plot(steps, returns.mean(axis=0), "o-", color="C0", markersize=4, label=f"evaluation ({over})")
    axes.fill_between(steps, low, high, color="C0", alpha=0.15, linewidth=0)
    if rounds[0] == 0:
        axes.axhline(returns[:, 0].mean(), color="0.4", linestyle="--", linewidth=1, label="after offline training")
    axes.set(xlabel="environment steps", ylabel="return", title=plain(title))
    count_in_whole_numbers(axes.xaxis)
    legend_below(figure, [axes])
    save_figure(figure, path)


def _at_highest_target(evaluations: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Of each round, its evaluation at the highest target."""
    ranked = sorted(evaluations, key=lambda e: -np.inf if e["target"] is None else e["target"])
    return {e["round"]: e for e in ranked}
