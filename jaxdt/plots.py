"""Figures of a run."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdt.files import open_atomically


def plot_loss(path: Path, metrics: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> None:
    """Training loss over updates, with marks where the run was evaluated."""
    figure, axes = new_figure()
    axes.plot([m["step"] for m in metrics], [m["loss"] for m in metrics], color="C0", linewidth=1.2)
    for step in sorted({e["step"] for e in evaluations}):
        axes.axvline(step, color="0.85", linewidth=0.8, zorder=0)
    axes.set(xlabel="updates", ylabel="loss (mean between marks)", yscale="log", title="Training loss")
    save_figure(figure, path)


def plot_returns(
    path: Path, evaluations: Sequence[dict[str, Any]], data_returns: Float[np.ndarray, " e"], title: str
) -> None:
    """Achieved against target return with one standard deviation, the diagonal, and the data's own returns.

    Of a policy that is asked for no return: what it achieved above the data's own returns.
    """
    if any(e["target"] is None for e in evaluations):
        return _plot_untargeted_returns(path, evaluations, data_returns, title)
    figure, axes = new_figure()
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
    figure, axes = new_figure()
    axes.hist(data_returns, bins=30, color="C1", alpha=0.6, label="returns in the data")
    for i, evaluation in enumerate(evaluations):
        mean, std = evaluation["return_mean"], evaluation["return_std"]
        label = f"achieved (mean ± std, {len(evaluation['returns'])} episodes)" if i == 0 else None
        axes.axvline(mean, color="C0", label=label)
        axes.axvspan(mean - std, mean + std, color="C0", alpha=0.15)
    axes.set(xlabel="return", ylabel="episodes", title=title)
    axes.legend(loc="upper left", frameon=False)
    save_figure(figure, path)


def new_figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    with open_atomically(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
    # Figures refer to themselves, and Python takes long to notice: in a long run megabytes of them would pile up.
    gc.collect()
