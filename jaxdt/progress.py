"""What a person sees while something long runs; the library prints nothing where nobody looks on."""

import math
import sys
import time
from typing import Any

import numpy as np
from tqdm import tqdm


def decimals(*numbers: Any) -> str:
    """The format of numbers that stand beside one another: a place after the point, or more where all are small."""
    finite = [abs(float(number)) for number in numbers if number is not None and np.isfinite(number)]
    largest = max(finite, default=0.0)
    return f".{min(max(1, 2 - math.floor(math.log10(largest))), 12) if largest else 1}f"


def _speed(rate: float, unit: str) -> str:
    """As tqdm gives it: of what is slower than one a second, how long one takes."""
    return f"{rate:.1f} {unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}"


def _shown(number: int | float) -> str:
    return f"{number}" if isinstance(number, int) else f"{number:.4g}"


class Progress:
    """Takes every report and shows nothing."""

    def say(self, text: str) -> None:
        """One line for the person."""

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        """A task of `total` units, `done` of them behind it already."""

    def advance(self, done: int, **numbers: int | float) -> None:
        """`done` units are done; numbers such as `loss` are shown beside."""

    def stop(self) -> None:
        """The task has ended."""


class BarProgress(Progress):
    """tqdm bars, on a terminal and in notebooks."""

    def __init__(self) -> None:
        self._bars: list[Any] = []
        self._bar: Any = tqdm
        if _in_notebook():
            from tqdm.auto import tqdm as of_widgets  # where there are any; it loads asyncio

            self._bar = of_widgets

    def say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        bar = self._bar(
            desc=task,
            total=total,
            initial=done,
            unit=f" {unit}s",
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            smoothing=0.1,
        )
        self._bars.append(bar)

    def advance(self, done: int, **numbers: int | float) -> None:
        bar = self._bars[-1]
        if numbers:
            bar.set_postfix({name: _shown(value) for name, value in numbers.items()}, refresh=False)
        bar.update(done - bar.n)

    def stop(self) -> None:
        self._bars.pop().close()


class LineProgress(Progress):
    """Plain lines where the output is not a terminal: one a task's tenth or minute, at most one in five seconds."""

    def __init__(self) -> None:
        self._tasks: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        now = time.monotonic()
        self._tasks.append(
            {"task": task, "total": total, "unit": unit, "first": None, "began": now, "shown": now, "next": done}
            | {"numbers": {}}
        )
        if unit in ("update", "round"):
            self.say(f"{task}: {done}/{total}, compiling")

    def advance(self, done: int, **numbers: int | float) -> None:
        task, now = self._tasks[-1], time.monotonic()
        if task["first"] is None:  # the first one compiled; the rate counts from here
            waited, task["first"], task["began"] = now - task["began"], done, now
            if waited > 2 and task["unit"] in ("update", "step"):
                self.say(f"{task['task']}: began after {waited:.0f} s, compiling included")
                task["shown"] = now
        task["numbers"] |= numbers
        quiet = now - task["shown"]
        if done < task["total"] and (quiet < 5 or (done < task["next"] and quiet < 60)):
            return
        task["next"], task["shown"] = done + task["total"] / 10, now
        rate = (done - task["first"]) / max(now - task["began"], 1e-9)
        speed = "" if rate == 0 else ", " + _speed(rate, task["unit"])
        shown = "".join(f", {name} {_shown(value)}" for name, value in task["numbers"].items())
        left = f", {(task['total'] - done) / rate:.0f} s left" if done < task["total"] and rate > 0 else ""
        self.say(f"{task['task']}: {done}/{task['total']}{shown}{speed}{left}")

    def stop(self) -> None:
        self._tasks.pop()


def console_progress() -> Progress:
    """Bars on a terminal and in notebooks, plain lines elsewhere; for the `progress` of `train`, `evaluate` and others.

    In a notebook they are widgets where ipywidgets is installed.
    """
    return BarProgress() if sys.stderr.isatty() or _in_notebook() else LineProgress()


def default_progress() -> Progress:
    """What training shows where it is not told: bars to whoever sits at a terminal or a notebook, else nothing."""
    return BarProgress() if sys.stderr.isatty() or _in_notebook() else Progress()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config
