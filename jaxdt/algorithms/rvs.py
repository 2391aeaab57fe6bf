"""RvS-R (Emmons et al. 2022): supervised learning of the action from the state and an average return-to-go."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, Num, PRNGKeyArray, PyTree

from jaxdt.algorithms import normalization
from jaxdt.algorithms.distributions import Gaussian
from jaxdt.algorithms.normalization import action_error, choose_action, normalize, to_environment
from jaxdt.config import RvSConfig
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.windows import WindowSampler
from jaxdt.models import build_mlp
from jaxdt.training import GradientUpdate, initial_state
from jaxdt.types import Algorithm, Box, Policy, Spec, Window


GAINS = (math.sqrt(2), 0.01)
"""Of the orthogonal initial weights (Stable-Baselines3's, which the authors use)."""


def measure(config: RvSConfig, store: EpisodeStore) -> dict[str, np.ndarray]:
    """The longest episode, and what states are normalised by: 0 and 1 where they are not."""
    longest = {"longest_episode": np.asarray(store.lengths.max(), np.float32)}
    return normalization.measure(store, scaled=config.normalize_states) | longest


def make(config: RvSConfig, spec: Spec) -> Algorithm:
    """Raises JaxdtError where config and spec do not fit together."""
    config.check_spec(spec)
    outputs = len(spec.action.low) if isinstance(spec.action, Box) else spec.action.n
    is_continuous, longest = isinstance(spec.action, Box), int(spec.constants["longest_episode"])
    init_mlp, apply = build_mlp(
        inputs=math.prod(spec.observation_shape) + 1,
        outputs=outputs,
        width=config.width,
        num_layers=config.num_layers,
        dropout=config.dropout,
        gains=GAINS,
    )

    def init(key: PRNGKeyArray) -> Any:
        params: dict[str, Any] = {"mlp": init_mlp(key)}
        if is_continuous:
            params["log_std"] = jnp.zeros(outputs)
        return initial_state(params, config.optimizer)

    def predict(
        params: PyTree, states: Float[Array, "b *s"], average: Float[Array, " b"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "b n"]:
        seen = jnp.concatenate([states.reshape(states.shape[0], -1), average[:, None]], axis=1)
        return apply(params["mlp"], seen, key=key)

    def recorded(params: PyTree, window: Window, key: PRNGKeyArray | None = None) -> Float[Array, "b n"]:
        """What is predicted of the newest step, whose return-to-go is known."""
        average = window.returns_to_go[:, -1] / jnp.maximum(longest - window.timesteps[:, -1], 1)
        return predict(params, window.states[:, -1], average, key if config.dropout else None)

    return Algorithm(
        init=init,
        update=GradientUpdate(
            lambda params, window, key: _mean_loss(params, recorded(params, window, key), window), config.optimizer
        ),
        policy=_policy(config, spec, predict),
        sampler=lambda store, **drawn: WindowSampler(
            store,
            statistics=(spec.constants["state_mean"], spec.constants["state_std"]),
            context_length=1,
            return_scale=1.0,
            max_episode_length=longest,
            **drawn,
        ),
        validate=lambda params, window: _validate(params, recorded(params, window), window),
    )


def _mean_loss(params: PyTree, prediction: Float[Array, "b n"], window: Window) -> Float[Array, ""]:
    """The newest action's negative log-likelihood; a window of nothing but padding counts for nothing."""
    action, is_real = window.actions[:, -1], window.mask[:, -1]
    if "log_std" in params:
        losses = -Gaussian(prediction, params["log_std"][None]).log_prob(action)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(prediction, action)
    return jnp.sum(losses * is_real) / jnp.maximum(jnp.sum(is_real), 1)


def _validate(params: PyTree, prediction: Float[Array, "b n"], window: Window) -> dict[str, Float[Array, ""]]:
    executed = jnp.clip(prediction, -1.0, 1.0) if "log_std" in params else prediction
    error = action_error(executed, window.actions[:, -1], window.mask[:, -1])
    return {"loss": _mean_loss(params, prediction, window), "action_error": error}


class _Memory(NamedTuple):
    average: Float[Array, " b"]
    """The target over the longest episode's steps; it stays as it is, whatever is earned."""


def _policy(config: RvSConfig, spec: Spec, predict: Any) -> Policy:
    def start(targets: Float[Array, " b"]) -> _Memory:
        return _Memory(targets / spec.constants["longest_episode"])

    def act(
        params: PyTree,
        memory: _Memory,
        observation: Num[Array, "b *s"],
        reward: Float[Array, " b"],
        keys: Key[Array, " b"] | None,
    ) -> tuple[_Memory, Num[Array, "b *a"]]:
        del reward
        prediction = predict(params, normalize(observation, spec), memory.average)
        if isinstance(spec.action, Box):
            prediction = jnp.clip(prediction, -1.0, 1.0)
        return memory, to_environment(
            choose_action(prediction, spec, temperature=config.drawing_temperature, keys=keys), spec
        )

    return Policy(start, act)
