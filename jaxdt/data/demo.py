"""Datasets of mixed quality that are collected on the spot: nothing is downloaded, and each takes some seconds.

The HalfCheetah policies are shipped: linear, trained by `scripts/train_demo_policies.py` (augmented random search,
Mania et al. 2018). Those of the other environments are written by hand, in `scripted.py`.
"""

from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np

from jaxdt.data.collecting import Behaviour, BehaviourPolicy, Progress, collect_episodes, random_policy
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.scripted import balance_pole, drop_pole, hang, partly_random, spread, swing_up, switched
from jaxdt.errors import JaxdtError
from jaxdt.types import Box, Discrete


class Level(NamedTuple):
    """Episodes of one quality."""

    episodes: int
    """In the dataset; 0: it is only played where it is asked for by name."""
    policy: Callable[[int], BehaviourPolicy]
    """What plays episode `i` of the level, and only that one."""
    noises: tuple[float, ...] = (0.0,)
    """Noises of continuous actions, which the episodes take in turn: they show how to come back from errors."""


class Demo(NamedTuple):
    env_id: str
    levels: dict[str, Level]
    """By name, worst first."""


def _falling(low: int, high: int) -> Callable[[int], BehaviourPolicy]:
    """CartPole: drops the pole on purpose at a step of this range, so that its return is what it was asked for."""
    return lambda i: _random_in_turn(switched(balance_pole, drop_pole, spread(low, high, i)), Discrete(2), i)


def _waiting(low: int, high: int) -> Callable[[int], BehaviourPolicy]:
    """Acrobot: swings up from a step of this range on."""
    return lambda i: _random_in_turn(switched(hang, swing_up, spread(low, high, i)), Discrete(3), i)


def _random_in_turn(policy: BehaviourPolicy, space: Discrete, i: int) -> BehaviourPolicy:
    return partly_random(policy, space, rate=(0.0, 0.1, 0.2)[i % 3])


DEMOS = {
    # Few episodes are random, since their actions cannot be learned, and more than half are expert, since the highest
    # target forgives least. The skilled policy takes no part: it earns about what the expert earns under the most
    # noise, so that models that were asked for the expert's return ran some episodes in the skilled gait.
    "demo": Demo(
        "HalfCheetah-v5",
        {
            "random": Level(4, lambda i: shipped_policy("random")),
            "beginner": Level(18, lambda i: shipped_policy("beginner"), (0.0, 0.1, 0.2)),
            "medium": Level(30, lambda i: shipped_policy("medium"), (0.0, 0.1, 0.2)),
            "skilled": Level(0, lambda i: shipped_policy("skilled")),
            "expert": Level(66, lambda i: shipped_policy("expert"), (0.0, 0.1, 0.2)),
        },
    ),
    "cartpole": Demo(
        "CartPole-v1",
        {
            "random": Level(40, lambda i: random_policy(Discrete(2))),
            "beginner": Level(120, _falling(0, 90)),
            "medium": Level(80, _falling(100, 280)),
            "skilled": Level(24, _falling(290, 470)),
            "expert": Level(40, lambda i: _random_in_turn(balance_pole, Discrete(2), i)),
        },
    ),
    "acrobot": Demo(
        "Acrobot-v1",
        {
            "random": Level(4, lambda i: random_policy(Discrete(3))),
            "beginner": Level(20, _waiting(180, 380)),
            "medium": Level(40, _waiting(40, 180)),
            "skilled": Level(30, lambda i: partly_random(swing_up, Discrete(3), rate=0.4)),
            "expert": Level(40, lambda i: swing_up),
        },
    ),
}
"""By the dataset's name, what `--dataset` takes."""


def collect_demo_episodes(
    name: str = "demo", *, seed: int = 0, progress: Progress = lambda done, total: None
) -> EpisodeStore:
    """Episodes of every level, random to expert: what `--dataset NAME` means."""
    env_id, levels = DEMOS[name]
    behaviours = [behaviour for level in levels.values() for behaviour in _behaviours(level, level.episodes)]
    return collect_episodes(env_id, behaviours, seed=seed, progress=progress)


def num_demo_episodes(name: str = "demo") -> int:
    return sum(level.episodes for level in DEMOS[name].levels.values())


def demo_behaviours(env_id: str, level: str, episodes: int, noise: float = 0.0) -> list[Behaviour]:
    """Episodes of one level in an environment of any version; raises JaxdtError naming what there is."""
    by_environment = {demo.env_id.rsplit("-v", 1)[0]: demo for demo in DEMOS.values()}
    name = env_id.rsplit("-v", 1)[0]
    if name not in by_environment:
        raise JaxdtError(
            f"the demo policies are for {', '.join(by_environment)}; got {env_id} (use the policy random there)."
        )
    levels = by_environment[name].levels
    if level not in levels:
        raise JaxdtError(f"demo policy {level!r} does not exist; choose one of {', '.join(levels)}.")
    return _behaviours(levels[level]._replace(noises=(noise,)), episodes)


def _behaviours(level: Level, episodes: int) -> list[Behaviour]:
    return [Behaviour(level.policy(i), 1, level.noises[i % len(level.noises)]) for i in range(episodes)]


def demo_levels() -> dict[str, float]:
    """Names of the shipped HalfCheetah policies and their measured mean returns, lowest first."""
    policies = _shipped()
    return {str(name): float(mean) for name, mean in zip(policies["names"], policies["returns"], strict=True)}


def shipped_policy(level: str) -> BehaviourPolicy:
    """The shipped HalfCheetah policy of a level."""
    policies, i = _shipped(), list(demo_levels()).index(level)
    weights, mean, std = policies["weights"][i], policies["means"][i], policies["stds"][i]
    if level == "random":
        ones = np.ones(weights.shape[0], np.float32)
        return random_policy(Box(-ones, ones))
    return lambda observation, rng: weights @ ((observation - mean) / std)


@cache
def _shipped() -> dict[str, np.ndarray]:
    with resources.files("jaxdt.data").joinpath("demo_policies.npz").open("rb") as file:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
