"""What every figure of a run begins and ends with."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.files import open_atomically


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
    from matplotlib import rc_context

    kind = path.suffix[1:]
    unwritten = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    with open_atomically(path, "wb") as file, rc_context({"svg.hashsalt": path.name}):
        figure.savefig(file, format=kind, dpi=200, metadata=unwritten)
    # Figures refer to themselves, and Python takes long to notice: in a long run megabytes of them would pile up.
    gc.collect()


def legend_below(figure: Any, axes: Sequence[Any]) -> None:
    """What the axes name, each once, in rows as even as fit; below them, where it hides nothing."""
    named: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    labels, count = list(named), len(named)
    fitting = [n for n in range(1, count + 1) if _inches(labels, n) <= figure.get_figwidth()]
    rows = -(-count // max(fitting, default=1))
    figure.legend(named.values(), labels, loc="outside lower center", ncols=-(-count // rows), frameon=False)


def _inches(labels: Sequence[str], columns: int) -> float:
    """About how wide a legend is, each column as wide as its longest label."""
    lengths = np.array_split([len(label) for label in labels], columns)
    return float(sum(0.08 * max(column) + 0.6 for column in lengths))


def count_in_whole_numbers(axis: Any) -> None:
    axis.get_major_locator().set_params(integer=True)


def plain(text: str) -> str:
    """Names of anybody's, which matplotlib must not read as formulas."""
    return text.replace("$", r"\$")
