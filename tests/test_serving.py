"""Exported policies against the agents that they were made of, in closed loop."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxdt
from jaxdt.cli import run as run_command
from jaxdt.interop import onnx, serving
from tests.conftest import make_store, tiny_algorithm, tiny_model
from tests.toys import light_episodes


GOLDEN = Path(__file__).parent / "golden"
STORE = make_store()
METHODS = {
    "exact": tiny_algorithm(),
    "cached": jaxdt.DecisionTransformerConfig(model=tiny_algorithm().model, return_scale=10.0, context="cached"),
    "looped": tiny_algorithm(num_layers=2, scan_layers=True),
    "bc": jaxdt.BehaviorCloningConfig(width=16, context_length=4),
    "rvs": jaxdt.RvSConfig(width=16),
    "iql": jaxdt.IQLConfig(width=16),
    "td3-bc": jaxdt.TD3BCConfig(width=16),
    "online-dt": jaxdt.OnlineDTConfig(
        model=tiny_model(state_dim=None, action_dim=None, timestep_embedding=False),
        optimizer=jaxdt.OptimizerConfig(),
        acting_context_length=2,
    ),
    "reinformer": jaxdt.ReinformerConfig(width=16, num_layers=1, return_scale=10.0),
}
BY_KIND = [("onnx", "exact"), ("onnx", "bc"), ("onnx", "rvs"), ("stablehlo", "exact"), ("stablehlo", "rvs")]
MORE = [("onnx", name) for name in METHODS if ("onnx", name) not in BY_KIND] + [("stablehlo", "trajectory")]
BY_KIND += [pytest.param(*each, marks=pytest.mark.slow) for each in MORE]
METHODS["trajectory"] = jaxdt.TrajectoryTransformerConfig(
    width=16, num_layers=1, bins=8, transitions=3, context_transitions=3, horizon=2, beam_width=2, action_top_k=1
).for_data(None)


def fresh_agent(config) -> jaxdt.Agent:
    """Weights as they begin, states of another scale and actions of another space than the network's."""
    from jaxdt.algorithms import make_algorithm, measure

    constants = {**measure(config, STORE), "state_mean": np.float32([0.5, -1, 2]), "state_std": np.float32([2, 1, 3])}
    action = jaxdt.Box(np.float32([-1, -3]), np.float32([2, 5]))
    spec = jaxdt.Spec(observation_shape=(3,), action=action, constants=constants)
    params = jax.jit(make_algorithm(config.for_steps(1), spec).init)(jax.random.key(0)).params
    return jaxdt.Agent(config, params, spec, targets=(5.0,))


def load(out: Path):
    """By the code that stands beside the policy."""
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)[1]
    names = {"__name__": "loaded"}
    exec(code.replace('open("', f'open("{out}/').replace('InferenceSession("', f'InferenceSession("{out}/'), names)
    return names["begin"], names["step"]


def furthest_apart(agent, out, *, episodes, target, steps=30) -> float:
    """The largest difference of an action over a closed loop, where each observation depends on the last action."""
    begin, step = load(out)
    state = begin(target, episodes)
    takes_target = agent.config.takes_target
    observation, reward, worst = np.ones(agent.spec.observation_shape, np.float32), 0.0, 0.0
    agent.reset(target if takes_target else None)
    for _ in range(steps):
        mine = agent.act(observation, reward)
        seen = np.stack([observation] * episodes)
        state, actions = step(state, seen, np.full(episodes, reward, np.float32))
        worst = max(worst, float(np.abs(np.asarray(actions) - mine).max()))
        observation = np.cos(np.arange(observation.size) + np.sum(mine) + observation).astype(np.float32)
        reward = float(observation[0])
    return worst


@pytest.mark.parametrize(("kind", "name"), BY_KIND)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the loading code, which leaves that to Python
def test_an_exported_policy_acts_as_its_agent(kind, name, tmp_path):
    agent = fresh_agent(METHODS[name])
    write = {"stablehlo": jaxdt.to_stablehlo, "onnx": jaxdt.to_onnx}[kind]
    out = write(agent, tmp_path / "out")
    episodes = 40 if name == "exact" else 2  # more than a CPU reads at once
    assert furthest_apart(agent, out, episodes=episodes, target=7.0) < 1e-5
    described = json.loads((out / "policy.json").read_text())
    assert described["target"] == (5.0 if agent.config.takes_target else None)
    assert (described["observation"]["shape"], described["action"]["high"]) == (["b", 3], [2.0, 5.0])


@pytest.mark.slow
def test_the_command_writes_what_acts_without_jaxdt(tmp_path, capsys):
    """Of discrete actions, in a process in which neither jaxdt nor Flax can be imported."""
    out = tmp_path / "out"
    assert run_command(["export", str(GOLDEN / "run-2"), str(out), "--to", "stablehlo"]) == 0
    assert f"wrote {out}/policy.stablehlo" in capsys.readouterr().out
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)[1]
    blocked = "import sys; sys.modules.update(jaxdt=None, flax=None)\n"
    shown = "\nprint(json.dumps(np.asarray(action).tolist()))"
    done = subprocess.run([sys.executable, "-c", blocked + code + shown], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    agent = jaxdt.Agent.load(GOLDEN / "run-2")
    agent.reset(json.loads((out / "policy.json").read_text())["target"])
    assert json.loads(done.stdout) == [agent.act(np.zeros(agent.spec.observation_shape))]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to", "onnx", "--push", "a/b"], "--push and --license are for --to huggingface"),
        (["--context", "cached"], "--context and --sampling are for --to stablehlo and onnx"),
        (["--to", "onnx", "--sampling", "sample"], "an exported policy draws nothing at random"),
    ],
)
def test_what_cannot_be_exported_is_refused(flags, message, tmp_path, capsys):
    assert run_command(["export", str(GOLDEN / "run-2"), str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_operation_without_translation_is_named():
    inputs = [("x", jax.ShapeDtypeStruct((3,), np.float32))]
    with pytest.raises(jaxdt.JaxdtError, match="the model needs cumsum, which has no translation to ONNX yet"):
        onnx.to_onnx(lambda x: [jnp.cumsum(x)], inputs, ["y"])


def test_bits_of_whole_numbers_are_not_taken_for_truth():
    inputs = [("x", jax.ShapeDtypeStruct((3,), np.int32))]
    with pytest.raises(jaxdt.JaxdtError, match="the model needs and of whole numbers, which has no translation"):
        onnx.to_onnx(lambda x: [x & 3], inputs, ["y"])


def test_a_policy_that_begins_with_several_numbers_is_refused():
    policy = jaxdt.types.Policy(lambda targets: {"noise": jnp.arange(3.0)}, lambda *arguments: None)
    with pytest.raises(jaxdt.JaxdtError, match="begins with several numbers in noise"):
        serving.acting_step(policy, {})


@jax.jit
def _called_twice(x):
    return jnp.tanh(2 * x) + 1


def _operations(x, y, i):
    """One of everything that is translated, of known shapes; the results are compared with JAX's."""
    z = jnp.where(x > y, x, y) * jax.lax.rsqrt(jnp.square(y) + 1) - jnp.minimum(x, 0.5) ** 3
    rows = jnp.stack([z, jax.nn.gelu(x, approximate=False), jax.nn.silu(y)], axis=1)
    table = jnp.arange(12.0, dtype=jnp.float32).reshape(4, 3)
    halves = jnp.split(rows, 2, axis=2)
    placed = jax.lax.dynamic_update_slice(rows, 2 * rows[:, :, :2], (0, 0, i[1]))  # does not fit there: at 2
    return [
        z,
        checkpoint_name(jnp.einsum("bij,bkj->bik", rows, rows), "named") @ table[:3],
        table[jnp.clip(i, 0, 3)].sum(axis=-1) + jnp.linalg.norm(y, axis=-1),
        jnp.argmax(x, axis=-1).astype(jnp.int32) % 3 - i,
        jax.nn.softmax(halves[0] - halves[1], axis=-1)[:, ::2, 1],
        placed.at[:, 1].set(y)[:, :, 1:3],
        jnp.isfinite(x).all(axis=-1) & (i != 1) | ~(jnp.abs(x).max(axis=-1) <= jnp.sqrt(jnp.float32(4))),
        jnp.clip(x, -0.5, 0.5).transpose(1, 0) + jnp.exp(-x.T) * jnp.sign(y).T + jnp.floor(x).T,
        _called_twice(np.full((5, 4), 0.1, np.float32)) + _called_twice(x),
        jnp.log(jnp.abs(y)) + jnp.tanh(x) ** jnp.abs(y) + jnp.sin(x) * jnp.cos(y) + jnp.expand_dims(y, 0).min(axis=0),
    ]


def test_each_operation_gives_what_jax_gives():
    import onnxruntime

    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 5, 4)).astype(np.float32)
    x[2, 2] = np.inf
    i = np.array([1, 3, 0, 2, 1], np.int32)
    inputs = [(n, jax.ShapeDtypeStruct(v.shape, v.dtype)) for n, v in zip("xyi", (x, y, i), strict=True)]
    outputs = [f"out{k}" for k in range(10)]
    session = onnxruntime.InferenceSession(onnx.to_onnx(_operations, inputs, outputs))
    found = session.run(None, {"x": x, "y": y, "i": i})
    for theirs, ours in zip(found, jax.jit(_operations)(x, y, i), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
        assert theirs.dtype == ours.dtype


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stablehlo", "onnx"])
@pytest.mark.parametrize("context", ["exact", "cached"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_policy_of_frames_is_exported(kind, context, tmp_path):
    config = jaxdt.AtariDTConfig(
        width=16,
        num_layers=1,
        num_heads=2,
        context_length=3,
        sampling="greedy",
        center_frames=True,
        positions="step" if context == "cached" else "window",
        context=context,
    ).for_steps(1)
    store = light_episodes(4)
    spec = jaxdt.make_spec(config, store)
    params = jax.jit(jaxdt.make_algorithm(config, spec).init)(jax.random.key(0)).params
    agent = jaxdt.Agent(config, params, spec, targets=(5.0,))
    out = {"stablehlo": jaxdt.to_stablehlo, "onnx": jaxdt.to_onnx}[kind](agent, tmp_path / "out")
    begin, step = load(out)
    state = begin(5.0, 2)
    agent.reset(5.0)
    for picture in store.observations[:8]:
        mine = agent.act(picture, 0.5)
        state, actions = step(state, np.stack([picture] * 2), np.full(2, 0.5, np.float32))
        assert np.asarray(actions).tolist() == [mine, mine]
