"""What people give for numbers and paths, as Python's own: NumPy's scalars and arrays, whole floats, lists, paths."""

import dataclasses
import difflib
import functools
import inspect
import operator
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from jaxdt.config.texts import FieldTexts
from jaxdt.errors import JaxdtError


def whole(value: Any, name: str) -> int:
    """A whole number of any kind; raises JaxdtError for another one."""
    plain = value.item() if getattr(value, "shape", None) in ((), (1,)) else value  # NumPy's and jax's
    try:
        found = int(plain) if isinstance(plain, float) else operator.index(plain)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or isinstance(plain, bool) or found != plain:
        raise JaxdtError(f"{name} must be a whole number; got {value!r:.80}.")
    return found


def number(value: Any, name: str) -> float:
    """A number of any kind; raises JaxdtError for another thing, and for what is not a number (NaN is)."""
    if isinstance(value, str | bytes | bool) or getattr(value, "shape", ()) not in ((), (1,)):
        raise JaxdtError(f"{name} must be a number; got {value!r:.80}.")
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, OverflowError) as error:
        raise JaxdtError(f"{name} must be a number; got {value!r:.80}.") from error


def numbers(value: Any, name: str) -> tuple[float, ...]:
    """One or more numbers, given as one, or as a list, a tuple or an array of them."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str | bytes | dict) or not hasattr(value, "__iter__"):
        return (number(value, name),)
    return tuple(number(each, name) for each in value)


def take_plain_values(kind: Any, moved: Mapping[str, str]) -> None:
    """Lets a config dataclass be made of such values; what its fields cannot hold, or do not name, is a JaxdtError.

    `moved`: fields that it once had, and what to write instead.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}
    init = kind.__init__

    @functools.wraps(init)
    def checked(self, **values):
        for name in sorted(values.keys() - fields.keys()):
            if name in moved:
                raise JaxdtError(f"{kind.__name__} has no {name} of its own any more; write {moved[name]}.")
            near = ", ".join(difflib.get_close_matches(name, fields, 3) or fields)
            raise JaxdtError(f"{kind.__name__} has no {name}; it has {near}.")
        init(self, **{name: _as_declared(value, fields[name], name) for name, value in values.items()})

    shown = inspect.signature(init)  # its types as they are written, without what the command adds to them
    parameters = [each.replace(annotation=hints.get(name, each.annotation)) for name, each in shown.parameters.items()]
    kind.__init__ = checked
    vars(checked)["__signature__"] = shown.replace(parameters=parameters)
    kind.__doc__ = FieldTexts(kind.__doc__)


def _as_declared(value: Any, hint: Any, name: str) -> Any:
    if type(value) is hint:  # most are
        return value
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [typing.get_origin(part) or part for part in parts]
    classes = tuple(kind for kind in kinds if isinstance(kind, type))
    if (value is None and type(None) in kinds) or (Literal in kinds and isinstance(value, str)):
        return value
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        if bool in kinds:
            return bool(value)
    elif Callable in kinds and callable(value):
        return value
    elif dict in kinds and isinstance(value, Mapping):
        return dict(value)
    elif tuple in kinds:
        return numbers(value, name)
    elif int in kinds:
        return whole(value, name)
    elif float in kinds:
        return number(value, name)
    elif str in kinds and isinstance(value, str | os.PathLike):
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    elif any(map(dataclasses.is_dataclass, classes)) and isinstance(value, classes):
        return value
    wanted = " or ".join("None" if each is type(None) else getattr(each, "__name__", str(each)) for each in kinds)
    hint = " (episodes themselves are given to train: train(config, episodes))" if name == "dataset" else ""
    raise JaxdtError(f"{name} must be {wanted}; got {value!r:.80}{hint}.")
