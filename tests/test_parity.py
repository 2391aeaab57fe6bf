"""Against the live Hugging Face model: `pip install -e '.[test,parity]' && pytest -m parity`."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdt
from jaxdt.algorithms.decision_transformer import masked_mse, with_sizes
from jaxdt.config import OptimizerConfig
from jaxdt.interop.names import params_from_tensors
from jaxdt.models import build_model
from jaxdt.types import Box, Spec, Window
from tests.conftest import make_store, tiny_algorithm


pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

STATE, ACTION, STEPS = 7, 3, 5
WIDTHS = itertools.cycle((32, 64, 96, 128, 256))
GRID = [
    {
        "n_head": heads,
        "n_layer": layers,
        "hidden_size": next(WIDTHS),
        "activation_function": activation,
        "action_tanh": tanh,
        "n_inner": inner,
        "layer_norm_epsilon": epsilon,
    }
    for (heads, layers, activation), (tanh, inner, epsilon) in zip(
        itertools.product((1, 4), (1, 6), ("relu", "gelu", "gelu_new")),
        itertools.cycle([(True, None, 1e-5), (False, 77, 1e-5), (True, 33, 1e-3), (False, None, 1e-5)]),
        strict=False,
    )
]


@pytest.fixture(scope="module", autouse=True)
def exact():
    import torch

    torch.set_num_threads(1)
    with jax.default_matmul_precision("highest"):
        yield


def make_model(seed=0, **changes):
    """A Hugging Face model without dropout, random also where it would begin with zeros and ones."""
    import torch
    from transformers import DecisionTransformerConfig, DecisionTransformerModel

    torch.manual_seed(seed)
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = DecisionTransformerConfig(state_dim=STATE, act_dim=ACTION, max_ep_len=40, **dropout, **changes)
    model = DecisionTransformerModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def make_window(seed=0) -> Window:
    """Full windows and padded ones."""
    store = make_store((3, 12, 30), STATE, ACTION, seed)
    window = next(jaxdt.WindowSampler(store, STEPS, batch_size=32, seed=seed, return_scale=5.0))
    assert window.mask.all(axis=1).any()
    assert not window.mask.all()
    return window


def predict(model, window: Window):
    """Their predictions, (b, t, a), as a tensor."""
    import torch

    return model(
        states=torch.tensor(window.states),
        actions=torch.tensor(window.actions),
        returns_to_go=torch.tensor(window.returns_to_go)[..., None],
        timesteps=torch.tensor(window.timesteps).long(),
        attention_mask=torch.tensor(window.mask).long(),
    ).action_preds


def loss_of(model, window: Window):
    import torch

    mask = torch.tensor(window.mask)
    return torch.mean((predict(model, window) - torch.tensor(window.actions))[mask] ** 2)


def as_agent(model, directory) -> jaxdt.Agent:
    model.save_pretrained(directory)
    return jaxdt.from_huggingface(directory, state_mean=np.zeros(STATE), state_std=np.ones(STATE))


def assert_same_actions(model, apply, params, window: Window):
    import torch

    with torch.no_grad():
        theirs = predict(model, window).numpy()
    ours = np.asarray(jax.jit(apply)(params, window))
    np.testing.assert_allclose(ours[window.mask], theirs[window.mask], atol=1e-5, rtol=0)
    assert np.abs(theirs[window.mask]).mean() > 0.05


@pytest.mark.parametrize("changes", GRID, ids=lambda changes: "-".join(map(str, changes.values())))
def test_predictions_agree_both_ways(tmp_path, changes):
    from transformers import DecisionTransformerModel

    window = make_window()
    model = make_model(**changes)
    agent = as_agent(model, tmp_path / "theirs")
    assert_same_actions(model, apply_of(agent), agent.params, window)

    jaxdt.to_huggingface(agent, tmp_path / "ours")
    loaded, loading = DecisionTransformerModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loading.values())
    assert loaded.config.to_dict() == {**model.config.to_dict(), **differing(loaded.config)}
    assert_same_actions(loaded.eval(), apply_of(agent), agent.params, window)


def differing(config) -> dict:
    """What may differ after a round trip: their bookkeeping, and token ids that a model without tokens does not use."""
    names = ("_name_or_path", "transformers_version", "n_inner", "bos_token_id", "eos_token_id", "dtype")
    return {name: config.to_dict()[name] for name in names if name in config.to_dict()}


@pytest.mark.parametrize("initialization", ["original", "huggingface"])
def test_a_model_of_ours_predicts_the_same_there(tmp_path, initialization):
    from transformers import DecisionTransformerModel

    config = jaxdt.ModelConfig(
        state_dim=STATE, action_dim=ACTION, width=48, num_heads=4, context_length=STEPS, initialization=initialization
    )
    init, apply = build_model(config)
    constants = {"state_mean": np.zeros(STATE, np.float32), "state_std": np.ones(STATE, np.float32)}
    bounds = Box(np.zeros(ACTION, np.float32), np.ones(ACTION, np.float32))
    spec = Spec(observation_shape=(STATE,), action=bounds, constants=constants)
    params = init(jax.random.key(3))
    jaxdt.to_huggingface(jaxdt.Agent(jaxdt.DecisionTransformerConfig(model=config), params, spec), tmp_path / "model")
    loaded, loading = DecisionTransformerModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(loading.values())
    import torch

    window = make_window()
    with torch.no_grad():
        theirs = predict(loaded.eval(), window).numpy()
    ours = np.asarray(apply(params, window))
    np.testing.assert_allclose(ours[window.mask], theirs[window.mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes", [GRID[0], GRID[7], GRID[11]], ids=lambda changes: "-".join(map(str, changes.values()))
)
def test_gradients_of_the_loss_agree(tmp_path, changes):
    window = make_window()
    model = make_model(**changes)
    agent = as_agent(model, tmp_path / "model")
    loss_of(model, window).backward()
    theirs = {
        name: np.zeros(tuple(parameter.shape), np.float32) if parameter.grad is None else parameter.grad.numpy()
        for name, parameter in model.named_parameters()
    }
    theirs["encoder.wpe.weight"] = np.zeros_like(theirs["encoder.wpe.weight"])  # the same as of embed_ln.bias
    expected, _ = params_from_tensors(theirs, with_sizes(agent.config.model, agent.spec), "the gradients")

    apply = apply_of(agent)

    def loss(params):
        return masked_mse(apply(params, window), jnp.asarray(window.actions), jnp.asarray(window.mask))

    ours = jax.jit(jax.grad(loss))(agent.params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(expected):
        found = np.asarray(leaf_at(ours, path))
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(found, gradient, atol=1e-4 * scale, rtol=0, err_msg=jax.tree_util.keystr(path))


def apply_of(agent):
    return build_model(with_sizes(agent.config.model, agent.spec))[1]


def leaf_at(tree, path):
    for entry in path:
        tree = tree[entry.key]
    return tree


@pytest.mark.parametrize(("positions_train", "tolerance"), [(False, 1e-4), (True, 1e-3)])
def test_ten_updates_of_the_papers_recipe_have_the_same_losses(tmp_path, positions_train, tolerance):
    """The paper's model has no position table. Trained, as Hugging Face does, its row 0 has the gradient of
    `embed_ln.bias`, so that their sum, which is our one bias, moves twice as far an update there."""
    import torch

    model = make_model(hidden_size=128, n_layer=3)
    model.encoder.wpe.weight.requires_grad_(positions_train)
    agent = as_agent(model, tmp_path / "model")
    config = OptimizerConfig(learning_rate=1e-4, warmup_steps=10)
    step, state = jaxdt.make_train_step(apply_of(agent), agent.params, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10, 1))
    ours, theirs = [], []
    for i in range(10):
        window = make_window(i)
        loss = loss_of(model, window)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        warmup.step()
        theirs.append(loss.item())
        state, metrics = step(state, window, jax.random.key(0))
        ours.append(float(metrics["loss"]))
    np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0)


def test_the_huggingface_presets_schedule_and_decay_are_the_trainers():
    import torch
    from torch.optim import SGD
    from transformers import Trainer, get_linear_schedule_with_warmup

    config = dataclasses.replace(jaxdt.config.HUGGINGFACE.algorithm.optimizer, warmup_steps=3, total_steps=20)
    ours = jaxdt.training.learning_rate_schedule(config)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, 3, 20)
    for i in range(20):
        np.testing.assert_allclose(float(ours(i)), schedule.get_last_lr()[0], rtol=1e-6)
        optimizer.step()
        schedule.step()

    model = make_model(hidden_size=32, n_layer=1)
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    marks = {name: np.full(tuple(p.shape), float(name in decayed)) for name, p in model.named_parameters()}
    agent_config = jaxdt.ModelConfig(state_dim=STATE, action_dim=ACTION, width=32, num_layers=1, max_episode_length=40)
    marks["encoder.wpe.weight"] = np.zeros_like(marks["encoder.wpe.weight"])
    expected, _ = params_from_tensors(marks, agent_config, "the marks")
    mask = jaxdt.training._is_weight(jax.tree.map(jnp.asarray, expected))
    assert jax.tree.all(jax.tree.map(lambda mark, ours: bool(mark.all()) == ours, expected, mask))


def test_the_peer_draws_whole_windows_and_its_models_act_as_runs(tmp_path):
    import torch

    import train_peer

    store = make_store(lengths=(3, 7, 12), env_id="Hopper-v5")
    store.save(tmp_path / "data.npz")
    options = {"batch_size": 16, "context_length": 5, "max_episode_length": 9, "return_scale": 10.0, "device": "cpu"}
    arguments = train_peer.Arguments(str(tmp_path / "data.npz"), tmp_path / "peer", steps=2, save_every=2, **options)
    windows = train_peer.Windows(arguments, store)
    batch = {name: values.numpy() for name, values in windows.batch().items()}
    to_go = np.concatenate([np.cumsum(episode["rewards"][::-1])[::-1] for episode in store])
    times = np.concatenate([np.arange(length) for length in store.lengths])
    for row, mask in enumerate(batch["attention_mask"].astype(bool)):
        assert mask[-mask.sum() :].all()
        states = batch["states"][row, mask] * windows.std + windows.mean
        start = int(np.argmin(np.abs(store.observations - states[0]).sum(axis=1)))
        steps = slice(start, start + len(states))
        np.testing.assert_allclose(states, store.observations[steps], atol=1e-5)
        np.testing.assert_array_equal(batch["actions"][row, mask], store.actions[steps])
        np.testing.assert_allclose(batch["returns_to_go"][row, mask, 0], to_go[steps] / 10, rtol=1e-5)
        np.testing.assert_array_equal(batch["timesteps"][row, mask], np.minimum(times[steps], 8))
        assert mask.all() or start + len(states) in np.cumsum(store.lengths)
    train_peer.main(arguments)
    agent = jaxdt.from_huggingface(tmp_path / "peer" / "2")
    agent.reset(target_return=5.0)
    assert agent.act(store.observations[0]).shape == (2,)
    drawn = train_peer.make_model(arguments, 3, 2)
    # PyTorch's own around the blocks, GPT-2's in them.
    assert float(drawn.embed_timestep.weight.std()) == pytest.approx(1.0, abs=0.05)
    assert float(drawn.encoder.h[0].mlp.c_fc.weight.std()) == pytest.approx(0.02, abs=0.002)
    assert not torch.any(drawn.encoder.wpe.weight)


@pytest.mark.parametrize(
    ("env_id", "changes"),
    [("Pendulum-v1", {}), ("Pendulum-v1", {"delayed_reward": True}), ("CartPole-v1", {})],
    ids=["vectors", "delayed rewards", "discrete"],
)
def test_the_code_of_a_model_card_plays_the_same_episode_in_both_libraries(env_id, changes, tmp_path, capsys):
    store = make_store((9, 30), 3, 1) if env_id == "Pendulum-v1" else make_store((9, 30), 4, discrete=2)
    config = tiny_algorithm(return_scale=10.0, timestep_embedding=True)
    spec = dataclasses.replace(jaxdt.make_spec(config, store, env_id), **changes)
    params = jaxdt.make_algorithm(config, spec).init(jax.random.key(0)).params
    params = jax.tree.map(lambda leaf: leaf * 8 if leaf.ndim == 2 else leaf, params)  # so that actions differ
    agent = jaxdt.Agent(config, params, spec, env_id=env_id, targets=[-200.0])
    folder = jaxdt.to_huggingface(agent, tmp_path / "model") or tmp_path / "model"
    codes = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    for code in codes:
        exec(
            code.replace('snapshot_download("model")', repr(str(folder))).replace('("model")', f"({str(folder)!r})"), {}
        )
    ours, theirs = map(float, capsys.readouterr().out.split())
    assert ours == pytest.approx(theirs, abs=1e-2)
    assert ours != pytest.approx(0, abs=1)
