"""Policies written by hand: what each episode of a demo dataset is played by, in environments that need no training."""

import itertools

import numpy as np

from jaxdt.data.collecting import BehaviourPolicy, random_policy
from jaxdt.types import Discrete


_BALANCE = np.array([0.1, 0.3, 2.0, 1.0])  # weights of position, velocity, angle and angular velocity


def balance_pole(observation: np.ndarray, rng: np.random.Generator) -> int:
    """CartPole: pushes to the side that the pole leans and turns to; it stays up all 500 steps."""
    return int(observation @ _BALANCE > 0)


def drop_pole(observation: np.ndarray, rng: np.random.Generator) -> int:
    """CartPole: pushes to the other side; the pole falls in about 10 steps."""
    return 1 - balance_pole(observation, rng)


def swing_up(observation: np.ndarray, rng: np.random.Generator) -> int:
    """Acrobot: turns the lower link on in the direction that it turns, which adds energy; about 80 steps to the top."""
    return 2 if observation[5] > 0 else 0


def hang(observation: np.ndarray, rng: np.random.Generator) -> int:
    """Acrobot: lets both links hang."""
    return 1


def switched(first: BehaviourPolicy, then: BehaviourPolicy, step: int) -> BehaviourPolicy:
    """One policy up to a step and another from there on; for one episode, since it counts steps."""
    steps = itertools.count()
    return lambda observation, rng: (first if next(steps) < step else then)(observation, rng)


def partly_random(policy: BehaviourPolicy, space: Discrete, rate: float) -> BehaviourPolicy:
    """A policy of which a share of the actions, `rate`, is replaced by random ones."""
    random = random_policy(space)
    return lambda observation, rng: (random if rng.random() < rate else policy)(observation, rng)


def spread(low: int, high: int, index: int) -> int:
    """Item `index` of a sequence that fills the range evenly, however much of it is taken."""
    return low + round((high - low) * (index * 0.6180339887 % 1))
