"""Reinformer's network: block, then model (Zhuang et al. 2024)."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdt.config import ReinformerConfig
from jaxdt.models.attention import DecodeCache, KVCache, attend, causal_and_real, newest_may_attend
from jaxdt.models.functional import Init, Params, as_functions
from jaxdt.models.initialization import Constant
from jaxdt.models.layers import dense, drop, embedding, layer_norm, normalize, split, torch_linear
from jaxdt.types import Spec, Window


EPSILON = 1e-5
"""Of LayerNorms; PyTorch's default."""
LOG_STD_RANGE = (-20.0, 2.0)


class Prediction(NamedTuple):
    """Of `t` steps of `b` windows."""

    returns: Float[Array, "b t"]
    """At each state: a large return that the data make likely from there on, scaled."""
    mean: Float[Array, "b t a"]
    """Of the actions at each return-to-go, in [-1, 1]."""
    log_std: Float[Array, "b t a"]


class PostNormBlock(nnx.Module):
    """Attention, then an MLP, each added to its input and then normalised."""

    def __init__(self, config: ReinformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.query = torch_linear(width, width, rngs)
        self.key = torch_linear(width, width, rngs)
        self.value = torch_linear(width, width, rngs)
        self.attention_out = torch_linear(width, width, rngs)
        self.attention_norm = layer_norm(width, EPSILON, rngs)
        self.mlp_in = torch_linear(width, 4 * width, rngs)
        self.mlp_out = torch_linear(4 * width, width, rngs)
        self.mlp_norm = layer_norm(width, EPSILON, rngs)

    def __call__(
        self, x: Float[Array, "b l d"], may_attend: Bool[Array, "b l l"], key: PRNGKeyArray | None
    ) -> Float[Array, "b l d"]:
        return self._attend_and_mlp(x, self._keys_values(x), may_attend, key)

    def extend(
        self, x: Float[Array, "b new d"], cache: KVCache, at: Int[Array, ""], may_attend: Bool[Array, "1 new l"]
    ) -> tuple[Float[Array, "b new d"], KVCache]:
        """As a call, with the keys and values of the new tokens written into the cache at `at`."""
        cache = cache.with_new(self._keys_values(x), at)
        return self._attend_and_mlp(x, cache, may_attend, None), cache

    def _keys_values(self, x: Float[Array, "b l d"]) -> KVCache:
        return KVCache.of(dense(self.key, x), dense(self.value, x), self.num_heads)

    def _attend_and_mlp(
        self, x: Float[Array, "b q d"], cache: KVCache, may_attend: Bool[Array, "#b q l"], key: PRNGKeyArray | None
    ) -> Float[Array, "b q d"]:
        attended_key, out_key, mlp_key = split(key, 3)
        attended = drop(attend(dense(self.query, x), cache, may_attend), self.dropout, attended_key)
        x = normalize(self.attention_norm, x + drop(dense(self.attention_out, attended), self.dropout, out_key))
        hidden = jax.nn.gelu(dense(self.mlp_in, x), approximate=False)
        return normalize(self.mlp_norm, x + drop(dense(self.mlp_out, hidden), self.dropout, mlp_key))


class Reinformer(nnx.Module):
    """Causal transformer over the tokens (state, return-to-go, action) of each step."""

    def __init__(self, config: ReinformerConfig, state_dim: int, action_dim: int, *, rngs: nnx.Rngs):
        width = config.width
        self.last_timestep = config.max_episode_length - 1
        self.embed_timestep = embedding(config.max_episode_length, width, rngs, std=1.0)
        self.embed_state = torch_linear(state_dim, width, rngs)
        self.embed_return = torch_linear(1, width, rngs)
        self.embed_action = torch_linear(action_dim, width, rngs)
        self.embed_norm = layer_norm(width, EPSILON, rngs)
        self.blocks = nnx.Dict({f"block_{i}": PostNormBlock(config, rngs=rngs) for i in range(config.num_layers)})
        self.predict_return = torch_linear(width, 1, rngs)
        self.predict_mean = torch_linear(width, action_dim, rngs)
        self.log_std = nnx.Param(jnp.zeros(action_dim), distribution=Constant(0.0))  # the same in every state

    def __call__(self, window: Window, *, key: PRNGKeyArray | None = None) -> Prediction:
        b, t = window.mask.shape
        time = self._embed_time(window.timesteps)
        tokens = (
            dense(self.embed_state, window.states.reshape(b, t, -1)),
            dense(self.embed_return, window.returns_to_go[..., None]),
            dense(self.embed_action, window.actions),
        )
        x = normalize(self.embed_norm, jnp.stack([token + time for token in tokens], axis=2).reshape(b, 3 * t, -1))
        may_attend = causal_and_real(window.mask)
        for block, block_key in zip(self.blocks.values(), split(key, len(self.blocks)), strict=True):
            x = block(x, may_attend, block_key)
        x = x.reshape(b, t, 3, -1)
        mean = self._mean(x[:, :, 1])
        log_std = jnp.clip(self.log_std[...], *LOG_STD_RANGE)
        return Prediction(self._return(x[:, :, 0]), mean, jnp.broadcast_to(log_std[None, None], mean.shape))

    def decode_step(
        self,
        cache: DecodeCache,
        previous_action: Float[Array, "b a"],
        states: Float[Array, "b *s"],
        timestep: Int[Array, ""],
    ) -> tuple[DecodeCache, Prediction]:
        """At a new step, in two passes: the return is predicted from the state, and fed back before the action is."""
        length = cache.blocks[0].keys.shape[-1] // 3
        slot, may_attend = cache.steps_seen % length, newest_may_attend(cache.steps_seen, length)
        time = self._embed_time(timestep)[None]
        action = dense(self.embed_action, previous_action) + self._embed_time(cache.timestep)[None]
        state = dense(self.embed_state, states.reshape(states.shape[0], -1)) + time
        x, blocks = self._extend(jnp.stack([action, state], axis=1), cache.blocks, 3 * slot, may_attend[:, :2])
        returns = self._return(x[:, 1:])
        token = dense(self.embed_return, returns[..., None]) + time[None]
        x, blocks = self._extend(token, blocks, 3 * slot + 2, may_attend[:, 2:])
        mean = self._mean(x)
        log_std = jnp.clip(self.log_std[...], *LOG_STD_RANGE)
        prediction = Prediction(returns, mean, jnp.broadcast_to(log_std[None, None], mean.shape))
        return DecodeCache(blocks, timestep, cache.steps_seen + 1), prediction

    def _extend(
        self,
        tokens: Float[Array, "b new d"],
        caches: tuple[KVCache, ...],
        at: Int[Array, ""],
        may_attend: Bool[Array, "1 new l"],
    ) -> tuple[Float[Array, "b new d"], tuple[KVCache, ...]]:
        x, new = normalize(self.embed_norm, tokens), []
        for block, cache in zip(self.blocks.values(), caches, strict=True):
            x, cache = block.extend(x, cache, at, may_attend)
            new.append(cache)
        return x, tuple(new)

    def _return(self, x: Float[Array, "b t d"]) -> Float[Array, "b t"]:
        return dense(self.predict_return, x)[..., 0]

    def _mean(self, x: Float[Array, "b t d"]) -> Float[Array, "b t a"]:
        return jnp.tanh(dense(self.predict_mean, x))

    def _embed_time(self, timesteps: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        return self.embed_timestep(jnp.clip(timesteps, 0, self.last_timestep))


class Functions(NamedTuple):
    """Reinformer as pure functions."""

    init: Init
    apply: Callable[..., Prediction]
    """`apply(params, window, *, key=None)`; dropout is on exactly when `key` is given."""
    start: Callable[[int], DecodeCache]
    """Of as many episodes, before the first step."""
    decode_step: Callable[..., tuple[DecodeCache, Prediction]]
    """`decode_step(params, cache, previous_action, states, timestep)`.

    The first `context_length` predictions are those of `apply`, given the returns that it predicted; later ones have
    seen what has left the window since.
    """


@functools.lru_cache(maxsize=8)
def build_reinformer(config: ReinformerConfig, spec: Spec) -> Functions:
    """Kept, so that the same model is compiled once."""
    sizes = (math.prod(spec.observation_shape), *spec.action_shape)
    init, with_params = as_functions(lambda rngs: Reinformer(config, *sizes, rngs=rngs))

    def apply(params: Params, window: Window, *, key: PRNGKeyArray | None = None) -> Prediction:
        return with_params(params)(jax.tree.map(jnp.asarray, window), key=key)

    def start(batch: int) -> DecodeCache:
        return DecodeCache.empty(
            batch,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            width=config.width,
            length=3 * config.context_length,
        )

    def decode_step(
        params: Params,
        cache: DecodeCache,
        previous_action: Float[Array, "b a"],
        states: Float[Array, "b *s"],
        timestep: Int[Array, ""],
    ) -> tuple[DecodeCache, Prediction]:
        return with_params(params).decode_step(cache, previous_action, states, timestep)

    return Functions(init, apply, start, decode_step)
