"""The Trajectory Transformer's network, loss and updates, beside the original's own numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdt.algorithms.token_schedule import TokenScheduledUpdate
from jaxdt.algorithms.trajectory_transformer import token_loss
from jaxdt.config import TrajectoryTransformerConfig
from tests.trajectory import CONFIG, GOLDEN, ROW, model_of, ours


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


WEIGHTS = np.tile([1, 1, 1, 5, 5, 1, 1], CONFIG["transitions"])[1:].astype(np.float32)
COUNTED = jnp.asarray(GOLDEN["mask"].reshape(3, -1, ROW)[..., 0] > 0)


def loss(params, batch, key):
    del key
    return token_loss(model_of(), params, batch.reshape(3, -1, ROW), COUNTED, WEIGHTS, None)


def test_loss_and_gradients_are_the_originals():
    value, gradients = jax.jit(jax.value_and_grad(loss))(ours("param"), TOKENS, None)
    np.testing.assert_allclose(value, GOLDEN["loss"], rtol=1e-6)
    jax.tree.map(lambda mine, theirs: np.testing.assert_allclose(mine, theirs, atol=1e-4), gradients, ours("grad"))


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
