"""The original's pickled list of dicts, one an episode, read as data: no function of NumPy's is ever called."""

import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.fields import FLAGS, field_names, one_episode, warn_of_unused_cut
from jaxdt.data.joining import join_episodes
from jaxdt.data.storage import LARGE, MEMORY, Storage
from jaxdt.errors import JaxdtError
from jaxdt.pickles import Stand, brief, is_shape, read_pickle


def load_pickle(path: Path, storage: Storage = MEMORY, *, cut_after: int | None = None) -> EpisodeStore:
    """Episodes of a pickled list of dicts, as the original's download script writes it.

    Each dict holds `observations` (t, s), `actions` (t, a), or integers (t,) where they are discrete, `rewards` (t,),
    and maybe `terminals` or `dones` and `timeouts` (t,), or other names of `fields.SYNONYMS` and `fields.ENDINGS`; more
    is ignored. An episode that does not end in a terminal was cut off there.
    A pickle is read into memory, whatever the `storage`; an entry is an episode, and `cut_after` without effect.
    Raises JaxdtError naming the file, the episode, the field and the fix; nothing in the file is run.
    """
    del storage
    warn_of_unused_cut(cut_after, str(path))
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            episodes = read_pickle(file, size, _stand_ins(_Budget(size)), source=str(path))
    except OSError as error:
        raise JaxdtError(f"{path} cannot be read: {error.strerror or error}; check its permissions.") from error
    if not isinstance(episodes, list) or not episodes:
        raise JaxdtError(
            f"{path} must hold a list of episodes, each a dict; got {_describe(episodes)} (write one dict an episode)."
        )
    budget = _Budget(size)
    try:
        columns = [_episode(values, number, budget, path) for number, values in enumerate(episodes)]
    except pickle.UnpicklingError as error:
        raise JaxdtError(f"{path}: {error}; write each episode once.") from error
    return join_episodes(columns, source=str(path))


def _episode(values: Any, number: int, budget: "_Budget", path: Path) -> dict[str, np.ndarray]:
    """The five arrays of one entry of the list, of one length, flags true at the last step only."""
    if not isinstance(values, dict):
        raise JaxdtError(f"{path}: episode {number} must be a dict of arrays; got {_describe(values)}.")
    found = field_names(key for key in values if isinstance(key, str))
    names = {ours: theirs for ours, theirs in found.items() if ours in (*LARGE, *FLAGS)}
    for name in LARGE:
        if name not in names:
            there = ", ".join(f"{key!s:.40}" for key in list(values)[:8]) or "nothing"
            raise JaxdtError(f"{path}: episode {number} has no {name}; it has {there} (add the array).")
    arrays = {ours: _numbers(values[theirs], theirs, number, budget, path) for ours, theirs in names.items()}
    flags = {name: arrays.pop(name) for name in FLAGS if name in names}
    return one_episode(arrays, flags, names, number, str(path))


def _numbers(value: Any, field: str, number: int, budget: "_Budget", path: Path) -> np.ndarray:
    where = f"{path}: {field} of episode {number}"
    try:
        array = np.asarray(_plain(value, budget))
    except TypeError as error:
        raise JaxdtError(f"{where} must be an array of numbers; it holds {error}.") from error
    except (ValueError, OverflowError) as error:
        raise JaxdtError(f"{where} must be one array; got rows of different sizes.") from error
    if array.dtype.kind not in "biuf":
        raise JaxdtError(f"{where} must be an array of numbers; got whole numbers beyond 64 bits.")
    if array.ndim == 0 or len(array) == 0:
        raise JaxdtError(f"{where} is empty; an episode needs at least one step (drop that episode).")
    return array


def _plain(value: Any, budget: "_Budget", depth: int = 8) -> Any:
    """Arrays and nested lists of numbers for `np.asarray`; strings would make it allocate without bound."""
    if isinstance(value, _Array):
        budget.spend(value.numbers().nbytes)
        return value.numbers()
    budget.spend(1)
    if isinstance(value, list | tuple) and depth:
        return [_plain(entry, budget, depth - 1) for entry in value]
    if isinstance(value, bool | int | float):
        return value
    raise TypeError(_describe(value))


def _describe(value: Any) -> str:
    if isinstance(value, list | dict) and not value:
        return f"an empty {type(value).__name__}"
    return "an array" if isinstance(value, _Array) else f"a {type(value).__name__}"


class _Budget:
    """What a file may still ask for: bytes that repeat through its references are not in it."""

    def __init__(self, size: int):
        self._left = size

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise pickle.UnpicklingError("its arrays add up to more than the file holds")


class _Dtype(Stand):
    """Stands for `numpy.dtype`, of plain numbers and truth values only."""

    def __init__(self, name: Any):
        if not isinstance(name, str) or not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", name):
            raise pickle.UnpicklingError(f"an array of dtype {brief(name)}, and only plain numbers are read")
        self.dtype = np.dtype(name)

    def set_state(self, state: Any) -> None:
        """(version, byte order, subarray, names, ...)"""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("a dtype with a state that is not NumPy's")
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("an array of several fields, and only plain numbers are read")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(Stand):
    """Stands for an array; its numbers stay the pickle's own bytes."""

    def __init__(self, budget: _Budget):
        self._budget = budget
        self._values: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        """(version, shape, dtype, in Fortran's order, bytes)"""
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array with a state that is not NumPy's")
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        if not isinstance(dtype, _Dtype) or order not in ("C", "F") or not isinstance(data, bytes | bytearray | str):
            raise pickle.UnpicklingError("an array that is not made of bytes")
        if not is_shape(shape) or math.prod(shape) * dtype.dtype.itemsize != len(data):
            shown = shape if is_shape(shape) else "that is not a few whole numbers"
            raise pickle.UnpicklingError(
                f"an array of shape {shown} and dtype {dtype.dtype} with {len(data)} bytes, which do not fit"
            )
        self._budget.spend(len(data))
        content = data.encode("latin1") if isinstance(data, str) else data  # Python 2's bytes
        values = np.frombuffer(content, np.uint8) != 0 if dtype.dtype == bool else np.frombuffer(content, dtype.dtype)
        self._values = values.reshape(shape, order=order)

    def transpose(self, axes: Any) -> "_Array":
        self._values = self.numbers().transpose(axes)
        return self

    def numbers(self) -> np.ndarray:
        if self._values is None:
            raise TypeError("an array without numbers")
        return self._values


def _stand_ins(budget: _Budget) -> dict[str, Any]:
    """What stands for the globals of arrays, by the names of NumPy 1 and 2."""
    kind = Stand()

    def reconstruct(subtype: Any, shape: Any, code: Any) -> _Array:
        del shape, code  # the state brings them
        if subtype is not kind:
            raise pickle.UnpicklingError("an array that is not numpy.ndarray")
        return _Array(budget)

    def from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
        array = _Array(budget)
        array.fill(data, dtype, shape, "C" if axes is not None else order)
        return array if axes is None else array.transpose(axes)

    def scalar(dtype: Any, data: Any) -> bool | int | float:
        array = _Array(budget)
        array.fill(data, dtype, (), "C")
        return array.numbers().item()

    made = {"numpy.ndarray": kind, "numpy.dtype": lambda name, align=False, copy=True: _Dtype(name)}
    for core in ("numpy.core", "numpy._core"):
        made[f"{core}.multiarray._reconstruct"] = reconstruct
        made[f"{core}.multiarray.scalar"] = scalar
        made[f"{core}.numeric._frombuffer"] = from_buffer
    return made
