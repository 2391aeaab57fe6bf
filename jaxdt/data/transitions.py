"""Single steps to train on, drawn with NumPy only."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxdt.data.drawing import ALL, BLOCK, check_stream, uniform_numbers
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError
from jaxdt.types import Transitions


class TransitionSampler(Iterator[Transitions]):
    """Endless batches of transitions, uniform over all whose next state is known, with replacement.

    An episode that was cut off ends without its last step, since what follows it was not recorded; one that the
    environment ended keeps it, as a termination (the rule of D4RL's `qlearning_dataset`). Batch `i` depends on `seed`
    and `i` alone: `position` is the stream's whole state. Nothing is normalised. `store`: all that `load_episodes`
    takes. `next_actions`: whether a batch has those of the steps that follow. `share`: the rows of every batch to give.

    Raises JaxdtError where no transition is left, and where a run is counted in passes.
    """

    def __init__(
        self,
        store: Any,
        *,
        batch_size: int = 256,
        seed: int = 0,
        windows_per_pass: int | None = None,
        next_actions: bool = False,
        share: slice = ALL,
    ):
        check_stream(batch_size, seed)
        store = load_episodes(store)
        if windows_per_pass is not None:
            raise JaxdtError("passes count windows, and this method draws single steps; give steps instead.")
        self._store, self._batch_size, self._seed, self._next_actions = store, batch_size, seed, next_actions
        self._share = share
        last = store.offsets[1:] - 1
        left_out = last[~store.terminations[last]]
        self._count = store.num_steps - len(left_out)
        if not self._count:
            raise JaxdtError("no step of these episodes is followed by another one; they hold no transitions.")
        # The number of the first transition behind each row that is left out.
        self._behind_left_out = left_out - np.arange(len(left_out))
        self._block, self._rows = -1, np.empty((0, batch_size), int)
        self.position = 0
        """Number of the batch that `next` gives."""

    def __next__(self) -> Transitions:
        batch = self.batch(self.position)
        self.position += 1
        return batch

    def batch(self, index: int) -> Transitions:
        """Batch `index` of the stream."""
        block, i = divmod(index, BLOCK)
        if block != self._block:
            self._block, self._rows = block, self._draw(block)
        rows, store = self._rows[i], self._store
        terminations = store.terminations[rows]
        next_rows = np.where(terminations, rows, rows + 1)
        return Transitions(
            observations=store.observations[rows],
            actions=store.actions[rows],
            rewards=store.rewards[rows],
            next_observations=store.observations[next_rows],
            terminations=terminations,
            next_actions=store.actions[next_rows] if self._next_actions else None,
        )

    def _draw(self, block: int) -> np.ndarray:
        """Rows of many batches at once."""
        number = uniform_numbers(self._seed, block, self._batch_size, self._count, self._share)
        return number + self._behind_left_out.searchsorted(number, side="right")
