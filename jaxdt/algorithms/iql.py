"""Implicit Q-learning (Kostrikov et al. 2022): values without asking for actions that the data do not have."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdt.algorithms import normalization
from jaxdt.algorithms.critics import Values, build_critics
from jaxdt.algorithms.distributions import Gaussian
from jaxdt.algorithms.normalization import memoryless_policy, memoryless_validation, normalize
from jaxdt.config import IQLConfig
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.transitions import TransitionSampler
from jaxdt.errors import JaxdtError
from jaxdt.models import build_mlp
from jaxdt.training import TrainState, descend, initial_states
from jaxdt.types import Algorithm, Spec, Transitions


GAINS = (math.sqrt(2), math.sqrt(2))
"""Of the orthogonal initial weights, in all networks."""
LOG_STD_RANGE = (-5.0, 2.0)
LARGEST_WEIGHT = 100.0


def measure(config: IQLConfig, store: EpisodeStore) -> dict[str, np.ndarray]:
    """What states are normalised by, 0 and 1 where they are not, and what rewards are multiplied by."""
    scale = 1.0
    if config.rewards == "return-range":
        difference = float(store.returns.max() - store.returns.min())
        if difference < 1e-6:
            raise JaxdtError(
                "rewards='return-range' divides by the difference of best and worst episode, which is 0 here; take "
                "'as-recorded'."
            )
        scale = 1000.0 / difference
    scaled = {"reward_scale": np.asarray(scale, np.float32)}
    return normalization.measure(store, scaled=config.normalize_states) | scaled


def expectile_loss(difference: Float[Array, " b"], expectile: float) -> Float[Array, ""]:
    """Mean of |expectile - 1(u <= 0)| u^2 (equation 5)."""
    weight = jnp.where(difference > 0, expectile, 1 - expectile)
    return jnp.mean(weight * jnp.square(difference))


def make(config: IQLConfig, spec: Spec) -> Algorithm:
    """Raises JaxdtError where config and spec do not fit together."""
    config.check_spec(spec)
    networks = _build(config, spec)

    def predict(params: PyTree[Array], states: Float[Array, "b *s"]) -> Float[Array, "b a"]:
        return networks.mean(params["actor"]["mean"], states)

    return Algorithm(
        init=networks.init,
        update=partial(_update, networks, config, spec),
        policy=memoryless_policy(predict, spec),
        sampler=TransitionSampler,
        validate=memoryless_validation(predict, spec),
    )


class _Networks(NamedTuple):
    init: Callable[[PRNGKeyArray], TrainState]
    mean: Callable[..., Float[Array, "b a"]]
    """`mean(params, states, key=None)`: of the policy's actions; with dropout where a key is given."""
    value: Callable[[PyTree[Array], Float[Array, "b *s"]], Float[Array, " b"]]
    critics: Values


def _build(config: IQLConfig, spec: Spec) -> _Networks:
    states, actions = math.prod(spec.observation_shape), spec.action_shape[0]
    shape = {"inputs": states, "width": config.width, "num_layers": config.num_layers, "gains": GAINS}
    init_mean, apply_mean = build_mlp(**shape, outputs=actions, dropout=config.dropout, tanh=True)
    init_value, apply_value = build_mlp(**shape, outputs=1)
    init_critics, critics = build_critics(spec, width=config.width, num_layers=config.num_layers, gains=GAINS)

    def init(key: PRNGKeyArray) -> TrainState:
        mean_key, value_key, critic_key = jax.random.split(key, 3)
        trained = {
            "actor": {"mean": init_mean(mean_key), "log_std": jnp.zeros(actions)},
            "value": init_value(value_key),
            "critics": init_critics(critic_key),
        }
        optimizers = {"actor": config.policy_optimizer, "value": config.optimizer, "critics": config.optimizer}
        return initial_states(trained, optimizers, slow_copies={"target_critics": "critics"})

    def mean(params: PyTree[Array], states: Float[Array, "b *s"], key: PRNGKeyArray | None = None) -> Array:
        return apply_mean(params, states.reshape(states.shape[0], -1), key=key)

    def value(params: PyTree[Array], states: Float[Array, "b *s"]) -> Float[Array, " b"]:
        return apply_value(params, states.reshape(states.shape[0], -1))[:, 0]

    return _Networks(init, mean, value, critics)


def _update(
    networks: _Networks, config: IQLConfig, spec: Spec, state: TrainState, batch: Transitions, key: PRNGKeyArray
) -> tuple[TrainState, dict[str, Any]]:
    """The authors' order: states' values, the policy, the critics, their slow copies."""
    params, opt_state = dict(state.params), dict(state.opt_state)
    states, next_states = normalize(batch.observations, spec), normalize(batch.next_observations, spec)

    def step_down(name: str, loss: Any) -> Float[Array, ""]:
        optimizer = config.policy_optimizer if name == "actor" else config.optimizer
        params[name], opt_state[name], before, _ = descend(loss, params[name], opt_state[name], optimizer)
        return before

    believed = jnp.min(networks.critics(params["target_critics"], states, batch.actions), axis=0)
    value_loss = step_down("value", lambda p: expectile_loss(believed - networks.value(p, states), config.expectile))
    advantage = believed - networks.value(params["value"], states)
    weight = jnp.minimum(jnp.exp(config.inverse_temperature * advantage), LARGEST_WEIGHT)

    def actor_loss(actor: PyTree[Array]) -> Float[Array, ""]:
        mean = networks.mean(actor["mean"], states, key if config.dropout else None)
        log_std = jnp.clip(actor["log_std"], *LOG_STD_RANGE)
        return -jnp.mean(weight * Gaussian(mean, log_std[None]).log_prob(batch.actions))

    policy_loss = step_down("actor", actor_loss)
    goes_on = config.discount * ~batch.terminations
    aim = _rewards(batch.rewards, config, spec) + goes_on * networks.value(params["value"], next_states)

    def critic_loss(both: PyTree[Array]) -> Float[Array, ""]:
        return jnp.mean(jnp.sum(jnp.square(networks.critics(both, states, batch.actions) - aim[None]), axis=0))

    loss = step_down("critics", critic_loss)
    params["target_critics"] = optax.incremental_update(params["critics"], params["target_critics"], config.target_rate)
    metrics = {"loss": loss, "value_loss": value_loss, "policy_loss": policy_loss, "mean_value": jnp.mean(believed)}
    return state._replace(params=params, opt_state=opt_state), metrics


def _rewards(rewards: Float[Array, " b"], config: IQLConfig, spec: Spec) -> Float[Array, " b"]:
    return spec.constants["reward_scale"] * rewards - (1.0 if config.rewards == "minus-one" else 0.0)
