"""Training windows, drawn with NumPy only."""

from collections.abc import Iterator

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError
from jaxdt.types import Window


class WindowSampler(Iterator[Window]):
    """Endless batches of `batch_size` windows of `context_length` steps.

    An episode is drawn in proportion to its length and the window's first step uniformly over all its
    steps, so windows that reach an episode's end are short and padded on the left (the original's
    `get_batch`). Batch `i` depends on `seed` and `i` alone: `position` is the stream's whole state.
    With `windows_per_pass`, the last batch of every pass is filled up with windows of nothing but padding
    (Hugging Face's trainer counts one window an episode as a pass).

    Raises JaxdtError for sizes below 1 or a return scale that is not positive.
    """

    def __init__(
        self,
        store: EpisodeStore,
        context_length: int = 20,
        batch_size: int = 64,
        seed: int = 0,
        return_scale: float = 1000.0,
        max_episode_length: int = 1000,
        windows_per_pass: int | None = None,
    ):
        for name, value in (
            ("context_length", context_length),
            ("batch_size", batch_size),
            ("max_episode_length", max_episode_length),
            ("windows_per_pass", 1 if windows_per_pass is None else windows_per_pass),
        ):
            if value < 1:
                raise JaxdtError(f"{name} must be at least 1; got {value}.")
        if not 0 <= seed < 2**64:
            raise JaxdtError(f"seed must be at least 0 and below 2**64; got {seed}.")
        if not 0 < return_scale < np.inf:
            raise JaxdtError(f"return_scale must be above 0 and finite; got {return_scale}.")
        self._store = store
        self._context_length = context_length
        self._batch_size = batch_size
        self._seed = seed
        self._max_episode_length = max_episode_length
        self._windows_per_pass = windows_per_pass
        self._returns_to_go = store.returns_to_go / np.float32(return_scale)
        # For all steps of a window: NumPy is slow at rows as short as one observation.
        self._mean, self._std = (np.repeat(values[None], context_length, axis=0) for values in store.statistics)
        self.position = 0
        """Number of the batch that `next` gives."""

    def __next__(self) -> Window:
        window = self.batch(self.position)
        self.position += 1
        return window

    def batch(self, index: int) -> Window:
        """Batch `index` of the stream; shapes (b, t, s), (b, t, a), (b, t), (b, t), (b, t)."""
        store, length = self._store, self._context_length
        rng = np.random.Generator(np.random.Philox(key=np.array([self._seed, index], np.uint64)))
        # A uniform row is an episode in proportion to its length and a uniform step of it.
        first = rng.integers(store.num_steps, size=self._batch_size)
        episode = np.searchsorted(store.offsets, first, side="right") - 1
        real = np.minimum(length, store.offsets[episode + 1] - first)
        if self._windows_per_pass is not None:
            batch_of_pass = index % -(-self._windows_per_pass // self._batch_size)
            real[max(self._windows_per_pass - batch_of_pass * self._batch_size, 0) :] = 0
        ahead = np.arange(length) - (length - real)[:, None]
        row = first[:, None] + np.maximum(ahead, 0)
        states = store.observations.take(row, axis=0).astype(np.result_type(store.observations, np.float32), copy=False)
        states -= self._mean
        states /= self._std
        timesteps = np.minimum(row - store.offsets[episode][:, None], self._max_episode_length - 1)
        window = Window(
            states=states.astype(np.float32, copy=False),
            actions=store.actions.take(row, axis=0),
            returns_to_go=self._returns_to_go.take(row),
            timesteps=timesteps.astype(np.int32),
            mask=ahead >= 0,
        )
        padding = np.nonzero(ahead < 0)
        for values in window[:4]:
            values[padding] = 0
        return window
