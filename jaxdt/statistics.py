"""Statistics over few runs on several tasks, as Agarwal et al. 2021 define them (arXiv:2108.13264, section 4).

A task's scores are an array with one number a run; an array's last axis is always the runs.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float


FEWEST_FOR_INTERVAL = 3
"""Runs a task; intervals of fewer would say nothing."""


def interquartile_mean(tasks: Sequence[Float[np.ndarray, "*resamples _"]]) -> Float[np.ndarray, "*resamples"]:
    """The mean of the middle half of all tasks' scores together; of fewer than four scores, their mean."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(np.concatenate(tasks, axis=-1), 0.25, axis=-1))


def mean(tasks: Sequence[Float[np.ndarray, "*resamples _"]]) -> Float[np.ndarray, "*resamples"]:
    """The mean of all tasks' scores together."""
    return np.asarray(np.mean(np.concatenate(tasks, axis=-1), axis=-1))


def probability_of_improvement(
    tasks: Sequence[Float[np.ndarray, "*resamples _"]], others: Sequence[Float[np.ndarray, "*resamples _"]]
) -> Float[np.ndarray, "*resamples"]:
    """The probability that a run of `tasks` scores more than one of `others` on a task drawn at random.

    Equal scores count half, so that it and the one of the other order add up to 1.
    """
    chances = []
    for scores, theirs in zip(tasks, others, strict=True):
        left, right = scores[..., :, None], theirs[..., None, :]
        chances.append(np.mean((left > right) + 0.5 * (left == right), axis=(-2, -1)))
    return np.asarray(np.mean(chances, axis=0))


def bootstrap_interval(
    statistic: Callable[..., Float[np.ndarray, "*resamples"]],
    *groups: Sequence[Float[np.ndarray, " _"]],
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The interval between two percentiles of `statistic(*groups)`, runs drawn anew within each task of each group.

    None where a task has fewer than `FEWEST_FOR_INTERVAL` runs.
    """
    if any(len(scores) < FEWEST_FOR_INTERVAL for tasks in groups for scores in tasks):
        return None
    generator = np.random.default_rng(seed)
    drawn = [
        [scores[generator.integers(len(scores), size=(resamples, len(scores)))] for scores in tasks] for tasks in groups
    ]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(statistic(*drawn), (tail, 100 - tail))
    return float(low), float(high)
