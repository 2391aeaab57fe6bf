"""The state that training changes, its optimiser, and the compiled update of any algorithm."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxdt.config import OptimizerConfig
from jaxdt.errors import JaxdtError
from jaxdt.flat import Flat, flatten_like, unflatten
from jaxdt.parallel import Layout


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

Update = Callable[[TrainState, PyTree, PRNGKeyArray], tuple[TrainState, Metrics]]
"""`update(state, batch, key)`: one update, pure; neither jitted nor counted nor checked."""


@runtime_checkable
class TrainStep(Protocol):
    """`step(state, batch, key) -> (state, metrics)`: one compiled call; the state is donated."""

    def __call__(self, state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, Metrics]: ...


def learning_rate_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Rate of update `i`, counted from 0.

    - constant: rate * min((i + 1) / warm-up, 1), the original's.
    - linear: rate * i / warm-up, then falling to 0 at `total_steps` (Hugging Face's `get_linear_schedule_with_warmup`).
    - cosine: the same, falling along half a cosine.

    Raises JaxdtError when the config leaves open how long the warm-up or the schedule is.
    """
    if config.learning_rate is None or config.weight_decay is None:
        raise JaxdtError(
            "the optimiser's learning_rate and weight_decay must be numbers here; got "
            f"{config.learning_rate} and {config.weight_decay} (the config's for_data fills them in)."
        )
    if config.warmup_steps is None or (config.schedule != "constant" and config.total_steps is None):
        raise JaxdtError(
            "the optimiser's warmup_steps, and total_steps with a falling schedule, must be numbers here; "
            f"got {config.warmup_steps} and {config.total_steps} (config.for_steps(n) fills them in)."
        )
    rate, warmup, total = config.learning_rate, config.warmup_steps, config.total_steps or 0

    def schedule(count):
        if config.schedule == "constant":
            return rate * jnp.minimum((count + 1) / max(warmup, 1), 1.0)
        left = jnp.clip((total - count) / max(total - warmup, 1), 0.0, 1.0)
        if config.schedule == "cosine":
            left = (1 - jnp.cos(jnp.pi * left)) / 2
        return rate * jnp.where(count < warmup, count / max(warmup, 1), left)

    return schedule


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW or LAMB; decay on every parameter unless `decay_biases` is off."""
    schedule = learning_rate_schedule(config)
    clip = optax.identity() if config.max_grad_norm is None else optax.clip_by_global_norm(config.max_grad_norm)
    adam: dict[str, Any] = {"b1": config.beta1, "b2": config.beta2, "eps": config.epsilon}
    decay: Any = config.weight_decay
    if config.update_rule == "lamb":
        lamb = [optax.scale_by_adam(**adam), optax.add_decayed_weights(decay)]
        if decay:  # NVIDIA's LAMB, which is followed here, is Adam where nothing decays
            lamb.append(optax.stateless(_as_long_as_the_weights))
        return optax.chain(clip, *lamb, optax.scale_by_learning_rate(schedule))
    mask = None if config.decay_biases else _is_weight
    return optax.chain(clip, optax.adamw(schedule, **adam, weight_decay=decay, mask=mask))


def _as_long_as_the_weights(updates: PyTree[Array], params: PyTree[Array] | None) -> PyTree[Array]:
    """Each array's update with the length of the array, where neither is 0 (LAMB's trust ratio, You et al. 2020)."""
    assert params is not None
    tree = unflatten(updates)
    weights, steps = _squared_lengths(unflatten(params)), _squared_lengths(tree)
    ratios = {
        name: jnp.where((weights[name] > 0) & (steps[name] > 0), jnp.sqrt(weights[name] / steps[name]), 1.0)
        for name in steps
    }
    scaled = jax.tree_util.tree_map_with_path(lambda path, leaf: ratios[_published_name(path)] * leaf, tree)
    return Flat.of(scaled) if isinstance(updates, Flat) else scaled


def _squared_lengths(tree: PyTree[Array]) -> dict[tuple[str, ...], Float[Array, ""]]:
    lengths: dict[tuple[str, ...], Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = _published_name(path)
        lengths[name] = lengths.get(name, 0.0) + jnp.sum(jnp.square(leaf))
    return lengths


def _published_name(path: Any) -> tuple[str, ...]:
    """Query, key and value are one array in the published models, and two of ours."""
    names = (jax.tree_util.keystr((part,), simple=True) for part in path)
    return tuple("query" if name == "key_value" else name for name in names)


_SPARED = ("bias", "scale", "b", "offset", "beta", "gamma", "log_std", "log_temperature")
"""Biases, what LayerNorms multiply by and add, and single numbers."""


def _is_weight(params: PyTree[Array]) -> PyTree[bool]:
    """True at what Hugging Face's trainer decays: neither biases nor LayerNorms, nor tables that are no kernel.

    By the names of the arrays, for a `Flat` has no shapes; Haiku's and Equinox's are known too.
    """

    def decays(path: Any, _: Array) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return name not in _SPARED and not name.endswith("_table")

    return jax.tree_util.tree_map_with_path(decays, params)


class GradientUpdate(NamedTuple):
    """The update of an algorithm with one loss and one optimiser.

    Its state may hold parameters and optimiser state as a `Flat`, as it does from one update of a call to the next.
    Metrics: `loss`, `grad_norm` before clipping, `learning_rate`.
    """

    loss: Callable[[PyTree[Array], PyTree, PRNGKeyArray], Float[Array, ""]]
    """`loss(params, batch, key)` is a scalar."""
    config: OptimizerConfig

    def __call__(self, state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        params, opt_state, loss, gradients = descend(
            lambda params: self.loss(params, batch, key), state.params, state.opt_state, self.config
        )
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": learning_rate_schedule(self.config)(state.step),
        }
        return state._replace(params=params, opt_state=opt_state), metrics


def descend(
    loss: Callable[[PyTree[Array]], Any],
    params: PyTree[Array],
    opt_state: PyTree[Any],
    config: OptimizerConfig,
    *,
    has_aux: bool = False,
) -> tuple[PyTree[Array], PyTree[Any], Any, PyTree[Array]]:
    """One step down `loss(params)`: new parameters, the optimiser's new state, the loss before, its gradients.

    Where the parameters are a `Flat`, all are, but for what the loss is given. `has_aux`: the loss gives a pair, itself
    and what else there is to tell, and so does this.
    """
    value, gradients = jax.value_and_grad(loss, has_aux=has_aux)(unflatten(params))
    if isinstance(params, Flat):
        gradients = Flat.of(gradients)
    updates, opt_state = make_optimizer(config).update(cast(Any, gradients), opt_state, cast(Any, params))
    return optax.apply_updates(cast(Any, params), updates), opt_state, value, gradients


class Turns(NamedTuple):
    """Updates that take turns: number `i`, counted from 0, is `updates[i % len(updates)]`.

    All give metrics of the same names. A call of a multiple of their number begins with the first: give it a state
    whose step is such a multiple too.
    """

    updates: tuple[Update, ...]

    def __call__(self, state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        """Whichever has its turn; dearer than a call of several updates, which knows them beforehand."""
        return jax.lax.switch(state.step % len(self.updates), self.updates, state, batch, key)


def compile_update(
    update: Update,
    *,
    updates_per_call: int | None = None,
    layout: Layout | None = None,
) -> TrainStep:
    """One call of an algorithm's update, jitted; the state is donated.

    Counts the updates and folds the count into the key: give it the same key every time. From the first update with a
    metric or weight that is not finite on, the state stays as it was before. With `updates_per_call`, one call makes
    `n` updates: the batches are stacked along a new first axis, which the metrics have too. Of several seeds everything
    is stacked along one more axis before all others: each seed's state, batches and key are its own. `layout`: of which
    seeds and devices; None: of one seed, where the state lies.
    """
    splits_state = layout is not None and layout.splits_state

    def checked(one: Update) -> Update:
        def step(state: TrainState, batch: PyTree, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
            new, metrics = one(state, batch, jax.random.fold_in(key, state.step))
            finite = state.finite & jnp.isfinite(optax.tree.norm(new.params))
            for value in metrics.values():
                finite &= jnp.isfinite(value)
            new = new._replace(step=state.step + 1)
            kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
            return kept._replace(finite=finite), metrics

        return step

    def steps(state: TrainState, batches: PyTree, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        if isinstance(update, GradientUpdate) and not splits_state:  # one long vector would be put together first
            state = flatten_like(state, state.params)
        assert updates_per_call is not None
        turns: tuple[Update, ...] = (update,)
        if isinstance(update, Turns) and updates_per_call % len(update.updates) == 0:
            turns = update.updates

        def round_of_turns(state: TrainState, batches: PyTree) -> tuple[TrainState, Metrics]:
            each = []
            for i, one in enumerate(turns):
                state, metrics = checked(one)(state, jax.tree.map(lambda leaf, i=i: leaf[i], batches), key)
                each.append(metrics)
            return state, jax.tree.map(lambda *values: jnp.stack(values), *each)

        rounds = jax.tree.map(lambda leaf: leaf.reshape(-1, len(turns), *leaf.shape[1:]), batches)
        state, metrics = jax.lax.scan(round_of_turns, state, rounds)
        return unflatten(state), jax.tree.map(lambda values: values.reshape(-1), metrics)

    called = checked(update) if updates_per_call is None else steps
    if layout is None:
        return jax.jit(called, donate_argnums=0)
    # Said, not left to XLA: a state that came back otherwise would be compiled for anew.
    called = layout.over_seeds(called)
    if not splits_state:
        return jax.jit(called, donate_argnums=0, out_shardings=layout.by_seed)

    def split(state: TrainState, batches: PyTree, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        state, metrics = called(state, batches, key)
        return jax.lax.with_sharding_constraint((state, metrics), (layout.state(state), layout.by_seed))

    return jax.jit(split, donate_argnums=0)


@functools.partial(jax.jit, static_argnames="config")  # else each of its many arrays is made by a program of its own
def initial_state(params: PyTree[Array], config: OptimizerConfig) -> TrainState:
    """The state before the first update; it holds copies of the parameters, which its donation would destroy."""
    params = _copy(params)
    return _before_any_update(params, make_optimizer(config).init(params))


def initial_states(
    trained: dict[str, PyTree[Array]], optimizers: dict[str, OptimizerConfig], slow_copies: dict[str, str]
) -> TrainState:
    """The state before the first update of several networks, each with its optimiser.

    `slow_copies`: names of networks that begin as copies of others and are not trained; they stand in `params` too, so
    that a run that goes on, or starts from another, has them.
    """
    copies = _copy({name: trained[of] for name, of in slow_copies.items()})
    opt_state = {name: make_optimizer(config).init(trained[name]) for name, config in optimizers.items()}
    return _before_any_update(trained | copies, opt_state)


def _before_any_update(params: PyTree[Array], opt_state: PyTree[Any]) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, finite=jnp.ones((), bool))


def _copy(params: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)
