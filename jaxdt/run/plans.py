"""What a policy that plans expected of its episodes, beside what then happened."""

import numpy as np

from jaxdt.evaluation.rollout import Episodes
from jaxdt.plots import Expectations, PlanErrors


def expectations(played: Episodes) -> list[Expectations]:
    """Each episode's, of a rollout that recorded a policy that plans."""
    assert played.trajectory is not None
    assert played.trajectory.observations is not None
    assert played.trajectory.expected is not None
    observed, expected = np.asarray(played.trajectory.observations), np.asarray(played.trajectory.expected)
    each = []
    for i, length in enumerate(np.asarray(played.lengths)):
        ahead = np.arange(length)[:, None] + np.arange(expected.shape[2])
        plans = np.where((ahead < length)[..., None], expected[:length, i], np.nan)
        each.append(Expectations(observed[:length, i].reshape(length, -1), plans))
    return each


def plan_errors(episodes: list[Expectations]) -> PlanErrors:
    """Over all plans of all episodes; numbers of the observation that never change are left out."""
    std = np.concatenate([episode.observed for episode in episodes]).std(axis=0, dtype=np.float64)
    moves = std > 0
    expected, unchanged, counts = (np.zeros(episodes[0].expected.shape[1]) for _ in range(3))
    for observed, plans in episodes:
        for ahead in range(len(counts)):
            made = plans[: max(len(plans) - ahead, 0), ahead][:, moves]
            known = np.isfinite(made).all(axis=1)
            now, then = observed[: len(made)][known][:, moves], observed[ahead:][known][:, moves]
            expected[ahead] += (np.abs(made[known] - then) / std[moves]).sum()
            unchanged[ahead] += (np.abs(now - then) / std[moves]).sum()
            counts[ahead] += then.size
    with np.errstate(invalid="ignore"):
        return PlanErrors(expected / counts, unchanged / counts)
