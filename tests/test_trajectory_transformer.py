"""The Trajectory Transformer's network, loss and updates, beside the original's own numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdt.algorithms.token_schedule import TokenScheduledUpdate, TokensSeen
from jaxdt.algorithms.trajectory_transformer import token_loss, token_weights, tokens_of
from jaxdt.config import TrajectoryTransformerConfig
from jaxdt.data.trajectories import TrajectoryRows
from jaxdt.types import Box, Spec
from tests.trajectory import BINS, CONFIG, EDGES, GOLDEN, ROW, model_of, ours


TOKENS = jnp.asarray(GOLDEN["tokens"], jnp.int32)


def test_logits_are_the_originals():
    apply = jax.jit(model_of().apply)
    logits = apply(ours("param"), TOKENS[:, :-1])
    np.testing.assert_allclose(logits, GOLDEN["logits"], atol=1e-5)
    short = GOLDEN["short_logits"].shape[1]
    np.testing.assert_allclose(apply(ours("param"), TOKENS[:, :short]), GOLDEN["short_logits"], atol=1e-5)


def test_a_value_sways_the_prediction_behind_it_and_nothing_else():
    params, tokens = ours("param"), TOKENS[:, :-1]
    is_value = np.arange(tokens.shape[1]) % ROW == ROW - 1
    apply = jax.jit(model_of().apply)
    moved = np.abs(apply(params, tokens) - apply(params, jnp.where(is_value[None], (tokens + 3) % 10, tokens)))
    assert moved[:, ~is_value].max() == 0
    assert moved[:2, is_value].max(axis=(0, 2)).min() > 0.1


WEIGHTS = np.array([1, 1, 1, 5, 5, 1, 1], np.float32)
COUNTED = jnp.asarray(GOLDEN["mask"].reshape(3, -1, ROW)[..., 0] > 0)


def loss(params, batch, key):
    del key
    return token_loss(model_of().apply(params, batch[:, :-1]), batch.reshape(3, -1, ROW), COUNTED, WEIGHTS)


def test_tokens_are_weighted_by_what_they_are_of_and_an_end_is_a_token():
    config = TrajectoryTransformerConfig(bins=BINS, observation_weight=2.0, reward_weight=3.0, value_weight=4.0)
    spec = Spec(observation_shape=(3,), action=Box(-np.ones(2), np.ones(2)), constants={"edges": EDGES})
    assert token_weights(config, spec).tolist() == [2, 2, 2, 5, 5, 3, 4]
    real = np.array([[True, False]])
    tokens = tokens_of(config, spec, TrajectoryRows(jnp.asarray(GOLDEN["probe"][None, :2]), real, real))
    np.testing.assert_array_equal(tokens[0, 0], GOLDEN["indices"][0])
    assert (tokens[0, 1] == BINS).all()


def test_loss_and_gradients_are_the_originals():
    value, gradients = jax.jit(jax.value_and_grad(loss))(ours("param"), TOKENS, None)
    np.testing.assert_allclose(value, GOLDEN["loss"], rtol=1e-6)
    jax.tree.map(lambda mine, theirs: np.testing.assert_allclose(mine, theirs, atol=1e-4), gradients, ours("grad"))


def test_the_authors_rate_rises_again_behind_its_end():
    """After passes over a million windows, whose tokens one int32 cannot count."""
    per_pass = 249 * 998_999
    update = TokenScheduledUpdate(loss, len, TrajectoryTransformerConfig().optimizer, per_pass, 20 * per_pass)
    passes = np.array([0.5, 1, 17, 20, 24, 39, 50])
    factors = [float(update.factor(TokensSeen(jnp.int32(n), jnp.int32(n % 1 * per_pass)))) for n in passes]
    np.testing.assert_allclose(factors, [0.5, 1, 0.1, 0.1, 0.106, 1, 0.377], atol=1e-3)


@pytest.mark.slow
def test_ten_updates_are_the_originals():
    def num_tokens(batch):
        return jnp.sum(batch[:, 1:] != CONFIG["bins"], dtype=jnp.int32)

    config = TrajectoryTransformerConfig().optimizer
    update = TokenScheduledUpdate(loss, num_tokens, config, CONFIG["warmup_tokens"], CONFIG["final_tokens"])
    state, found = update.init(ours("param")), []
    step = jax.jit(lambda *arguments: update(*arguments))
    for _ in range(10):
        state, metrics = step(state, TOKENS, jax.random.key(0))
        found.append(metrics)
    for name, theirs in (("loss", "losses"), ("grad_norm", "grad_norms"), ("learning_rate", "learning_rates")):
        np.testing.assert_allclose([float(each[name]) for each in found], GOLDEN[theirs], rtol=1e-4)


def test_cached_logits_are_those_of_a_full_forward_at_every_place():
    """Read to any place and extended from there, and two ways to go on beside one another."""
    params, tokens = ours("param"), TOKENS[:, :-1]
    model, length = model_of().with_params(params), tokens.shape[1]
    expected = GOLDEN["logits"]

    @jax.jit
    def cached(start):
        caches, first = model.read(tokens, start, length)

        def extend(caches, place):
            caches, logits = model.extend(caches, tokens[:, place], place)
            return caches, logits

        _, behind = jax.lax.scan(extend, caches, jnp.arange(length))
        return first, behind.swapaxes(0, 1)

    first, behind = cached(jnp.int32(9))
    np.testing.assert_allclose(first, expected[:, 9], atol=1e-5)
    np.testing.assert_allclose(behind, expected, atol=1e-5)  # each place overwritten in turn, junk behind it


@pytest.mark.slow
def test_ways_that_share_their_past_are_as_each_alone():
    params, other = ours("param"), (TOKENS[:, :-1] + 2) % 10
    model, first, steps = model_of().with_params(params), 10, 3
    past = TOKENS[:, :first]
    both = jnp.stack([TOKENS[:, first : first + steps], other[:, first : first + steps]], axis=1)

    @jax.jit
    def branched(both):
        caches, _ = model.read(past, jnp.int32(first - 1), 27)
        suffixes = jax.tree.map(lambda leaf: jnp.zeros((6, *leaf.shape[1:2], steps, leaf.shape[3])), caches)

        def step(suffixes, step):
            return model.branch(caches, suffixes, both[:, :, step], jnp.int32(first), step)

        return jax.lax.scan(step, suffixes, jnp.arange(steps))[1][-1]

    whole = jnp.concatenate([jnp.repeat(past[:, None], 2, axis=1), both], axis=2).reshape(6, -1)
    expected = jax.jit(model_of().apply)(params, whole)[:, -1].reshape(3, 2, -1)
    np.testing.assert_allclose(branched(both), expected, atol=1e-5)
