"""What methods reached over all tasks: interquartile means, and how likely one improves on another."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxdt import statistics
from jaxdt.config import fits_float32, numbers
from jaxdt.errors import JaxdtError


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


def references_by_task(
    references: Mapping[str, tuple[float, float]], envs: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[float, float]]:
    """The returns that are 0 and 100, of environments by name, on the tasks of these; `envs`: each task's names.

    Raises JaxdtError for returns that are no two different numbers, and for an environment that is none of these.
    """
    found: dict[str, tuple[float, float]] = {}
    for name, given in references.items():
        pair = tuple(numbers(given, "references"))
        if len(pair) != 2 or pair[0] == pair[1] or not all(map(fits_float32, pair)):
            raise JaxdtError(
                f"references (--references) must be two different returns each, those that are 0 and 100; got "
                f"{name!s:.80}={pair}."
            )
        tasks = [task for task, names in envs.items() if name in names]
        if not tasks:
            known = ", ".join(sorted({names[0] for names in envs.values()}))
            raise JaxdtError(f"references (--references) names {name!s:.80}, and these runs are of {known}.")
        found |= dict.fromkeys(tasks, pair)
    return found
