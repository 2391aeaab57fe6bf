"""Behaviour cloning by an MLP on the last states (the original's MLP-BC; paper section 5.1 calls its best part %BC)."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, Num, PRNGKeyArray, PyTree

from jaxdt.algorithms import normalization
from jaxdt.algorithms.normalization import action_error, choose_action, normalize, to_environment
from jaxdt.config import BehaviorCloningConfig
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.windows import WindowSampler
from jaxdt.models import build_mlp
from jaxdt.training import GradientUpdate, initial_state
from jaxdt.types import Algorithm, Box, Policy, Spec, Window


def measure(config: BehaviorCloningConfig, store: EpisodeStore) -> dict[str, np.ndarray]:
    """What states are normalised by."""
    del config
    return normalization.measure(store)


def make(config: BehaviorCloningConfig, spec: Spec) -> Algorithm:
    """Raises JaxdtError where config and spec do not fit together."""
    config.check_spec(spec)
    is_continuous = isinstance(spec.action, Box)
    init, apply = build_mlp(
        inputs=config.context_length * math.prod(spec.observation_shape),
        outputs=len(spec.action.low) if isinstance(spec.action, Box) else spec.action.n,
        width=config.width,
        num_layers=config.num_layers,
        dropout=config.dropout,
        tanh=is_continuous,
    )

    def predict(params: PyTree, window: Window, key: PRNGKeyArray | None = None) -> Float[Array, "b n"]:
        return apply(params, window.states.reshape(len(window.states), -1), key=key)

    def loss(params: PyTree, window: Window, key: PRNGKeyArray | None) -> Float[Array, ""]:
        return mean_loss(predict(params, window, key), window)

    def mean_loss(prediction: Float[Array, "b n"], window: Window) -> Float[Array, ""]:
        """Of the newest step's action; a window of nothing but padding counts for nothing."""
        action, is_real = window.actions[:, -1], window.mask[:, -1]
        if is_continuous:
            losses = jnp.mean(jnp.square(prediction - action), axis=-1)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(prediction, action)
        return jnp.sum(losses * is_real) / jnp.maximum(jnp.sum(is_real), 1)

    def validate(params: PyTree, window: Window) -> dict[str, Float[Array, ""]]:
        prediction = predict(params, window)
        error = action_error(prediction, window.actions[:, -1], window.mask[:, -1])
        return {"loss": mean_loss(prediction, window), "action_error": error}

    return Algorithm(
        init=lambda key: initial_state(init(key), config.optimizer),
        update=GradientUpdate(loss, config.optimizer),
        policy=_policy(config, spec, apply),
        sampler=lambda store, **drawn: WindowSampler(
            store,
            statistics=(spec.constants["state_mean"], spec.constants["state_std"]),
            context_length=config.context_length,
            **drawn,
        ),
        validate=validate,
    )


class _Memory(NamedTuple):
    states: Float[Array, "b t *s"]
    """The last ones, normalised, the newest at the right; 0 before the episode."""


def _policy(config: BehaviorCloningConfig, spec: Spec, apply) -> Policy:
    def start(targets: Float[Array, " b"]) -> _Memory:
        return _Memory(jnp.zeros((targets.shape[0], config.context_length, *spec.observation_shape)))

    def act(
        params: PyTree,
        memory: _Memory,
        observation: Num[Array, "b *s"],
        reward: Float[Array, " b"],
        keys: Key[Array, " b"] | None,
    ) -> tuple[_Memory, Num[Array, "b *a"]]:
        del reward
        states = jnp.concatenate([memory.states[:, 1:], normalize(observation, spec)[:, None]], axis=1)
        prediction = apply(params, states.reshape(states.shape[0], -1))
        action = choose_action(prediction, spec, temperature=config.drawing_temperature, keys=keys)
        return _Memory(states), to_environment(action, spec)

    return Policy(start, act)
