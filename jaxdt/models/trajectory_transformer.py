"""The Trajectory Transformer's network (Janner et al. 2021): a GPT over the tokens of transitions.

A transition is `row` tokens: its observation, its action, its reward and its value, a bin for each number. The token at
place `i` of a window predicts the one at `i + 1`. Nothing attends to a value, the value itself included, so that it
sways nothing but the prediction of the token behind it.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdt.config import ModelConfig
from jaxdt.models.functional import Init, Params, as_functions
from jaxdt.models.initialization import Constant, Distribution, Normal, Uniform
from jaxdt.models.layers import STD, drop, for_each_window, layer_norm, normalize, split
from jaxdt.models.transformer import Block


EPSILON = 1e-5
"""Of LayerNorm."""


class TokenCache(NamedTuple):
    """Keys and values of one block's tokens."""

    keys: Float[Array, "b heads l head"]
    values: Float[Array, "b heads l head"]


Caches = tuple[TokenCache, ...]
"""Of each block; arrays of their own, since a stack of them would be copied at every token."""


class TrajectoryTransformer(nnx.Module):
    """Predicts each next token of a window of `transitions` rows of `row` numbers in `bins` bins.

    Token `bins` says that the episode is over.
    """

    def __init__(
        self, model: ModelConfig, *, row: int, bins: int, transitions: int, embedding_dropout: float, rngs: nnx.Rngs
    ):
        width = model.width
        self.row, self.bins, self.embedding_dropout, self.dtype = row, bins, embedding_dropout, model.dtype
        # Not called `embedding` or `kernel`, for these are not decayed.
        self.token_table = _table((bins * row + 1, width), Normal(STD))
        self.position_table = _table((transitions * row - 1, width), Constant(0.0))
        self.blocks = nnx.Dict({f"block_{i}": Block(model, rngs=rngs) for i in range(model.num_layers)})
        self.final_norm = layer_norm(width, EPSILON, rngs)
        # One for each place in a transition: that of the token which predicts.
        self.head = nnx.Dict({"kernel": _table((row, width, bins + 1), Uniform(1 / math.sqrt(width)))})

    def __call__(self, tokens: Int[Array, "b l"], *, key: PRNGKeyArray | None = None) -> Float[Array, "b l n"]:
        """The logits behind each token."""
        embed_key, *block_keys = split(key, 1 + len(self.blocks))
        places = jnp.arange(tokens.shape[1])
        x = drop(self._embed(tokens, places).astype(self.dtype), self.embedding_dropout, embed_key)
        may_attend = jnp.broadcast_to(self._may_attend(places, places), (*tokens.shape, tokens.shape[1]))
        for i, block_key in enumerate(block_keys):
            x = self.blocks[f"block_{i}"](x, may_attend, key=block_key)
        return self._predict_all(x)

    def _embed(self, tokens: Int[Array, "b l"], places: Int[Array, " l"]) -> Float[Array, "b l d"]:
        """A place in a transition has rows of its own in the table; all share the last one, of an episode's end."""
        row = tokens + self.bins * (places % self.row)[None]
        row = jnp.where(tokens < self.bins, row, self.bins * self.row)
        return jnp.take(self.token_table[...], row, axis=0) + jnp.take(self.position_table[...], places, axis=0)[None]

    def _may_attend(self, queries: Int[Array, " q"], keys: Int[Array, " l"]) -> Bool[Array, "1 q l"]:
        is_value = keys % self.row == self.row - 1
        return ((keys[None] <= queries[:, None]) & ~is_value[None])[None]

    def _predict_all(self, x: Float[Array, "b l d"]) -> Float[Array, "b l n"]:
        b, length, width = x.shape
        x = normalize(self.final_norm, x.astype(jnp.float32))
        transitions = -(-length // self.row)
        by_place = jnp.pad(x, ((0, 0), (0, transitions * self.row - length), (0, 0)))
        by_place = by_place.reshape(b * transitions, self.row, width)
        logits = jnp.einsum("tpd,pdn->tpn", by_place, self.head["kernel"][...])
        return logits.reshape(b, transitions * self.row, -1)[:, :length]


def _table(shape: tuple[int, ...], distribution: Distribution) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape), distribution=distribution)


class TrajectoryModel(NamedTuple):
    """The network as pure functions."""

    init: Init
    apply: Callable[..., Float[Array, "b l n"]]
    """`apply(params, tokens (b, l), *, key=None)`: the logits behind each token. Dropout is on exactly when `key` is
    given."""
    with_params: Callable[[Params], TrajectoryTransformer]


@functools.lru_cache(maxsize=8)
def build_trajectory_model(
    *,
    row: int,
    bins: int,
    transitions: int,
    width: int,
    num_layers: int,
    num_heads: int,
    dropout: float,
    dtype: str = "float32",
) -> TrajectoryModel:
    """The network for windows of `transitions` rows of `row` numbers; kept, so that the same is compiled once."""
    model = ModelConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        activation="gelu",
        layer_norm_epsilon=EPSILON,
        attention_dropout=dropout,
        residual_dropout=dropout,
        dtype=dtype,
    )

    def make(rngs: nnx.Rngs) -> TrajectoryTransformer:
        return TrajectoryTransformer(
            model, row=row, bins=bins, transitions=transitions, embedding_dropout=dropout, rngs=rngs
        )

    init, with_float32_params = as_functions(make)

    def with_params(params: Params) -> TrajectoryTransformer:
        blocks = jax.tree.map(lambda leaf: leaf.astype(dtype), params["blocks"])
        return with_float32_params({**params, "blocks": blocks})

    def apply(params: Params, tokens: Int[Array, "b l"], *, key: PRNGKeyArray | None = None) -> Float[Array, "b l n"]:
        if key is not None and jax.default_backend() != "cpu":
            params = for_each_window(params, len(tokens))
        return with_params(params)(tokens, key=key)

    return TrajectoryModel(init, apply, with_params)
