"""The shipped HalfCheetah-v5 policies of several skill levels, and the dataset they make.

Linear policies trained by `scripts/train_demo_policies.py` (augmented random search, Mania et al. 2018).
"""

from functools import cache
from importlib import resources

import numpy as np

from jaxdt.data.collecting import Behaviour, BehaviourPolicy, Progress, collect_episodes, random_policy
from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError


DEMO_ENV = "HalfCheetah-v5"
EPISODES = {"random": 4, "beginner": 12, "medium": 12, "skilled": 12, "expert": 24}
"""Of each level; a random policy's actions cannot be learned, an expert's are what the highest target needs."""
NOISES = (0.0, 0.1, 0.2)
"""A level's episodes take these in turn: without them a policy never sees how to come back from an error."""


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
        return random_policy(-ones, ones)
    return lambda observation, rng: weights @ ((observation - mean) / std)


def collect_demo_episodes(*, seed: int = 0, progress: Progress = lambda done, total: None) -> EpisodeStore:
    """Episodes of every level, random to expert: what `--dataset demo` means."""
    behaviours = [
        Behaviour(demo_policy(level), episodes=1, noise=NOISES[i % len(NOISES)])
        for level in demo_levels()
        for i in range(EPISODES[level])
    ]
    return collect_episodes(DEMO_ENV, behaviours, seed=seed, progress=progress)


def num_demo_episodes() -> int:
    return sum(EPISODES.values())


@cache
def _policies() -> dict[str, np.ndarray]:
    with resources.files("jaxdt.data").joinpath("demo_policies.npz").open("rb") as file:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
