"""Rules that the fields of a config must keep; each raises JaxdtError with the rule and the value."""

from typing import Any

from jaxdt.errors import JaxdtError


def at_least(config: Any, name: str, least: int) -> None:
    value = getattr(config, name)
    if value < least:
        raise JaxdtError(f"{name} must be at least {least}; got {value}.")


def at_most(config: Any, name: str, most: int) -> None:
    value = getattr(config, name)
    if value is not None and value > most:
        raise JaxdtError(f"{name} must be at most {most}; got {value!s:.20}.")


def within(config: Any, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    if not low <= value < high:
        raise JaxdtError(f"{name} must be at least {low:.12g} and below {high:.12g}; got {value}.")


def one_of(config: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise JaxdtError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")
