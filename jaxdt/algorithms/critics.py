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


def build_critics(spec: Spec, **network: Any) -> tuple[Callable[[PRNGKeyArray], Any], Values]:
    """`init(key) -> params` of both, and `values(params, states, actions)`, of each.

    `network`: what `build_mlp` takes besides the numbers of inputs and outputs.
    """
    inputs = math.prod(spec.observation_shape) + spec.action_shape[0]
    init_one, apply = build_mlp(inputs=inputs, outputs=1, **network)

    def init(key: PRNGKeyArray) -> Any:
        first, second = jax.random.split(key)
        return {"first": init_one(first), "second": init_one(second)}

    def values(params: PyTree[Array], states: Float[Array, "b *s"], actions: Float[Array, "b a"]) -> Array:
        seen = jnp.concatenate([states.reshape(states.shape[0], -1), actions], axis=1)
        return jnp.stack([apply(params[name], seen)[:, 0] for name in ("first", "second")])

    return init, values
