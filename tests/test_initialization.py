import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdt
from jaxdt.models import build_model
from jaxdt.models.initialization import Constant, Normal, Parameter, Uniform, draw


WIDTH, LAYERS, STATE, ACTION = 64, 2, 17, 6


def named_params(seed=0, **changes) -> dict[str, np.ndarray]:
    sizes = {"width": WIDTH, "num_layers": LAYERS, "max_episode_length": 300, "state_dim": STATE}
    init, _ = build_model(jaxdt.ModelConfig(**{**sizes, "action_dim": ACTION, **changes}))
    leaves = jax.tree_util.tree_leaves_with_path(init(jax.random.key(seed)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def assert_drawn_from(expected, values, name):
    """To five standard errors of the mean, the standard deviation and, of many, the largest value."""
    assert values.dtype == np.float32
    if isinstance(expected, Constant):
        assert (values == expected.value).all(), name
        return
    std, kurtosis = (expected.std, 3) if isinstance(expected, Normal) else (expected.bound / math.sqrt(3), 1.8)
    n = values.size
    assert abs(values.mean()) < 5 * std / math.sqrt(n), name
    assert abs(np.mean(values**2) / std**2 - 1) < 5 * math.sqrt((kurtosis - 1) / n), name
    if isinstance(expected, Uniform):
        assert np.abs(values).max() <= expected.bound, name
        assert np.abs(values).max() > expected.bound * (1 - 20 / n), name
    elif n > 1000:
        assert 3 * std < np.abs(values).max() < 6 * std, name


def original(name) -> Constant | Normal | Uniform:
    """PyTorch's defaults around a GPT-2: what a parameter of the original is drawn from."""
    inputs = {"embed_return": 1, "embed_state": STATE, "embed_action": ACTION, "predict_action": WIDTH}
    if name.split("/")[0] in inputs:
        return Uniform(1 / math.sqrt(inputs[name.split("/")[0]]))
    if name == "embed_timestep/embedding":
        return Normal(1.0)
    return Constant(1.0) if name.endswith("scale") else Constant(0.0) if name.endswith("bias") else Normal(0.02)


def huggingface(name) -> Constant | Normal:
    if name == "embed_norm/bias":  # Hugging Face's row of a position table
        return Normal(0.02)
    if name.endswith(("attention_out/kernel", "mlp_out/kernel")):
        return Normal(0.02 / math.sqrt(2 * LAYERS))
    return Constant(1.0) if name.endswith("scale") else Constant(0.0) if name.endswith("bias") else Normal(0.02)


@pytest.mark.parametrize(("initialization", "expected"), [("original", original), ("huggingface", huggingface)])
def test_every_parameter_is_drawn_from_what_the_originals_draw_it_from(initialization, expected):
    params = named_params(initialization=initialization)
    assert len(params) == 13 + 14 * LAYERS
    for name, values in params.items():
        assert_drawn_from(expected(name), values, name)


@pytest.mark.parametrize("initialization", ["original", "huggingface"])
def test_a_table_of_discrete_actions_is_narrow(initialization):
    params = named_params(initialization=initialization, action_dim=None, num_actions=40)
    assert_drawn_from(Normal(0.02), params["embed_action/embedding"], "embed_action")
    if initialization == "original":
        assert_drawn_from(Uniform(1 / math.sqrt(WIDTH)), params["predict_action/kernel"], "predict_action")


def test_parameters_and_keys_are_independent():
    one, other = named_params(), named_params(seed=1)
    drawn = {name: values.ravel() for name, values in one.items() if values.std() > 0}
    drawn |= {f"other {name}": other[name].ravel() for name in drawn}
    assert len(drawn) == 2 * (9 + 5 * LAYERS)
    for a, b in itertools.combinations(drawn, 2):
        n = min(drawn[a].size, drawn[b].size)
        if n > 100:
            correlation = np.mean(drawn[a][:n] * drawn[b][:n]) / (drawn[a][:n].std() * drawn[b][:n].std())
            assert abs(correlation) * math.sqrt(n) < 5, (a, b)


def test_normal_values_have_the_quantiles_of_the_normal_distribution():
    n = 1 << 18
    values = draw({"w": Parameter((n,), Normal(2.0))}, jax.random.key(3))["w"]
    assert jnp.isfinite(values).all()
    for z in (-3.0, -1.0, -0.3, 0.0, 0.5, 2.0):
        share = (1 + math.erf(z / math.sqrt(2))) / 2
        assert abs(float(jnp.mean(values < 2 * z)) - share) < 5 * math.sqrt(share * (1 - share) / n)


def test_all_parameters_come_from_one_draw_compiled_or_not():
    init, _ = build_model(jaxdt.ModelConfig(state_dim=3, action_dim=2, width=16))
    assert str(jax.make_jaxpr(init)(jax.random.key(0))).count("random_bits") == 1
    jax.tree.map(np.testing.assert_array_equal, init(jax.random.key(5)), jax.jit(init)(jax.random.key(5)))


def test_nothing_to_draw_is_no_draw():
    drawn = draw({"scale": Parameter((3,), Constant(1.0))}, jax.random.key(0))
    np.testing.assert_array_equal(drawn["scale"], np.ones(3, np.float32))
