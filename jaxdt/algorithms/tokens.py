"""Numbers as tokens, the numbers of the bins that they fall into, and back."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def encode(numbers: Float[Array, "*b columns"], edges: Float[Array, "edges columns"]) -> Int[Array, "*b columns"]:
    """The bin of each number: that of the last edge which is not above it; below all 0, above all the last bin."""
    lead = (1,) * (numbers.ndim - 1)
    reached = jnp.sum(numbers[..., None, :] >= edges.reshape(*lead, *edges.shape), axis=-2)
    return jnp.clip(reached - 1, 0, len(edges) - 2).astype(jnp.int32)


def bin_middles(edges: Float[Array, "edges columns"]) -> Float[Array, "bins columns"]:
    """The number that stands for all of its bin."""
    return (edges[1:] + edges[:-1]) / 2


def decode(tokens: Int[Array, "*b columns"], edges: Float[Array, "edges columns"]) -> Float[Array, "*b columns"]:
    """The middle of each token's bin; the token of an episode's end counts as the last bin."""
    middles = bin_middles(edges)
    return middles[jnp.minimum(tokens, len(middles) - 1), jnp.arange(tokens.shape[-1])]


def expectation(probabilities: Float[Array, "*b tokens"], middles: Float[Array, " bins"]) -> Float[Array, "*b"]:
    """Of a number whose token is distributed so; an episode's end counts as 0, as it does for the authors."""
    return probabilities[..., : len(middles)] @ middles
