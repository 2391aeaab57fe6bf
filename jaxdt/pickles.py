"""Pickles read as data: plain containers, numbers, strings and what the caller allows by name; nothing is run.

A pickle is a program. This reader executes only the part of its instructions that builds values, looks names up
in a table of ours instead of importing them, and calls nothing but the entries of that table.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jaxdt.errors import JaxdtError, one_line


class Stand:
    """An object of ours that stands for one that the pickle describes; it alone may be given a state."""

    def set_state(self, state: Any) -> None:
        """The argument of the pickle's BUILD."""
        raise pickle.UnpicklingError(f"a state for {type(self).__name__}")


def read_pickle(
    file: io.BufferedIOBase,
    size: int,
    allowed: Mapping[str, Any],
    *,
    source: str,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The value that a pickle of `size` bytes holds.

    - `allowed`: what stands for a global, by its name `module.attribute`; a callable must return plain values or a
      Stand and check its arguments. `collections.OrderedDict` and old pickles' bytes are always there.
    - `persistent`: what stands for a persistent id (PyTorch's storages).

    Raises JaxdtError naming the source, and the global where one is asked for that is not allowed.
    """
    reader = _Reader(_Bounded(file, size), {**_always(4 * size), **allowed}, persistent)
    try:
        return reader.load()
    except _Refused as error:
        raise JaxdtError(
            f"{source} asks to run {error}, which a file of data never needs; it was not run. Do not trust this file."
        ) from error
    except Exception as error:  # damaged bytes raise nearly every kind there is
        reason = one_line(error)
        raise JaxdtError(f"{source} is not a readable pickle: {reason:.200}; copy or make it again.") from error


class _Refused(pickle.UnpicklingError):
    """Names what was asked for."""


class _Bounded(io.RawIOBase):
    """A file that never reads, nor allocates, beyond its size."""

    def __init__(self, file: io.BufferedIOBase, size: int):
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size > self._left:
            raise EOFError(f"it ends {size - self._left} bytes early")
        data = self._file.read(self._left if size < 0 else size)
        self._left -= len(data)
        return data

    def readline(self, size: int | None = -1) -> bytes:
        del size
        data = self._file.readline(self._left)
        self._left -= len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _OrderedDict(OrderedDict, Stand):
    def set_state(self, state: Any) -> None:
        """PyTorch hangs version numbers on it; they are not needed."""


def brief(value: Any) -> str:
    """A value of a pickle in a message: shown if it is small and simple, else its type; nested ones can be endless."""
    if isinstance(value, str | bytes | int | float | None):
        return f"{value!r:.60}"
    return f"a {type(value).__name__}"


def is_shape(value: Any) -> bool:
    """Whether it is a tuple of at most 64 whole numbers below 2**63, which can be multiplied without harm."""
    return (
        isinstance(value, tuple) and len(value) <= 64 and all(type(size) is int and 0 <= size < 2**63 for size in value)
    )


def _scalar(key: Any) -> Any:
    """A key of a dict or a set: a tuple would be hashed all the way down, and many large integers can share a hash."""
    if not isinstance(key, str | bytes | int | float | None) or (isinstance(key, int) and abs(key) >= 2**60):
        raise pickle.UnpicklingError(f"a {type(key).__name__} as a key")
    return key


def _always(room: int) -> dict[str, Any]:
    """What every pickle may ask for; their copies are of `room` bytes at most, however often they are repeated."""

    def spend(size: int) -> None:
        nonlocal room
        room -= size
        if room < 0:
            raise pickle.UnpicklingError("what it repeats adds up to more than it holds")

    def ordered_dict(pairs: Any = ()) -> OrderedDict:
        spend(16 * len(pairs))
        made = _OrderedDict()
        for name, value in pairs.items() if isinstance(pairs, dict) else pairs:
            made[_scalar(name)] = value
        return made

    def encode(text: str, encoding: str) -> bytes:
        """How protocols below 3 write bytes."""
        if encoding != "latin1" or not isinstance(text, str):
            raise _Refused(f"the encoding {brief(encoding)}")
        spend(len(text))
        return text.encode("latin1")

    return {"collections.OrderedDict": ordered_dict, "_codecs.encode": encode}


class _Reader(pickle._Unpickler):  # type: ignore[name-defined] # the Python one: the C one allocates what it is told to
    stack: list[Any]
    memo: dict[Any, Any]
    append: Any
    read: Any
    readline: Any
    pop_mark: Any
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: _Bounded, allowed: Mapping[str, Any], persistent: Callable[[Any], Any] | None):
        super().__init__(file, fix_imports=True, encoding="latin1")
        self._allowed = allowed
        self._callables = {id(value) for value in allowed.values() if callable(value)}
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path not in self._allowed:
            raise _Refused(path)
        return self._allowed[path]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise _Refused("a persistent id")
        return self._persistent(pid)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if id(function) not in self._callables or not isinstance(arguments, tuple):
            raise _Refused(f"a value of {type(function).__name__}")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Stand):
            raise _Refused(f"a state for {type(self.stack[-1]).__name__}")
        self.stack[-1].set_state(state)

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")  # the parent's version allocates before it reads
        self.append(bytearray(self.read(size)))

    def load_put(self) -> None:
        self.memo[_scalar(int(self.readline()))] = self.stack[-1]

    def load_append(self) -> None:
        value = self.stack.pop()
        self._container(list).append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        self._container(list).extend(values)

    def _container(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise _Refused(f"an addition to {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._container(dict)[_scalar(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._container(dict).update(zip(map(_scalar, items[::2]), items[1::2], strict=True))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(zip(map(_scalar, items[::2]), items[1::2], strict=True)))

    def load_additems(self) -> None:
        items = self.pop_mark()
        self._container(set).update(map(_scalar, items))

    def load_frozenset(self) -> None:
        self.append(frozenset(map(_scalar, self.pop_mark())))

    def load_long4(self) -> None:
        size = int.from_bytes(self.read(4), "little", signed=True)
        if not 0 <= size <= 255:
            raise pickle.UnpicklingError(f"a whole number of {size} bytes")
        self.append(pickle.decode_long(self.read(size)))

    def _refuse(self) -> None:
        raise _Refused("an instruction that calls a class")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.PUT[0]] = load_put
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.LONG4[0]] = load_long4
    for _code in (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    ):
        dispatch[_code[0]] = _refuse
