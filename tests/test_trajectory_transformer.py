"""The Trajectory Transformer's network, loss and updates, beside the original's own numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.trajectory import GOLDEN, ROW, model_of, ours


TOKENS = jnp.asarray(GOLDEN["tokens"], jnp.int32)


def test_logits_are_the_originals():
    logits = jax.jit(model_of().apply)(ours("param"), TOKENS[:, :-1])
    np.testing.assert_allclose(logits, GOLDEN["logits"], atol=1e-5)
    short = GOLDEN["short_logits"].shape[1]
    np.testing.assert_allclose(model_of().apply(ours("param"), TOKENS[:, :short]), GOLDEN["short_logits"], atol=1e-5)


def test_a_value_sways_the_prediction_behind_it_and_nothing_else():
    params, tokens = ours("param"), TOKENS[:, :-1]
    is_value = np.arange(tokens.shape[1]) % ROW == ROW - 1
    apply = jax.jit(model_of().apply)
    moved = np.abs(apply(params, tokens) - apply(params, jnp.where(is_value[None], (tokens + 3) % 10, tokens)))
    assert moved[:, ~is_value].max() == 0
    assert moved[:2, is_value].max(axis=(0, 2)).min() > 0.1
