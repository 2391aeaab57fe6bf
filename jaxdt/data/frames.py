"""Training windows of pictures, each of which is stored and sent once, however many stacks show it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxdt.config.atari_dt import STACK
from jaxdt.data.drawing import ALL, BLOCK, check_stream, uniform_numbers
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError
from jaxdt.types import Window


BEFORE = STACK - 1
"""Pictures before a window's first step, which its stack shows too."""


class FrameSampler(Iterator[Window]):
    """Endless batches of `batch_size` windows of `context_length` steps, with `context_length` + 3 pictures each.

    A step of the data is drawn uniformly. A window begins there, or as much earlier as the episode ends too soon. Of an
    episode shorter than a window the rest is padding on the left; pictures before an episode's first are black.
    Batch `i` depends on `seed` and `i` alone: `position` is the stream's whole state.
    `store`: all that `load_episodes` takes. `share`: the rows of every batch to give.

    `cross_episodes`: instead of padding, what comes before in the data, as in the original: pictures, actions, returns
    and timesteps of the episode before, all real; padding is before the first episode alone. A picture may then be of
    another episode than the step whose stack would show it: of a stack at timestep `t` only the last `t + 1` count.

    Raises JaxdtError for sizes below 1, and where a run is counted in passes of one window an episode.
    """

    def __init__(
        self,
        store: Any,
        *,
        context_length: int = 30,
        batch_size: int = 128,
        seed: int = 0,
        windows_per_pass: int | None = None,
        cross_episodes: bool = False,
        share: slice = ALL,
    ):
        check_stream(batch_size, seed)
        store = load_episodes(store)
        if context_length < 1:
            raise JaxdtError(f"context_length must be at least 1; got {context_length}.")
        if windows_per_pass is not None:
            raise JaxdtError("passes count one window an episode, and this method draws from every step; give steps.")
        self._store, self._length, self._batch_size, self._seed = store, context_length, batch_size, seed
        self._cross_episodes, self._share = cross_episodes, share
        self._block, self._drawn = -1, np.empty((0, batch_size), int)
        self.position = 0
        """Number of the batch that `next` gives."""

    def __next__(self) -> Window:
        window = self.batch(self.position)
        self.position += 1
        return window

    def batch(self, index: int) -> Window:
        """Batch `index` of the stream; `states` (b, t + 3, h, w) or (b, t + 3, h, w, c) as recorded, others (b, t)."""
        block, i = divmod(index, BLOCK)
        if block != self._block:
            self._block = block
            below = self._store.num_steps
            self._drawn = uniform_numbers(self._seed, block, self._batch_size, below, self._share)
        store, length = self._store, self._length
        episode = store.offsets.searchsorted(self._drawn[i], side="right") - 1
        first, end = store.offsets[episode][:, None], store.offsets[episode + 1]
        if self._cross_episodes:
            first = np.zeros_like(first)
        start = np.minimum(self._drawn[i], end - length)[:, None]
        seen = start + np.arange(-BEFORE, length)
        frames = store.observations.take(seen, axis=0, mode="clip")
        frames[seen < first] = 0
        step = seen[:, BEFORE:]
        mask = step >= first
        begun = store.offsets[store.offsets.searchsorted(step.clip(0), side="right") - 1]  # the episode of each step
        return Window(
            states=frames,
            actions=np.where(mask, store.actions.take(step, mode="clip"), 0),
            returns_to_go=np.where(mask, store.returns_to_go.take(step, mode="clip"), np.float32(0)),
            timesteps=np.where(mask, step - begun, 0).astype(np.int32),
            mask=mask,
        )
