"""Mutants of bytes and of JSON, and the process of its own that loads them."""

import copy
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from hypothesis import strategies as st


ROOT = Path(__file__).parents[1]
TRIPWIRE = "fuzz_tripwire"
"""The name of all that a payload would run or import: a worker that meets it as code has failed."""

_PATIENCE = 60.0
"""Seconds for an answer; the worker ends itself after 5 s of computing, this is for one that waits for ever."""


class Worker:
    """A process that loads one mutant after the other, and is started again when one has ended it.

    `valid`: kinds and paths that it loads at first, so that no mutant pays for what is imported and compiled once.
    """

    def __init__(self, home: Path, valid: Sequence[tuple[str, Path]]):
        self._home, self._valid = home, valid
        self._process: subprocess.Popen | None = None

    def load(self, kind: str, path: Path, *, limited: bool = True) -> tuple[str, str]:
        """`loaded`, `refused` or `failed`, and why."""
        request = {"kind": kind, "path": str(path), "limited": limited}
        process = self._running()
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            answered = selector.select(_PATIENCE)
        if line := process.stdout.readline() if answered else b"":
            return tuple(json.loads(line))
        process.kill()
        code = self._ended()
        if not answered:
            why = f"it did not answer within {_PATIENCE:.0f} s"
        else:
            why = "it computed for more than 5 s" if code == -signal.SIGXCPU else f"it crashed with code {code}"
        return "failed", f"{why}\n{self._errors.read_text(errors='replace')[-2000:]}"

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._ended()

    @property
    def _errors(self) -> Path:
        return self._home / "errors.txt"

    def _running(self) -> subprocess.Popen:
        if self._process is None:
            environment = {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", "HOME": str(self._home)}
            offline = {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
            cache = {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
            cache |= {
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            }
            with open(self._errors, "wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.fuzz_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=ROOT,
                    env={**os.environ, **environment, **offline, **cache},
                )
            for kind, path in self._valid:
                outcome, why = self.load(kind, path, limited=False)
                assert outcome == "loaded", f"{path}: {why}"
        return self._process

    def _ended(self) -> int:
        process, self._process = self._process, None
        code = process.wait()
        process.stdin.close()
        process.stdout.close()
        return code


# ---- bytes

_PLACE = st.integers(0, 2**16 - 1)
_LENGTH = st.integers(1, 64)
_ORDER = st.sampled_from(["little", "big"])
_NUMBERS = (0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63)
_COUNTS = (0, 1, 2, 3, 6, 8, 64, 255, 2**16, 2**20, 2**24, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -1)

EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), _PLACE, st.integers(0, 7)),
        st.tuples(st.just("overwrite"), _PLACE, st.binary(min_size=1, max_size=16)),
        st.tuples(st.just("number"), _PLACE, st.sampled_from(_NUMBERS), st.sampled_from([1, 2, 4, 8]), _ORDER),
        st.tuples(st.just("count"), _PLACE, st.sampled_from(_COUNTS), st.sampled_from([4, 8])),
        st.tuples(st.just("cut"), _PLACE),
        st.tuples(st.just("remove"), _PLACE, _LENGTH),
        st.tuples(st.just("insert"), _PLACE, st.binary(min_size=1, max_size=16)),
        st.tuples(st.just("repeat"), _PLACE, _LENGTH, st.sampled_from([1, 2, 100])),
        st.tuples(st.just("splice"), _PLACE, _PLACE, _LENGTH),
    ),
    min_size=1,
    max_size=3,
)
"""Changes of bytes, each with its place as a fraction of 2**16."""


def mutated(content: bytes, edits: Sequence[tuple], other: bytes) -> bytes:
    """`content` after the edits in order; a splice brings bytes of `other`."""
    for edit in edits:
        start = edit[1] * len(content) >> 16
        content = b"".join(_edited(content, other, start, edit))
    return content


def _edited(content: bytes, other: bytes, start: int, edit: tuple) -> Iterator[bytes]:
    match edit:
        case ("flip", _, bit):
            flipped = bytes([content[start] ^ 1 << bit]) if content else b""
            yield from (content[:start], flipped, content[start + 1 :])
        case ("overwrite", _, new):
            yield from (content[:start], new, content[start + len(new) :])
        case ("number", _, value, width, order):
            start -= start % width
            yield from (content[:start], _bytes(value, width, order), content[start + width :])
        case ("count", place, value, width):
            start = _place_of_a_count(content, place, width)
            yield from (content[:start], _bytes(value, width, "little"), content[start + width :])
        case ("cut", _):
            yield content[:start]
        case ("remove", _, length):
            yield from (content[:start], content[start + length :])
        case ("insert", _, new):
            yield from (content[:start], new, content[start:])
        case ("repeat", _, length, times):
            yield from (content[:start], content[start : start + length] * times, content[start:])
        case ("splice", _, place, length):
            source = place * len(other) >> 16
            yield from (content[:start], other[source : source + length], content[start + length :])


def _bytes(value: int, width: int, order: Literal["little", "big"]) -> bytes:
    return (value % 2 ** (8 * width)).to_bytes(width, order)


def _place_of_a_count(content: bytes, place: int, width: int) -> int:
    """One of the places where a small number stands: most say how many or how long."""
    values = np.zeros(max(len(content) - width + 1, 0), np.uint64)
    for i in range(width):
        digits = np.frombuffer(content, np.uint8)[i : len(values) + i]
        values += digits.astype(np.uint64) << np.uint64(8 * i)
    places = np.flatnonzero((values > 0) & (values < 2**20))
    return int(places[place * len(places) >> 16]) if len(places) else 0


# ---- JSON

_DEPTHS = (50, 101, 900, 960, 100_000)
_VALUES = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, -1.5, 1e-320, 1e308, 1e400),
    *(float("nan"), "", "0", "x", "../pipe", "/etc/passwd", "a\0b", "a\nb", "\x1b[2J", "\ud800", "x" * 5000),
    *(f"{TRIPWIRE}:Env-v0", [], {}, [None], ["x"], [[1.0]], [0.0] * 5, [1e39] * 5, [3e38] * 3, [1.0] * 3, [-1.0] * 5),
    *({"id": 3}, {"x": {}}, *(f"@{depth} {bracket}" for depth in _DEPTHS for bracket in "[{")),
)

JSON_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "set", "delete", "rename", "add"]),
        _PLACE,
        st.integers(0, len(_VALUES) - 1).map(lambda i: (7 * i) % len(_VALUES)),
    ),
    min_size=1,
    max_size=3,
)


def mutated_json(text: str, edits: Sequence[tuple[str, int, int]]) -> str:
    """A JSON document with some of its values replaced, removed, renamed or added to."""
    root = [json.loads(text)]
    for name, place, which in edits:
        spots = list(_spots(root))
        holder, key = spots[place * len(spots) >> 16]
        value = copy.deepcopy(_VALUES[which])
        if name == "set" or holder is root:
            holder[key] = value
        elif name == "delete":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, value)
        elif name == "rename":
            holder[value if isinstance(value, str) else "x"] = holder.pop(key)
        else:
            holder["x"] = value
    text = json.dumps(root[0])
    for depth in _DEPTHS:
        text = text.replace(f'"@{depth} ["', "[" * depth + "]" * depth)
        text = text.replace(f'"@{depth} {{"', '{"x":' * depth + "1" + "}" * depth)
    return text


def _spots(holder: list | dict) -> Iterator[tuple[Any, Any]]:
    for key in range(len(holder)) if isinstance(holder, list) else list(holder):
        yield holder, key
        if isinstance(holder[key], list | dict):
            yield from _spots(holder[key])
