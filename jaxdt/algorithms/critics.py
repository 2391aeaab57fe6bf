"""Two value functions of states and actions, of which the smaller value is believed."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdt.models import build_mlp
from jaxdt.types import Spec


Values = Callable[[PyTree[Array], Float[Array, "b *s"], Float[Array, "b a"]], Float[Array, "two b"]]


def build_critics(
    spec: Spec, *, width: int, num_layers: int, gains: tuple[float, float] | None = None
) -> tuple[Callable[[PRNGKeyArray], Any], Values]:
    """`init(key) -> params` of both, and `values(params, states, actions)`, of each."""
    actions = spec.action_shape[0]
    init_one, apply = build_mlp(
        inputs=math.prod(spec.observation_shape) + actions, outputs=1, width=width, num_layers=num_layers, gains=gains
    )

    def init(key: PRNGKeyArray) -> Any:
        first, second = jax.random.split(key)
        return {"first": init_one(first), "second": init_one(second)}

    def values(params: PyTree[Array], states: Float[Array, "b *s"], actions: Float[Array, "b a"]) -> Array:
        seen = jnp.concatenate([states.reshape(len(states), -1), actions], axis=1)
        return jnp.stack([apply(params[name], seen)[:, 0] for name in ("first", "second")])

    return init, values
