"""A command's arguments: tyro reads them, and what it refuses is said in one sentence, as all else is."""

import contextlib
import decimal
import functools
import io
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from jaxdt.errors import JaxdtError, did_you_mean


def parse(kind: type, arguments: list[str], prog: str, default: Any = None) -> Any:
    """A dataclass of arguments. Raises JaxdtError for what cannot be read, SystemExit where help was asked for."""
    options: dict[str, Any] = {"args": arguments, "prog": prog, "registry": _REGISTRY}
    if default is not None:
        options["default"] = default
    if {"-h", "--help"} & set(arguments):
        return tyro.cli(kind, **options)
    told, complaint = io.StringIO(), io.StringIO()  # not the terminal, for which it would paint and draw
    try:
        with _wide(), contextlib.redirect_stdout(told), contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(kind, **options)
    except SystemExit as exit:
        print(told.getvalue(), end="")
        if not exit.code:
            raise
        raise JaxdtError(_in_one_sentence(complaint.getvalue(), prog)) from None
    sys.stderr.write(complaint.getvalue())  # warnings
    return parsed


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """Lines so long that tyro breaks no word of what it complains of."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _in_one_sentence(complaint: str, prog: str) -> str:
    """What tyro writes: a title above a rule, what is wrong, and below another rule what may help."""
    lines = [line.rstrip() for line in complaint.splitlines()[2:]]
    end = next((i for i, line in enumerate(lines) if re.fullmatch(" *-+", line)), len(lines))
    said, rest = " ".join(" ".join(lines[:end]).split()), "\n".join(lines[end:])
    if unknown := re.match(r"Unrecognized options: (\S+?)(?:,|$)", said):
        near = re.search(r"Perhaps you meant:\s+(--[\w-]+)", rest)
        meant = f" (did you mean {near[1]}?)" if near and unknown[1].startswith("-") else ""
        return f"{prog} takes no {unknown[1]!r}{meant}; {prog} --help explains what it takes."
    if said.startswith("Missing from"):
        needed = [line.strip() for line in lines[1:end] if re.match(r" {6}\S", line)]
        return f"{prog} needs {' and '.join(needed)}; {prog} --help explains them."
    if missing := re.match(r"Missing value for argument '(.+?)'", said):
        return f"{missing[1]} needs a value; {prog} --help explains it."
    said = re.sub(r"^Error parsing (--[\w-]+)\S*: takes ", r"\1 takes ", said)
    return re.sub(r"^Error parsing (?:(--[\w-]+: )|[^:]*: )", r"\1", said)  # others are of a whole config


class _Reading(NamedTuple):
    """How values of a type are read from words."""

    metavar: str
    what: str
    read: Callable[[list[str]], Any]
    """Raises ValueError."""
    takes_many: bool = False
    choices: tuple[str, ...] = ()


def _reading(hint: Any) -> _Reading | None:
    """None for a type that is left to tyro."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint in _READINGS:
        return _READINGS[hint]
    if origin is Literal and all(isinstance(choice, str) for choice in parts):
        return _one_of({choice: choice for choice in parts})
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        each = _reading(parts[0])
        if each is None or each.takes_many:
            return None
        several = re.sub("^an? ", "", each.what) + "s, separated by spaces"
        return _Reading(f"{each.metavar} ...", several, lambda words: tuple(each.read([word]) for word in words), True)
    if origin in (types.UnionType, typing.Union):
        known = [_BOOL if part is bool else _reading(part) for part in parts if part is not type(None)]
        if None not in known:
            return _either([each for each in known if each is not None], optional=type(None) in parts)
    return None


def _reads(reading: _Reading, words: list[str]) -> bool:
    try:
        return bool(words and reading.read(words))
    except ValueError:
        return False


def _one_of(values: dict[str, Any]) -> _Reading:
    def read(words: list[str]) -> Any:
        if words[0] not in values:
            raise ValueError
        return values[words[0]]

    *others, last = values
    what = f"{', '.join(others)} or {last}" if others else last
    return _Reading(f"{{{','.join(values)}}}", what, read, choices=tuple(values))


def _either(readings: list[_Reading], *, optional: bool) -> _Reading:
    def read(words: list[str]) -> Any:
        if optional and words == ["None"]:
            return None
        for reading in readings:
            if reading.takes_many or len(words) == 1:
                with contextlib.suppress(ValueError):
                    return reading.read(words)
        raise ValueError

    return _Reading(
        "|".join(reading.metavar for reading in readings),
        ", or ".join(reading.what for reading in readings),
        read,
        any(reading.takes_many for reading in readings),
        tuple(choice for reading in readings for choice in reading.choices),
    )


def _whole(words: list[str]) -> int:
    """1e5 is 100000."""
    if not re.fullmatch(r"\d+(\.\d+)?e\+?\d{1,2}", words[0], re.IGNORECASE):
        return int(words[0])
    number = decimal.Decimal(words[0])
    if number != number.to_integral_value():
        raise ValueError
    return int(number)


_BOOL = _one_of({"True": True, "False": False})
_READINGS = {
    int: _Reading("INT", "a whole number", _whole),
    float: _Reading("FLOAT", "a number", lambda words: float(words[0])),
    str: _Reading("TEXT", "a text", lambda words: words[0]),
    Path: _Reading("PATH", "a path", lambda words: Path(words[0])),
}
_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    return _rule_of(info.type, str(info.type))


@functools.cache
def _rule_of(hint: Any, written: str) -> PrimitiveConstructorSpec | None:
    """Made once, for tyro asks again and again; `written`, since a union equals that of another order."""
    del written
    reading = _reading(hint)
    if reading is None:
        return None

    def read(words: list[str]) -> Any:
        try:
            return reading.read(words)
        except ValueError as error:
            advice = did_you_mean(" ".join(words), reading.choices)
            if reading.takes_many and _reads(reading, words[:-1]):
                advice = f" (if {words[-1]!r:.80} is a run, put it first)"
            raise ValueError(f"takes {reading.what}; got {' '.join(words)!r:.200}{advice}.") from error

    return PrimitiveConstructorSpec(
        nargs="*" if reading.takes_many else 1,
        metavar=reading.metavar,
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(each) for each in (value if isinstance(value, tuple) else (value,))],
    )
