"""Loss, optimiser and the jitted update."""

import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxdt.config import OptimizerConfig
from jaxdt.errors import JaxdtError
from jaxdt.seeds import over_seeds
from jaxdt.types import Window


class TrainState(NamedTuple):
    """All that an update changes."""

    step: Int[Array, ""]
    """Updates done."""
    params: PyTree[Array]
    opt_state: PyTree[Any]
    finite: Bool[Array, ""]
    """False from the first update with a non-finite loss, gradient or weight on; the rest then stays as it was."""


Metrics = dict[str, Float[Array, "*n"]]
"""Numbers of one update, or of each of the `n` updates of a call."""


@runtime_checkable
class TrainStep(Protocol):
    """`step(state, window, key) -> (state, metrics)`: one compiled call; the state is donated."""

    def __call__(self, state: TrainState, window: Window, key: PRNGKeyArray) -> tuple[TrainState, Metrics]: ...


def masked_mse(
    predicted: Float[Array, "b t a"], target: Float[Array, "b t a"], mask: Bool[Array, "b t"]
) -> Float[Array, ""]:
    """Mean squared error over the elements of real steps only (the original's `seq_trainer.py`)."""
    squared = jnp.sum(jnp.square(predicted - target), axis=-1)
    return jnp.sum(squared * mask) / jnp.maximum(jnp.sum(mask) * target.shape[-1], 1)


def masked_cross_entropy(
    logits: Float[Array, "b t n"], actions: Int[Array, "b t"], mask: Bool[Array, "b t"]
) -> Float[Array, ""]:
    """Mean cross-entropy, in nats, over real steps only."""
    per_step = optax.softmax_cross_entropy_with_integer_labels(logits, actions)
    return jnp.sum(per_step * mask) / jnp.maximum(jnp.sum(mask), 1)


def learning_rate_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Rate of update `i`, counted from 0.

    - constant: rate * min((i + 1) / warm-up, 1), the original's.
    - linear: rate * i / warm-up, then falling to 0 at `total_steps` (Hugging Face's `get_linear_schedule_with_warmup`).

    Raises JaxdtError when the config leaves open how long the warm-up or the schedule is.
    """
    if config.warmup_steps is None or (config.schedule == "linear" and config.total_steps is None):
        raise JaxdtError(
            "the optimiser's warmup_steps, and total_steps with a linear schedule, must be numbers here; "
            f"got {config.warmup_steps} and {config.total_steps}."
        )
    warmup, total = config.warmup_steps, config.total_steps or 0

    def schedule(count):
        if config.schedule == "constant":
            return config.learning_rate * jnp.minimum((count + 1) / max(warmup, 1), 1.0)
        left = jnp.maximum(total - count, 0) / max(total - warmup, 1)
        return config.learning_rate * jnp.where(count < warmup, count / max(warmup, 1), left)

    return schedule


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW; decay on every parameter unless `decay_biases` is off."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            learning_rate_schedule(config),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=None if config.decay_biases else _is_weight,
        ),
    )


def _is_weight(params: PyTree[Array]) -> PyTree[bool]:
    """True at what Hugging Face's trainer decays: neither biases nor LayerNorms."""
    names = ("kernel", "embedding")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) in names, params
    )


def make_train_step(
    apply: Any, params: PyTree[Array], config: OptimizerConfig, *, updates_per_call: int | None = None
) -> tuple[TrainStep, TrainState]:
    """The jitted update and the state it starts from.

    `apply(params, window, key=...) -> actions (b, t, a)` as `build_model` returns it. The state holds copies,
    so the caller's `params` survive its donation. `step` folds `state.step` into the key: give it the
    same key every time. Metrics: `loss`, `grad_norm` before clipping, `learning_rate`. With `updates_per_call`,
    one call makes `n` updates: the windows are stacked along a new first axis, which the metrics have too.
    """
    return make_update(apply, config, updates_per_call=updates_per_call), initial_state(params, config)


def make_update(
    apply: Any, config: OptimizerConfig, *, updates_per_call: int | None = None, several_seeds: bool = False
) -> TrainStep:
    """The update of `make_train_step`; of several seeds, everything is stacked along one more axis before all others.

    Each seed's state, windows and key are then its own, and so is what becomes of them.
    """
    optimizer = make_optimizer(config)
    schedule = learning_rate_schedule(config)

    def loss_of(params: PyTree[Array], window: Window, key: PRNGKeyArray) -> Float[Array, ""]:
        return masked_mse(apply(params, window, key=key), window.actions, window.mask)

    def step(state: TrainState, window: Window, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        loss, gradients = jax.value_and_grad(loss_of)(state.params, window, step_key)
        grad_norm = optax.tree.norm(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state, state.finite)
        finite = state.finite & jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.norm(new.params))
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        metrics = {"loss": loss, "grad_norm": grad_norm, "learning_rate": schedule(state.step)}
        return kept._replace(finite=finite), metrics

    def steps(state: TrainState, windows: Window, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda state, window: step(state, window, key), state, windows, length=updates_per_call)

    called = step if updates_per_call is None else steps
    return jax.jit(over_seeds(called) if several_seeds else called, donate_argnums=0)


@functools.partial(jax.jit, static_argnames="config")  # else each of its many arrays is made by a program of its own
def initial_state(params: PyTree[Array], config: OptimizerConfig) -> TrainState:
    params = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=make_optimizer(config).init(params),
        finite=jnp.ones((), bool),
    )
