"""A config as JSON and back, checked as a file from anywhere must be."""

import dataclasses
import typing
from typing import Any, Literal

from jaxdt.config import AlgorithmConfig, Finetuning, TrainConfig, functions_of
from jaxdt.errors import JaxdtError, VersionError


def config_to_json(config: TrainConfig) -> dict[str, Any]:
    """Functions, which no file can hold, as "own"."""
    functions = {name: "own" for name, value in functions_of(config.algorithm).items() if value is not None}
    algorithm = dataclasses.replace(config.algorithm, **functions)
    values = dataclasses.asdict(dataclasses.replace(config, algorithm=algorithm))
    return {**values, "algorithm": {"name": algorithm.name, **values["algorithm"]}}


def config_from_json(values: Any) -> TrainConfig:
    """The configuration that `config_to_json` wrote; raises JaxdtError on unknown or mistyped fields."""
    return _from_json(TrainConfig, values, "config")


def finetuning_from_json(values: Any) -> Finetuning | None:
    """What `dataclasses.asdict` made of one; raises JaxdtError on unknown or mistyped fields."""
    return None if values is None else _from_json(Finetuning, values, "finetuning")


def _from_json(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise JaxdtError(f"{where} must be a JSON object; got {type(values).__name__}.")
    hints = typing.get_type_hints(kind)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise VersionError(f"{where} has the unknown field {unknown[0]!r}; it was written by another version.")
    return kind(**{name: _value_from_json(fields[name], value, f"{where}.{name}") for name, value in values.items()})


def _value_from_json(hint: Any, value: Any, where: str) -> Any:
    if hint == AlgorithmConfig:
        return _algorithm_from_json(value, where)
    if dataclasses.is_dataclass(hint):
        return _from_json(typing.cast(type, hint), value, where)
    allowed = {typing.get_origin(part) or part for part in typing.get_args(hint) or (hint,)}
    words = {
        word for part in typing.get_args(hint) if typing.get_origin(part) is Literal for word in typing.get_args(part)
    }
    if isinstance(value, str) and value in words:
        return value
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


def _algorithm_from_json(values: Any, where: str) -> AlgorithmConfig:
    """By the name that it bears, one of those that this version knows."""
    if not isinstance(values, dict):
        raise JaxdtError(f"{where} must be a JSON object; got {type(values).__name__}.")
    known = {kind.name: kind for kind in typing.get_args(AlgorithmConfig)}
    name = values.get("name")
    if not isinstance(name, str) or name not in known:
        raise VersionError(
            f"{where} is {name!r:.40}, which this version does not know (it knows {', '.join(known)}); use the version "
            "that wrote it, or a newer one."
        )
    return _from_json(known[name], {field: value for field, value in values.items() if field != "name"}, where)
