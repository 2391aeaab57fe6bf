"""The Decision Transformer for frames and discrete actions (Chen et al. 2021; the original's `model_atari.py`).

It differs from the one for vectors: a token's embedding is squashed, and to it is added what was learned of its place
in the window, and of one timestep for the whole window; nothing normalises the sum.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from jaxdt.config import ModelConfig
from jaxdt.models.attention import causal_and_real
from jaxdt.models.frames import FrameEncoder
from jaxdt.models.functional import Init, Params, as_functions
from jaxdt.models.initialization import Constant, Normal
from jaxdt.models.layers import (
    STD,
    dense,
    drop,
    for_each_window,
    layer_norm,
    normalize,
    split,
    table,
    torch_linear,
)
from jaxdt.models.transformer import Block
from jaxdt.types import Window


EPSILON = 1e-5
"""Of LayerNorm."""


class AtariTransformer(nnx.Module):
    """Causal transformer over the tokens of each step: return-to-go, state, action, or without returns state, action.

    Predicts the logits of discrete actions.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        observation_shape: tuple[int, ...],
        num_actions: int,
        timesteps: int | None,
        conditioned: bool,
        rngs: nnx.Rngs,
    ):
        width, self.tokens = model.width, 3 if conditioned else 2
        self.embedding_dropout, self.dtype = model.embedding_dropout, model.dtype
        self.encoder = FrameEncoder(observation_shape, width, rngs=rngs)
        self.embed_return = torch_linear(1, width, rngs) if conditioned else None
        # Not called `embedding` or `kernel`, for these are not decayed.
        self.action_table = table((num_actions, width), Normal(STD))
        self.position_table = table((self.tokens * model.context_length, width), Constant(0.0))
        self.timestep_table = None if timesteps is None else table((timesteps, width), Constant(0.0))
        self.blocks = nnx.Dict({f"block_{i}": Block(model, rngs=rngs) for i in range(model.num_layers)})
        self.final_norm = layer_norm(width, EPSILON, rngs)
        self.head = nnx.Dict({"kernel": table((width, num_actions), Normal(STD))})

    def __call__(
        self,
        window: Window,
        encoded: Float[Array, "b t d"],
        *,
        newest_only: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b q n"]:
        """`encoded`: the window's states, as the encoder gives them."""
        t, n = window.mask.shape[1], self.tokens
        embed_key, *block_keys = split(key, 1 + len(self.blocks))
        x = drop(self._embed(window, encoded).astype(self.dtype), self.embedding_dropout, embed_key)
        may_attend = causal_and_real(window.mask, tokens=n)
        # Only state tokens predict, so the last block computes nothing else.
        states = slice(n * t - 2, n * t - 1) if newest_only else slice(n - 2, None, n)
        for i, block_key in enumerate(block_keys):
            queries = states if i == len(block_keys) - 1 else slice(None)
            x = self.blocks[f"block_{i}"](x, may_attend, queries=queries, key=block_key)
        return normalize(self.final_norm, x.astype(jnp.float32)) @ self.head["kernel"][...]

    def _embed(self, window: Window, encoded: Float[Array, "b t d"]) -> Float[Array, "b l d"]:
        b, t = window.mask.shape
        actions = jnp.tanh(_rows(self.action_table, window.actions))
        tokens = [encoded, actions]
        if self.embed_return is not None:
            tokens.insert(0, jnp.tanh(dense(self.embed_return, window.returns_to_go[..., None])))
        x = jnp.stack(tokens, axis=2).reshape(b, self.tokens * t, -1)
        padding = jnp.sum(~window.mask, axis=1)  # places are counted from the first real step
        places = jnp.arange(self.tokens * t)[None] - self.tokens * padding[:, None]
        x = x + _rows(self.position_table, places)
        if self.timestep_table is None:
            return x
        is_first = jnp.arange(t)[None] == jnp.minimum(padding, t - 1)[:, None]
        first = jnp.sum(jnp.where(is_first, window.timesteps, 0), axis=1, keepdims=True)
        return x + _rows(self.timestep_table, first)


def _rows(rows: nnx.Param, index: Int[Array, "*n"]) -> Float[Array, "*n d"]:
    """Those beyond the first and last are these."""
    values = jnp.asarray(rows[...])
    return jnp.take(values, jnp.clip(index, 0, len(values) - 1), axis=0)


class AtariModel(NamedTuple):
    """The network as pure functions."""

    init: Init
    apply: Callable[..., Float[Array, "b q n"]]
    """`apply(params, window, *, newest_only=False, across_episodes=False, key=None)`: the logits at each step, or at
    the newest alone. `across_episodes`: a window may hold the end of one and the beginning of another.

    The window's `states` are pictures as recorded, (b, t + 3, h, w) or (b, t + 3, h, w, c), three more than steps: at
    each step the last four are seen. Dropout is on exactly when `key` is given.
    """
    encode: Callable[[Params, Num[Array, "b n *s"]], Float[Array, "b t d"]]
    """`encode(params, frames)`: of each step's last four pictures one vector; t is n - 3."""
    predict: Callable[..., Float[Array, "b q n"]]
    """As `apply`, of a window whose `states` are encoded, (b, t, d)."""


@functools.lru_cache(maxsize=8)
def build_atari_model(
    model: ModelConfig,
    *,
    observation_shape: tuple[int, ...],
    num_actions: int,
    timesteps: int | None,
    conditioned: bool = True,
) -> AtariModel:
    """Of `model` the sizes, dropouts and dtype are used; kept, so that the same model is compiled once.

    - `timesteps`: rows of the table of timesteps; later ones share the last; None: it is told none.
    - `conditioned`: on returns-to-go; otherwise it imitates all that it is shown (the original's `naive`).
    """

    def make(rngs: nnx.Rngs) -> AtariTransformer:
        return AtariTransformer(
            model,
            observation_shape=observation_shape,
            num_actions=num_actions,
            timesteps=timesteps,
            conditioned=conditioned,
            rngs=rngs,
        )

    init, with_float32_params = as_functions(make)

    def with_params(params: Params) -> AtariTransformer:
        blocks = jax.tree.map(lambda leaf: leaf.astype(model.dtype), params["blocks"])
        return with_float32_params({**params, "blocks": blocks})

    def encode(params: Params, frames: Num[Array, "b n *s"]) -> Float[Array, "b t d"]:
        return with_params(params).encoder(frames)

    def predict(
        params: Params, window: Window, *, newest_only: bool = False, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b q n"]:
        window = jax.tree.map(jnp.asarray, window)
        if key is not None and jax.default_backend() != "cpu":
            params = {**params, "blocks": for_each_window(params["blocks"], len(window.mask))}
        return with_params(params)(window, window.states, newest_only=newest_only, key=key)

    def apply(
        params: Params,
        window: Window,
        *,
        newest_only: bool = False,
        across_episodes: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b q n"]:
        timesteps = jnp.asarray(window.timesteps) if across_episodes else None
        encoded = with_params(params).encoder(jnp.asarray(window.states), timesteps, learning=True)
        window = window._replace(states=encoded)
        return predict(params, window, newest_only=newest_only, key=key)

    return AtariModel(init, apply, encode, predict)
