"""The Decision Transformer: block, model, build (paper section 3; the original's `decision_transformer.py`).

The only module that imports `flax.nnx`; the outside sees `init(key) -> params` and
`apply(params, window, key=...) -> actions`, plain functions on plain nested dicts.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxdt.config import ModelConfig
from jaxdt.errors import JaxdtError
from jaxdt.types import Window


Params = dict[str, Any]

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
}
_STD = 0.02  # of GPT-2's weights
_TORCH_EPSILON = 1e-5  # the embedding's LayerNorm keeps PyTorch's default, whatever the config says of the others


class Block(nnx.Module):
    """Pre-LN transformer block: attention, then an MLP, each added to its input."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width, hidden = config.width, config.mlp_width or 4 * config.width
        self.num_heads = config.num_heads
        self.activation = _ACTIVATIONS[config.activation]
        by_depth = _STD / math.sqrt(2 * config.num_layers) if config.initialization == "huggingface" else _STD
        self.attention_norm = _layer_norm(width, config.layer_norm_epsilon, rngs)
        self.query = _gpt2_linear(width, width, rngs)
        self.key_value = _gpt2_linear(width, 2 * width, rngs)
        self.attention_out = _gpt2_linear(width, width, rngs, std=by_depth)
        self.mlp_norm = _layer_norm(width, config.layer_norm_epsilon, rngs)
        self.mlp_in = _gpt2_linear(width, hidden, rngs)
        self.mlp_out = _gpt2_linear(hidden, width, rngs, std=by_depth)
        self.attention_dropout, self.residual_dropout = config.attention_dropout, config.residual_dropout

    def __call__(
        self,
        x: Float[Array, "b l d"],
        may_attend: Bool[Array, "b l l"],
        *,
        answers: slice = slice(None),
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b q d"]:
        """The tokens in the slice `answers`; keys and values always come from all tokens."""
        attention_key, out_key, mlp_key = _split(key, 3)
        normed = self.attention_norm(x)
        attended = self._attend(normed[:, answers], normed, may_attend[:, answers], attention_key)
        x = x[:, answers] + _drop(_dense(self.attention_out, attended), self.residual_dropout, out_key)
        hidden = self.activation(_dense(self.mlp_in, self.mlp_norm(x)))
        return x + _drop(_dense(self.mlp_out, hidden), self.residual_dropout, mlp_key)

    def _attend(
        self,
        asking: Float[Array, "b q d"],
        x: Float[Array, "b l d"],
        may_attend: Bool[Array, "b q l"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "b q d"]:
        heads = partial(jnp.reshape, shape=(x.shape[0], -1, self.num_heads, x.shape[-1] // self.num_heads))
        query = heads(_dense(self.query, asking))
        keys, values = map(heads, jnp.split(_dense(self.key_value, x), 2, axis=-1))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys) / math.sqrt(query.shape[-1])
        # The finite minimum, not -inf: the row of a padded token has nothing to attend to and must not become NaN.
        scores = jnp.where(may_attend[:, None], scores, jnp.finfo(scores.dtype).min)
        weights = _drop(jax.nn.softmax(scores, axis=-1), self.attention_dropout, key)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, values).reshape(asking.shape)


class DecisionTransformer(nnx.Module):
    """Causal transformer over the tokens (return-to-go, state, action) of each step."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        assert config.state_dim is not None
        assert config.action_dim is not None
        width, as_huggingface = config.width, config.initialization == "huggingface"
        linear = _gpt2_linear if as_huggingface else _torch_linear
        self.last_timestep = config.max_episode_length - 1
        self.action_tanh = config.action_tanh
        self.embed_timestep = nnx.Embed(
            config.max_episode_length,
            width,
            embedding_init=nnx.initializers.normal(_STD if as_huggingface else 1.0),
            rngs=rngs,
        )
        self.embed_return = linear(1, width, rngs)
        self.embed_state = linear(config.state_dim, width, rngs)
        self.embed_action = linear(config.action_dim, width, rngs)
        # Hugging Face adds the one row wpe[0] of a position table to every token: here it is part of this bias.
        self.embed_norm = _layer_norm(width, _TORCH_EPSILON, rngs, bias_std=_STD if as_huggingface else 0.0)
        self.embedding_dropout = config.embedding_dropout
        self.blocks = nnx.Dict({f"block_{i}": Block(config, rngs=rngs) for i in range(config.num_layers)})
        self.final_norm = _layer_norm(width, config.layer_norm_epsilon, rngs)
        self.predict_action = linear(width, config.action_dim, rngs)

    def __call__(
        self, window: Window, *, newest_only: bool = False, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b answers a"]:
        t = window.mask.shape[1]
        embed_key, *block_keys = _split(key, 1 + len(self.blocks))
        x = _drop(self.embed_norm(self._embed(window)), self.embedding_dropout, embed_key)
        is_real = jnp.repeat(window.mask, 3, axis=1)
        may_attend = jnp.tril(jnp.ones((3 * t, 3 * t), bool))[None] & is_real[:, None, :]
        # Only state tokens predict, so the last block computes nothing else.
        states = slice(3 * t - 2, 3 * t - 1) if newest_only else slice(1, None, 3)
        last = len(self.blocks) - 1
        for i, block_key in enumerate(block_keys):
            block = self.blocks[f"block_{i}"]
            x = block(x, may_attend, answers=states if i == last else slice(None), key=block_key)
        actions = _dense(self.predict_action, self.final_norm(x))
        return jnp.tanh(actions) if self.action_tanh else actions

    def _embed(self, window: Window) -> Float[Array, "b l d"]:
        b, t = window.mask.shape
        # nnx.Embed gives NaN for an index out of range; steps past the table share its last row.
        time = self.embed_timestep(jnp.clip(window.timesteps, 0, self.last_timestep))
        states = window.states.reshape(b, t, -1)
        tokens = (
            _dense(self.embed_return, window.returns_to_go[..., None]),
            _dense(self.embed_state, states),
            _dense(self.embed_action, window.actions),
        )
        return jnp.stack([token + time for token in tokens], axis=2).reshape(b, 3 * t, -1)


@runtime_checkable
class Apply(Protocol):
    """What `build_model` returns second."""

    def __call__(
        self, params: Params, window: Window, *, newest_only: bool = False, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b answers a"]: ...


def build_model(config: ModelConfig) -> tuple[Callable[[PRNGKeyArray], Params], Apply]:
    """The model as two pure functions.

    - `init(key) -> params`: a nested dict of float32 arrays, initialised as `config.initialization` says.
    - `apply(params, window, *, newest_only=False, key=None) -> actions`: (b, t, a), in [-1, 1] unless
      `action_tanh` is off, the action predicted at each step from what came before it; (b, 1, a) for the
      newest step alone. Dropout is on exactly when `key` is given.

    Raises JaxdtError when `state_dim` or `action_dim` is not set.
    """
    if config.state_dim is None or config.action_dim is None:
        raise JaxdtError(f"build_model needs state_dim and action_dim; got {config.state_dim} and {config.action_dim}.")

    def make(key: PRNGKeyArray) -> DecisionTransformer:
        return DecisionTransformer(config, rngs=nnx.Rngs(key))

    graph, shapes = nnx.split(nnx.eval_shape(lambda: make(jax.random.key(0))))

    def init(key: PRNGKeyArray) -> Params:
        return nnx.to_pure_dict(nnx.state(make(key), nnx.Param))

    def apply(
        params: Params, window: Window, *, newest_only: bool = False, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b answers a"]:
        state = jax.tree.map(lambda leaf: leaf, shapes)  # a copy: the next line writes into it
        nnx.replace_by_pure_dict(state, params)
        window = Window(*map(jnp.asarray, window))
        return nnx.merge(graph, state)(window, newest_only=newest_only, key=key)

    return init, apply


def _layer_norm(width: int, epsilon: float, rngs: nnx.Rngs, *, bias_std: float = 0.0) -> nnx.LayerNorm:
    bias_init = nnx.initializers.normal(bias_std) if bias_std else nnx.initializers.zeros
    # PyTorch's two-pass variance; Flax's default is E[x^2] - E[x]^2.
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, bias_init=bias_init, rngs=rngs)


def _gpt2_linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, std: float = _STD) -> nnx.Linear:
    return nnx.Linear(
        inputs, outputs, kernel_init=nnx.initializers.normal(std), bias_init=nnx.initializers.zeros, rngs=rngs
    )


def _torch_linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Weights and biases uniform in +-1/sqrt(inputs): PyTorch's default, which the original leaves in place."""
    bound = 1 / math.sqrt(inputs)

    def uniform(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(inputs, outputs, kernel_init=uniform, bias_init=uniform, rngs=rngs)


def _dense(layer: nnx.Linear, x: Float[Array, "*rows i"]) -> Float[Array, "*rows o"]:
    # On flattened rows XLA computes the weight gradient without transposing its inputs: 1.7 x a whole step on CPU.
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], layer.out_features)


def _drop(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Dropout from 16 random bits an element, half of what nnx.Dropout draws; the rate is exact to 2**-17."""
    if key is None or rate == 0:
        return x
    words = jax.random.bits(key, (math.ceil(x.size / 2),), jnp.uint32)
    bits = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: x.size].reshape(x.shape)
    return jnp.where(bits >= round(rate * 2**16), x / (1 - rate), 0)


def _split(key: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    return [None] * count if key is None else list(jax.random.split(key, count))
