import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdt
from jaxdt.algorithms.decision_transformer import make_train_step, masked_cross_entropy, masked_mse
from jaxdt.config import OptimizerConfig
from jaxdt.flat import Flat, flatten_like, unflatten
from jaxdt.models import build_model
from jaxdt.training import (
    GradientUpdate,
    TrainState,
    Turns,
    compile_update,
    initial_state,
    learning_rate_schedule,
    make_optimizer,
)
from tests.conftest import EVERY_DROPOUT, make_store, tiny_model


FAST = OptimizerConfig(learning_rate=3e-3, warmup_steps=1)
MODEL = tiny_model(num_layers=2, **EVERY_DROPOUT)


@pytest.fixture(scope="module")
def trained_parts():
    """Model, compiled update and a batch, shared by the tests; `fresh()` gives a new state."""
    init, apply = build_model(MODEL)
    params = jax.jit(init)(jax.random.key(0))
    update, _ = make_train_step(apply, params, FAST)
    sampler = jaxdt.WindowSampler(make_store(), context_length=4, batch_size=8, return_scale=1.0)
    return params, update, lambda: make_train_step(apply, params, FAST)[1], sampler.batch(0)


def test_loss_is_the_mean_over_the_elements_of_real_steps():
    predicted = jnp.array([[[1.0, 1.0], [2.0, 0.0], [5.0, 5.0]]])
    target = jnp.array([[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    mask = jnp.array([[True, True, False]])
    # (1 + 1 + 4 + 0) / 4: the third step is padding and counts neither above nor below.
    assert float(masked_mse(predicted, target, mask)) == pytest.approx(6 / 4)


def test_cross_entropy_is_the_mean_over_real_steps():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.0, 0.5, 0.5]]]) + 1e-9)
    mask = jnp.array([[True, True, False]])
    loss = masked_cross_entropy(logits, jnp.array([[0, 2, 0]]), mask)
    assert float(loss) == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2, rel=1e-5)
    assert float(masked_cross_entropy(logits, jnp.array([[0, 2, 0]]), ~mask & mask)) == 0.0


def test_loss_of_nothing_real_is_zero_not_nan():
    zeros = jnp.ones((1, 2, 2))
    assert float(masked_mse(zeros, 0 * zeros, jnp.zeros((1, 2), bool))) == 0.0


LAMB = OptimizerConfig(update_rule="lamb", learning_rate=0.01, warmup_steps=0, weight_decay=5e-4, max_grad_norm=1.0)


def test_lamb_is_the_online_decision_transformers():
    """Five updates of its program, by which one array starts at 0; as a tree and as vectors."""
    golden = np.load(Path(__file__).parent / "golden" / "online.npz")

    def arrays(part):
        return {name: golden[f"lamb/{part}/{name}"] for name in ("w", "b", "zero")}

    optimizer, params = make_optimizer(LAMB), jax.tree.map(jnp.asarray, arrays("start"))
    flat = Flat.of({"layer": params, "other": {"w": params["w"]}})
    state, flat_state = optimizer.init(params), optimizer.init(flat)

    @jax.jit
    def update(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for i in range(5):
        gradients = arrays(f"grad{i}")
        params, state = update(gradients, state, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), params, arrays(f"after{i}"))
        norm = max(np.sqrt(sum(np.sum(np.square(g)) for g in gradients.values())), 1.0)  # it clips nothing more
        both = {"layer": {name: g / norm for name, g in gradients.items()}, "other": {"w": 0 * gradients["w"]}}
        flat, flat_state = update(Flat.of(jax.tree.map(jnp.asarray, both)), flat_state, flat)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), flat.tree()["layer"], params)


def test_lamb_gives_query_key_and_value_one_length_and_without_decay_is_adam():
    generator = np.random.default_rng(0)
    ours = {name: {"kernel": generator.normal(size=(4, n))} for name, n in (("query", 4), ("key_value", 8))}
    gradients = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape), ours)
    gradients["query"]["kernel"] *= 1e-7  # so that epsilon tells in Adam's step
    ours, gradients = (jax.tree.map(jnp.float32, tree) for tree in (ours, gradients))

    def joined(tree):
        return {"attention": jnp.concatenate([tree[name]["kernel"] for name in ("query", "key_value")], axis=1)}

    def update(config, params, gradients):
        optimizer = make_optimizer(config)
        first = jax.jit(lambda params, gradients: optimizer.update(gradients, optimizer.init(params), params)[0])
        return first(params, gradients)

    found, wanted = update(LAMB, ours, gradients), update(LAMB, joined(ours), joined(gradients))
    np.testing.assert_allclose(joined(found)["attention"], wanted["attention"], rtol=1e-5, atol=1e-8)
    plain = dataclasses.replace(LAMB, weight_decay=0.0)
    adam = dataclasses.replace(plain, update_rule="adamw")
    jax.tree.map(np.testing.assert_array_equal, update(plain, ours, gradients), update(adam, ours, gradients))


def test_learning_rate_rises_linearly_then_stays():
    rates = [float(learning_rate_schedule(OptimizerConfig(warmup_steps=4))(i)) for i in range(7)]
    np.testing.assert_allclose(rates, np.array([0.25, 0.5, 0.75, 1, 1, 1, 1]) * 1e-4, rtol=1e-6)


def test_no_warmup_means_the_full_rate_at_once():
    assert float(learning_rate_schedule(OptimizerConfig(warmup_steps=0))(0)) == pytest.approx(1e-4)


def test_two_updates_equal_pytorchs_adamw_by_hand():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=2, weight_decay=0.5, max_grad_norm=1.0)
    optimizer = make_optimizer(config)
    update = jax.jit(optimizer.update)
    weight, mean, square = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    params = {"bias": jnp.array(weight, jnp.float32)}
    state = optimizer.init(params)
    for i, gradient in enumerate([np.array([3.0, 4.0]), np.array([0.3, -0.4])]):
        updates, state = update({"bias": jnp.array(gradient, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        gradient = gradient / max(np.linalg.norm(gradient), 1.0)  # clipped to norm 1: only the first is
        rate = 0.1 * (i + 1) / 2
        weight = weight * (1 - rate * 0.5)  # decay on every parameter, biases too
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        weight = weight - rate * (mean / (1 - 0.9 ** (i + 1))) / (np.sqrt(square / (1 - 0.999 ** (i + 1))) + 1e-8)
        np.testing.assert_allclose(params["bias"], weight, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_one_batch_is_overfitted(dtype):
    config = tiny_model(dtype=dtype, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0)
    init, apply = build_model(config)
    update, state = make_train_step(apply, jax.jit(init)(jax.random.key(0)), FAST, updates_per_call=300)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    window = jaxdt.WindowSampler(make_store(), context_length=4, batch_size=8, return_scale=1.0).batch(0)
    _, metrics = update(state, jax.tree.map(lambda leaf: np.stack([leaf] * 300), window), jax.random.key(1))
    losses = np.asarray(metrics["loss"])
    assert losses[0] > 0.2
    assert losses[-1] < 0.01 * losses[0]


def test_three_updates_give_the_recorded_metrics(trained_parts):
    """A change here means that training changed: fine if it was meant, then record the new numbers."""
    _, update, fresh, window = trained_parts
    state, rows = fresh(), []
    for _ in range(3):
        state, metrics = update(state, window, jax.random.key(5))
        rows.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    np.testing.assert_allclose(rows, GOLDEN_METRICS, atol=1e-3)


GOLDEN_METRICS = [[0.286806, 0.700342], [0.282409, 0.645026], [0.226838, 0.539915]]  # loss, gradient norm


def test_the_callers_params_survive_the_donation(trained_parts):
    params, update, fresh, window = trained_parts
    before = jax.tree.map(np.array, params)
    state, _ = update(fresh(), window, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert not np.array_equal(state.params["embed_state"]["kernel"], before["embed_state"]["kernel"])


def test_the_window_is_not_donated(trained_parts):
    _, update, fresh, window = trained_parts
    on_device = jax.device_put(window)
    update(fresh(), on_device, jax.random.key(1))
    np.testing.assert_array_equal(np.asarray(on_device.states), window.states)


def test_each_update_draws_its_own_dropout_from_one_key(trained_parts):
    _, update, fresh, window = trained_parts
    first, second = fresh(), fresh()._replace(step=jnp.ones((), jnp.int32))
    _, metrics = update(first, window, jax.random.key(1))
    _, later = update(second, window, jax.random.key(1))
    assert float(metrics["loss"]) != float(later["loss"])


def test_state_freezes_at_the_first_update_that_is_not_finite(trained_parts):
    _, update, fresh, window = trained_parts
    state, _ = update(fresh(), window, jax.random.key(1))
    good = jax.tree.map(np.array, state.params)
    bad = window._replace(returns_to_go=np.full_like(window.returns_to_go, np.nan))
    state, metrics = update(state, bad, jax.random.key(1))
    assert not np.isfinite(metrics["loss"])
    assert not state.finite
    state, metrics = update(state, window, jax.random.key(1))  # a good batch does not thaw it
    assert np.isfinite(metrics["loss"])
    assert (bool(state.finite), int(state.step)) == (False, 1)
    jax.tree.map(np.testing.assert_array_equal, state.params, good)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.opt_state))


def test_a_finite_loss_with_an_infinite_gradient_freezes_too():
    def apply(params, window, *, key=None):
        del key
        return jnp.sqrt(params["w"]) * jnp.ones_like(window.actions)  # gradient of sqrt at 0 is infinite

    update, state = make_train_step(apply, {"w": jnp.zeros(())}, FAST)
    window = jaxdt.WindowSampler(make_store(), context_length=4, batch_size=8).batch(0)
    state, metrics = update(state, window, jax.random.key(0))
    assert np.isfinite(metrics["loss"])
    assert not state.finite
    assert float(state.params["w"]) == 0.0


def test_a_linear_schedule_starts_at_zero_peaks_after_the_warmup_and_ends_at_zero():
    config = OptimizerConfig(learning_rate=1.0, schedule="linear", warmup_steps=4, total_steps=12)
    schedule = learning_rate_schedule(config)
    rates = [float(schedule(i)) for i in range(14)]
    np.testing.assert_allclose(rates[:5], [0, 0.25, 0.5, 0.75, 1], rtol=1e-6)
    np.testing.assert_allclose(rates[5:13], np.arange(7, -1, -1) / 8, atol=1e-6)
    assert rates[13] == 0
    at_once = learning_rate_schedule(
        OptimizerConfig(learning_rate=1.0, schedule="linear", warmup_steps=0, total_steps=4)
    )
    np.testing.assert_allclose([float(at_once(i)) for i in range(5)], [1, 0.75, 0.5, 0.25, 0], atol=1e-6)


def test_a_cosine_schedule_falls_to_zero_along_half_a_cosine():
    config = OptimizerConfig(learning_rate=2.0, schedule="cosine", warmup_steps=2, total_steps=6)
    rates = [float(learning_rate_schedule(config)(i)) for i in range(8)]
    half = np.sqrt(0.5)
    np.testing.assert_allclose(rates, [0, 1, 2, 1 + half, 1, 1 - half, 0, 0], atol=1e-6)


@pytest.mark.parametrize("changes", [{"warmup_steps": None}, {"schedule": "linear"}, {"schedule": "cosine"}])
def test_a_schedule_of_unknown_length_is_refused(changes):
    with pytest.raises(
        jaxdt.JaxdtError, match="warmup_steps, and total_steps with a falling schedule, must be numbers"
    ):
        make_optimizer(OptimizerConfig(**changes))


def test_decay_spares_biases_and_norms_only_where_asked():
    init, _ = build_model(tiny_model())
    params = jax.tree.map(jnp.ones_like, jax.jit(init)(jax.random.key(0)))
    zeros = jax.tree.map(jnp.zeros_like, params)
    for decay_biases in (True, False):
        config = OptimizerConfig(learning_rate=1.0, warmup_steps=0, weight_decay=0.5, decay_biases=decay_biases)
        optimizer = make_optimizer(config)
        decay = jax.jit(lambda tree, zeros, optimizer=optimizer: optimizer.update(zeros, optimizer.init(tree), tree)[0])
        updates = decay(params, zeros)
        flat = unflatten(decay(flatten_like(params, params), flatten_like(zeros, params)))
        jax.tree.map(np.testing.assert_array_equal, flat, updates)
        for path, update in jax.tree_util.tree_leaves_with_path(updates):
            decayed = decay_biases or path[-1].key in ("kernel", "embedding")
            np.testing.assert_allclose(update, -0.5 if decayed else 0.0, err_msg=jax.tree_util.keystr(path))


def test_weights_of_any_name_decay_where_biases_are_spared():
    """A network of one's own has no kernels; those of Haiku and Equinox are called w and weight."""
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=0, weight_decay=0.5, decay_biases=False)
    params = {"dense": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "head": {"weight": jnp.ones(3), "bias": jnp.ones(1)}}
    optimizer = make_optimizer(config)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    decayed = {name: {part: float(leaf.ravel()[0]) for part, leaf in layer.items()} for name, layer in updates.items()}
    assert decayed == {"dense": {"w": -0.5, "b": 0.0}, "head": {"weight": -0.5, "bias": 0.0}}


def test_a_flat_state_is_few_vectors_and_comes_back_as_it_was(trained_parts):
    _, _, fresh, _ = trained_parts
    state = fresh()
    numbered = jax.tree.map(lambda leaf: np.arange(leaf.size, dtype=np.float32).reshape(leaf.shape), state.params)
    numbered = jax.device_put(numbered)
    state = state._replace(params=numbered)
    flat = flatten_like(state, state.params)
    assert isinstance(flat.params, Flat)
    assert {leaf.ndim for leaf in jax.tree.leaves(flat.params)} == {1}
    mean, variance = (getattr(flat.opt_state[1][0], name) for name in ("mu", "nu"))
    assert isinstance(mean, Flat)
    assert isinstance(variance, Flat)
    back = unflatten(flat)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)


def test_updates_of_one_call_are_those_of_as_many_calls(trained_parts):
    params, update, fresh, _ = trained_parts
    _, apply = build_model(MODEL)
    sampler = jaxdt.WindowSampler(make_store(), context_length=4, batch_size=8, return_scale=1.0)
    windows = [next(sampler) for _ in range(3)]
    state, key = fresh(), jax.random.key(1)
    losses = []
    for window in windows:
        state, metrics = update(state, window, key)
        losses.append(metrics["loss"])
    together, start = make_train_step(apply, params, FAST, updates_per_call=3)
    at_once, metrics = together(start, jax.tree.map(lambda *parts: np.stack(parts), *windows), key)
    assert int(at_once.step) == 3
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), at_once.params, state.params)


@pytest.mark.parametrize("updates_per_call", [None, 3, 4])
def test_updates_take_turns_whatever_the_number_in_a_call(updates_per_call):
    def adds(number):
        def update(state, batch, key):
            del key
            return state._replace(params=10 * state.params + number), {"loss": batch}

        return update

    update = compile_update(Turns((adds(1.0), adds(2.0))), updates_per_call=updates_per_call)
    state = TrainState(jnp.zeros((), jnp.int32), jnp.zeros(()), (), jnp.ones((), bool))
    batches = jnp.arange(12.0) if updates_per_call is None else jnp.arange(12.0).reshape(-1, updates_per_call)
    losses = []
    for batch in batches[: 4 // (updates_per_call or 1) + 1]:
        state, metrics = update(state, batch, jax.random.key(0))
        losses.append(metrics["loss"])
    done = int(state.step)
    assert float(state.params) == float(("12" * done)[:done])
    np.testing.assert_array_equal(np.ravel(losses), np.arange(done))


def test_parameters_may_be_one_array():
    update = GradientUpdate(lambda params, batch, key: jnp.sum((params - batch) ** 2), OptimizerConfig.adam(0.1))
    state, metrics = compile_update(update, updates_per_call=2)(
        initial_state(jnp.zeros(3), OptimizerConfig.adam(0.1)), jnp.ones((2, 3)), jax.random.key(0)
    )
    assert metrics["loss"][1] < metrics["loss"][0] == 3
    assert state.params.shape == (3,)
