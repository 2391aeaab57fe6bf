"""Reinformer against plain restatements: its loss, its block, and the two passes of acting."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdt.algorithms import make_algorithm
from jaxdt.algorithms.reinformer import fit_window
from jaxdt.config import REINFORMER, ReinformerConfig
from jaxdt.errors import JaxdtError
from jaxdt.models import Prediction, build_reinformer
from jaxdt.types import Discrete, Window
from tests.conftest import random_window, tiny_model
from tests.toys import DRIFT_SPEC


CONFIG = ReinformerConfig(
    return_scale=10.0, width=16, num_layers=2, num_heads=2, context_length=4, max_episode_length=50, dropout=0.1
)
NETWORK = build_reinformer(CONFIG, DRIFT_SPEC)
APPLY = jax.jit(NETWORK.apply)
BY_HAND = dataclasses.replace(CONFIG, num_layers=1, num_heads=1, context_length=2)


@pytest.fixture(scope="module")
def params():
    """Larger than initial ones, so that every part of the model tells."""
    return jax.tree.map(lambda leaf: 2 * leaf, NETWORK.init(jax.random.key(0)))


def test_the_loss_is_the_expectile_of_returns_and_the_likelihood_of_actions():
    """Restated in NumPy, over the real steps of a batch with padding."""
    window = random_window(tiny_model(), batch=3, real=[4, 2, 1])
    rng = np.random.default_rng(0)
    returns, mean = rng.normal(size=(3, 4)), rng.uniform(-1, 1, size=(3, 4, 2))
    log_std = np.broadcast_to([0.3, -1.0], (3, 4, 2))
    prediction = Prediction(*(jnp.float32(values) for values in (returns, mean, log_std)))
    fit = fit_window(lambda *_, **__: prediction, 0.9, {}, jax.tree.map(jnp.asarray, window), None)
    real = window.mask
    above = (window.returns_to_go - returns)[real] / np.abs(window.returns_to_go[real]).mean()
    return_loss = (np.abs(0.9 - (above < 0)) * above**2).mean()
    standardized = (window.actions - mean) / np.exp(log_std)
    log_prob = (-0.5 * standardized**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)[real].mean()
    assert float(fit.metrics["return_loss"]) == pytest.approx(return_loss, rel=1e-5)
    assert float(fit.loss) == pytest.approx(return_loss - log_prob, rel=1e-5)
    assert float(fit.entropy) == pytest.approx(-0.7 + 2 * 0.5 * np.log(2 * np.pi * np.e), rel=1e-5)


def test_the_network_is_the_published_one():
    """One layer of one head, restated in NumPy: LayerNorms come after each sum, and none before or at the end."""
    network = build_reinformer(BY_HAND, DRIFT_SPEC)
    p = jax.tree.map(np.asarray, network.init(jax.random.key(0)))
    window = random_window(tiny_model(context_length=2), batch=1)
    found = jax.jit(network.apply)(p, window)

    def dense(name, x, of=p):
        return x @ of[name]["kernel"] + of[name]["bias"]

    def norm(x, of):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * of["scale"] + of["bias"]

    time = p["embed_timestep"]["embedding"][window.timesteps[0]]
    parts = (("state", window.states), ("return", window.returns_to_go[..., None]), ("action", window.actions))
    x = np.stack([dense(f"embed_{name}", values[0]) + time for name, values in parts], axis=1).reshape(6, -1)
    x, block = norm(x, p["embed_norm"]), p["blocks"]["block_0"]
    scores = dense("query", x, block) @ dense("key", x, block).T / np.sqrt(16)
    weights = np.exp(scores) * np.tril(np.ones((6, 6)))
    attended = weights / weights.sum(-1, keepdims=True) @ dense("value", x, block)
    x = norm(x + dense("attention_out", attended, block), block["attention_norm"])
    hidden = np.asarray(jax.nn.gelu(dense("mlp_in", x, block), approximate=False))
    x = norm(x + dense("mlp_out", hidden, block), block["mlp_norm"])
    np.testing.assert_allclose(found.returns[0], dense("predict_return", x[0::3])[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.mean[0], np.tanh(dense("predict_mean", x[1::3])), rtol=1e-4, atol=1e-5)
    assert (p["log_std"] == 0).all()


def play(config, params, steps):
    """Memories and actions of two episodes, whose observations do not depend on what is done."""
    policy = make_algorithm(config, DRIFT_SPEC).policy
    observations = jax.random.normal(jax.random.key(5), (steps, 2, 3))
    memory, actions, act = policy.start(jnp.zeros(2)), [], jax.jit(policy.act)
    for observation in observations:
        memory, action = act({"policy": params}, memory, observation, jnp.zeros(2), None)
        actions.append(action)
    return memory, np.stack(actions)


@pytest.mark.slow
def test_acting_feeds_back_the_return_that_it_predicts(params):
    """The window that it read holds its own predictions: those that the whole model gives for that window."""
    memory, actions = play(CONFIG, params, CONFIG.context_length)
    window: Window = memory.context
    predicted = APPLY(params, window)
    np.testing.assert_allclose(window.returns_to_go, predicted.returns, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(memory.action, predicted.mean[:, -1], rtol=1e-4, atol=1e-5)
    other = APPLY(params, window._replace(returns_to_go=window.returns_to_go + 1))
    assert float(jnp.abs(other.mean - predicted.mean).max()) > 1e-3
    _, cached = play(dataclasses.replace(CONFIG, context="cached"), params, CONFIG.context_length + 1)
    np.testing.assert_allclose(cached[:-1], actions, rtol=1e-4, atol=1e-5)


def test_padding_is_inert_and_the_future_unseen(params):
    window = random_window(tiny_model(), batch=2, real=[2, 3])
    found = APPLY(params, window)
    noise = window._replace(states=np.where(window.mask[..., None], window.states, 9))
    later = window._replace(actions=window.actions + np.array([0, 0, 0, 1])[:, None].astype(np.float32))
    for other, real in ((noise, window.mask), (later, window.mask)):
        changed = APPLY(params, other)
        np.testing.assert_array_equal(found.mean[real], changed.mean[real])
        np.testing.assert_array_equal(found.returns[real], changed.returns[real])


def test_the_scale_of_returns_is_the_authors_for_the_data():
    scales = {name: REINFORMER.algorithm.for_data(name).return_scale for name in ("halfcheetah-medium-v2", "a", None)}
    assert scales == {"halfcheetah-medium-v2": 5000.0, "a": 1000.0, None: 1000.0}
    assert dataclasses.replace(CONFIG, return_scale=7.0).for_data("halfcheetah-medium.npz").return_scale == 7.0
    with pytest.raises(JaxdtError, match="return_scale must be a number here; got None"):
        ReinformerConfig().check_spec(DRIFT_SPEC)
    with pytest.raises(JaxdtError, match="reinformer is for continuous actions"):
        make_algorithm(CONFIG, dataclasses.replace(DRIFT_SPEC, action=Discrete(3)))
    for changes, message in (({"expectile": 1.0}, "expectile must be above 0"), ({"num_heads": 3}, "divisible")):
        with pytest.raises(JaxdtError, match=message):
            dataclasses.replace(CONFIG, **changes)
