"""Diagonal Gaussian distributions of actions."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def log_likelihood(
    action: Float[Array, "b a"], mean: Float[Array, "b a"], log_std: Float[Array, " a"]
) -> Float[Array, " b"]:
    """Natural logarithm of the density, whose standard deviations are the same in every state."""
    standardized = (action - mean) * jnp.exp(-log_std)[None]
    return jnp.sum(-0.5 * jnp.square(standardized) - log_std[None] - 0.5 * math.log(2 * math.pi), axis=-1)
