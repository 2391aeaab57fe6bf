"""Attention over tokens, some of whose keys and values may be kept from earlier ones."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdt.models.layers import drop


class KVCache(NamedTuple):
    """Keys and values of one block's tokens, laid out as the matrix products read them."""

    keys: Float[Array, "b heads head l"]
    values: Float[Array, "b heads l head"]

    @classmethod
    def of(cls, keys: Float[Array, "b l d"], values: Float[Array, "b l d"], num_heads: int) -> "KVCache":
        return cls(_by_head(keys, num_heads).mT, _by_head(values, num_heads))

    @classmethod
    def empty(cls, batch: int, num_heads: int, head: int, length: int, dtype: str) -> "KVCache":
        shape = (batch, num_heads)
        return cls(jnp.zeros((*shape, head, length), dtype), jnp.zeros((*shape, length, head), dtype))

    def with_new(self, new: "KVCache", at: Int[Array, ""]) -> "KVCache":
        """Keys and values of new tokens in place of those from `at` on."""
        return KVCache(
            jax.lax.dynamic_update_slice_in_dim(self.keys, new.keys, at, axis=3),
            jax.lax.dynamic_update_slice_in_dim(self.values, new.values, at, axis=2),
        )


class DecodeCache(NamedTuple):
    """What `decode_step` keeps of `b` episodes, each step of which is computed once, when it is new."""

    blocks: tuple[KVCache, ...]
    """Of each block; a ring of `context_length` steps, of each its tokens, the action before it first."""
    timestep: Int[Array, ""]
    """Of the newest step."""
    steps_seen: Int[Array, ""]

    @classmethod
    def empty(
        cls, batch: int, *, num_layers: int, num_heads: int, width: int, length: int, dtype: str = "float32"
    ) -> "DecodeCache":
        """Of `batch` episodes before their first step; `length`: of the ring, in tokens."""
        block = KVCache.empty(batch, num_heads, width // num_heads, length, dtype)
        zero = jnp.zeros((), jnp.int32)
        return cls((block,) * num_layers, timestep=zero, steps_seen=zero)


def attend(
    query: Float[Array, "b q d"],
    cache: KVCache,
    may_attend: Bool[Array, "#b q l"],
    *,
    dropout: float = 0.0,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "b q d"]:
    """`dropout`: of attention weights."""
    by_head = _by_head(query, cache.keys.shape[1])
    scores = jnp.matmul(by_head, cache.keys, preferred_element_type=jnp.float32) / math.sqrt(by_head.shape[-1])
    # The finite minimum, not -inf: the row of a padded token has nothing to attend to and must not become NaN.
    scores = jnp.where(may_attend[:, None], scores, jnp.finfo(scores.dtype).min)
    weights = drop(jax.nn.softmax(scores, axis=-1).astype(query.dtype), dropout, key)
    return jnp.matmul(weights, cache.values).transpose(0, 2, 1, 3).reshape(query.shape)


def _by_head(x: Float[Array, "b l d"], num_heads: int) -> Float[Array, "b heads l head"]:
    # Heads before tokens, so that no product has to transpose what it gives.
    return x.reshape(*x.shape[:2], num_heads, -1).transpose(0, 2, 1, 3)


def causal_and_real(mask: Bool[Array, "b t"], tokens: int = 3) -> Bool[Array, "b l l"]:
    """Which tokens each of `tokens` a step may see: itself and real ones before it."""
    is_real = jnp.repeat(mask, tokens, axis=1)
    return jnp.tril(jnp.ones((is_real.shape[1],) * 2, bool))[None] & is_real[:, None, :]


def newest_may_attend(steps_seen: Int[Array, ""], length: int, tokens: int = 3) -> Bool[Array, "1 n l"]:
    """Which of a ring's tokens a step's new ones see: those of the last `length` steps, themselves causally.

    Of each step's `tokens` the first is the action before it.
    """
    age = jnp.mod(steps_seen - jnp.arange(length), length)  # in steps, of each place in the ring
    is_step = age <= steps_seen
    has_action = (age < steps_seen) & (age < length - 1)  # the oldest step's is of one that is out of sight
    is_real = jnp.stack([has_action, *[is_step] * (tokens - 1)], axis=1)
    causal = jnp.tril(jnp.ones((tokens, tokens), bool))[:, None] | (age > 0)[None, :, None]
    return (is_real[None] & causal).reshape(1, tokens, tokens * length)
