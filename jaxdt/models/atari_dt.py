"""The Decision Transformer for frames and discrete actions (Chen et al. 2021; the original's `model_atari.py`).

It differs from the one for vectors: a token's embedding is squashed, and to it is added what was learned of its place
in the window, and of one timestep for the whole window; nothing normalises the sum. Another form of it is told of each
step its own timestep instead, which does not change while the window moves on.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from jaxdt.config import ModelConfig
from jaxdt.config.atari_dt import Positions
from jaxdt.errors import JaxdtError
from jaxdt.models.attention import DecodeCache, causal_and_real, newest_may_attend
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
    times,
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
        positions: Positions,
        rngs: nnx.Rngs,
    ):
        width, self.tokens = model.width, 3 if conditioned else 2
        self.embedding_dropout, self.dtype = model.embedding_dropout, model.dtype
        self.encoder = FrameEncoder(observation_shape, width, rngs=rngs)
        self.embed_return = torch_linear(1, width, rngs) if conditioned else None
        # Not called `embedding` or `kernel`, for these are not decayed.
        self.action_table = table((num_actions, width), Normal(STD))
        rows = self.tokens * model.context_length
        self.position_table = table((rows, width), Constant(0.0)) if positions == "window" else None
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
        return self._logits(x)

    def _embed(self, window: Window, encoded: Float[Array, "b t d"]) -> Float[Array, "b l d"]:
        b, t = window.mask.shape
        tokens = [*self._returns(window.returns_to_go), encoded, self._actions(window.actions)]
        x = jnp.stack(tokens, axis=2).reshape(b, self.tokens * t, -1)
        if self.position_table is None:
            return x + jnp.repeat(self._time(window.timesteps), self.tokens, axis=1)
        padding = jnp.sum(~window.mask, axis=1)  # places are counted from the first real step
        places = jnp.arange(self.tokens * t)[None] - self.tokens * padding[:, None]
        x = x + _rows(self.position_table, places)
        if self.timestep_table is None:
            return x
        is_first = jnp.arange(t)[None] == jnp.minimum(padding, t - 1)[:, None]
        first = jnp.sum(jnp.where(is_first, window.timesteps, 0), axis=1, keepdims=True)
        return x + _rows(self.timestep_table, first)

    def decode_step(
        self,
        cache: DecodeCache,
        previous_action: Int[Array, " b"],
        encoded: Float[Array, "b d"],
        returns_to_go: Float[Array, " b"],
        timestep: Int[Array, ""],
    ) -> tuple[DecodeCache, Float[Array, "b n"]]:
        """The logits at a new step, from its new tokens: the action before it, its return-to-go and its state."""
        now, before = self._time(timestep)[None], self._time(cache.timestep)[None]
        tokens = [*self._returns(returns_to_go), encoded]
        x = jnp.stack([self._actions(previous_action) + before, *[token + now for token in tokens]], axis=1)
        x, blocks = x.astype(self.dtype), []
        length = cache.blocks[0].keys.shape[-1] // self.tokens
        slot, may_attend = cache.steps_seen % length, newest_may_attend(cache.steps_seen, length, self.tokens)
        for i, old in enumerate(cache.blocks):  # of one query the last block would take as long as of all, on a CPU
            x, new = self.blocks[f"block_{i}"].extend(x, old, self.tokens * slot, may_attend)
            blocks.append(new)
        logits = self._logits(x[:, -1:])[:, 0]
        return DecodeCache(tuple(blocks), timestep, cache.steps_seen + 1), logits

    def _logits(self, x: Float[Array, "b q d"]) -> Float[Array, "b q n"]:
        return times(normalize(self.final_norm, x.astype(jnp.float32)), self.head["kernel"][...])

    def _returns(self, returns_to_go: Float[Array, "*b"]) -> list[Float[Array, "*b d"]]:
        """One, or nothing where it is not conditioned."""
        return [] if self.embed_return is None else [jnp.tanh(dense(self.embed_return, returns_to_go[..., None]))]

    def _actions(self, actions: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        return jnp.tanh(_rows(self.action_table, actions))

    def _time(self, timesteps: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        assert self.timestep_table is not None
        return _rows(self.timestep_table, timesteps)


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
    start: Callable[[int], DecodeCache]
    """Of so many episodes, before their first step. Of a model that is told each step's own timestep."""
    decode_step: Callable[..., tuple[DecodeCache, Float[Array, "b n"]]]
    """`decode_step(params, cache, previous_action, encoded, returns_to_go, timestep)`, from cached keys and values.

    The first `context_length` logits are those of `predict`; later ones have seen what has left the window since.
    """


@functools.lru_cache(maxsize=8)
def build_atari_model(
    model: ModelConfig,
    *,
    observation_shape: tuple[int, ...],
    num_actions: int,
    timesteps: int | None,
    conditioned: bool = True,
    positions: Positions = "window",
) -> AtariModel:
    """Of `model` the sizes, dropouts and dtype are used; kept, so that the same model is compiled once.

    - `timesteps`: rows of the table of timesteps; later ones share the last; None: it is told none.
    - `positions`: window: it is told a token's place in the window, and one timestep for all of it; step: of each step
      its own timestep.
    - `conditioned`: on returns-to-go; otherwise it imitates all that it is shown (the original's `naive`).

    Raises JaxdtError for steps that nothing tells apart.
    """

    if positions == "step" and timesteps is None:
        raise JaxdtError("positions='step' tells steps apart by their timesteps; give timesteps.")

    def make(rngs: nnx.Rngs) -> AtariTransformer:
        return AtariTransformer(
            model,
            observation_shape=observation_shape,
            num_actions=num_actions,
            timesteps=timesteps,
            conditioned=conditioned,
            positions=positions,
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

    def start(batch: int) -> DecodeCache:
        if positions != "step":
            raise JaxdtError("keys and values change as the window moves on; they are kept with positions='step'.")
        return DecodeCache.empty(
            batch,
            num_layers=model.num_layers,
            num_heads=model.num_heads,
            width=model.width,
            length=(2 + conditioned) * model.context_length,
            dtype=model.dtype,
        )

    def decode_step(params: Params, cache: DecodeCache, *new: Array) -> tuple[DecodeCache, Float[Array, "b n"]]:
        return with_params(params).decode_step(cache, *new)

    return AtariModel(init, apply, encode, predict, start, decode_step)
