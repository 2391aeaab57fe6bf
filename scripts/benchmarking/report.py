"""The table and the JSON of what was measured."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarking.products import update_operations
from benchmarking.rows import Line
from benchmarking.shapes import Shapes


HEAD = ("", "ours", "peer", "times as fast", "floor", "our share of it")
PAPER_UPDATES = 100_000
PEAKS = {
    "NVIDIA H200": {"float32": 67e12, "TF32": 494.5e12, "bfloat16": 989e12},
    "NVIDIA H100 80GB HBM3": {"float32": 67e12, "TF32": 494.5e12, "bfloat16": 989e12},
    "NVIDIA H100 PCIe": {"float32": 51e12, "TF32": 378e12, "bfloat16": 756e12},
    "NVIDIA A100": {"float32": 19.5e12, "TF32": 156e12, "bfloat16": 312e12},
}
"""Dense operations a second of the data sheets, by how `device_kind` begins; jax multiplies float32 as TF32 there."""


def table(lines: Sequence[Line]) -> str:
    """Medians, the least and the most of the repeats in brackets; below it what failed and what the floors are."""
    rows = [HEAD, *(_cells(line) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    floors = dict.fromkeys(f"floor of {line.name.split(',')[0]}: {line.floor_is}" for line in lines if line.floor_is)
    return "\n".join([*shown, "", *_failures(lines), *floors])


def _cells(line: Line) -> tuple[str, ...]:
    fast, share = times_as_fast(line), share_of_floor(line)
    return (
        line.name,
        quantity(line.ours, line.is_rate),
        quantity(line.peer, line.is_rate),
        "" if fast is None else f"{_number(fast)} x",
        quantity(line.floor, line.is_rate),
        "" if share is None else f"{_number(100 * share)} %",
    )


def quantity(seconds: list[float] | str | None, is_rate: bool) -> str:
    """`131 ms (128 to 140)`, or steps a second; a failure in short, nothing for None."""
    if seconds is None:
        return ""
    if isinstance(seconds, str):
        return seconds if seconds.startswith("needs ") else "failed, see below"
    if is_rate:
        unit, values = "steps/s", [1 / value for value in seconds]
    else:
        unit, factor = next(
            (unit, factor)
            for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6))
            if _median(seconds) * factor >= 1 or unit == "µs"
        )
        values = [value * factor for value in seconds]
    spread = f" ({_number(min(values))} to {_number(max(values))})" if len(values) > 1 else ""
    return f"{_number(_median(values))} {unit}{spread}"


def times_as_fast(line: Line) -> float | None:
    """The peer's time divided by ours; for steps a second, ours divided by the peer's."""
    return None if _no_numbers(line.ours, line.peer) else _median(line.peer) / _median(line.ours)


def share_of_floor(line: Line) -> float | None:
    """The floor's time divided by ours: 1 is as fast as can be."""
    return None if _no_numbers(line.ours, line.floor) else _median(line.floor) / _median(line.ours)


def remarks(lines: Sequence[Line], shapes: Shapes, machine: dict[str, Any]) -> list[str]:
    """Whether the machine was idle, what sampling and more seeds add to an update, and an accelerator's use."""
    seconds = {line.name: _median(line.ours) for line in lines if not isinstance(line.ours, str)}
    found = []
    if machine["busy_elsewhere"] > 0.1:
        found.append(
            f"other programs kept {machine['busy_elsewhere']:.1f} cores busy: these ratios mean nothing, for threads "
            "of PyTorch that wait for each other lose far more than ours"
        )
    for line in lines:
        if _no_numbers(line.ours, line.beside):
            continue
        ratio = _median([ours / train for ours, train in zip(line.ours, line.beside, strict=True)])
        if line.name == "pipeline":
            found.append(f"pipeline - train, measured in turns: {100 * (ratio - 1):+.1f} % of train")
        else:
            found.append(f"{line.name}, measured in turns: {_number(ratio)} times the time of one")
    if machine["backend"] == "cpu":
        return found
    if "train" in seconds:
        rate = update_operations(shapes) / seconds["train"]
        found.append(f"train: {_number(rate / 1e12)} TFLOP/s of matrix products, {share_of_peak(rate, machine)}")
    if "pipeline" in seconds:
        projected = PAPER_UPDATES * seconds["pipeline"]
        found.append(f"{PAPER_UPDATES:,} paper updates at pipeline's pace: {_number(projected)} s")
    return found


def share_of_peak(rate: float, machine: dict[str, Any], precision: str = "TF32") -> str:
    device = machine["device"]
    for kind, peaks in PEAKS.items():
        if device.startswith(kind):
            peak = peaks[precision]
            return f"{100 * rate / peak:.2f} % of its peak of {peak / 1e12:g} TFLOP/s ({precision}, dense)"
    return f"share of peak unknown: we know no peak of {device}"


def document(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The lines for `--json`, with every repeat; all in seconds."""
    return [
        {
            "name": line.name,
            "seconds_per": "environment step" if line.is_rate else "call",
            "ours": _numbers(line.ours),
            "peer": _numbers(line.peer),
            "floor": _numbers(line.floor),
            "floor_is": line.floor_is or None,
            "beside": _numbers(line.beside),
            "times_as_fast": times_as_fast(line),
            "share_of_floor": share_of_floor(line),
        }
        for line in lines
    ]


def _numbers(seconds: list[float] | str | None) -> dict[str, Any] | None:
    if seconds is None:
        return None
    if isinstance(seconds, str):
        return {"missing": seconds}
    return {"median": _median(seconds), "min": min(seconds), "max": max(seconds), "repeats": seconds}


def _failures(lines: Sequence[Line]) -> list[str]:
    reasons = [(line.name, value) for line in lines for value in (line.ours, line.peer, line.floor, line.beside)]
    return [f"failed: {name}: {why}" for name, why in reasons if isinstance(why, str) and not why.startswith("needs ")]


def _no_numbers(*seconds: list[float] | str | None) -> bool:
    return not all(isinstance(values, list) and values for values in seconds)


def _median(values: Any) -> float:
    return statistics.median(values)


def _number(value: float) -> str:
    """Three digits, more for large numbers."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}" if value >= 1 else f"{value:.3g}"
