"""The model as plain functions on plain nested dicts, which is all that the other rooms see of it."""

import functools
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdt.config import ModelConfig
from jaxdt.errors import JaxdtError
from jaxdt.models.attention import DecodeCache
from jaxdt.models.functional import Init, Params, as_functions
from jaxdt.models.layers import for_each_window
from jaxdt.models.transformer import DecisionTransformer
from jaxdt.types import Window


@runtime_checkable
class Apply(Protocol):
    """What `build_model` returns second."""

    def __call__(
        self, params: Params, window: Window, *, newest_only: bool = False, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b q outputs"]: ...


@runtime_checkable
class DecodeStep(Protocol):
    """What `build_decoder` returns second."""

    def __call__(
        self,
        params: Params,
        cache: DecodeCache,
        previous_action: Float[Array, "b a"] | Int[Array, " b"],
        states: Float[Array, "b *s"],
        returns_to_go: Float[Array, " b"],
        timestep: Int[Array, ""],
    ) -> tuple[DecodeCache, Float[Array, "b outputs"]]:
        """One step of `b` episodes side by side.

        `previous_action` is what was executed at the step before, as a window has it; at the first step any valid
        one does, for it is not looked at. `states` and `returns_to_go` are a window's too, normalised and scaled.
        """
        ...


def build_model(config: ModelConfig, *, gaussian: bool = False) -> tuple[Init, Apply]:
    """The model as two pure functions.

    - `init(key) -> params`: a nested dict of float32 arrays, initialised as `config.initialization` says.
    - `apply(params, window, *, newest_only=False, key=None)`: the prediction at each step from what came before
      it, or at the newest step alone (then t is 1). Continuous actions (b, t, a), in [-1, 1] unless `action_tanh`
      is off, or the logits (b, t, n) of discrete ones. Dropout is on exactly when `key` is given.

    `gaussian`: of continuous actions (b, t, 2a), a mean and then as many numbers that tell a standard deviation, both
    as the last layer gives them.

    Raises JaxdtError unless `state_dim`, `timestep_embedding` and one of `action_dim` and `num_actions` are set.
    """
    init, with_params = _functions(config, gaussian)

    def apply(
        params: Params, window: Window, *, newest_only: bool = False, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b q outputs"]:
        window = jax.tree.map(jnp.asarray, window)
        if key is not None and jax.default_backend() != "cpu":  # on a CPU it takes 3 % longer
            params = for_each_window(params, len(window.mask))
        return with_params(params)(window, newest_only=newest_only, key=key)

    return init, apply


def build_decoder(config: ModelConfig, *, gaussian: bool = False) -> tuple[Callable[[int], DecodeCache], DecodeStep]:
    """The model one step at a time: three tokens a step instead of 3K, from cached keys and values.

    - `start(b) -> cache`, before the first step.
    - `decode_step(params, cache, previous_action, states, returns_to_go, timestep) -> (cache, prediction)`.

    The first `context_length` predictions are those of `apply`. Later ones are not: there `apply` computes every
    token from the window alone, while the cached ones have seen what has left the window since.
    """
    _, with_params = _functions(config, gaussian)

    def start(batch: int) -> DecodeCache:
        return DecodeCache.empty(
            batch,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            width=config.width,
            length=3 * config.context_length,
            dtype=config.dtype,
        )

    def decode_step(
        params: Params,
        cache: DecodeCache,
        previous_action: Float[Array, "b a"] | Int[Array, " b"],
        states: Float[Array, "b *s"],
        returns_to_go: Float[Array, " b"],
        timestep: Int[Array, ""],
    ) -> tuple[DecodeCache, Float[Array, "b outputs"]]:
        return with_params(params).decode_step(cache, previous_action, states, returns_to_go, timestep)

    return start, decode_step


@functools.lru_cache(maxsize=8)
def _functions(config: ModelConfig, gaussian: bool) -> tuple[Init, Callable[[Params], DecisionTransformer]]:
    """Kept, so that the same model is compiled once."""
    if config.state_dim is None or (config.action_dim is None) == (config.num_actions is None):
        raise JaxdtError(
            "a model needs state_dim and exactly one of action_dim and num_actions; "
            f"got {config.state_dim}, {config.action_dim} and {config.num_actions}."
        )
    if config.timestep_embedding is None:
        raise JaxdtError("timestep_embedding must be True or False here; got None (for_data fills it in).")
    init, with_float32_params = as_functions(lambda rngs: DecisionTransformer(config, gaussian=gaussian, rngs=rngs))

    def with_params(params: Params) -> DecisionTransformer:
        # Only the blocks compute in `config.dtype`: a bfloat16 return-to-go of 12 could not tell 12,000 from 12,050.
        blocks = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params["blocks"])
        return with_float32_params({**params, "blocks": blocks})

    return init, with_params
