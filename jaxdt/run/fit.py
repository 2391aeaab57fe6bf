"""Whether data, trained weights and an environment speak of the same observations and actions."""

import numpy as np

from jaxdt.errors import JaxdtError
from jaxdt.types import Box, Discrete, Spec


def check_fit(spec: Spec, of: str, other: Spec, of_other: str) -> None:
    """Raises JaxdtError where the spaces of two specs differ; `of` and `of_other` name them: "the data", an id."""
    for what, mine, theirs in (
        ("observations", spec.observation_shape, other.observation_shape),
        ("actions", spec.action_shape, other.action_shape),
    ):
        if mine != theirs and mine and theirs:
            raise JaxdtError(
                f"the {what} of {of} have {_size(mine)} numbers, those of {of_other} {_size(theirs)}; "
                "choose the environment that the data were recorded in, and its keyword arguments with --env-kwargs "
                "(env_kwargs=)."
            )
    kinds = [np.dtype(each.observation_dtype).kind == "f" for each in (spec, other)]
    if len(spec.observation_shape) > 1 and kinds[0] != kinds[1]:
        raise JaxdtError(
            f"the pictures of {of} are {spec.observation_dtype}, those of {of_other} {other.observation_dtype}; give "
            "them as the environment does: whole numbers, or floats."
        )
    if isinstance(spec.action, Box) != isinstance(other.action, Box) or (
        isinstance(spec.action, Discrete) and spec.action != other.action
    ):
        raise JaxdtError(
            f"the actions of {of} are {describe_actions(spec)}, those of {of_other} {describe_actions(other)}; choose "
            "the environment that the data were recorded in."
        )


def describe_actions(spec: Spec) -> str:
    """For people: how many numbers, or which whole numbers."""
    if isinstance(spec.action, Box):
        return f"vectors of {len(spec.action.low)} numbers"
    return f"whole numbers from {spec.action.start} to {spec.action.start + spec.action.n - 1}"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
