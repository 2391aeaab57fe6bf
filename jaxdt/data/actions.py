"""Actions as an environment takes them, turned into actions as models take them, some steps at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxdt.data.storage import chunks
from jaxdt.errors import JaxdtError
from jaxdt.types import Box, Discrete


def mapped_onto_unit(
    actions: Float[np.ndarray, "n a"], space: Box | Discrete, offsets: Int[np.ndarray, " _"], *, clip: bool
) -> Iterator[Float[np.ndarray, "_ a"]]:
    """Actions of a Box mapped affinely onto [-1, 1]; raises JaxdtError when some lie outside, unless `clip`."""
    if isinstance(space, Discrete):
        raise JaxdtError(
            f"the data's actions are vectors of {actions.shape[1]} numbers but the environment's are discrete, "
            f"{_numbers(space)}; choose the environment that the data were recorded in, or give them as one integer "
            "a step."
        )
    low, high = space
    if actions.shape[1] != len(low):
        raise JaxdtError(
            f"the data's actions are vectors of {actions.shape[1]} numbers but the environment's of {len(low)}; choose "
            "the environment that the data were recorded in."
        )
    slack = 1e-5 * (high - low)
    outside, row = _count_and_first(actions, lambda a: ((a < low - slack) | (a > high + slack)).any(axis=1))
    if outside and not clip:
        normalized = ", or say normalized_actions=True (--normalized-actions) where they are in [-1, 1] already"
        raise JaxdtError(
            f"{outside} of {len(actions)} actions lie outside the action space [{_short(low)}, {_short(high)}] "
            f"(first: {_short(actions[row])}, episode {_episode_of(row, offsets)}); rescale them, or clip them with "
            f"clip_actions=True (--clip-actions){'' if (np.abs([low, high]) == 1).all() else normalized}."
        )
    width = np.where(high > low, high - low, 1)  # an action that cannot move stays at -1
    return (2 * (np.clip(a, low, high) - low) / width - 1 for a in chunks(actions))


def counted_from_zero(
    actions: Int[np.ndarray, " n"], space: Box | Discrete, offsets: Int[np.ndarray, " _"]
) -> Iterator[Int[np.ndarray, " _"]]:
    """Actions of a Discrete less its start; raises JaxdtError when some are not of it."""
    if isinstance(space, Box):
        raise JaxdtError(
            f"the data's actions are discrete but the environment's are vectors of {len(space.low)} numbers; choose "
            "the environment that the data were recorded in, or give them the shape (steps, size)."
        )
    n, start = space
    outside, row = _count_and_first(actions, lambda a: (a < start) | (a >= start + n))
    if outside:
        raise JaxdtError(
            f"{outside} of {len(actions)} actions are not of the environment's, {_numbers(space)} (first: "
            f"{actions[row]}, episode {_episode_of(row, offsets)}); number them so, or choose the environment that "
            "the data were recorded in."
        )
    return (a - np.int32(start) for a in chunks(actions))


def unit_of(space: Box | Discrete) -> Box | Discrete:
    """What a space's actions are mapped onto: [-1, 1], or whole numbers from 0 on."""
    if isinstance(space, Discrete):
        return Discrete(space.n)
    return Box(-np.ones_like(space.low), np.ones_like(space.high))


def space_of(actions: Float[np.ndarray, "n a"] | Int[np.ndarray, " n"]) -> Box | Discrete:
    """The space that recorded actions say: [-1, 1] of each number, or, where it passes them, its lowest and highest."""
    if actions.ndim == 1:
        start = min(int(actions.min()), 0)
        return Discrete(int(actions.max()) + 1 - start, start)
    low, high = np.full(actions.shape[1], np.inf, np.float32), np.full(actions.shape[1], -np.inf, np.float32)
    for chunk in chunks(actions):
        low, high = np.minimum(low, chunk.min(axis=0)), np.maximum(high, chunk.max(axis=0))
    within = (low >= -1 - 1e-5) & (high <= 1 + 1e-5)
    return Box(np.where(within, np.float32(-1), low), np.where(within, np.float32(1), high))


def seem_mapped(actions: Float[np.ndarray, "n a"] | Int[np.ndarray, " n"], space: Box | Discrete) -> str | None:
    """A sentence where actions touch -1 or 1 and never pass them, and the space goes further; None elsewhere."""
    if actions.ndim == 1 or not isinstance(space, Box):
        return None
    largest = max(float(np.abs(chunk).max()) for chunk in chunks(actions))
    widest = float(np.abs(np.stack(space)).min())
    if not (0.99 < largest <= 1.0 + 1e-6 and widest > 1.5):
        return None
    return f"no recorded action passes {largest:g}, and the environment's go to {widest:g}"


def _count_and_first(actions: np.ndarray, holds: Any) -> tuple[int, int]:
    """Of the rows where it holds."""
    start, count, first = 0, 0, 0
    for chunk in chunks(actions):
        rows = np.flatnonzero(holds(chunk))
        if len(rows) and not count:
            first = start + int(rows[0])
        start, count = start + len(chunk), count + len(rows)
    return count, first


def _episode_of(row: int, offsets: np.ndarray) -> int:
    return int(np.searchsorted(offsets, row, side="right")) - 1


def _numbers(space: Discrete) -> str:
    return f"{space.start} ... {space.start + space.n - 1}"


def _short(values: np.ndarray) -> str:
    text = [f"{value:g}" for value in values]
    return text[0] if len(set(text)) == 1 else "(" + " ".join(text) + ")"
