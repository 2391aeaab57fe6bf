"""The figure of what plans expected, beside what then happened."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdt.plots.figures import count_in_whole_numbers, legend_below, new_figure, plain, save_figure


class Expectations(NamedTuple):
    """Of one episode of `T` steps, whose plans look `h` steps far, this one included."""

    observed: Float[np.ndarray, "T n"]
    expected: Float[np.ndarray, "T h n"]
    """From this step on; NaN in steps that made no plan, and behind the episode's end."""


class PlanErrors(NamedTuple):
    """How far off plans are, by steps ahead, 0 first: the mean distance of one number of an observation, in standard
    deviations of what was observed. NaN where no plan's step so far ahead happened.
    """

    expected: Float[np.ndarray, " h"]
    unchanged: Float[np.ndarray, " h"]
    """The same, had every plan expected that nothing changes."""


def plot_plan(path: Path, episode: Expectations, errors: PlanErrors, title: str) -> None:
    """What was observed in an episode's first steps, with what plans made on the way expected, number by number.

    Of a wide observation five numbers, evenly chosen. The last panel: how far off all plans are, by steps ahead.
    """
    horizon, numbers = episode.expected.shape[1:]
    steps = min(len(episode.observed), max(60, 12 * horizon))
    chosen = np.unique(np.linspace(0, numbers - 1, 5).round().astype(int))
    figure, panels = new_figure(2, 3)
    for axes, number in zip(panels, chosen, strict=False):
        axes.plot(np.arange(steps), episode.observed[:steps, number], color="0.3", linewidth=1.5, label="happened")
        next_plan = 0
        for step in range(steps):
            plan = episode.expected[step, :, number]
            if step >= next_plan and np.isfinite(plan[0]):  # the next where this one ends, or lines hide one another
                axes.plot(step + np.arange(horizon), plan, ".-", color="C1", linewidth=1, markersize=3, label="plans")
                next_plan = step + horizon
        axes.set(xlabel="environment steps", title=f"observation[{number}]")
        count_in_whole_numbers(axes.xaxis)
    for axes in panels[len(chosen) : -1]:
        axes.set_visible(False)
    last, ahead = panels[-1], np.arange(horizon)
    last.plot(ahead, errors.expected, "o-", color="C1", markersize=4, label="plans")
    last.plot(ahead, errors.unchanged, "--", color="0.5", label="had nothing changed")
    last.set(
        xlabel="steps ahead", ylabel="mean distance, in standard deviations", title="Error by horizon", ylim=(0, None)
    )
    count_in_whole_numbers(last.xaxis)
    legend_below(figure, panels)
    figure.suptitle(plain(title))
    save_figure(figure, path)
