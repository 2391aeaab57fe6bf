"""The Trajectory Transformer's network (Janner et al. 2021): a GPT over the tokens of transitions.

A transition is `row` tokens: its observation, its action, its reward and its value, a bin for each number. The token at
place `i` of a window predicts the one at `i + 1`. Nothing attends to a value, the value itself included, so that it
sways nothing but the prediction of the token behind it.
"""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdt.config import ModelConfig
from jaxdt.models.functional import Init, Params, as_functions
from jaxdt.models.initialization import Constant, Normal, Uniform
from jaxdt.models.layers import STD, dense, drop, for_each_window, layer_norm, normalize, split, table
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
        self.token_table = table((bins * row + 1, width), Normal(STD))
        self.position_table = table((transitions * row - 1, width), Constant(0.0))
        self.blocks = nnx.Dict({f"block_{i}": Block(model, rngs=rngs) for i in range(model.num_layers)})
        self.final_norm = layer_norm(width, EPSILON, rngs)
        # One for each place in a transition: that of the token which predicts.
        self.head = nnx.Dict({"kernel": table((row, width, bins + 1), Uniform(1 / math.sqrt(width)))})

    def __call__(self, tokens: Int[Array, "b l"], *, key: PRNGKeyArray | None = None) -> Float[Array, "b l n"]:
        """The logits behind each token."""
        embed_key, *block_keys = split(key, 1 + len(self.blocks))
        places = jnp.arange(tokens.shape[1])
        x = drop(self._embed(tokens, places).astype(self.dtype), self.embedding_dropout, embed_key)
        may_attend = jnp.broadcast_to(self._may_attend(places, places), (*tokens.shape, tokens.shape[1]))
        for i, block_key in enumerate(block_keys):
            x = self.blocks[f"block_{i}"](x, may_attend, key=block_key)
        return self._predict_all(x)

    def read(self, tokens: Int[Array, "b l"], newest: Int[Array, ""], room: int) -> tuple[Caches, Float[Array, "b n"]]:
        """A window's keys and values, with room for `room` tokens in all, and the logits behind place `newest`."""
        places = jnp.arange(tokens.shape[1])
        x = self._embed(tokens, places).astype(self.dtype)
        may_attend, caches = self._may_attend(places, places), []
        for i in range(len(self.blocks)):
            block = self.blocks[f"block_{i}"]
            normed = normalize(block.attention_norm, x)
            new = _keys_values(block, normed)
            caches.append(jax.tree.map(partial(_with_room, room=room), new))
            if i == len(self.blocks) - 1:  # nothing but the newest is asked for
                x, normed = (jax.lax.dynamic_slice_in_dim(each, newest, 1, axis=1) for each in (x, normed))
                may_attend = jax.lax.dynamic_slice_in_dim(may_attend, newest, 1, axis=1)
            x = _attend(block, x, normed, new, may_attend)
        return tuple(caches), self._predict(x[:, 0], newest)

    def extend(
        self, caches: Caches, tokens: Int[Array, " b"], place: Int[Array, ""]
    ) -> tuple[Caches, Float[Array, "b n"]]:
        """The caches with one more token each, at `place`, and the logits behind it."""
        x = self._embed(tokens[:, None], place[None]).astype(self.dtype)
        may_attend = self._may_attend(place[None], jnp.arange(caches[0].keys.shape[2]))
        extended = []
        for i, cache in enumerate(caches):
            block = self.blocks[f"block_{i}"]
            normed = normalize(block.attention_norm, x)
            write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=place, axis=2)
            cache = jax.tree.map(write, cache, _keys_values(block, normed))
            extended.append(cache)
            x = _attend(block, x, normed, cache, may_attend)
        return tuple(extended), self._predict(x[:, 0], place)

    def branch(
        self, caches: Caches, suffixes: Caches, tokens: Int[Array, "b e"], first: Int[Array, ""], step: Int[Array, ""]
    ) -> tuple[Caches, Float[Array, "b e n"]]:
        """As `extend`, for `e` ways in which each row goes on, which share its caches up to place `first`.

        `suffixes` (b e ...) hold what each way adds, this token at `step`.
        """
        b, e = tokens.shape
        x = self._embed(tokens.reshape(-1, 1), (first + step)[None]).astype(self.dtype)
        shared, own = (jnp.arange(leaf.shape[2]) for leaf in (caches[0].keys, suffixes[0].keys))
        may_attend = jnp.concatenate([self._may_attend(first[None] - 1, shared), (own <= step)[None, None]], axis=2)
        extended = []
        for i, (cache, suffix) in enumerate(zip(caches, suffixes, strict=True)):
            block = self.blocks[f"block_{i}"]
            normed = normalize(block.attention_norm, x)
            write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=step, axis=2)
            suffix = jax.tree.map(write, suffix, _keys_values(block, normed))
            extended.append(suffix)
            query = _by_head(dense(block.query, normed), block.num_heads)  # (b e) heads 1 head
            by_row = query.reshape(b, e, *query.shape[1:]).squeeze(3).swapaxes(1, 2)
            scores = jnp.einsum("bhqd,bhld->bqhl", by_row, cache.keys, preferred_element_type=jnp.float32)
            scores = scores.reshape(b * e, -1, 1, len(shared))
            added = jnp.einsum("bhqd,bhld->bhql", query, suffix.keys, preferred_element_type=jnp.float32)
            weights = _softmax(jnp.concatenate([scores, added], axis=3), may_attend[:, None], query)
            to_shared = weights[..., : len(shared)].reshape(b, e, -1, len(shared))
            attended = jnp.einsum("bqhl,bhld->bqhd", to_shared, cache.values).reshape(x.shape)
            added = jnp.einsum("bhql,bhld->bqhd", weights[..., len(shared) :], suffix.values)
            x = _add_attended(block, x, attended + added.reshape(x.shape))
        return tuple(extended), self._predict(x[:, 0], first + step).reshape(b, e, -1)

    def _embed(self, tokens: Int[Array, "b l"], places: Int[Array, " l"]) -> Float[Array, "b l d"]:
        """A place in a transition has rows of its own in the table; all share the last one, of an episode's end."""
        row = tokens + self.bins * (places % self.row)[None]
        row = jnp.where(tokens < self.bins, row, self.bins * self.row)
        return jnp.take(self.token_table[...], row, axis=0) + jnp.take(self.position_table[...], places, axis=0)[None]

    def _may_attend(self, queries: Int[Array, " q"], keys: Int[Array, " l"]) -> Bool[Array, "1 q l"]:
        is_value = keys % self.row == self.row - 1
        return ((keys[None] <= queries[:, None]) & ~is_value[None])[None]

    def _predict(self, x: Float[Array, "b d"], place: Int[Array, ""]) -> Float[Array, "b n"]:
        kernel = jax.lax.dynamic_index_in_dim(self.head["kernel"][...], place % self.row, keepdims=False)
        return normalize(self.final_norm, x.astype(jnp.float32)) @ kernel

    def _predict_all(self, x: Float[Array, "b l d"]) -> Float[Array, "b l n"]:
        b, length, width = x.shape
        x = normalize(self.final_norm, x.astype(jnp.float32))
        transitions = -(-length // self.row)
        by_place = jnp.pad(x, ((0, 0), (0, transitions * self.row - length), (0, 0)))
        by_place = by_place.reshape(b * transitions, self.row, width)
        logits = jnp.einsum("tpd,pdn->tpn", by_place, self.head["kernel"][...])
        return logits.reshape(b, transitions * self.row, -1)[:, :length]


def _keys_values(block: Block, normed: Float[Array, "b l d"]) -> TokenCache:
    keys, values = jnp.split(dense(block.key_value, normed), 2, axis=-1)
    return TokenCache(_by_head(keys, block.num_heads), _by_head(values, block.num_heads))


def _by_head(x: Float[Array, "b l d"], heads: int) -> Float[Array, "b heads l head"]:
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def _with_room(x: Float[Array, "b heads l head"], *, room: int) -> Float[Array, "b heads room head"]:
    return jnp.pad(x, ((0, 0), (0, 0), (0, room - x.shape[2]), (0, 0)))


def _softmax(
    scores: Float[Array, "b heads q l"], may_attend: Bool[Array, "1 1 q l"], query: Float[Array, "b heads q head"]
) -> Float[Array, "b heads q l"]:
    scores = jnp.where(may_attend, scores / math.sqrt(query.shape[-1]), jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores, axis=-1).astype(query.dtype)


def _attend(
    block: Block,
    x: Float[Array, "b q d"],
    normed: Float[Array, "b q d"],
    cache: TokenCache,
    may_attend: Bool[Array, "1 q l"],
) -> Float[Array, "b q d"]:
    """The block's tokens, which attend to the cache's."""
    query = _by_head(dense(block.query, normed), block.num_heads)
    scores = jnp.einsum("bhqd,bhld->bhql", query, cache.keys, preferred_element_type=jnp.float32)
    weights = _softmax(scores, may_attend[:, None], query)
    attended = jnp.einsum("bhql,bhld->bqhd", weights, cache.values)
    return _add_attended(block, x, attended.reshape(x.shape))


def _add_attended(block: Block, x: Float[Array, "b q d"], attended: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
    x = x + dense(block.attention_out, attended)
    return x + dense(block.mlp_out, block.activation(dense(block.mlp_in, normalize(block.mlp_norm, x))))


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
    dtype: Literal["float32", "bfloat16"] = "float32",
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
