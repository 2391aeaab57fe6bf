"""Training windows, drawn with NumPy only."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxdt.data.drawing import ALL, BLOCK, check_stream, uniform_numbers
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError
from jaxdt.types import Window


class _WindowIndices(NamedTuple):
    """Where the windows of a block of batches lie, each array (batches, b)."""

    start: np.ndarray
    """Row of the window's first step, real or padding; below 0 before the store's first."""
    timestep: np.ndarray
    """Row of `WindowSampler._timesteps` for that step."""
    padding: np.ndarray
    """Steps of padding on the window's left."""


class WindowSampler(Iterator[Window]):
    """Endless batches of `batch_size` windows of `context_length` steps.

    An episode is drawn in proportion to its length and the window's first step uniformly over all its
    steps, so windows that reach an episode's end are short and padded on the left (the original's
    `get_batch`). Batch `i` depends on `seed` and `i` alone: `position` is the stream's whole state. A sampler
    serves one thread; another thread makes its own.
    `store`: all that `load_episodes` takes; its actions are taken as they are.
    `statistics`: mean and standard deviation (*s) to normalise by; default: the store's own.
    With `windows_per_pass`, the last batch of every pass is filled up with windows of nothing but padding
    (Hugging Face's trainer counts one window an episode as a pass). `share`: the rows of every batch to give.

    Raises JaxdtError for sizes below 1 or a return scale that is not positive.
    """

    def __init__(
        self,
        store: Any,
        context_length: int = 20,
        batch_size: int = 64,
        seed: int = 0,
        return_scale: float = 1000.0,
        max_episode_length: int = 1000,
        windows_per_pass: int | None = None,
        statistics: tuple[np.ndarray, np.ndarray] | None = None,
        share: slice = ALL,
    ):
        for name, value in (
            ("context_length", context_length),
            ("max_episode_length", max_episode_length),
            ("windows_per_pass", 1 if windows_per_pass is None else windows_per_pass),
        ):
            if value < 1:
                raise JaxdtError(f"{name} must be at least 1; got {value}.")
        check_stream(batch_size, seed)
        if not 0 < return_scale < np.inf:
            raise JaxdtError(f"return_scale must be above 0 and finite; got {return_scale}.")
        self._store = store = load_episodes(store)
        self._context_length = context_length
        self._batch_size = batch_size
        self._windows_per_pass = windows_per_pass
        self._seed, self._share = seed, share
        self._block, self._indices = -1, _WindowIndices(*np.empty((3, 0, batch_size), int))
        self._return_scale = np.float32(return_scale)
        self._tables = (store.observations, store.actions, store.returns_to_go)
        # Views of every `context_length` rows, or of none: an index into them copies a window in one piece.
        self._windows = [_sliding(table, context_length) for table in self._tables]
        self._no_padding = np.ones((len(range(batch_size)[share]), context_length), bool)
        # Of each step of an episode, and of the padding before its first.
        timesteps = np.arange(-context_length, store.lengths.max(), dtype=np.int32)
        self._timesteps = _sliding(np.minimum(timesteps, max_episode_length - 1), context_length)
        self._precision = np.result_type(store.observations, np.float32)
        # For all steps of a window: NumPy is slow at rows as short as one observation.
        self._mean, self._std = (
            np.repeat(values[None], context_length, axis=0) for values in statistics or store.statistics
        )
        self.position = 0
        """Number of the batch that `next` gives."""

    def __next__(self) -> Window:
        window = self.batch(self.position)
        self.position += 1
        return window

    def batch(self, index: int) -> Window:
        """Batch `index` of the stream; shapes (b, t, s), (b, t, a) or where discrete (b, t), (b, t), (b, t), (b, t)."""
        block, i = divmod(index, BLOCK)
        if block != self._block:
            self._block, self._indices = block, self._draw(block)
        start, timestep, padding = (values[i] for values in self._indices)
        padded = padding.nonzero()[0].tolist()
        observations, actions, returns_to_go = self._gather(start, any(start[i] < 0 for i in padded))
        states = observations.astype(self._precision, copy=False)
        states -= self._mean
        states /= self._std
        window = Window(
            states=states.astype(np.float32, copy=False),
            actions=actions,
            returns_to_go=returns_to_go / self._return_scale,
            timesteps=self._timesteps[timestep],
            mask=self._no_padding.copy(),
        )
        for values in window if padded else ():
            for i in padded:
                values[i, : padding[i]] = 0
        return window

    def _draw(self, block: int) -> "_WindowIndices":
        """For many batches at once, in the time of a few."""
        store, length = self._store, self._context_length
        # A uniform row is an episode in proportion to its length and a uniform step of it.
        first = uniform_numbers(self._seed, block, self._batch_size, below=store.num_steps, share=self._share)
        episode = store.offsets.searchsorted(first, side="right") - 1
        real = np.minimum(length, store.offsets[episode + 1] - first)
        if self._windows_per_pass is not None:
            batches_of_pass = -(-self._windows_per_pass // self._batch_size)
            batch_of_pass = (block * BLOCK + np.arange(BLOCK)) % batches_of_pass
            window_of_pass = batch_of_pass[:, None] * self._batch_size + np.arange(self._batch_size)[self._share]
            real[window_of_pass >= self._windows_per_pass] = 0
        start = first + real - length  # of the whole window; what lies before `first` becomes padding
        return _WindowIndices(start, start - store.offsets[episode] + length, length - real)

    def _gather(self, start: np.ndarray, before_first_row: bool) -> list[np.ndarray]:
        """Copies of the rows of windows that begin at `start`."""
        if not before_first_row:
            return [windows[start] for windows in self._windows]
        row = start[:, None] + np.arange(self._context_length)
        return [table.take(row, axis=0, mode="clip") for table in self._tables]


def _sliding(table: np.ndarray, length: int) -> np.ndarray:
    if len(table) < length:
        return table[:0]
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(table, length, axis=0), -1, 1)
