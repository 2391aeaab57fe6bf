"""How a policy acts, chosen anew when its weights are there."""

import dataclasses
from typing import Any, TypeVar

from jaxdt.config.checks import functions_of
from jaxdt.errors import JaxdtError, did_you_mean


Config = TypeVar("Config", bound=Any)


def with_acting_options(config: Config, **options: Any) -> Config:
    """The config with the options that are not None; raises JaxdtError for one that it cannot have.

    That is one that its algorithm does not have, or that changes nothing beside the others.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in (*config.acting_options, *functions_of(config)):
            raise JaxdtError(
                f"{config.name} has no acting option {name}{did_you_mean(name, config.acting_options)}; it has "
                f"{', '.join(config.acting_options) or 'none'}."
            )
    chosen = dataclasses.replace(config, **given)
    for name in ("temperature", "top_k"):
        if given.get(name) and not chosen.draws_actions:
            raise JaxdtError(
                f"{name}={given[name]} changes nothing with sampling='greedy'; leave it out, or add sampling='sample' "
                "(--sampling sample) where actions are discrete or the method predicts a distribution."
            )
    for drawn in ("action", "observation"):
        if f"{drawn}_nucleus" in given and getattr(chosen, f"{drawn}_top_k") == 1 and given[f"{drawn}_nucleus"] != 1:
            raise JaxdtError(
                f"{drawn}_nucleus={given[f'{drawn}_nucleus']} changes nothing with {drawn}_top_k=1, which takes the "
                f"likeliest; add {drawn}_top_k=0, or leave it out."
            )
    return chosen
