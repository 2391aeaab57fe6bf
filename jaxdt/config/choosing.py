"""A preset with values of one's own."""

import dataclasses
from typing import Any

from jaxdt.config.checks import flatten
from jaxdt.config.presets import PRESETS
from jaxdt.config.run import TrainConfig
from jaxdt.errors import JaxdtError, did_you_mean


def preset(name: str, /, **changes: Any) -> TrainConfig:
    """A preset with other values, each by the name that it has at the command: `preset("demo", learning_rate=3e-4)`.

    Values of the method, its model and its optimiser are given like those of the run. Of `steps` and `passes` one that
    is given takes the place of the other. Raises JaxdtError for a preset or a name that is not there.
    """
    if name not in PRESETS:
        near = did_you_mean(str(name), PRESETS)
        raise JaxdtError(f"{name!r} is no preset{near}; choose one of {', '.join(PRESETS)}.")
    for given, other in (("steps", "passes"), ("passes", "steps")):
        if changes.get(given) is not None and other not in changes:
            changes = {**changes, other: None}
    config, unknown = _changed(PRESETS[name], changes)
    if unknown:
        known = [each.split(".")[-1] for each in flatten(config)]
        wrong = next(iter(unknown))
        raise JaxdtError(f"the preset {name} has no {wrong!r}{did_you_mean(wrong, known)}.")
    return config


def _changed(config: Any, changes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The config and those within it with the changes that are theirs, and the changes that are nobody's."""
    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values = {name: value for name, value in changes.items() if name in own}
    rest = {name: value for name, value in changes.items() if name not in own}
    for name, value in own.items():
        if dataclasses.is_dataclass(value) and name not in values:
            values[name], rest = _changed(value, rest)
    return dataclasses.replace(config, **values), rest
