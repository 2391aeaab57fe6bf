import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdt
from jaxdt.algorithms.decision_transformer import masked_cross_entropy
from jaxdt.models import build_decoder, build_model
from jaxdt.types import Window
from tests.conftest import EVERY_DROPOUT, random_window, tiny_model


def jitted_model(config):
    init, apply = build_model(config)
    return jax.jit(init), jax.jit(apply, static_argnames="newest_only")


@pytest.fixture(scope="module")
def model():
    config = tiny_model(num_layers=2, **EVERY_DROPOUT)  # what one block lets through, another could spread
    init, apply = jitted_model(config)
    return config, init(jax.random.key(0)), apply


@pytest.mark.parametrize(("sizes", "count"), [((17, 6), 727_558), ((11, 3), 726_019)])
def test_parameter_count_is_the_originals_without_its_unused_parts(sizes, count):
    init, _ = build_model(jaxdt.ModelConfig(state_dim=sizes[0], action_dim=sizes[1]))
    shapes = jax.eval_shape(init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_parameters_are_a_plain_nested_dict_of_float32(model):
    _, params, _ = model

    def check(tree):
        assert type(tree) in (dict, jax.numpy.ndarray) or isinstance(tree, jax.Array)
        if isinstance(tree, dict):
            assert all(isinstance(name, str) for name in tree)
            for child in tree.values():
                check(child)

    check(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_prediction_ignores_the_future(model):
    config, params, apply = model
    window = random_window(config)
    step = 2

    def output(states, actions, returns_to_go):
        changed = window._replace(states=states, actions=actions, returns_to_go=returns_to_go)
        return apply(params, changed)[:, step].sum()

    by_state, by_action, by_return = jax.jit(jax.grad(output, argnums=(0, 1, 2)))(
        window.states, window.actions, window.returns_to_go
    )
    norms = lambda gradient: np.abs(gradient).reshape(3, config.context_length, -1).max(axis=(0, 2))  # noqa: E731
    # Step t predicts its action from states and returns up to t, and from actions before t.
    assert np.all(norms(by_state)[: step + 1] > 0)
    assert np.all(norms(by_state)[step + 1 :] == 0)
    assert np.all(norms(by_return)[: step + 1] > 0)
    assert np.all(norms(by_return)[step + 1 :] == 0)
    assert np.all(norms(by_action)[:step] > 0)
    assert np.all(norms(by_action)[step:] == 0)


def test_padding_is_inert(model):
    config, params, apply = model
    window = random_window(config, real=[1, 2, 4])
    other = random_window(config, seed=9)
    garbage = Window(
        *(
            np.where(window.mask.reshape(window.mask.shape + (1,) * (real.ndim - 2)), real, noise)
            for real, noise in zip(window, other, strict=True)
        )
    )._replace(mask=window.mask)
    assert not np.array_equal(garbage.states, window.states)
    ours, theirs = apply(params, window), apply(params, garbage)
    np.testing.assert_array_equal(ours[window.mask], theirs[window.mask])
    assert np.isfinite(ours).all()


def test_a_padded_window_equals_the_short_window(model):
    config, params, apply = model
    window = random_window(config, real=[2, 2, 2])
    short = Window(*(values[:, 2:] for values in window))
    np.testing.assert_allclose(apply(params, window)[:, 2:], apply(params, short), rtol=1e-5, atol=1e-6)


def test_the_newest_prediction_equals_the_last_of_all_predictions(model):
    config, params, apply = model
    window = random_window(config, real=[1, 3, 4])
    newest = apply(params, window, newest_only=True)
    assert newest.shape == (3, 1, config.action_dim)
    np.testing.assert_allclose(newest[:, 0], apply(params, window)[:, -1], rtol=1e-5, atol=1e-6)


def test_batch_elements_do_not_touch_each_other(model):
    config, params, apply = model
    window = random_window(config)
    alone = Window(*(values[1:2] for values in window))
    np.testing.assert_allclose(apply(params, window)[1:2], apply(params, alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_equals_a_loop_over_heads_and_positions(heads):
    config = tiny_model(num_layers=1, num_heads=heads)
    init, apply = jitted_model(config)
    params = init(jax.random.key(3))
    # Larger weights than the initial ones, so that attention is far from uniform.
    params = jax.tree.map(lambda leaf: leaf * 8 if leaf.ndim == 2 else leaf, params)
    window = random_window(config, batch=1, real=[3])
    np.testing.assert_allclose(
        apply(params, window)[0, 1:], reference_forward(params, window, heads)[1:], rtol=1e-4, atol=1e-5
    )


def reference_forward(params, window, heads):
    """The paper's model for one window in plain NumPy, float64: tokens, one block, action head."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    def norm(layer, x):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-5) * layer["scale"] + layer["bias"]

    tokens, is_real = [], []
    for t in range(window.mask.shape[1]):
        time = p["embed_timestep"]["embedding"][window.timesteps[0, t]]
        tokens.append(dense(p["embed_return"], window.returns_to_go[0, t : t + 1]) + time)
        tokens.append(dense(p["embed_state"], window.states[0, t]) + time)
        tokens.append(dense(p["embed_action"], window.actions[0, t]) + time)
        is_real += [window.mask[0, t]] * 3
    x = norm(p["embed_norm"], np.array(tokens))
    block = p["blocks"]["block_0"]
    normed = norm(block["attention_norm"], x)
    query = dense(block["query"], normed)
    keys, values = np.split(dense(block["key_value"], normed), 2, axis=-1)
    size = query.shape[-1] // heads
    attended = np.zeros_like(query)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            seen = [j for j in range(i + 1) if is_real[j]]
            if seen:
                scores = np.array([query[i, part] @ keys[j, part] for j in seen]) / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                attended[i, part] = (weights / weights.sum()) @ values[seen][:, part]
    x = x + dense(block["attention_out"], attended)
    x = x + dense(block["mlp_out"], np.maximum(dense(block["mlp_in"], norm(block["mlp_norm"], x)), 0))
    return np.tanh(dense(p["predict_action"], norm(p["final_norm"], x)))[1::3]


def test_dropout_is_on_exactly_when_a_key_is_given(model):
    config, params, apply = model
    window = random_window(config)
    plain = apply(params, window)
    np.testing.assert_array_equal(plain, apply(params, window))
    noisy = apply(params, window, key=jax.random.key(1))
    assert not np.allclose(plain, noisy)
    np.testing.assert_array_equal(noisy, apply(params, window, key=jax.random.key(1)))
    assert not np.allclose(noisy, apply(params, window, key=jax.random.key(2)))


@pytest.mark.parametrize("where", ["embedding_dropout", "attention_dropout", "residual_dropout"])
def test_each_dropout_acts_by_itself(model, where):
    off = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
    config, params, apply_without_key = model
    params = jax.tree.map(lambda leaf: leaf * 4, params)
    window = random_window(config)
    _, apply = jitted_model(tiny_model(num_layers=2, **{**off, where: 0.5}))
    assert not np.allclose(apply_without_key(params, window), apply(params, window, key=jax.random.key(1)))


def test_no_dropout_with_a_key_changes_nothing(model):
    config, params, apply_without_key = model
    _, apply = jitted_model(
        tiny_model(num_layers=2, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0)
    )
    window = random_window(config)
    np.testing.assert_allclose(
        apply_without_key(params, window), apply(params, window, key=jax.random.key(1)), rtol=1e-5, atol=1e-6
    )


def test_timesteps_past_the_table_share_its_last_row(model):
    config, params, apply = model
    window = random_window(config)
    last = window._replace(timesteps=np.full_like(window.timesteps, config.max_episode_length - 1))
    past = window._replace(timesteps=np.full_like(window.timesteps, config.max_episode_length + 7))
    np.testing.assert_array_equal(apply(params, last), apply(params, past))


def test_gelu_is_the_exact_one_and_gelu_new_the_approximation(model):
    config, params, _ = model
    window = random_window(config)
    params = jax.tree.map(lambda leaf: leaf * 8 if leaf.ndim == 2 else leaf, params)
    outputs = {}
    for activation in ("relu", "gelu", "gelu_new"):
        _, apply = jitted_model(tiny_model(num_layers=2, activation=activation))
        outputs[activation] = apply(params, window)
    difference = np.abs(outputs["gelu"] - outputs["gelu_new"]).max()
    assert 0 < difference < 0.2 * np.abs(outputs["gelu"] - outputs["relu"]).max()


def test_building_without_sizes_names_them():
    rule = "a model needs state_dim and exactly one of action_dim and num_actions; got"
    with pytest.raises(jaxdt.JaxdtError, match=f"{rule} None, None and None"):
        build_model(jaxdt.ModelConfig())
    with pytest.raises(jaxdt.JaxdtError, match=f"{rule} 3, 2 and 4"):
        build_model(tiny_model(num_actions=4))


def test_without_tanh_an_action_may_leave_the_unit_interval():
    config = tiny_model(action_tanh=False)
    init, apply = jitted_model(config)
    params = init(jax.random.key(0))
    params["predict_action"]["bias"] += 5.0
    window = random_window(config)
    raw = apply(params, window)
    assert float(raw.min()) > 1
    _, squashed = jitted_model(tiny_model())
    np.testing.assert_allclose(squashed(params, window), np.tanh(raw), rtol=1e-5)


def test_the_epsilon_is_of_every_norm_but_the_embeddings():
    window = random_window(tiny_model())
    init, apply = jitted_model(tiny_model())
    params = init(jax.random.key(0))
    # States so small that an epsilon of 1 would silence them: nothing else reaches the first norm.
    for name in ("embed_return", "embed_action", "embed_state", "embed_timestep"):
        params[name] = jax.tree.map(lambda leaf: 1e-2 * leaf, params[name])
    _, with_large_epsilon = jitted_model(tiny_model(layer_norm_epsilon=0.9))
    changed = np.abs(np.asarray(apply(params, window)) - np.asarray(with_large_epsilon(params, window))).max()
    assert changed > 1e-3
    params["blocks"] = jax.tree.map(jnp.zeros_like, params["blocks"])
    params["embed_norm"]["scale"] *= 1e3  # far above the final norm's epsilon, whatever that is
    np.testing.assert_allclose(apply(params, window), with_large_epsilon(params, window), atol=1e-5)


def test_bfloat16_predicts_nearly_as_float32_does():
    window, predicted = random_window(tiny_model(), real=[1, 3, 4]), {}
    for dtype in ("float32", "bfloat16"):
        init, apply = jitted_model(tiny_model(dtype=dtype))
        predicted[dtype] = apply(jax.tree.map(lambda leaf: leaf * 3, init(jax.random.key(0))), window)
        assert predicted[dtype].dtype == jnp.float32
    difference = float(jnp.abs(predicted["float32"] - predicted["bfloat16"]).max())
    assert 1e-6 < difference < 0.05


def discrete(**changes) -> jaxdt.ModelConfig:
    return tiny_model(**{"action_dim": None, "num_actions": 5, "num_layers": 2, **changes})


@pytest.fixture(scope="module")
def discrete_model():
    init, apply = jitted_model(discrete())
    return discrete(), init(jax.random.key(0)), apply


def test_discrete_actions_have_a_table_and_logits_that_no_tanh_squashes(discrete_model):
    config, params, apply = discrete_model
    assert params["embed_action"]["embedding"].shape == (5, 16)
    assert list(params["embed_action"]) == ["embedding"]
    assert params["predict_action"]["kernel"].shape == (16, 5)
    window = random_window(config, real=[1, 3, 4])
    logits = apply(params, window)
    assert logits.shape == (3, 4, 5)
    raised = {**params, "predict_action": {**params["predict_action"], "bias": params["predict_action"]["bias"] + 5}}
    np.testing.assert_allclose(apply(raised, window), logits + 5, rtol=1e-5)
    newest = apply(params, window, newest_only=True)
    np.testing.assert_allclose(newest[:, 0], logits[:, -1], rtol=1e-5, atol=1e-6)


def test_discrete_predictions_see_the_actions_before_them_only(discrete_model):
    config, params, apply = discrete_model
    params = jax.tree.map(lambda leaf: leaf * 3, params)
    window = random_window(config)
    before = apply(params, window)
    for step in range(config.context_length):
        actions = window.actions.copy()
        actions[:, step] = (actions[:, step] + 1) % config.num_actions
        after = apply(params, window._replace(actions=actions))
        np.testing.assert_array_equal(after[:, : step + 1], before[:, : step + 1])
        assert np.all(np.abs(after - before)[:, step + 1 :].max(axis=-1) > 0)


def test_padding_is_inert_among_discrete_actions(discrete_model):
    config, params, apply = discrete_model
    window = random_window(config, real=[1, 2, 4])
    zeroed = window._replace(actions=np.where(window.mask, window.actions, 0))
    assert (zeroed.actions != window.actions).any()
    np.testing.assert_array_equal(apply(params, window)[window.mask], apply(params, zeroed)[window.mask])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_discrete_actions_of_one_batch_are_overfitted(dtype):
    config = discrete(dtype=dtype, num_layers=1)
    init, apply = build_model(config)
    window = random_window(config, batch=8, real=np.arange(1, 9).clip(max=4))
    optimizer = optax.adam(3e-3)

    def loss_of(params):
        logits = apply(params, window)
        assert logits.dtype == jnp.float32
        return masked_cross_entropy(logits, jnp.asarray(window.actions), jnp.asarray(window.mask))

    def update(state, _):
        params, opt_state = state
        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    params = jax.jit(init)(jax.random.key(0))
    (after, _), losses = jax.jit(lambda state: jax.lax.scan(update, state, length=200))(
        (params, optimizer.init(params))
    )
    assert losses[0] > 1
    assert losses[-1] < 0.01 * losses[0]
    # Every action that stands before another step moves its row of the table.
    moved = np.abs(after["embed_action"]["embedding"] - params["embed_action"]["embedding"]).max(axis=1) > 0
    is_seen = np.isin(np.arange(5), window.actions[:, :-1][window.mask[:, :-1]])
    np.testing.assert_array_equal(moved, is_seen)


def decoded_and_read_anew(config, *, scale=3.0):
    """Predictions of three contexts' steps, (step, b, a) each: of `decode_step`, and of windows at their newest step.

    Actions are the same random ones for both, whatever was predicted.
    """
    init, apply = jitted_model(config)
    params = jax.tree.map(lambda leaf: leaf * scale, init(jax.random.key(0)))
    k = config.context_length
    episodes = random_window(dataclasses.replace(config, context_length=3 * k), batch=5)
    episodes = episodes._replace(timesteps=np.tile(np.arange(3 * k, dtype=np.int32), (5, 1)))
    start, decode_step = build_decoder(config)
    decode_step, cache, decoded, anew = jax.jit(decode_step), start(5), [], []
    for t in range(3 * k):
        previous_action = jnp.asarray(episodes.actions[:, max(t - 1, 0)])
        states, returns_to_go = jnp.asarray(episodes.states[:, t]), jnp.asarray(episodes.returns_to_go[:, t])
        cache, prediction = decode_step(params, cache, previous_action, states, returns_to_go, jnp.int32(t))
        decoded.append(prediction)
        pad = max(k - 1 - t, 0)
        steps = (leaf[:, max(t + 1 - k, 0) : t + 1] for leaf in episodes)
        window = Window(*(np.pad(leaf, [(0, 0), (pad, 0)] + [(0, 0)] * (leaf.ndim - 2)) for leaf in steps))
        anew.append(apply(params, window, newest_only=True)[:, 0])
    return np.array(decoded, np.float32), np.array(anew, np.float32)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), pytest.param("bfloat16", 0.1, marks=pytest.mark.slow)]
)
def test_decoding_discrete_actions_predicts_as_the_window_does(dtype, tolerance):
    config = discrete(dtype=dtype)
    decoded, anew = decoded_and_read_anew(config)
    assert decoded.shape == (3 * config.context_length, 5, 5)
    distance = np.abs(decoded - anew).max(axis=(1, 2))
    assert max(distance[: config.context_length]) < tolerance
    assert max(distance) > 1e-3


@pytest.mark.parametrize(
    ("num_layers", "num_heads", "length"),
    [(1, 2, 3), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((1, 1, 4), (1, 1, 1), (2, 1, 4)))],
)
def test_decoding_step_by_step_predicts_as_the_window_does(num_layers, num_heads, length):
    """With one block, whose keys and values see no other token, at every step; else until the window slides."""
    config = tiny_model(num_layers=num_layers, num_heads=num_heads, context_length=length, max_episode_length=8)
    decoded, anew = decoded_and_read_anew(config)
    assert decoded.shape == (3 * length, 5, 2)
    distance = np.abs(decoded - anew).max(axis=(1, 2))
    assert max(distance[:length]) < 1e-5
    assert (max(distance) < 1e-5) == (num_layers == 1)


def test_the_first_decoded_prediction_does_not_look_at_the_previous_action(model):
    config, params, _ = model
    start, decode_step = build_decoder(config)
    decode_step = jax.jit(decode_step)
    states, returns_to_go = jnp.ones((5, 3)), jnp.ones(5)
    first = [
        decode_step(params, start(5), jnp.full((5, 2), action), states, returns_to_go, jnp.int32(0))[1]
        for action in (-1.0, 1.0)
    ]
    np.testing.assert_array_equal(*first)


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
def test_rematerialised_blocks_keep_less_and_give_the_same_gradients_and_dropout(scan_layers):
    config = tiny_model(num_layers=3, embedding_dropout=0.3, attention_dropout=0.3, residual_dropout=0.3)
    init, apply = build_model(config)
    _, kept_all = build_model(dataclasses.replace(config, scan_layers=scan_layers))
    _, anew = build_model(dataclasses.replace(config, rematerialize=True, scan_layers=scan_layers))
    params, window = init(jax.random.key(0)), random_window(config)

    def kept_for_the_backward_pass(apply):
        kept = jax.eval_shape(lambda p: jax.vjp(lambda p: apply(p, window, key=jax.random.key(1)), p)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(kept))

    assert kept_for_the_backward_pass(anew) < 0.5 * kept_for_the_backward_pass(kept_all)
    expected = gradients(apply, params, window)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradients(anew, params, window), expected
    )


def gradients(apply, params, window):
    return jax.jit(jax.grad(lambda p: jnp.sum(apply(p, window, key=jax.random.key(1)) ** 2)))(params)


def test_scanned_layers_compute_what_each_by_itself_does_and_are_written_down_once():
    config = tiny_model(num_layers=3, embedding_dropout=0.3, attention_dropout=0.3, residual_dropout=0.3)
    init, apply = build_model(config)
    _, scanned = build_model(dataclasses.replace(config, scan_layers=True))
    params, window = init(jax.random.key(0)), random_window(config)
    _, coarse = build_model(dataclasses.replace(config, scan_layers=True, dtype="bfloat16"))
    for newest_only in (False, True):
        each = [np.asarray(jax.jit(partial(f, newest_only=newest_only))(params, window)) for f in (apply, scanned)]
        np.testing.assert_allclose(*each, rtol=1e-5, atol=1e-5)
        if not newest_only:
            np.testing.assert_allclose(jax.jit(coarse)(params, window), each[0], atol=0.05)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, gradients(scanned, params, window), gradients(apply, params, window))
    products = [jax.jit(f).lower(params, window).as_text().count("dot_general") for f in (apply, scanned)]
    acting = jax.jit(partial(scanned, newest_only=True)).lower(params, window).as_text()
    assert "stablehlo.while" not in acting  # so that it can be exported
    assert products[0] - products[1] == 7  # of the second block, which is as the first
