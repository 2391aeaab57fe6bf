"""How cost grows: time an update with batch and context, steps a second with environments."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarking.measure import Call, Worker
from benchmarking.shapes import Shapes
from jaxdt.plots import new_figure, save_figure


class Curve(NamedTuple):
    """What is drawn into the file `<name>.png`."""

    name: str
    xlabel: str
    ylabel: str
    points: dict[int, Call]
    shapes: Callable[[int], dict[str, int]]
    """What differs from the paper's shapes at a point."""
    of: Callable[[float], float]
    """From seconds to what is drawn."""
    grows: bool
    """Whether it should grow in proportion."""


def _milliseconds(seconds: float) -> float:
    return 1e3 * seconds


def _a_second(seconds: float) -> float:
    return 1 / seconds


ENVIRONMENTS = (1, 16, 64, 128, 256, 512)
CURVES = (
    Curve(
        "update-time-by-batch",
        "batch size (windows)",
        "ms an update",
        dict.fromkeys((16, 32, 64, 128), Call("train")),
        lambda batch: {"batch_size": batch},
        _milliseconds,
        True,
    ),
    Curve(
        "update-time-by-context",
        "context length K (steps)",
        "ms an update",
        dict.fromkeys((5, 10, 20, 40), Call("train")),
        lambda length: {"context_length": length},
        _milliseconds,
        True,
    ),
    Curve(
        "steps-per-second-by-environments",
        "environments side by side",
        "HalfCheetah steps a second, compiled rollout",
        {count: Call("rollout", {"environments": count}) for count in ENVIRONMENTS},
        lambda count: {},
        _a_second,
        False,
    ),
)


def measure_curve(curve: Curve, ours: Worker, shapes: Shapes, repeats: int) -> dict[int, list[float]]:
    """Seconds at each point, all of which take turns, so that a slow minute slows every one of them."""
    ours.close()
    measured: dict[int, list[float]] = {x: [] for x in curve.points}
    for _ in range(repeats):
        for x, call in curve.points.items():
            measured[x].append(ours.ask(call, dataclasses.replace(shapes, **curve.shapes(x))))
    return measured


def draw_curve(curve: Curve, measured: dict[int, Sequence[float]], path: Path, machine: str) -> None:
    """Medians with the least and the most, and where it should grow, the line through 0 and the middle point."""
    figure, (axes,) = new_figure()
    x = list(measured)
    drawn = [sorted(map(curve.of, values)) for values in measured.values()]
    middle = [statistics.median(values) for values in drawn]
    below = [m - values[0] for m, values in zip(middle, drawn, strict=True)]
    above = [values[-1] - m for m, values in zip(middle, drawn, strict=True)]
    axes.errorbar(x, middle, [below, above], fmt="o-", color="C0", capsize=4, label="median, least and most")
    if curve.grows:
        slope = middle[len(x) // 2] / x[len(x) // 2]
        axes.plot([0, x[-1]], [0, slope * x[-1]], color="0.6", linestyle="--", linewidth=1, label="in proportion")
    else:
        axes.set_xscale("log", base=2)
    axes.set(xlabel=curve.xlabel, ylabel=curve.ylabel, title=machine, ylim=(0, None))
    axes.legend(loc="best", frameon=False)
    save_figure(figure, path)
