import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import KeyReuseError

from jaxdt.models.layers import drop


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


def test_dropout_has_the_same_bits_under_vmap():
    keys, ones = jax.random.split(jax.random.key(0), 3), jnp.ones((3, 4, 5))
    mapped = jax.vmap(lambda x, key: drop(x, 0.5, key))(ones, keys)
    np.testing.assert_array_equal(mapped, [drop(x, 0.5, key) for x, key in zip(ones, keys, strict=True)])


@pytest.mark.parametrize("make_key", [jax.random.PRNGKey, lambda seed: jax.random.key(seed, impl="rbg")])
def test_dropout_takes_every_kind_of_key(make_key):
    assert abs(kept(make_key(1)).mean() - 0.9) < 4 * 0.3 / (1 << 10)
    assert (kept(make_key(1)) != kept(make_key(2))).any()


def test_dropping_twice_with_one_key_is_found():
    with jax.debug_key_reuse(True), pytest.raises(KeyReuseError):
        jax.jit(lambda x, key: drop(x, 0.5, key) + drop(x, 0.5, key))(jnp.ones(3), jax.random.key(0))
