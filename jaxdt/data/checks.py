"""Is this a dataset? Every complaint names the source, the field, the episode and the fix."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxdt.data.fields import check_terminations_alone
from jaxdt.data.returns import episode_blocks
from jaxdt.data.storage import chunks, release_pages
from jaxdt.errors import JaxdtError
from jaxdt.stepping import as_bytes


def checked_arrays(
    observations: Any,
    actions: Any,
    rewards: Any,
    terminations: Any,
    truncations: Any,
    episode_ends: Any,
    *,
    source: str,
) -> tuple[dict[str, np.ndarray], Int[np.ndarray, " _"]]:
    """The five arrays in their final dtypes, and the episodes' offsets; raises JaxdtError."""
    fields = {
        "observations": _numeric(observations, "observations", source),
        "actions": _actions(actions, source),
        "rewards": _column(_float32(rewards, "rewards", source)),
    }
    n = len(fields["observations"])
    fields["terminations"] = _flags(terminations, "terminations", n, source)
    fields["truncations"] = _flags(truncations, "truncations", n, source)
    _check_shapes(fields, source)
    _check_digits(observations, fields["observations"], source)
    if episode_ends is not None:
        ends = _checked_ends(episode_ends, n, source)
    else:
        if truncations is None and terminations is not None:
            check_terminations_alone(fields["terminations"], "terminations", source, "episode_ends")
        ends = _ends_of_flags(fields["terminations"] | fields["truncations"], source)
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    fields = {name: values[: offsets[-1]] for name, values in fields.items()}
    _check_finite(fields, offsets, source)
    _check_returns(fields["rewards"], offsets, source)
    return fields, offsets


def _numeric(values: Any, field: str, source: str) -> np.ndarray:
    array = _array(values, field, source)
    if field == "observations" and array.dtype == bool and array.ndim > 2:
        return as_bytes(array)
    if array.dtype == bool or array.dtype.kind not in "iuf":
        raise JaxdtError(f"{source}: {field} must be numbers; got dtype {array.dtype}.")
    if array.ndim == 0 or len(array) == 0:
        raise JaxdtError(f"{source}: {field} is empty; a dataset needs at least one step.")
    if array.dtype.kind == "f" and array.dtype != np.float32:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return array


def _array(values: Any, field: str, source: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise JaxdtError(f"{source}: {field} must be one array; got rows of different sizes.") from error


def _float32(values: Any, field: str, source: str) -> np.ndarray:
    return _numeric(values, field, source).astype(np.float32, copy=False)


def _check_digits(values: Any, kept: np.ndarray, source: str) -> None:
    """Of observations that lie so far from 0 that float32 cannot tell them apart, such as Unix time.

    Raises JaxdtError for whole numbers that wrap round on the device.
    """
    values = np.asarray(values)
    if values.dtype.itemsize < 8 or values.dtype.kind not in "iuf" or kept.ndim < 2:
        return
    low, high = np.full((2, *values.shape[1:]), np.inf)
    high = -high
    for chunk in chunks(values):
        low, high = np.minimum(low, chunk.min(axis=0)), np.maximum(high, chunk.max(axis=0))
    if values.dtype.kind != "f" and (low.min() < -(2**31) or high.max() >= 2**31):
        raise JaxdtError(
            f"{source}: observations are whole numbers beyond 32 bits, up to {high.max():.12g}; give them as floats, "
            "less a number that brings them near 0."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        spacing = np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32)).astype(np.float64)
        lost = np.flatnonzero((high > low) & (high - low < 16 * spacing))
    if len(lost):
        warnings.warn(
            f"{source}: observations {shortened(lost)} lie too far from 0 for float32 to tell them apart (the first "
            f"goes from {low.reshape(-1)[lost[0]]:.12g} to {high.reshape(-1)[lost[0]]:.12g}); subtract a number from "
            "them, in the data and wherever the policy acts.",
            stacklevel=5,
        )


def shortened(numbers: Int[np.ndarray, " k"]) -> str:
    """Rising numbers with runs as `3-7`, the first of them."""
    runs: list[list[int]] = []
    for number in map(int, numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    shown = ["-".join(map(str, run)) for run in runs]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def _column(array: np.ndarray) -> np.ndarray:
    """Of shape (n,) where it was (n, 1)."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _actions(values: Any, source: str) -> np.ndarray:
    """Vectors as float32, or one whole number a step as int32."""
    array = _array(values, "actions", source)
    if array.ndim == 2 and array.dtype.kind in "iu":
        warnings.warn(
            f"{source}: actions are whole numbers, {array.shape[1]} a step, and are taken as continuous vectors; where "
            "they are choices, give one whole number a step, of shape (steps,).",
            stacklevel=5,
        )
    if array.ndim != 1:
        return _float32(array, "actions", source)
    if array.dtype.kind not in "iu":
        raise JaxdtError(
            f"{source}: actions of shape {array.shape} must be whole numbers; got dtype {array.dtype} (give continuous "
            "actions the shape (steps, size), discrete ones an integer dtype)."
        )
    limits = np.iinfo(np.int32)
    for action in (array.min(initial=0), array.max(initial=0)):
        if not limits.min <= action <= limits.max:
            raise JaxdtError(f"{source}: discrete actions must fit int32; got {action} (number them from 0 on).")
    return _numeric(array, "actions", source).astype(np.int32, copy=False)


def _flags(values: Any, field: str, n: int, source: str) -> np.ndarray:
    if values is None:
        return np.zeros(n, bool)
    array = _array(values, field, source)
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise JaxdtError(f"{source}: {field} must be true or false at every step; got dtype {array.dtype}.")
    return _column(array.astype(bool))


def _check_shapes(fields: dict[str, np.ndarray], source: str) -> None:
    n = len(fields["observations"])
    if fields["observations"].ndim < 2:
        raise JaxdtError(f"{source}: observations must have shape (steps, size); got {fields['observations'].shape}.")
    if fields["actions"].ndim not in (1, 2):
        raise JaxdtError(
            f"{source}: actions must have shape (steps, size), or (steps,) where they are discrete; got "
            f"{fields['actions'].shape}."
        )
    for name in ("observations", "actions"):
        if 0 in fields[name].shape:
            raise JaxdtError(f"{source}: {name} have no numbers in them; got shape {fields[name].shape}.")
    for name in ("rewards", "terminations", "truncations"):
        if fields[name].ndim != 1:
            raise JaxdtError(f"{source}: {name} must have shape (steps,), one number a step; got {fields[name].shape}.")
    for name, values in fields.items():
        if len(values) != n:
            raise JaxdtError(f"{source}: {name} has {len(values)} steps but observations has {n}; they must agree.")


def _checked_ends(episode_ends: Any, n: int, source: str) -> np.ndarray:
    ends = _array(episode_ends, "episode_ends", source)
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or len(ends) == 0:
        raise JaxdtError(
            f"{source}: episode_ends must be one or more whole numbers; got shape {ends.shape}, dtype {ends.dtype}."
        )
    ends = ends.astype(np.int64)
    lengths = np.diff(ends, prepend=0)
    if (lengths <= 0).any():
        episode = int(np.argmax(lengths <= 0))
        raise JaxdtError(f"{source}: episode {episode} is empty; episode_ends must rise (it goes to {ends[episode]}).")
    if ends[-1] != n:
        raise JaxdtError(
            f"{source}: the last of episode_ends must be the number of steps, {n}; got {ends[-1]} "
            "(drop the steps after it, or add the missing end)."
        )
    return ends


def _ends_of_flags(done: np.ndarray, source: str) -> np.ndarray:
    ends = np.flatnonzero(done) + 1
    if len(ends) == 0:
        raise JaxdtError(
            f"{source}: no episode ends; give episode_ends, or terminations and truncations that are true somewhere."
        )
    if ends[-1] != len(done):
        warnings.warn(
            f"{source}: the last {len(done) - ends[-1]} steps belong to an unfinished episode and are dropped "
            "(give episode_ends to keep them).",
            stacklevel=5,
        )
    return ends


def _check_finite(fields: dict[str, np.ndarray], offsets: np.ndarray, source: str) -> None:
    for name in ("observations", "actions", "rewards"):
        start = 0
        for chunk in chunks(fields[name]):
            # A sum is finite only if its terms are; the slow search runs only to name the place.
            with np.errstate(invalid="ignore"):
                total = chunk.sum(dtype=np.float64) if chunk.dtype.kind == "f" else 0.0
            if not np.isfinite(total):
                row = start + int(np.argmax(~np.isfinite(chunk.reshape(len(chunk), -1)).all(axis=1)))
                episode = int(np.searchsorted(offsets, row, side="right")) - 1
                raise JaxdtError(
                    f"{source}: {name} of episode {episode}, step {row - offsets[episode]}, is not a finite float32; "
                    "remove that episode or repair it."
                )
            start += len(chunk)


def _check_returns(rewards: np.ndarray, offsets: np.ndarray, source: str) -> None:
    largest = np.empty(len(offsets) - 1)
    for episodes in episode_blocks(offsets):
        starts, end = offsets[episodes], offsets[episodes.stop]
        largest[episodes] = np.add.reduceat(np.abs(rewards[starts[0] : end]), starts - starts[0], dtype=np.float64)
        release_pages(rewards)
    if largest.max() > np.finfo(np.float32).max:
        raise JaxdtError(
            f"{source}: rewards of episode {int(largest.argmax())} add up beyond float32; scale the rewards down."
        )
