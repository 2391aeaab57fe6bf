"""A store on one line, and as a table."""

from typing import TYPE_CHECKING

from jaxdt.tables import html_table
from jaxdt.types import Discrete


if TYPE_CHECKING:
    from jaxdt.data.episodes import EpisodeStore  # which shows itself so


def line(store: "EpisodeStore") -> str:
    actions = "discrete actions" if store.is_discrete else f"actions {store.actions.shape[1:]}"
    environment = "" if store.env_id is None else f", {store.env_id}"
    return (
        f"EpisodeStore({store.num_episodes} episodes, {store.num_steps} steps, observations "
        f"{store.observations.shape[1:]}, {actions}, return {store.returns.mean():g} ± {store.returns.std():g}"
        f"{environment})"
    )


def table(store: "EpisodeStore") -> str:
    """For notebooks."""
    returns, lengths, action = store.returns, store.lengths, store.spec.action
    rows = {
        "episodes": f"{store.num_episodes:,}",
        "steps": f"{store.num_steps:,}",
        "observations": f"{store.observations.shape[1:]} {store.observations.dtype}",
        "actions": f"{action.n} discrete" if isinstance(action, Discrete) else f"{store.actions.shape[1:]}",
        "return": f"{returns.mean():g} ± {returns.std():g}, from {returns.min():g} to {returns.max():g}",
        "length": f"{lengths.mean():g}, from {lengths.min()} to {lengths.max()}",
        "environment": store.env_id or "not named",
    }
    return html_table([], rows.items())
