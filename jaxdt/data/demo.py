"""The shipped HalfCheetah-v5 policies of several skill levels, and the dataset they make.

Linear policies trained by `scripts/train_demo_policies.py` (augmented random search, Mania et al. 2018).
"""

from functools import cache
from importlib import resources

import numpy as np

from jaxdt.data.collecting import Behaviour, BehaviourPolicy, Progress, collect_episodes, random_policy
from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError
from jaxdt.types import Box


DEMO_ENV = "HalfCheetah-v5"
RECIPE = {
    "random": (4, (0.0,)),
    "beginner": (18, (0.0, 0.1, 0.2)),
    "medium": (30, (0.0, 0.1, 0.2)),
    "skilled": (18, (0.0, 0.1)),
    "expert": (48, (0.0, 0.1, 0.2)),
}
"""Episodes of each level, and the action noises that they take in turn.

Noise shows a policy how to come back from its errors; the skilled policy falls under more of it. Few are random,
since their actions cannot be learned, and many are expert, since the highest target forgives least.
"""


def demo_levels() -> dict[str, float]:
    """Names of the shipped policies and their measured mean returns, lowest first."""
    policies = _policies()
    return {str(name): float(mean) for name, mean in zip(policies["names"], policies["returns"], strict=True)}


def demo_policy(level: str) -> BehaviourPolicy:
    """The shipped policy of a skill level; raises JaxdtError naming the levels there are."""
    levels = list(demo_levels())
    if level not in levels:
        raise JaxdtError(f"demo policy {level!r} does not exist; choose one of {', '.join(levels)}.")
    policies, i = _policies(), levels.index(level)
    weights, mean, std = policies["weights"][i], policies["means"][i], policies["stds"][i]
    if level == "random":
        ones = np.ones(weights.shape[0], np.float32)
        return random_policy(Box(-ones, ones))
    return lambda observation, rng: weights @ ((observation - mean) / std)


def collect_demo_episodes(*, seed: int = 0, progress: Progress = lambda done, total: None) -> EpisodeStore:
    """Episodes of every level, random to expert: what `--dataset demo` means."""
    behaviours = [
        Behaviour(demo_policy(level), episodes=1, noise=noises[i % len(noises)])
        for level, (episodes, noises) in RECIPE.items()
        for i in range(episodes)
    ]
    return collect_episodes(DEMO_ENV, behaviours, seed=seed, progress=progress)


def num_demo_episodes() -> int:
    return sum(episodes for episodes, _ in RECIPE.values())


@cache
def _policies() -> dict[str, np.ndarray]:
    with resources.files("jaxdt.data").joinpath("demo_policies.npz").open("rb") as file:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
