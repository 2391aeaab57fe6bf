"""The Decision Transformer (Chen et al. 2021): predict the action from returns-to-go, states and earlier actions."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, Num, PRNGKeyArray, PyTree

from jaxdt.algorithms import normalization
from jaxdt.algorithms.normalization import action_error, choose_action, normalize, to_environment
from jaxdt.config import DecisionTransformerConfig, ModelConfig, OnlineDTConfig, OptimizerConfig
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.windows import WindowSampler
from jaxdt.errors import JaxdtError
from jaxdt.models import Apply, DecodeStep, build_decoder, build_model
from jaxdt.stacking import in_cpu_blocks
from jaxdt.training import GradientUpdate, TrainState, TrainStep, compile_update, initial_state
from jaxdt.types import Algorithm, Box, Policy, Spec, Window


BLOCK = 32
"""Most windows that a CPU reads at once; more would leave its caches."""


AnyTransformerConfig = DecisionTransformerConfig | OnlineDTConfig

Choose = Callable[[Float[Array, "b n"], Key[Array, " b"] | None], Num[Array, "b *a"]]
"""`choose(prediction, keys of the episodes)`: the action in the network's terms."""


def measure(config: DecisionTransformerConfig, store: EpisodeStore) -> dict[str, np.ndarray]:
    """What states are normalised by."""
    del config
    return normalization.measure(store)


def make(config: DecisionTransformerConfig, spec: Spec) -> Algorithm:
    """Raises JaxdtError where config and spec do not fit together."""
    config.check_spec(spec)
    init, apply = _network(config, spec)
    own = config.network is not None
    return Algorithm(
        init=lambda key: initial_state(init(key), config.optimizer),
        update=GradientUpdate(partial(window_loss, apply), config.optimizer),
        policy=window_policy(config, apply, spec) if own else transformer_policy(config, spec),
        sampler=partial(windows_of, config, spec),
        validate=partial(_validate, apply),
    )


def _network(config: DecisionTransformerConfig, spec: Spec) -> tuple[Callable[[PRNGKeyArray], PyTree], Any]:
    """`init` and `apply` as `build_model` returns them, of the config's own network where it has one."""
    model = with_sizes(config.model, spec)
    if config.network is None:
        return build_model(model)
    if not callable(config.network):
        raise JaxdtError("the run's network is one's own; give it again, with network= from Python.")
    init, apply = config.network(model)

    def apply_own(params: PyTree, window: Window, *, newest_only: bool = False, key: PRNGKeyArray | None = None):
        prediction = apply(params, window, key=key)
        return prediction[:, -1:] if newest_only else prediction

    return init, apply_own


def windows_of(config: AnyTransformerConfig, spec: Spec, store: EpisodeStore, **drawn: Any) -> WindowSampler:
    """The windows that a transformer is trained on; `drawn` as `Algorithm.sampler` says."""
    return WindowSampler(
        store,
        statistics=(spec.constants["state_mean"], spec.constants["state_std"]),
        context_length=config.model.context_length,
        return_scale=config.return_scale,
        max_episode_length=config.model.max_episode_length,
        **drawn,
    )


def with_sizes(config: ModelConfig, spec: Spec) -> ModelConfig:
    """The model with the sizes of observations and actions filled in; raises JaxdtError where it has others."""
    sizes: dict[str, int | None] = {"state_dim": math.prod(spec.observation_shape)}
    if isinstance(spec.action, Box):
        sizes |= {"action_dim": len(spec.action.low), "num_actions": None}
    else:
        sizes |= {"action_dim": None, "num_actions": spec.action.n}
    for name, found in sizes.items():
        given = getattr(config, name)
        if given not in (None, found):
            raise JaxdtError(f"the config's {name} is {given} but the data's is {found}; leave it out of the config.")
    return dataclasses.replace(config, **sizes)


def window_loss(apply: Apply, params: PyTree, window: Window, key: PRNGKeyArray | None) -> Float[Array, ""]:
    """Squared error of continuous actions, cross-entropy of discrete ones, over real steps only."""
    return _loss(apply(params, window, key=key), window)


def _loss(prediction: Float[Array, "b t n"], window: Window) -> Float[Array, ""]:
    loss = masked_mse if jnp.issubdtype(window.actions.dtype, jnp.floating) else masked_cross_entropy
    return loss(prediction, window.actions, window.mask)


def _validate(apply: Apply, params: PyTree, window: Window) -> dict[str, Float[Array, ""]]:
    prediction = apply(params, window, key=None)
    return {
        "loss": _loss(prediction, window),
        "action_error": action_error(prediction, window.actions, window.mask),
    }


def masked_mse(
    predicted: Float[Array, "b t a"], target: Float[Array, "b t a"], mask: Bool[Array, "b t"]
) -> Float[Array, ""]:
    """Mean squared error over the elements of real steps only (the original's `seq_trainer.py`)."""
    squared = jnp.sum(jnp.square(predicted - target), axis=-1)
    return jnp.sum(squared * mask) / jnp.maximum(jnp.sum(mask) * target.shape[-1], 1)


def masked_cross_entropy(
    logits: Float[Array, "b t n"], actions: Int[Array, "b t"], mask: Bool[Array, "b t"]
) -> Float[Array, ""]:
    """Mean over real steps only of the negative log-likelihood of each action, in nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, actions)
    return jnp.sum(losses * mask) / jnp.maximum(jnp.sum(mask), 1)


def make_train_step(
    apply: Any, params: PyTree[Array], config: OptimizerConfig, *, updates_per_call: int | None = None
) -> tuple[TrainStep, TrainState]:
    """The jitted update of a model's own parameters, and the state it starts from.

    `apply(params, window, key=...) -> actions (b, t, a)` (or logits (b, t, n)) as `build_model` returns it. The state
    holds copies, so the caller's `params` survive its donation. `step` folds `state.step` into the key: give it the
    same key every time. Metrics: `loss`, `grad_norm` before clipping, `learning_rate`. With `updates_per_call`,
    one call makes `n` updates: the windows are stacked along a new first axis, which the metrics have too.
    """
    update = GradientUpdate(partial(window_loss, apply), config)
    return compile_update(update, updates_per_call=updates_per_call), initial_state(params, config)


class _Memory(NamedTuple):
    """Of `b` episodes."""

    context: PyTree
    """The last steps as a Window, the newest at the right; or what is kept of them."""
    action: Num[Array, "b *a"]
    """The newest one, in the model's terms."""
    return_to_go: Float[Array, " b"]
    """Still to be reached, in reward units."""
    timestep: Int[Array, ""]
    """Steps since the episodes began."""


def transformer_policy(
    config: AnyTransformerConfig, spec: Spec, *, choose: Choose | None = None, gaussian: bool = False
) -> Policy:
    """Acts with the context that `config.model` says, read as `config.context` does.

    - `choose`: the action of a prediction; default: what a Decision Transformer's config says.
    - `gaussian`: as `build_model` says.
    """
    choose = choose or _as_config_says(config, spec)
    model = with_sizes(config.model, spec)
    if config.context == "cached":
        return _cached_policy(config, build_decoder(model, gaussian=gaussian), spec, choose)
    return window_policy(config, build_model(model, gaussian=gaussian)[1], spec, choose)


def _as_config_says(config: Any, spec: Spec) -> Choose:
    temperature = config.drawing_temperature
    return lambda prediction, keys: choose_action(prediction, spec, temperature=temperature, keys=keys)


def window_policy(config: AnyTransformerConfig, apply: Apply, spec: Spec, choose: Choose | None = None) -> Policy:
    """Remembers the last `context_length` steps and reads all of them anew at each (the original's `get_action`)."""

    def predict(params: PyTree, window: Window) -> Float[Array, "b n"]:
        return apply(params, window, newest_only=True)[:, 0]

    def see(params, memory: _Memory, states, return_to_go, timestep) -> tuple[Window, Float[Array, "b n"]]:
        window = memory.context._replace(actions=memory.context.actions.at[:, -1].set(memory.action))
        window = push(window, states, return_to_go, timestep)
        return window, in_cpu_blocks(partial(predict, params), BLOCK, window)

    return _acting(
        config,
        spec,
        partial(empty_window, config.model.context_length, spec),
        see,
        choose or _as_config_says(config, spec),
    )


def _cached_policy(
    config: AnyTransformerConfig,
    decoder: tuple[Callable[[int], PyTree], DecodeStep],
    spec: Spec,
    choose: Choose,
) -> Policy:
    """Acts from the keys and values of tokens as they were computed when new: three tokens a step instead of 3K.

    The first `context_length` steps are those of `window_policy`. Later ones are not: there `window_policy` computes
    every token from the window alone, while these have seen what has left the window since.
    """
    empty, decode_step = decoder

    def see(params, memory: _Memory, states, return_to_go, timestep) -> tuple[PyTree, Float[Array, "b n"]]:
        return decode_step(params, memory.context, memory.action, states, return_to_go, timestep)

    return _acting(config, spec, empty, see, choose)


def _acting(
    config: AnyTransformerConfig,
    spec: Spec,
    empty: Callable[[int], PyTree],
    see: Callable[..., Any],
    choose: Choose,
) -> Policy:
    """What both ways of reading the context share.

    `empty(batch) -> context`; `see(params, memory, states, return_to_go, timestep) -> (context, prediction)`.
    """

    def start(targets: Float[Array, " b"]) -> _Memory:
        batch = targets.shape[0]
        action = jnp.zeros((batch, *spec.action_shape), spec.action_dtype)
        return _Memory(empty(batch), action, targets, jnp.zeros((), jnp.int32))

    def act(
        params: PyTree,
        memory: _Memory,
        observation: Num[Array, "b *s"],
        reward: Float[Array, " b"],
        keys: Key[Array, " b"] | None,
    ) -> tuple[_Memory, Num[Array, "b *a"]]:
        # Trained on delayed rewards, it has never seen a return-to-go fall.
        return_to_go = memory.return_to_go if spec.delayed_reward else memory.return_to_go - reward
        timestep = jnp.minimum(memory.timestep, config.model.max_episode_length - 1)
        states = normalize(observation, spec)
        context, prediction = see(params, memory, states, return_to_go / config.return_scale, timestep)
        action = choose(prediction, keys)
        if isinstance(spec.action, Box):  # what is done, and so what is remembered: as in the data
            action = jnp.clip(action, -1.0, 1.0)
        return _Memory(context, action, return_to_go, memory.timestep + 1), to_environment(action, spec)

    return Policy(start, act)


def empty_window(length: int, spec: Spec, batch: int) -> Window:
    """Nothing but padding."""
    shape = (batch, length)
    return Window(
        states=jnp.zeros((*shape, *spec.observation_shape), jnp.float32),
        actions=jnp.zeros((*shape, *spec.action_shape), spec.action_dtype),
        returns_to_go=jnp.zeros(shape, jnp.float32),
        timesteps=jnp.zeros(shape, jnp.int32),
        mask=jnp.zeros(shape, bool),
    )


def push(
    window: Window, states: Float[Array, "b *s"], return_to_go: Float[Array, " b"], timestep: Int[Array, ""]
) -> Window:
    """The context one step later: everything moves left, the new step stands at the right, its action still 0."""
    batch = states.shape[0]
    newest = Window(
        states=states,
        actions=jnp.zeros_like(window.actions[:, 0]),
        returns_to_go=return_to_go,
        timesteps=jnp.full((batch,), timestep, jnp.int32),
        mask=jnp.ones((batch,), bool),
    )
    return Window(
        *(jnp.concatenate([old[:, 1:], new[:, None]], axis=1) for old, new in zip(window, newest, strict=True))
    )
