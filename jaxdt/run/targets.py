"""The returns that a run is asked for in its evaluations."""

import math

import numpy as np
from jaxtyping import Float

from jaxdt.config import TrainConfig
from jaxdt.data.d4rl import paper_targets, reference_name
from jaxdt.data.episodes import EpisodeStore


def choose_targets(config: TrainConfig, store: EpisodeStore, env: str) -> tuple[float, ...] | None:
    """The targets given, else the paper's where it names the environment, else quantiles of the data's returns.

    `auto`: their 0.99 expectile. None for a policy that is asked for no return.
    """
    if not config.algorithm.takes_target:
        return None
    if config.targets == "auto":
        return (expectile(store.returns, 0.99),)
    if config.targets is not None:
        return tuple(float(target) for target in config.targets)
    paper = config.algorithm.authors_targets.get(reference_name(env) or "") or paper_targets(env)
    if config.paper_targets and paper is not None:
        return paper
    quantiles = np.quantile(store.returns, config.target_quantiles)
    return tuple(dict.fromkeys(float(target) for target in quantiles))  # each once, where returns are equal


def expectile(values: Float[np.ndarray, " n"], share: float) -> float:
    """The number whose squared distances to the values above it, times `share`, weigh as those below, times 1 - share.

    So 0.5 gives the mean; towards 1 it nears the largest value, and the closer the more values are as large.
    """
    found, before = float(np.mean(values, dtype=np.float64)), math.nan
    while found != before and not math.isclose(found, before, rel_tol=1e-12):
        weights = np.where(values > found, share, 1 - share)
        before, found = found, float(np.average(values, weights=weights))
    return found
