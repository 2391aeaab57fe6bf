"""Actions made likely, with a bonus for entropy whose weight, the temperature, is learned (Zheng et al. 2022)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from jaxdt.config import OptimizerConfig
from jaxdt.training import Metrics, TrainState, descend, initial_states, learning_rate_schedule


FIRST = 0.1
"""Temperature before the first update."""
OPTIMIZER = OptimizerConfig.adam(1e-4)
"""Of the temperature's logarithm."""


class Fit(NamedTuple):
    """Of a batch."""

    loss: Float[Array, ""]
    """All but the bonus."""
    entropy: Float[Array, ""]
    """In nats."""
    metrics: Metrics
    """Parts of the loss, by name."""


def mean_of_real(values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, ""]:
    """Over real steps only; 0 where there are none."""
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)


def with_temperature(policy: PyTree[Array]) -> dict[str, PyTree[Array]]:
    """The parameters before the first update; the temperature is one of them, and so saved and gone on with."""
    return {"policy": policy, "log_temperature": jnp.log(jnp.float32(FIRST))}


def initial_state(policy: PyTree[Array], config: OptimizerConfig) -> TrainState:
    """The state before the first update of an `EntropyUpdate`."""
    optimizers = {"policy": config, "log_temperature": OPTIMIZER}
    return initial_states(with_temperature(policy), optimizers, slow_copies={})


class EntropyUpdate(NamedTuple):
    """One step down loss - temperature x entropy; then one of the temperature, up while the entropy is too small."""

    fit: Callable[[PyTree[Array], PyTree, PRNGKeyArray], Fit]
    """`fit(policy's params, batch, key)`."""
    optimizer: OptimizerConfig
    target_entropy: float

    def __call__(self, state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        temperature = jnp.exp(state.params["log_temperature"])

        def loss(policy: PyTree[Array]) -> tuple[Float[Array, ""], Fit]:
            fit = self.fit(policy, batch, key)
            return fit.loss - temperature * fit.entropy, fit

        policy, policy_state, (value, fit), gradients = descend(
            loss, state.params["policy"], state.opt_state["policy"], self.optimizer, has_aux=True
        )
        log_temperature, temperature_state, *_ = descend(
            lambda log_temperature: jnp.exp(log_temperature) * (fit.entropy - self.target_entropy),
            state.params["log_temperature"],
            state.opt_state["log_temperature"],
            OPTIMIZER,
        )
        metrics = {
            "loss": value,
            **fit.metrics,
            "entropy": fit.entropy,
            "temperature": temperature,
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": learning_rate_schedule(self.optimizer)(state.step),
        }
        params = {"policy": policy, "log_temperature": log_temperature}
        opt_state = {"policy": policy_state, "log_temperature": temperature_state}
        return state._replace(params=params, opt_state=opt_state), metrics
