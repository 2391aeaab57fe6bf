"""TD3+BC (Fujimoto and Gu 2021): TD3 whose policy is also pulled towards the data's actions.

ReBRAC (Tarasov et al. 2023) is the same with other choices, and with a penalty in the critics' aim too.
"""

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
from jaxdt.algorithms.normalization import memoryless_policy, memoryless_validation, normalize
from jaxdt.config import TD3BCConfig
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.transitions import TransitionSampler
from jaxdt.models import build_mlp
from jaxdt.training import TrainState, Turns, descend, initial_states
from jaxdt.types import Algorithm, Spec, Transitions


AUTHORS_EPSILON = 1e-3
"""Added to the standard deviations that states are divided by, as the authors do."""
OUTPUT_BOUNDS = (1e-3, 3e-3)
"""Of ReBRAC's initial weights in the last layers of policy and critics."""


def measure(config: TD3BCConfig, store: EpisodeStore) -> dict[str, np.ndarray]:
    """What states are normalised by; 0 and 1 where they are not."""
    return normalization.measure(store, scaled=config.normalize_states, epsilon=AUTHORS_EPSILON)


def make(config: TD3BCConfig, spec: Spec) -> Algorithm:
    """Raises JaxdtError where config and spec do not fit together."""
    config.check_spec(spec)
    networks = _build(config, spec)
    updates = (partial(_update_critics, networks, config, spec), partial(_update_all, networks, config, spec))

    def predict(params: PyTree[Array], states: Float[Array, "b *s"]) -> Float[Array, "b a"]:
        return networks.actor(params["actor"], states)

    return Algorithm(
        init=networks.init,
        update=Turns(updates),
        policy=memoryless_policy(predict, spec),
        sampler=partial(TransitionSampler, next_actions=True) if config.critic_penalty else TransitionSampler,
        validate=memoryless_validation(predict, spec),
    )


class _Networks(NamedTuple):
    init: Callable[[PRNGKeyArray], TrainState]
    actor: Callable[[PyTree[Array], Float[Array, "b *s"]], Float[Array, "b a"]]
    critics: Values


def _build(config: TD3BCConfig, spec: Spec) -> _Networks:
    shape = {"width": config.width, "num_layers": config.num_layers}
    actor_bound, critic_bound = OUTPUT_BOUNDS if config.initialization == "rebrac" else (None, None)
    init_actor, apply_actor = build_mlp(
        inputs=math.prod(spec.observation_shape),
        outputs=spec.action_shape[0],
        tanh=True,
        output_bound=actor_bound,
        **shape,
    )
    init_critics, critics = build_critics(spec, output_bound=critic_bound, norm=config.layer_norm, **shape)

    def init(key: PRNGKeyArray) -> TrainState:
        actor_key, critic_key = jax.random.split(key)
        trained = {"actor": init_actor(actor_key), "critics": init_critics(critic_key)}
        copies = {"target_actor": "actor", "target_critics": "critics"}
        return initial_states(trained, dict.fromkeys(trained, config.optimizer), slow_copies=copies)

    def actor(params: PyTree[Array], states: Float[Array, "b *s"]) -> Float[Array, "b a"]:
        return apply_actor(params, states.reshape(states.shape[0], -1))

    return _Networks(init, actor, critics)


def _update_critics(
    networks: _Networks, config: TD3BCConfig, spec: Spec, state: TrainState, batch: Transitions, key: PRNGKeyArray
) -> tuple[TrainState, dict[str, Any]]:
    params, opt_state = dict(state.params), dict(state.opt_state)
    states, next_states = normalize(batch.observations, spec), normalize(batch.next_observations, spec)
    noise = config.policy_noise * jax.random.normal(key, batch.actions.shape)
    noise = jnp.clip(noise, -config.noise_clip, config.noise_clip)
    next_actions = jnp.clip(networks.actor(params["target_actor"], next_states) + noise, -1.0, 1.0)
    believed = jnp.min(networks.critics(params["target_critics"], next_states, next_actions), axis=0)
    if config.critic_penalty:
        believed -= config.critic_penalty * _distance(next_actions, batch.next_actions, config, axis=-1)
    aim = batch.rewards + config.discount * ~batch.terminations * believed

    def loss(both: PyTree[Array]) -> Float[Array, ""]:
        return jnp.sum(jnp.mean(jnp.square(networks.critics(both, states, batch.actions) - aim[None]), axis=1))

    params["critics"], opt_state["critics"], before, _ = descend(
        loss, params["critics"], opt_state["critics"], config.optimizer
    )
    metrics = {"loss": before, "mean_value": jnp.mean(believed)}
    return state._replace(params=params, opt_state=opt_state), metrics


def _update_all(
    networks: _Networks, config: TD3BCConfig, spec: Spec, state: TrainState, batch: Transitions, key: PRNGKeyArray
) -> tuple[TrainState, dict[str, Any]]:
    """Every second update: after the critics the policy, then the slow copies."""
    state, metrics = _update_critics(networks, config, spec, state, batch, key)
    params, opt_state = dict(state.params), dict(state.opt_state)
    states = normalize(batch.observations, spec)
    penalty = config.actor_penalty
    assert penalty is not None

    def loss(mine: PyTree[Array]) -> Float[Array, ""]:
        chosen = networks.actor(mine, states)
        values = networks.critics(params["critics"], states, chosen)
        values = values[0] if config.policy_value == "first" else jnp.min(values, axis=0)
        weight = config.alpha / jax.lax.stop_gradient(jnp.mean(jnp.abs(values)))
        return penalty * _distance(chosen, batch.actions, config) - weight * jnp.mean(values)

    params["actor"], opt_state["actor"], *_ = descend(loss, params["actor"], opt_state["actor"], config.optimizer)
    for name in ("actor", "critics"):
        slow = f"target_{name}"
        params[slow] = optax.incremental_update(params[name], params[slow], config.target_rate)
    return state._replace(params=params, opt_state=opt_state), metrics


def _distance(chosen: Float[Array, "b a"], recorded: Any, config: TD3BCConfig, axis: int | None = None) -> Array:
    """Squared, as `config.distance` says: of each pair of actions with `axis=-1`, else the mean over all."""
    factor = chosen.shape[-1] if config.distance == "sum" else 1
    return factor * jnp.mean(jnp.square(chosen - recorded), axis=axis)
