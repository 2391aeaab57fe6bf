"""A config as JSON and back, checked as a file from anywhere must be."""

import dataclasses
import typing
from typing import Any, Literal

from jaxdt.config import TrainConfig
from jaxdt.errors import JaxdtError


def config_to_json(config: TrainConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)


def config_from_json(values: Any) -> TrainConfig:
    """The configuration that `config_to_json` wrote; raises JaxdtError on unknown or mistyped fields."""
    return _from_json(TrainConfig, values, "config")


def _from_json(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise JaxdtError(f"{where} must be a JSON object; got {type(values).__name__}.")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise JaxdtError(f"{where} has the unknown field {unknown[0]!r}; it was written by another version.")
    return kind(**{name: _value_from_json(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _value_from_json(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _from_json(typing.cast(type, hint), value, where)
    allowed = {typing.get_origin(part) or part for part in typing.get_args(hint) or (hint,)}
    if tuple in allowed or typing.get_origin(hint) is tuple:
        if value is None and type(None) in allowed:
            return None
        if isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            return tuple(float(v) for v in value)
        raise JaxdtError(f"{where} must be a list of numbers; got {value!r:.80}.")
    if typing.get_origin(hint) is Literal:
        allowed = {str}
    if float in allowed and type(value) is int:
        return float(value)
    if type(value) in allowed:
        return value
    raise JaxdtError(f"{where} has the wrong type; got {value!r:.80}.")
