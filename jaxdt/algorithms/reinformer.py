"""Reinformer (Zhuang et al. 2024): it is asked for no return, and predicts one that is large but likely."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num, PRNGKeyArray, PyTree

from jaxdt.algorithms import normalization
from jaxdt.algorithms.decision_transformer import empty_window, push
from jaxdt.algorithms.distributions import Gaussian, chosen
from jaxdt.algorithms.normalization import action_error, normalize, to_environment
from jaxdt.algorithms.temperature import EntropyUpdate, Fit, initial_state, mean_of_real
from jaxdt.config import ReinformerConfig
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.windows import WindowSampler
from jaxdt.models import Prediction, build_reinformer
from jaxdt.types import Algorithm, Policy, Spec, Window


def measure(config: ReinformerConfig, store: EpisodeStore) -> dict[str, np.ndarray]:
    """What states are normalised by."""
    del config
    return normalization.measure(store)


def make(config: ReinformerConfig, spec: Spec) -> Algorithm:
    """Raises JaxdtError where config and spec do not fit together."""
    config.check_spec(spec)
    network = build_reinformer(config, spec)
    fit = partial(fit_window, network.apply, config.expectile)
    return Algorithm(
        init=lambda key: initial_state(network.init(key), config.optimizer),
        update=EntropyUpdate(fit, config.optimizer, target_entropy=-float(spec.action_shape[0])),
        policy=_policy(config, spec),
        sampler=lambda store, **drawn: WindowSampler(
            store,
            statistics=(spec.constants["state_mean"], spec.constants["state_std"]),
            context_length=config.context_length,
            return_scale=config.return_scale or 1.0,
            max_episode_length=config.max_episode_length,
            **drawn,
        ),
        validate=partial(_validate, network.apply, config.expectile),
    )


def fit_window(
    apply: Callable[..., Prediction], expectile: float, params: PyTree, window: Window, key: PRNGKeyArray | None
) -> Fit:
    """The returns' expectile and the actions' negative log-likelihood, over real steps only."""
    return _fit(apply(params, window, key=key), expectile, window)


def _fit(prediction: Prediction, expectile: float, window: Window) -> Fit:
    mask = window.mask
    size = mean_of_real(jnp.abs(window.returns_to_go), mask)
    above = (window.returns_to_go - prediction.returns) / jnp.maximum(size, 1e-6)
    return_loss = mean_of_real(jnp.where(above > 0, expectile, 1 - expectile) * jnp.square(above), mask)
    actions = Gaussian(prediction.mean, prediction.log_std)
    likelihood = mean_of_real(actions.log_prob(window.actions), mask)
    metrics = {"negative_log_likelihood": -likelihood, "return_loss": return_loss}
    return Fit(return_loss - likelihood, mean_of_real(actions.entropy(), mask), metrics)


def _validate(
    apply: Callable[..., Prediction], expectile: float, params: PyTree, window: Window
) -> dict[str, Float[Array, ""]]:
    """Without the bonus for entropy; the actions are those of the returns that were earned."""
    prediction = apply(params["policy"], window)
    error = action_error(prediction.mean, window.actions, window.mask)
    return {"loss": _fit(prediction, expectile, window).loss, "action_error": error}


class _Memory(NamedTuple):
    """Of `b` episodes."""

    context: PyTree
    """The last steps as a Window, the newest at the right, with the returns that were predicted; or what is kept."""
    action: Float[Array, "b a"]
    """The newest one, in the model's terms."""
    timestep: Int[Array, ""]
    """Steps since the episodes began."""


def _policy(config: ReinformerConfig, spec: Spec) -> Policy:
    network = build_reinformer(config, spec)
    empty, see = partial(empty_window, config.context_length, spec), partial(_see_window, network.apply)
    if config.context == "cached":
        empty, see = network.start, partial(_see_newest, network.decode_step)

    def start(targets: Float[Array, " b"]) -> _Memory:
        batch = targets.shape[0]
        return _Memory(empty(batch), jnp.zeros((batch, *spec.action_shape)), jnp.zeros((), jnp.int32))

    def act(
        params: PyTree,
        memory: _Memory,
        observation: Num[Array, "b *s"],
        reward: Float[Array, " b"],
        keys: Key[Array, " b"] | None,
    ) -> tuple[_Memory, Float[Array, "b a"]]:
        del reward
        timestep = jnp.minimum(memory.timestep, config.max_episode_length - 1)
        context, actions = see(params["policy"], memory, normalize(observation, spec), timestep)
        action = jnp.clip(chosen(actions, config.drawing_temperature, keys), -1, 1)
        return _Memory(context, action, memory.timestep + 1), to_environment(action, spec)

    return Policy(start, act)


def _see_window(
    apply: Callable[..., Prediction],
    params: PyTree,
    memory: _Memory,
    states: Float[Array, "b *s"],
    timestep: Int[Array, ""],
) -> tuple[Window, Gaussian]:
    """All tokens anew, twice: the newest return is predicted, and then read with what was predicted before it."""
    window = memory.context._replace(actions=memory.context.actions.at[:, -1].set(memory.action))
    window = push(window, states, jnp.zeros(states.shape[0]), timestep)
    returns = apply(params, window).returns[:, -1]
    window = window._replace(returns_to_go=window.returns_to_go.at[:, -1].set(returns))
    return window, _newest(apply(params, window))


def _see_newest(
    decode_step: Callable[..., Any],
    params: PyTree,
    memory: _Memory,
    states: Float[Array, "b *s"],
    timestep: Int[Array, ""],
) -> tuple[PyTree, Gaussian]:
    cache, prediction = decode_step(params, memory.context, memory.action, states, timestep)
    return cache, _newest(prediction)


def _newest(prediction: Prediction) -> Gaussian:
    return Gaussian(prediction.mean[:, -1], prediction.log_std[:, -1])
