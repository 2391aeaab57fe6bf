import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdt.models import build_mlp


SMALL = {"inputs": 6, "outputs": 3, "width": 16, "num_layers": 2, "dropout": 0.5, "tanh": True}


@pytest.fixture(scope="module")
def small():
    init, apply = build_mlp(**SMALL)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    return init(jax.random.key(0)), jax.jit(apply), x


def test_parameter_count_is_the_originals():
    """Hopper: 20 states of 11 numbers, 3 actions."""
    init, _ = build_mlp(inputs=20 * 11, outputs=3, width=128, num_layers=3, dropout=0.1, tanh=True)
    shapes = jax.eval_shape(init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 61_699


def test_it_equals_the_formula(small):
    params, apply, x = small
    layers = [*params["hidden"].values(), params["output"]]
    expected = np.asarray(x)
    for layer in layers[:-1]:
        expected = np.maximum(expected @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    expected = expected @ np.asarray(layers[-1]["kernel"]) + np.asarray(layers[-1]["bias"])
    np.testing.assert_allclose(apply(params, x), np.tanh(expected), rtol=1e-5, atol=1e-6)
    _, without_tanh = build_mlp(**{**SMALL, "tanh": False})
    np.testing.assert_allclose(without_tanh(params, x), expected, rtol=1e-5, atol=1e-6)


def test_initialisation_is_pytorchs():
    init, _ = build_mlp(inputs=400, outputs=300, width=200, num_layers=2, dropout=0.1, tanh=True)
    params = init(jax.random.key(1))
    for layer, inputs in ((params["hidden"]["layer_0"], 400), (params["hidden"]["layer_1"], 200)):
        for values in layer.values():
            assert np.abs(values).max() <= 1 / np.sqrt(inputs)
            assert np.std(values) == pytest.approx(1 / np.sqrt(3 * inputs), rel=0.1)
    assert np.std(params["output"]["kernel"]) == pytest.approx(1 / np.sqrt(3 * 200), rel=0.05)


def test_with_an_output_bound_hidden_biases_are_a_tenth_and_the_last_layer_lies_within_it():
    init, _ = build_mlp(inputs=400, outputs=300, width=200, num_layers=2, output_bound=3e-3)
    params = init(jax.random.key(1))
    for layer, inputs in ((params["hidden"]["layer_0"], 400), (params["hidden"]["layer_1"], 200)):
        assert np.std(layer["kernel"]) == pytest.approx(1 / np.sqrt(3 * inputs), rel=0.05)
        np.testing.assert_array_equal(layer["bias"], np.full(200, 0.1, np.float32))
    for values in params["output"].values():
        assert 2.9e-3 < np.abs(values).max() <= 3e-3


def test_layer_norm_stands_behind_the_relu():
    init, apply = build_mlp(inputs=1, outputs=1, width=2, num_layers=1, norm=True)
    params = init(jax.random.key(0))
    assert params["norm"]["layer_0"]["scale"].tolist() == [1, 1]
    params["hidden"]["layer_0"] = {"kernel": jnp.zeros((1, 2)), "bias": jnp.array([3.0, -9.0])}
    params["norm"]["layer_0"]["bias"] = jnp.array([0.5, 0.0])
    params["output"] = {"kernel": jnp.array([[10.0], [1.0]]), "bias": jnp.zeros(1)}
    # ReLU: 3 and 0. Normalised: 1 and -1. With the bias: 1.5 and -1.
    np.testing.assert_allclose(apply(params, jnp.ones((1, 1))), [[14.0]], rtol=1e-5)


def test_dropout_is_on_exactly_when_a_key_is_given(small):
    params, apply, x = small
    plain, noisy = apply(params, x), apply(params, x, key=jax.random.key(1))
    np.testing.assert_array_equal(plain, apply(params, x))
    np.testing.assert_array_equal(noisy, apply(params, x, key=jax.random.key(1)))
    assert not np.allclose(plain, noisy)
    _, without = build_mlp(**{**SMALL, "dropout": 0.0})
    np.testing.assert_allclose(without(params, x, key=jax.random.key(1)), plain, rtol=1e-5, atol=1e-6)


def test_a_batch_is_overfitted(small):
    params, _, x = small
    _, apply = build_mlp(**SMALL)
    target = jnp.asarray(np.random.default_rng(1).uniform(-0.9, 0.9, size=(4, 3)), jnp.float32)

    def descend(params, _):
        loss, gradients = jax.value_and_grad(lambda p: jnp.mean((apply(p, x) - target) ** 2))(params)
        return jax.tree.map(lambda leaf, gradient: leaf - 0.3 * gradient, params, gradients), loss

    _, losses = jax.jit(lambda params: jax.lax.scan(descend, params, length=1500))(params)
    assert losses[-1] < 0.01 * losses[0]
