"""What every command needs: parsing, and a line that names the device."""

import dataclasses
import decimal
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from jaxdt import __version__
from jaxdt.files import private_cache


def parse(kind: type, arguments: list[str], prog: str, default: Any = None) -> Any:
    extra = {} if default is None else {"default": default}
    return tyro.cli(kind, args=_with_plain_numbers(kind, arguments), prog=prog, **extra)


def _with_plain_numbers(kind: type, arguments: list[str]) -> list[str]:
    """`--steps 1e5` as `--steps 100000`, for the flags that take whole numbers."""
    whole = {f"--{name.replace('_', '-')}": several for name, several in _whole_numbers(kind)}
    plain, flag, values = [], "", 0
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            flag, values = name.replace("_", "-"), 0
        values += 1 if equals or not name.startswith("--") else 0
        value = value if equals else argument
        is_its_own = flag in whole and (values == 1 or whole[flag])
        if is_its_own and re.fullmatch(r"\d+(\.\d+)?e\+?\d{1,2}", value, re.IGNORECASE):
            number = decimal.Decimal(value)
            if number == number.to_integral_value():
                argument = f"{name}=" * bool(equals) + str(int(number))
        plain.append(argument)
    return plain


def _whole_numbers(hint: Any) -> Iterator[tuple[str, bool]]:
    """The fields of a config, and of those within it, that hold whole numbers, and whether they hold several."""
    if not dataclasses.is_dataclass(hint):
        for part in typing.get_args(hint):
            yield from _whole_numbers(part)
        return
    for name, inner in typing.get_type_hints(hint).items():
        if inner in (int, int | None, tuple[int, ...], tuple[int, ...] | None):
            yield name, inner not in (int, int | None)
        yield from _whole_numbers(inner)


def keep_compiled_programs() -> None:
    """Later starts of the command find what this one compiles, where JAX has not been told of a cache already.

    JAX runs what lies in its cache, so that is a directory which nobody else may write to. Evaluation in Gymnasium
    is compiled at each start: JAX keeps no programs with host callbacks.
    """
    import jax

    directory = private_cache("compiled")
    if jax.config.jax_compilation_cache_dir is None and directory is not None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many small programs take long, too


def device_line() -> str:
    """One line naming the device, and a second one when a GPU is there that jax cannot use."""
    import jax

    kind = jax.devices()[0].device_kind
    line = f"jaxdt {__version__}, jax {jax.__version__} on {jax.device_count()} x {kind} ({jax.default_backend()})"
    if jax.default_backend() == "cpu" and any(Path("/dev").glob("nvidia[0-9]*")):
        line += "\nwarning: this machine has an NVIDIA GPU that jax cannot use; pip install 'jaxdt[cuda]'"
    return line
