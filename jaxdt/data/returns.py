"""Sums of rewards, some episodes at a time: the rewards may be too many for memory."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from jaxdt.data.storage import release_pages


_STEPS = 65_536


def episode_blocks(offsets: Int[np.ndarray, " _"]) -> Iterator[slice]:
    """Whole episodes of about so many steps together, or a longer one alone."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + _STEPS, side="right")) - 1
        yield slice(first, max(last, first + 1))
        first = max(last, first + 1)


def returns_of(rewards: Float[np.ndarray, " n"], offsets: Int[np.ndarray, " _"]) -> Float[np.ndarray, " e"]:
    """Undiscounted sum of each episode's rewards, float64."""
    returns = np.empty(len(offsets) - 1)
    for episodes in episode_blocks(offsets):
        starts, end = offsets[episodes], offsets[episodes.stop]
        returns[episodes] = np.add.reduceat(rewards[starts[0] : end].astype(np.float64), starts - starts[0])
        release_pages(rewards)
    return returns


def returns_to_go_of(
    rewards: Float[np.ndarray, " n"], offsets: Int[np.ndarray, " _"]
) -> Iterator[Float[np.ndarray, " _"]]:
    """Blocks of the undiscounted sum of rewards from each step to its episode's end, float32."""
    before = 0.0  # of all rewards, so that it is the same to the last bit whatever the blocks are
    for episodes in episode_blocks(offsets):
        starts, end = offsets[episodes], offsets[episodes.stop]
        total = np.cumsum(np.append(before, rewards[starts[0] : end]))
        ends = offsets[episodes.start + 1 : episodes.stop + 1]
        yield (np.repeat(total[ends - starts[0]], ends - starts) - total[:-1]).astype(np.float32)
        before = total[-1]
        release_pages(rewards)


def delayed_rewards_of(
    returns: Float[np.ndarray, " e"], offsets: Int[np.ndarray, " _"]
) -> Iterator[Float[np.ndarray, " _"]]:
    """Blocks of rewards that are an episode's return at its last step and 0 before, float64."""
    for episodes in episode_blocks(offsets):
        begin, ends = offsets[episodes.start], offsets[episodes.start + 1 : episodes.stop + 1]
        rewards = np.zeros(ends[-1] - begin)
        rewards[ends - begin - 1] = returns[episodes]
        yield rewards
