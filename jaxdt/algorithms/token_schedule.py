"""The learning rate of minGPT's trainer, which goes by the tokens that were trained on."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxdt.config import OptimizerConfig
from jaxdt.training import Metrics, TrainState, initial_state, learning_rate_schedule, make_optimizer


class TokensSeen(NamedTuple):
    """A count beyond what one int32 holds: `warmups` times the warm-up's tokens and `rest`."""

    warmups: Int[Array, ""]
    rest: Int[Array, ""]


class TokenScheduledUpdate(NamedTuple):
    """One loss and one optimiser, whose rate rises over the warm-up's tokens and falls along a cosine to the final's.

    Behind those it rises and falls again, never below `floor` of the whole. As in minGPT the rate is set after an
    update: the first goes at the whole rate, each later one at that of the tokens before it.
    """

    loss: Callable[[PyTree[Array], PyTree, PRNGKeyArray], Float[Array, ""]]
    num_tokens: Callable[[PyTree], Int[Array, ""]]
    """`num_tokens(batch)`: what it adds to the count."""
    config: OptimizerConfig
    """Its own warm-up and schedule are not used."""
    warmup: int
    """Tokens."""
    final: int
    floor: float = 0.1

    def init(self, params: PyTree[Array]) -> TrainState:
        state = initial_state(params, self._optimizer)
        none = TokensSeen(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))  # two arrays, for they are donated
        return state._replace(opt_state={"adamw": state.opt_state, "tokens": none})

    def factor(self, seen: TokensSeen) -> Float[Array, ""]:
        """Of the learning rate, after so many tokens."""
        share = seen.warmups + seen.rest / self.warmup
        progress = (share - 1) * (self.warmup / max(self.final - self.warmup, 1))
        falling = jnp.maximum(self.floor, (1 + jnp.cos(jnp.pi * progress)) / 2)
        return jnp.where(seen.warmups < 1, share, falling)

    def __call__(self, state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        loss, gradients = jax.value_and_grad(self.loss)(state.params, batch, key)
        seen = state.opt_state["tokens"]
        factor = jnp.where(seen.warmups + seen.rest == 0, 1.0, self.factor(seen))
        updates, adamw = make_optimizer(self._optimizer).update(gradients, state.opt_state["adamw"], state.params)
        params = optax.apply_updates(state.params, jax.tree.map(lambda update: factor * update, updates))
        more, rest = jnp.divmod(seen.rest + self.num_tokens(batch), self.warmup)
        opt_state = {"adamw": adamw, "tokens": TokensSeen(seen.warmups + more, rest)}
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": factor * learning_rate_schedule(self._optimizer)(state.step),
        }
        return state._replace(params=params, opt_state=opt_state), metrics

    @property
    def _optimizer(self) -> OptimizerConfig:
        return dataclasses.replace(self.config, schedule="constant", warmup_steps=0)
