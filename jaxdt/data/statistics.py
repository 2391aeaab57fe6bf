"""Means and standard deviations of observations, which may be too large for memory."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxdt.data.storage import chunks


STD_EPSILON = 1e-6
"""Added to every standard deviation, as the original does."""


class Statistics(NamedTuple):
    mean: Float[np.ndarray, "*s"]
    std: Float[np.ndarray, "*s"]
    """Standard deviation + 1e-6."""


def statistics_of(values: Shaped[np.ndarray, "n *s"]) -> Statistics:
    """Accumulated in float64."""
    mean = _mean(values, lambda x: x)
    variance = _mean(values, lambda x: np.square(x - mean))
    return Statistics(mean.astype(np.float32), (np.sqrt(variance) + STD_EPSILON).astype(np.float32))


def constant_columns(statistics: Statistics) -> Int[np.ndarray, " k"]:
    """Which numbers change by no more than rounding does."""
    mean, std = (values.astype(np.float64) for values in statistics)
    return np.flatnonzero(std - STD_EPSILON <= 1e-7 * (1 + np.abs(mean)))


def _mean(values: np.ndarray, of: Any) -> Float[np.ndarray, "*s"]:
    total = np.zeros(values.shape[1:], np.float64)
    # Floats keep the chunks that they have had, and with them their statistics to the last bit.
    for chunk in chunks(values, itemsize=None if values.dtype.kind == "f" else 8):
        total += of(chunk.astype(np.float64)).sum(axis=0)
    return total / len(values)
