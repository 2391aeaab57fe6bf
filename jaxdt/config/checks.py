"""Rules that the fields of a config must keep; each raises JaxdtError with the rule and the value."""

import contextlib
import dataclasses
import json
import math
import typing
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from tyro.constructors import PrimitiveConstructorSpec

from jaxdt.errors import JaxdtError
from jaxdt.types import Box, Spec


Sampling = Literal["greedy", "sample"]
"""How a discrete action is chosen: the likeliest, or one drawn from the predicted distribution."""


def _parsed(arguments: list[str]) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        value = None if arguments[0] == "None" else json.loads(arguments[0])
        if value is None or isinstance(value, dict):
            return value
    raise ValueError(f"takes a JSON object, such as '{{\"g\": 9.8}}'; got {arguments[0]!r:.80}.")


KeywordArguments = Annotated[
    dict[str, Any] | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=_parsed,
        is_instance=lambda value: value is None or isinstance(value, dict),
        str_from_instance=lambda value: ["None" if value is None else json.dumps(value)],
    ),
]
"""By name; on the command line a JSON object."""


def as_json(value: Any, name: str) -> Any:
    """What comes back from a JSON file, NumPy's numbers and arrays too; raises JaxdtError for others and no dict."""
    try:
        if value is not None and not isinstance(value, dict):
            raise TypeError(f"it is a {type(value).__name__}")
        return json.loads(json.dumps(value, allow_nan=False, default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise JaxdtError(
            f"{name} must be a dict of JSON values; got {value!r:.200} ({error}); for others give env= a function that "
            "makes the environment."
        ) from error


def as_json_or_none(value: Any, name: str) -> Any:
    """The same; None for what is no JSON, where that need not be remembered."""
    try:
        return as_json(value, name)
    except JaxdtError:
        return None


def _plain(value: Any) -> Any:
    """Of NumPy's and jax's scalars and arrays, Python's own."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return value.tolist()


def fits_float32(number: Any) -> bool:
    """Whether it is finite there too."""
    return bool(abs(number) <= float(np.finfo(np.float32).max))


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


Config = TypeVar("Config", bound=Any)


def check_same_algorithm(given: Any, trained: Any) -> None:
    if type(given) is not type(trained):
        raise JaxdtError(
            f"the weights are of {trained.name} and cannot be trained by {given.name}; choose a preset of the same "
            "algorithm."
        )


def inherited(given: Config, trained: Config, kept: tuple[str, ...], default: Config | None = None) -> Config:
    """`given` for weights that another config has trained: their fields `kept`, all others its own.

    Raises JaxdtError where `given` asks for another value of these, which is neither that of the weights nor that of
    `default`, its class's own unless it is given.
    """
    default = type(given)() if default is None else default
    for name in kept:
        mine, theirs = getattr(given, name), getattr(trained, name)
        if mine not in (None, theirs, getattr(default, name)):
            raise JaxdtError(
                f"the weights have {name}={theirs} and cannot be used with {mine}; leave it out, or take the "
                "model of the run that they are from."
            )
    return dataclasses.replace(given, **{name: getattr(trained, name) for name in kept})


def check_sampling(config: Any) -> None:
    """How actions are chosen of their distribution: the fields `sampling` and `temperature`."""
    one_of(config, "sampling", typing.get_args(Sampling))
    if not 0 < config.temperature < math.inf:
        raise JaxdtError(
            f"temperature must be above 0 and finite; got {config.temperature} (for the likeliest action use "
            "sampling='greedy')."
        )


def check_sampled_actions(config: Any, spec: Spec) -> None:
    if isinstance(spec.action, Box) and config.sampling == "sample":
        raise JaxdtError("sampling='sample' is for discrete actions; continuous ones are predicted, not drawn.")


def check_continuous_actions(config: Any, spec: Spec) -> None:
    if not isinstance(spec.action, Box):
        raise JaxdtError(
            f"{config.name} is for continuous actions, and these are {spec.action.n} discrete ones; the presets paper, "
            "bc and rvs learn them."
        )


IS_A_FUNCTION = {"function": True}
"""Metadata of a field that holds a function, which no file can: a run remembers "own", and must be given it again."""


def functions_of(config: Any) -> dict[str, Any]:
    """A config's fields of that kind."""
    return {
        field.name: getattr(config, field.name) for field in dataclasses.fields(config) if "function" in field.metadata
    }


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every choice by its name, those of configs within configs as `algorithm.model.width`."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        is_config = dataclasses.is_dataclass(value) and "function" not in field.metadata
        values |= flatten(value, f"{name}.") if is_config else {name: value}
    return values


def check_normalization(spec: Spec) -> None:
    """Raises JaxdtError where a spec has no mean and standard deviation of its observations to normalise them by."""
    for name in ("state_mean", "state_std"):
        values = spec.constants.get(name)
        if values is None:
            raise JaxdtError(f"spec.constants has no {name}; measure it on the training data.")
        if values.shape != spec.observation_shape:
            raise JaxdtError(
                f"spec.constants.{name} has shape {values.shape} and should have that of an observation, "
                f"{spec.observation_shape}."
            )
        if not np.isfinite(values).all():
            raise JaxdtError(f"spec.constants.{name} has numbers that are not finite.")
    if not (spec.constants["state_std"] > 0).all():
        raise JaxdtError("spec.constants.state_std must be above 0 everywhere.")
