"""The batches of Hugging Face's tutorial, made from a `datasets` table as its collator makes them.

Its notebook 101_train-decision-transformers, re-created from what it does: an episode in proportion to its length, a
first step uniformly, the episode's row as nested Python lists, its rest summed backwards step by step, every array
padded on the left, the windows concatenated.
"""

from typing import Any

import numpy as np
import torch


PADDED_ACTION, PADDED_DONE = -10.0, 2.0


class Collator:
    """Draws batches from `dataset`, an episode a row; `lengths`, `mean` and `std` are those of its episodes."""

    def __init__(
        self,
        dataset: Any,
        lengths: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        *,
        context_length: int,
        max_episode_length: int,
        return_scale: float,
        seed: int = 0,
    ):
        self._dataset = dataset
        self._shares = lengths / lengths.sum()
        self._mean, self._std = mean, std
        self._context_length = context_length
        self._max_episode_length = max_episode_length
        self._return_scale = return_scale
        self._rng = np.random.default_rng(seed)

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """What the model is called with: (b, t, ...), newest step at the right."""
        episodes = self._rng.choice(len(self._shares), size=size, p=self._shares)
        windows = [self._window(self._dataset[int(episode)]) for episode in episodes]
        joined = {name: np.concatenate([window[name] for window in windows]) for name in windows[0]}
        tensors = {name: torch.from_numpy(values).float() for name, values in joined.items()}
        return tensors | {"timesteps": tensors["timesteps"].long()}

    def _window(self, episode: dict[str, list]) -> dict[str, np.ndarray]:
        first = int(self._rng.integers(len(episode["rewards"])))
        kept = slice(first, first + self._context_length)
        states = np.array(episode["observations"][kept])
        count = len(states)
        to_go = _sums_to_the_end(np.array(episode["rewards"][first:]))[:count]
        timesteps = np.minimum(np.arange(first, first + count), self._max_episode_length - 1)
        window = {
            "states": (self._pad(states) - self._mean) / self._std,
            "actions": self._pad(np.array(episode["actions"][kept]), PADDED_ACTION),
            "rewards": self._pad(np.array(episode["rewards"][kept])[:, None]),
            "dones": self._pad(np.array(episode["dones"][kept]), PADDED_DONE),
            "returns_to_go": self._pad(to_go[:, None]) / self._return_scale,
            "timesteps": self._pad(timesteps),
            "attention_mask": self._pad(np.ones(count)),
        }
        return {name: values[None] for name, values in window.items()}

    def _pad(self, values: np.ndarray, padding: float = 0.0) -> np.ndarray:
        missing = self._context_length - len(values)
        return np.concatenate([np.full((missing, *values.shape[1:]), padding), values])


def _sums_to_the_end(rewards: np.ndarray) -> np.ndarray:
    """Of each step and those after it; a step at a time, as the tutorial does."""
    sums = rewards.copy()
    for step in range(len(sums) - 2, -1, -1):
        sums[step] += sums[step + 1]
    return sums
