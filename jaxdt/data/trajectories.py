"""Steps in a row to train on, each with what its future is worth, drawn with NumPy only."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxdt.data.drawing import ALL, BLOCK, check_stream, uniform_numbers
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError


class TrajectoryRows(NamedTuple):
    """`t` steps in a row of `b` episodes, for methods that predict all that happens: each one row of numbers.

    They may reach beyond an episode's end.
    """

    rows: Float[Any, "b t row"]
    """Observation and action as the sampler's store has them, reward and value; of no meaning behind the end."""
    real: Bool[Any, "b t"]
    """False behind the episode's end."""
    counted: Bool[Any, "b t"]
    """False where no episode is so long."""


def penalized_rewards(store: EpisodeStore, penalty: float | None) -> Float[np.ndarray, " n"]:
    """The rewards, and `penalty` instead of that of a step at which the environment ended the episode."""
    if penalty is None:
        return store.rewards
    return np.where(store.terminations, np.float32(penalty), store.rewards)


def values_of(rewards: Float[np.ndarray, " n"], offsets: np.ndarray, discount: float) -> Float[np.ndarray, " n"]:
    """What comes after each step: V_t = r_{t+1} + discount V_{t+1}, 0 at an episode's last step; float32.

    Of episodes that were cut off too: nothing is guessed of what would have followed.
    """
    values = np.zeros(len(rewards), np.float64)
    last, lengths = offsets[1:] - 1, np.diff(offsets)
    for back in range(1, int(lengths.max())):
        row = last[lengths > back] - back
        values[row] = rewards[row + 1] + discount * values[row + 1]
    return values.astype(np.float32)


class TrajectorySampler(Iterator[TrajectoryRows]):
    """Endless batches of `transitions` steps in a row, uniform over all starts, with replacement.

    Every step but an episode's last one is a start, so windows may reach beyond the end. Batch `i` depends on `seed`
    and `i` alone: `position` is the stream's whole state.

    - `store`: all that `load_episodes` takes.
    - `penalty`: instead of the reward of a step at which the environment ended the episode; None: the reward.
    - `discount`: of the values.
    - `share`: the rows of every batch to give.

    Raises JaxdtError where no episode has two steps, and where a run is counted in passes.
    """

    def __init__(
        self,
        store: Any,
        *,
        transitions: int = 10,
        penalty: float | None = -100.0,
        discount: float = 0.99,
        batch_size: int = 256,
        seed: int = 0,
        windows_per_pass: int | None = None,
        share: slice = ALL,
    ):
        check_stream(batch_size, seed)
        store = load_episodes(store)
        if windows_per_pass is not None:
            raise JaxdtError("passes count one window an episode, and this method draws from every step; give steps.")
        self._store, self._batch_size, self._seed, self._share = store, batch_size, seed, share
        self._steps, self._longest = np.arange(transitions), int(store.lengths.max())
        self._count = num_starts(store)
        if not self._count:
            raise JaxdtError("no episode has two steps; what follows a step cannot be learned from these.")
        rewards = penalized_rewards(store, penalty)
        self._rewards_values = np.stack([rewards, values_of(rewards, store.offsets, discount)], axis=1)
        self._no_start_before = store.offsets[1:] - 1 - np.arange(store.num_episodes)
        self._block, self._starts = -1, np.empty((0, batch_size), int)
        self.position = 0
        """Number of the batch that `next` gives."""

    def __next__(self) -> TrajectoryRows:
        batch = self.batch(self.position)
        self.position += 1
        return batch

    def batch(self, index: int) -> TrajectoryRows:
        """Batch `index` of the stream."""
        block, i = divmod(index, BLOCK)
        if block != self._block:
            number = uniform_numbers(self._seed, block, self._batch_size, self._count, self._share)
            self._block = block
            self._starts = number + self._no_start_before.searchsorted(number, side="right")
        store, start = self._store, self._starts[i]
        episode = store.offsets.searchsorted(start, side="right") - 1
        row = start[:, None] + self._steps
        real = row < store.offsets[episode + 1][:, None]
        at = np.minimum(row, store.num_steps - 1)
        shape = (*at.shape, -1)
        parts = (store.observations[at].reshape(shape), store.actions[at].reshape(shape), self._rewards_values[at])
        rows = np.concatenate([part.astype(np.float32, copy=False) for part in parts], axis=2)
        return TrajectoryRows(rows, real, row - store.offsets[episode][:, None] < self._longest)


def num_starts(store: EpisodeStore) -> int:
    """Of the windows that a pass over the data has."""
    return store.num_steps - store.num_episodes
