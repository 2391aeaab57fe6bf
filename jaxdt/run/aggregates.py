"""What methods reached over all tasks: interquartile means, and how likely one improves on another."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxdt import statistics


Interval = tuple[float, float]
"""Both ends of 95 % by bootstrap over seeds."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Aggregate:
    """A method's interquartile mean over all runs on all tasks."""

    runs: Float[np.ndarray, " n"]
    iqm: float
    interval: Interval | None
    """None where a task has fewer than three seeds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Improvement:
    """How likely a run of `method` reaches more than one of `other`, on a task drawn at random."""

    method: str
    other: str
    probability: float
    interval: Interval | None


def aggregate_of(tasks: Sequence[Float[np.ndarray, " _"]]) -> Aggregate:
    iqm = statistics.interquartile_mean
    interval = statistics.bootstrap_interval(iqm, tasks)
    return Aggregate(runs=np.concatenate(tasks), iqm=float(iqm(tasks)), interval=interval)


def improvement_of(
    method: str, other: str, tasks: Sequence[Float[np.ndarray, " _"]], others: Sequence[Float[np.ndarray, " _"]]
) -> Improvement:
    probability = statistics.probability_of_improvement
    return Improvement(
        method=method,
        other=other,
        probability=float(probability(tasks, others)),
        interval=statistics.bootstrap_interval(probability, tasks, others),
    )
