import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.errors import KeyReuseError
from jaxtyping import TypeCheckError

from jaxdt.config import ModelConfig
from jaxdt.models import building
from jaxdt.models.building import build_model
from jaxdt.models.layers import dense, drop, layer_norm, normalize, times
from tests.conftest import random_window


@pytest.mark.parametrize("x", [jnp.ones((2, 3), jnp.int32), jnp.ones(())], ids=["kind", "shape"])
def test_in_tests_an_array_must_be_what_the_signature_says(x):
    layer = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    assert dense(layer, jnp.ones((2, 3))).shape == (2, 3)
    with pytest.raises(TypeCheckError, match=r"jaxdt\.models\.layers\.dense"):
        dense(layer, x)


def kept(key, rate=0.1, shape=(1 << 10, 1 << 10)):
    return np.asarray(jax.jit(drop, static_argnums=1)(jnp.ones(shape), rate, key)) > 0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.93])
def test_dropout_keeps_its_share_and_the_expectation(rate):
    dropped = jax.jit(drop, static_argnums=1)(jnp.full((1 << 20,), 3.0), rate, jax.random.key(0))
    values, counts = np.unique(dropped, return_counts=True)
    np.testing.assert_allclose(values, [0, 3 / (1 - rate)], rtol=1e-6)
    assert abs(counts[0] / (1 << 20) - rate) < 4 * np.sqrt(rate * (1 - rate) / (1 << 20))


def test_what_dropout_keeps_is_independent_across_places_and_keys():
    def correlation(a, b):
        return abs(np.mean((a - 0.9) * (b - 0.9))) / 0.09 * np.sqrt(a.size)  # in standard errors

    keys = [jax.random.key(3), jax.random.key(4), *jax.random.split(jax.random.key(3))]
    keys += [jax.random.fold_in(jax.random.key(3), step) for step in range(2, 5)]  # 0 and 1 are split's
    masks = [kept(key).ravel() for key in keys]
    for lag in (1, 2, 3, 64, 128, 512, 60 * 128, 1 << 16):
        assert correlation(masks[0][lag:], masks[0][:-lag]) < 4.5
    for one, other in itertools.combinations(masks, 2):
        assert correlation(one, other) < 4.5


def test_rows_and_columns_of_dropout_are_kept_evenly():
    share = kept(jax.random.key(7))
    for axis in (0, 1):
        deviations = (share.mean(axis) - 0.9) / np.sqrt(0.09 / share.shape[axis])
        assert np.abs(deviations).max() < 5
        assert 0.9 < deviations.std() < 1.1


def test_rows_of_more_elements_than_32_bits_count_are_dropped_apart(monkeypatch):
    before = kept(jax.random.key(7))
    monkeypatch.setattr("jaxdt.models.layers._COUNTED", before.size - 1)
    share = np.asarray(jax.jit(lambda x: drop(x, 0.1, jax.random.key(7)))(jnp.ones(before.shape))) > 0
    assert abs(share.mean() - 0.9) < 4 * 0.3 / np.sqrt(share.size)
    for one, other in itertools.combinations((*share[:4], share[-1], before[-1]), 2):
        assert abs(np.mean((one - 0.9) * (other - 0.9))) / 0.09 * np.sqrt(one.size) < 4.5


def test_dropout_has_the_same_bits_under_vmap():
    keys, ones = jax.random.split(jax.random.key(0), 3), jnp.ones((3, 4, 5))
    mapped = jax.jit(jax.vmap(lambda x, key: drop(x, 0.5, key)))(ones, keys)
    alone = jax.jit(drop, static_argnums=1)
    np.testing.assert_array_equal(mapped, [alone(x, 0.5, key) for x, key in zip(ones, keys, strict=True)])


@pytest.mark.parametrize("make_key", [jax.random.PRNGKey, lambda seed: jax.random.key(seed, impl="rbg")])
def test_dropout_takes_every_kind_of_key(make_key):
    assert abs(kept(make_key(1)).mean() - 0.9) < 4 * 0.3 / (1 << 10)
    assert (kept(make_key(1)) != kept(make_key(2))).any()


def test_dropping_twice_with_one_key_is_found():
    with jax.debug_key_reuse(True), pytest.raises(KeyReuseError):
        jax.jit(lambda x, key: drop(x, 0.5, key) + drop(x, 0.5, key))(jnp.ones(3), jax.random.key(0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_normalisation_is_flaxes_with_the_exact_variance(dtype):
    layer = layer_norm(16, 1e-3, nnx.Rngs(0))
    layer.scale[...], layer.bias[...] = jax.random.normal(jax.random.key(0), (2, 16), dtype)
    x = (100 + jax.random.normal(jax.random.key(1), (3, 4, 16))).astype(dtype)
    flaxes = nnx.LayerNorm(16, epsilon=1e-3, use_fast_variance=False, rngs=nnx.Rngs(0))
    flaxes.scale[...], flaxes.bias[...] = layer.scale[...], layer.bias[...]
    ours, theirs = jax.jit(lambda x: (normalize(layer, x), flaxes(x).astype(dtype)))(x)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours.astype(jnp.float32), theirs.astype(jnp.float32), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vectors_for_each_window_change_neither_predictions_nor_gradients(dtype, monkeypatch):
    config = ModelConfig(state_dim=3, action_dim=2, width=16, num_layers=1, context_length=4, dtype=dtype)
    init, apply = build_model(config)
    params = init(jax.random.key(0))
    window = random_window(config, real=[1, 3, 4])

    def loss(params):
        return jnp.sum(jnp.square(apply(params, window, key=jax.random.key(1))))

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    monkeypatch.setattr(building.jax, "default_backend", lambda: "gpu")
    spread_program = jax.jit(jax.value_and_grad(lambda params: loss(params)))
    assert "optimization_barrier" in str(spread_program.trace(params).jaxpr)  # so it is another program indeed
    spread_value, spread_gradients = spread_program(params)
    close = {"float32": {"rtol": 1e-5, "atol": 1e-5}, "bfloat16": {"rtol": 0.05, "atol": 0.05}}[dtype]
    np.testing.assert_allclose(spread_value, value, **close)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), spread_gradients, gradients)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 8), (8, 48)])
def test_on_a_cpu_the_gradient_of_a_matrix_is_computed_with_its_long_axis_last(inputs, outputs, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 32, inputs), dtype)
    matrix = jax.random.normal(keys[1], (inputs, outputs), dtype)
    weights = jax.random.normal(keys[2], (2, 32, outputs), dtype)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(x, matrix):
        return jnp.sum(times(x, matrix) * weights)

    wide = [each.astype(jnp.float32) for each in (x, matrix, weights)]
    exact = (wide[2] @ wide[1].T, jnp.einsum("bti,bto->io", wide[0], wide[2]))  # plain products' bfloat16 is jax's own
    for ours, expected in zip(gradients(x, matrix), exact, strict=True):
        assert ours.dtype == dtype
        error = jnp.linalg.norm(ours.astype(jnp.float32) - expected) / jnp.linalg.norm(expected)
        assert error < {"float32": 1e-6, "bfloat16": 0.02}[dtype]
    if dtype == "float32":
        assert "f32[8,48]{1,0} dot(" in gradients.lower(x, matrix).compile().as_text()
