"""Seconds a call, again and again: every measurement is an endless iterator of them."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any


def repeatedly(
    call: Callable[[], Any], wait: Callable[[Any], Any] = lambda result: None, *, seconds: float = 1.0
) -> Iterator[float]:
    """Mean seconds a call over about `seconds` of calls, at least three, after one that is not timed.

    `wait(result)` returns when the result of the last call, and with it every one before, is there.
    """
    wait(call())  # compiles
    count = max(3, math.ceil(seconds / _time(call, wait, 1)))
    while True:
        wait(call())  # another process has used the caches since
        yield _time(call, wait, count) / count


def one_by_one(call: Callable[[], int]) -> Iterator[float]:
    """Seconds of each single call, divided by the number that it returns; nothing goes before the first."""
    while True:
        began = time.perf_counter()
        units = call()
        yield (time.perf_counter() - began) / units


def _time(call: Callable[[], Any], wait: Callable[[Any], Any], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        result = call()
    wait(result)
    return time.perf_counter() - began
