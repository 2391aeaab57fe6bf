"""The Trajectory Transformer (Janner et al. 2021): episodes as sequences of tokens, and planning by beam search."""

import warnings
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxdt.algorithms.planning_policy import make_policy
from jaxdt.algorithms.token_schedule import TokenScheduledUpdate
from jaxdt.algorithms.tokens import decode, encode
from jaxdt.config import TrajectoryTransformerConfig
from jaxdt.config.trajectory_transformer import num_action_tokens, row_size
from jaxdt.data.discretization import fit_edges, rounding
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.trajectories import TrajectoryRows, TrajectorySampler, num_starts, penalized_rewards, values_of
from jaxdt.errors import JaxdtError
from jaxdt.models import TrajectoryModel, build_trajectory_model
from jaxdt.training import GradientUpdate, initial_state
from jaxdt.types import Algorithm, Box, Spec


FINAL_PASSES = 20
"""Over the data, at the end of which the authors' learning rate is lowest."""
MOST_NUMBERS = 1000
"""Of an observation."""
MUCH_ROUNDING = 0.1
"""Of a number of an observation, in its standard deviations: noise of as much makes a Hopper fall."""


def measure(config: TrajectoryTransformerConfig, store: EpisodeStore) -> dict[str, np.ndarray]:
    """The edges of each number's bins, and how many windows a pass over the data has.

    Continuous actions are those of [-1, 1]. A discrete one is its own bin. Warns where bins of one width would tell
    observations apart far better. Raises JaxdtError for observations of too many numbers.
    """
    edges = edges_of(config, store)
    _doubt_bins(config, store, edges)
    return {"edges": edges, "windows": np.asarray(num_starts(store), np.float32)}


def edges_of(config: TrajectoryTransformerConfig, store: EpisodeStore) -> Float[np.ndarray, "edges row"]:
    """Of the bins of each number of a transition; raises JaxdtError for observations of too many numbers."""
    if store.state_dim > MOST_NUMBERS:
        raise JaxdtError(
            f"each number of an observation is a token of {config.name}, at most {MOST_NUMBERS}; these have "
            f"{store.state_dim}; choose another method for frames."
        )
    rewards = penalized_rewards(store, config.termination_penalty)
    columns = _observed(store)
    if not store.is_discrete:
        columns += [np.clip(store.actions[:, i], -1, 1) for i in range(store.action_dim)]
    columns += [rewards, values_of(rewards, store.offsets, config.discount)]
    edges = fit_edges(columns, config.bins, config.binning)
    if store.is_discrete:
        edges = np.insert(edges, edges.shape[1] - 2, np.arange(config.bins + 1) - 0.5, axis=1)
    return edges


def _observed(store: EpisodeStore) -> list[Float[np.ndarray, " n"]]:
    observations = store.observations.reshape(store.num_steps, -1)
    return [observations[:, i] for i in range(observations.shape[1])]


def _doubt_bins(config: TrajectoryTransformerConfig, store: EpisodeStore, edges: np.ndarray) -> None:
    """A policy that balances needs what wide bins at the ends of a distribution leave out."""
    if config.binning != "quantile" or store.num_steps < 10 * config.bins:
        return
    observed = _observed(store)
    lost = rounding(observed, edges[:, : len(observed)])
    evenly = rounding(observed, fit_edges(observed, config.bins, "uniform"))
    worst = int(lost.argmax())
    if lost[worst] > MUCH_ROUNDING and evenly.max() < lost[worst] / 2:
        warnings.warn(
            f"{config.bins} bins of as many steps each round observation {worst} off by {lost[worst]:.2f} of its "
            f"standard deviation, bins of one width none by more than {evenly.max():.2f}: binning='uniform' (--binning "
            "uniform).",
            stacklevel=4,
        )


def make(config: TrajectoryTransformerConfig, spec: Spec) -> Algorithm:
    """Raises JaxdtError where config and spec do not fit together."""
    config.check_spec(spec)
    model = _network(config, spec)
    weights = token_weights(config, spec)

    def loss(params: PyTree[Array], batch: TrajectoryRows, key: PRNGKeyArray | None) -> Float[Array, ""]:
        tokens = tokens_of(config, spec, batch)
        logits = model.apply(params, tokens.reshape(tokens.shape[0], -1)[:, :-1], key=key)
        return token_loss(logits, tokens, batch.counted, weights)

    if config.token_schedule:
        per_pass = int(spec.constants["windows"]) * (config.transitions * row_size(spec) - 1)
        update = TokenScheduledUpdate(loss, _num_tokens, config.optimizer, per_pass, FINAL_PASSES * per_pass)
        start = update.init
    else:
        update, start = GradientUpdate(loss, config.optimizer), partial(initial_state, config=config.optimizer)
    return Algorithm(
        init=lambda key: start(model.init(key)),
        update=update,
        policy=make_policy(config, spec, model),
        sampler=partial(
            TrajectorySampler,
            transitions=config.transitions,
            penalty=config.termination_penalty,
            discount=config.discount,
        ),
        validate=partial(_validate, config, spec, model),
    )


def _validate(
    config: TrajectoryTransformerConfig,
    spec: Spec,
    model: TrajectoryModel,
    params: PyTree[Array],
    batch: TrajectoryRows,
) -> dict[str, Float[Array, ""]]:
    """The action error is of the likeliest tokens, each predicted from all that was recorded before it."""
    tokens = tokens_of(config, spec, batch)
    logits = model.apply(params, tokens.reshape(len(tokens), -1)[:, :-1])
    likeliest = jnp.argmax(logits[..., : config.bins], axis=-1)
    likeliest = jnp.pad(likeliest, ((0, 0), (1, 0))).reshape(tokens.shape)  # of the first token nothing is predicted
    actions = slice(-2 - num_action_tokens(spec), -2)
    differences = jnp.abs(decode(likeliest, jnp.asarray(spec.constants["edges"])) - batch.rows)[..., actions]
    errors = jnp.mean(differences if isinstance(spec.action, Box) else differences > 0, axis=-1)
    return {
        "loss": token_loss(logits, tokens, batch.counted, token_weights(config, spec)),
        "action_error": jnp.sum(errors * batch.real) / jnp.maximum(jnp.sum(batch.real), 1),
    }


def _network(config: TrajectoryTransformerConfig, spec: Spec) -> TrajectoryModel:
    return build_trajectory_model(
        row=row_size(spec),
        bins=config.bins,
        transitions=config.transitions,
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout=config.dropout,
        dtype=config.dtype,
    )


def tokens_of(config: TrajectoryTransformerConfig, spec: Spec, batch: TrajectoryRows) -> Int[Array, "b t row"]:
    """What is read and predicted; behind an episode's end the token of an end."""
    return jnp.where(batch.real[..., None], encode(batch.rows, jnp.asarray(spec.constants["edges"])), config.bins)


def token_weights(config: TrajectoryTransformerConfig, spec: Spec) -> Float[np.ndarray, " row"]:
    """Of a transition's tokens in the loss, by what they are of."""
    num_actions = num_action_tokens(spec)
    weights = np.full(row_size(spec), config.observation_weight, np.float32)
    weights[-2 - num_actions :] = [config.action_weight] * num_actions + [config.reward_weight, config.value_weight]
    return weights


def token_loss(
    logits: Float[Array, "b l n"],
    tokens: Int[Array, "b t row"],
    counted: Bool[Array, "b t"],
    weights: Float[np.ndarray, " row"],
) -> Float[Array, ""]:
    """Weighted cross-entropy of every token but the first.

    As the authors have it the mean is over all places, those that do not count left in; whether a place counts is asked
    of the token that predicts.
    """
    b, t, row = tokens.shape
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens.reshape(b, -1)[:, 1:])
    counts = jnp.repeat(counted, row, axis=1)[:, :-1]
    return jnp.mean(losses * np.tile(weights, t)[None, 1:] * counts)


def _num_tokens(batch: TrajectoryRows) -> Int[Array, ""]:
    """Those that are predicted and are of no end."""
    row = batch.rows.shape[2]
    return jnp.sum(jnp.repeat(batch.real, row, axis=1)[:, 1:], dtype=jnp.int32)
