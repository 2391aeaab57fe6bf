"""The Decision Transformer: block, then model (paper section 3; the original's `decision_transformer.py`)."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdt.config import ModelConfig
from jaxdt.models.attention import DecodeCache, KVCache, attend, causal_and_real, newest_may_attend
from jaxdt.models.layers import (
    STD,
    dense,
    drop,
    embedding,
    gpt2_linear,
    layer_norm,
    normalize,
    orthogonal_linear,
    split,
    torch_linear,
)
from jaxdt.types import Window


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
}
_TORCH_EPSILON = 1e-5  # the embedding's LayerNorm keeps PyTorch's default, whatever the config says of the others


class Block(nnx.Module):
    """Pre-LN transformer block: attention, then an MLP, each added to its input."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width, hidden = config.width, config.mlp_width or 4 * config.width
        self.num_heads = config.num_heads
        self.activation = _ACTIVATIONS[config.activation]
        by_depth = STD / math.sqrt(2 * config.num_layers) if config.initialization == "huggingface" else STD
        self.attention_norm = layer_norm(width, config.layer_norm_epsilon, rngs)
        self.query = gpt2_linear(width, width, rngs)
        self.key_value = gpt2_linear(width, 2 * width, rngs)
        self.attention_out = gpt2_linear(width, width, rngs, std=by_depth)
        self.mlp_norm = layer_norm(width, config.layer_norm_epsilon, rngs)
        self.mlp_in = gpt2_linear(width, hidden, rngs)
        self.mlp_out = gpt2_linear(hidden, width, rngs, std=by_depth)
        self.attention_dropout, self.residual_dropout = config.attention_dropout, config.residual_dropout

    def __call__(
        self,
        x: Float[Array, "b l d"],
        may_attend: Bool[Array, "b l l"],
        *,
        queries: slice = slice(None),
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b q d"]:
        """The tokens in the slice `queries`; keys and values always come from all tokens."""
        normed = normalize(self.attention_norm, x)
        return self._attend_and_mlp(
            x[:, queries], normed[:, queries], self._keys_values(normed), may_attend[:, queries], key
        )

    def extend(
        self,
        x: Float[Array, "b new d"],
        cache: KVCache,
        at: Int[Array, ""],
        may_attend: Bool[Array, "1 new l"],
        *,
        queries: slice = slice(None),
    ) -> tuple[Float[Array, "b q d"], KVCache]:
        """As a call, with the keys and values of the new tokens written into the cache at `at`."""
        normed = normalize(self.attention_norm, x)
        cache = cache.with_new(self._keys_values(normed), at)
        return self._attend_and_mlp(x[:, queries], normed[:, queries], cache, may_attend[:, queries], None), cache

    def _keys_values(self, normed: Float[Array, "b l d"]) -> KVCache:
        keys, values = jnp.split(dense(self.key_value, normed), 2, axis=-1)
        return KVCache.of(keys, values, self.num_heads)

    def _attend_and_mlp(
        self,
        x: Float[Array, "b q d"],
        normed: Float[Array, "b q d"],
        cache: KVCache,
        may_attend: Bool[Array, "#b q l"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "b q d"]:
        attention_key, out_key, mlp_key = split(key, 3)
        query, dropout = dense(self.query, normed), self.attention_dropout
        attended = attend(query, cache, may_attend, dropout=dropout, key=attention_key)
        x = x + drop(dense(self.attention_out, attended), self.residual_dropout, out_key)
        hidden = self.activation(dense(self.mlp_in, normalize(self.mlp_norm, x)))
        return x + drop(dense(self.mlp_out, hidden), self.residual_dropout, mlp_key)


def _scan(
    through: Callable[[Block, Array, PRNGKeyArray | None], Array],
    blocks: list[Block],
    x: Float[Array, "b l d"],
    keys: list[PRNGKeyArray | None],
) -> Float[Array, "b l d"]:
    """`through(block, x, key)` of one block after the other, written down once; each call stacks their weights."""
    definition, parameters = nnx.split(blocks[0])[0], [nnx.split(block)[1] for block in blocks]
    # As numbers, for jax's check of keys takes a loop and its backward pass for two uses of them.
    numbers = [None if key is None else jax.random.key_data(key) for key in keys]
    kind = None if keys[0] is None else jax.random.key_impl(keys[0])
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *zip(parameters, numbers, strict=True))

    def step(x: Array, layer: tuple[nnx.State, Array | None]) -> tuple[Array, None]:
        state, number = layer
        key = None if number is None else jax.random.wrap_key_data(number, impl=kind)
        return through(nnx.merge(definition, state), x, key), None

    return jax.lax.scan(step, x, stacked)[0]


class DecisionTransformer(nnx.Module):
    """Causal transformer over the tokens (return-to-go, state, action) of each step.

    Predicts continuous actions, or the logits of discrete ones; `gaussian`: of continuous ones the mean, and as many
    numbers more from which a standard deviation is made, of a distribution that is squashed or bounded elsewhere.
    """

    def __init__(self, config: ModelConfig, *, gaussian: bool = False, rngs: nnx.Rngs):
        assert config.state_dim is not None
        self.is_discrete = config.num_actions is not None
        outputs = config.num_actions or config.action_dim
        assert outputs is not None
        gaussian = gaussian and not self.is_discrete
        width, as_huggingface = config.width, config.initialization == "huggingface"
        linear = gpt2_linear if as_huggingface else torch_linear
        self.last_timestep = config.max_episode_length - 1
        self.action_tanh, self.dtype = config.action_tanh and not self.is_discrete and not gaussian, config.dtype
        timestep_std = STD if as_huggingface else 1.0  # PyTorch's default
        timesteps = config.max_episode_length
        self.embed_timestep = embedding(timesteps, width, rngs, std=timestep_std) if config.timestep_embedding else None
        self.embed_return = linear(1, width, rngs)
        self.embed_state = linear(config.state_dim, width, rngs)
        # N(0, 0.02), as in the original's model for Atari and in Hugging Face's tables.
        self.embed_action = embedding(outputs, width, rngs) if self.is_discrete else linear(outputs, width, rngs)
        # Hugging Face adds the one row wpe[0] of a position table to every token: here it is part of this bias.
        self.embed_norm = layer_norm(width, _TORCH_EPSILON, rngs, bias_std=STD if as_huggingface else 0.0)
        self.embedding_dropout = config.embedding_dropout
        self.rematerialize, self.scan_layers = config.rematerialize, config.scan_layers
        self.blocks = nnx.Dict({f"block_{i}": Block(config, rngs=rngs) for i in range(config.num_layers)})
        self.final_norm = layer_norm(width, config.layer_norm_epsilon, rngs)
        self.predict_action = None if gaussian else linear(width, outputs, rngs)
        self.predict_mean = orthogonal_linear(width, outputs, rngs, gain=1.0) if gaussian else None
        self.predict_log_std = orthogonal_linear(width, outputs, rngs, gain=1.0) if gaussian else None

    def __call__(
        self, window: Window, *, newest_only: bool = False, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b q outputs"]:
        t = window.mask.shape[1]
        embed_key, *block_keys = split(key, 1 + len(self.blocks))
        x = drop(normalize(self.embed_norm, self._embed(window)).astype(self.dtype), self.embedding_dropout, embed_key)
        may_attend = causal_and_real(window.mask)
        # Only state tokens predict, so the last block computes nothing else.
        states = slice(3 * t - 2, 3 * t - 1) if newest_only else slice(1, None, 3)

        def through(block: Block, x: Array, key: PRNGKeyArray | None, queries: slice = slice(None)) -> Array:
            call = partial(block, queries=queries)
            # What a block draws follows from its key, so computing it again drops the same elements.
            call = jax.checkpoint(call) if self.rematerialize and key is not None else call
            return call(x, may_attend, key=key)

        *blocks, last = [self.blocks[f"block_{i}"] for i in range(len(self.blocks))]
        if self.scan_layers and blocks and not newest_only:  # acting has one program for all, and exports it
            x = _scan(through, blocks, x, block_keys[:-1])
        else:
            for block, block_key in zip(blocks, block_keys, strict=False):
                x = through(block, x, block_key)
        x = through(last, x, block_keys[-1], states)
        return self._predict(x)

    def decode_step(
        self,
        cache: DecodeCache,
        previous_action: Float[Array, "b a"] | Int[Array, " b"],
        states: Float[Array, "b *s"],
        returns_to_go: Float[Array, " b"],
        timestep: Int[Array, ""],
    ) -> tuple[DecodeCache, Float[Array, "b outputs"]]:
        """The prediction at a new step, from three new tokens: the action before it, its return-to-go and its state."""
        length = cache.blocks[0].keys.shape[-1] // 3
        time = self._embed_time(timestep)[None]
        tokens = (
            self._embed_action(previous_action) + self._embed_time(cache.timestep)[None],
            dense(self.embed_return, returns_to_go[:, None]) + time,
            dense(self.embed_state, states.reshape(states.shape[0], -1)) + time,
        )
        x = normalize(self.embed_norm, jnp.stack(tokens, axis=1)).astype(self.dtype)
        slot, may_attend = cache.steps_seen % length, newest_may_attend(cache.steps_seen, length)
        blocks = []
        for i, old in enumerate(cache.blocks):
            queries = slice(2, 3) if i == len(cache.blocks) - 1 else slice(None)
            x, new = self.blocks[f"block_{i}"].extend(x, old, 3 * slot, may_attend, queries=queries)
            blocks.append(new)
        return DecodeCache(tuple(blocks), timestep, cache.steps_seen + 1), self._predict(x)[:, 0]

    def _predict(self, x: Float[Array, "b q d"]) -> Float[Array, "b q outputs"]:
        seen = normalize(self.final_norm, x.astype(jnp.float32))
        heads = (self.predict_action, self.predict_mean, self.predict_log_std)
        outputs = jnp.concatenate([dense(head, seen) for head in heads if head is not None], axis=-1)
        return jnp.tanh(outputs) if self.action_tanh else outputs

    def _embed_action(self, actions: Float[Array, "*b a"] | Int[Array, "*b"]) -> Float[Array, "*b d"]:
        layer = self.embed_action
        return dense(layer, actions) if isinstance(layer, nnx.Linear) else layer(actions)

    def _embed_time(self, timesteps: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        if self.embed_timestep is None:
            return jnp.zeros((*timesteps.shape, self.embed_return.out_features))
        # nnx.Embed gives NaN for an index out of range; steps past the table share its last row.
        return self.embed_timestep(jnp.clip(timesteps, 0, self.last_timestep))

    def _embed(self, window: Window) -> Float[Array, "b l d"]:
        b, t = window.mask.shape
        time = self._embed_time(window.timesteps)
        states = window.states.reshape(b, t, -1)
        tokens = (
            dense(self.embed_return, window.returns_to_go[..., None]),
            dense(self.embed_state, states),
            self._embed_action(window.actions),
        )
        return jnp.stack([token + time for token in tokens], axis=2).reshape(b, 3 * t, -1)
