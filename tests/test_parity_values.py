"""Ten updates of implicit Q-learning, TD3+BC, ReBRAC and RvS-R beside PyTorch's, from papers and authors' code."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.algorithms import make_algorithm, measure
from jaxdt.config import REBRAC, IQLConfig, RvSConfig, TD3BCConfig
from jaxdt.training import compile_update


with contextlib.suppress(ImportError):  # the plain suite leaves these tests out and needs none
    import torch

    from benchmarking import restated

pytestmark = pytest.mark.parity
UPDATES = 10


def episodes() -> jaxdt.EpisodeStore:
    """Two that the environment ended, two that were cut off."""
    rng = np.random.default_rng(0)
    rows, ends = 200, np.array([49, 99, 149, 199])
    terminations, truncations = np.zeros((2, rows), bool)
    terminations[ends[:2]], truncations[ends[2:]] = True, True
    actions = rng.uniform(-0.9, 0.9, (rows, 2)).astype(np.float32)
    observations = rng.normal(1.0, 2.0, (rows, 3)).astype(np.float32)
    rewards = (actions[:, 0] + 0.1 * observations[:, 1]).astype(np.float32)
    return jaxdt.EpisodeStore.from_arrays(observations, actions, rewards, terminations, truncations)


STORE = episodes()


def trained(config):
    """Parameters before and after `UPDATES` updates, all losses, and the batches."""
    config = config.for_steps(UPDATES)
    spec = dataclasses.replace(STORE.spec, constants=measure(config, STORE))
    algorithm = make_algorithm(config, spec)
    sampler = algorithm.sampler(STORE, batch_size=32, seed=5)
    batches = [sampler.batch(i) for i in range(UPDATES)]
    state = jax.jit(algorithm.init)(jax.random.key(0))
    before = jax.tree.map(np.array, state.params)
    update = compile_update(algorithm.update, updates_per_call=UPDATES)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    state, metrics = update(state, stacked, jax.random.key(1))
    return config, spec, before, jax.tree.map(np.array, state.params), np.array(metrics["loss"]), batches


def mlp(params, tanh=False):
    layers = []
    for name in sorted(params["hidden"]):
        layers += [linear(params["hidden"][name]), torch.nn.ReLU()]
        if "norm" in params:
            layers.append(torch.nn.LayerNorm(layers[-2].out_features, eps=1e-6))
    return torch.nn.Sequential(*layers, linear(params["output"]), *([torch.nn.Tanh()] if tanh else []))


def linear(params):
    layer = torch.nn.Linear(*params["kernel"].shape)
    layer.weight.data, layer.bias.data = torch.tensor(params["kernel"].T.copy()), torch.tensor(params["bias"])
    return layer


def critics_of(params, name="critics"):
    return [mlp(params[name][which]) for which in ("first", "second")]


def assert_same(module, params):
    norms = params.get("norm", {})
    for kind, mine, scale in (
        (torch.nn.Linear, [*map(params["hidden"].get, sorted(params["hidden"])), params["output"]], "kernel"),
        (torch.nn.LayerNorm, [*map(norms.get, sorted(norms))], "scale"),
    ):
        for ours, theirs in zip(mine, [layer for layer in module if isinstance(layer, kind)], strict=True):
            np.testing.assert_allclose(ours[scale].T, theirs.weight.detach(), rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(ours["bias"], theirs.bias.detach(), rtol=1e-3, atol=1e-5)


def assert_critics_same(update, params):
    for i, name in enumerate(("first", "second")):
        assert_same(update.critics[i], params["critics"][name])
        assert_same(update.slow_critics[i], params["target_critics"][name])


def in_torch(batch, spec):
    values = restated.Batch(*(None if leaf is None else torch.tensor(np.asarray(leaf)) for leaf in batch))
    mean, std = (torch.tensor(spec.constants[name]) for name in ("state_mean", "state_std"))
    states, next_states = (values.states - mean) / std, (values.next_states - mean) / std
    return values._replace(
        states=states, next_states=next_states, rewards=float(spec.constants.get("reward_scale", 1)) * values.rewards
    )


def assert_losses_same(update, batches, spec, losses):
    for batch, loss in zip(batches, losses, strict=True):
        np.testing.assert_allclose(loss, update(in_torch(batch, spec)).item(), rtol=1e-4)


def test_implicit_q_learning():
    # A large rate and small rewards, so that the order of the steps shows.
    fast = dataclasses.replace(IQLConfig().optimizer, learning_rate=1e-2)
    config = IQLConfig(width=8, expectile=0.8, rewards="as-recorded", optimizer=fast)
    _, spec, before, after, losses, batches = trained(config)
    log_std = torch.nn.Parameter(torch.tensor(before["actor"]["log_std"]))
    networks = mlp(before["actor"]["mean"], tanh=True), log_std, mlp(before["value"]), critics_of(before)
    update = restated.ImplicitQLearning(*networks, updates=UPDATES, rate=1e-2, expectile=0.8)
    assert_losses_same(update, batches, spec, losses)
    assert_same(update.mean, after["actor"]["mean"])
    np.testing.assert_allclose(after["actor"]["log_std"], log_std.detach(), atol=1e-5)
    assert_same(update.value, after["value"])
    assert_critics_same(update, after)


@pytest.mark.parametrize(
    ("config", "rate"),
    [
        (TD3BCConfig(width=8), 3e-4),
        (dataclasses.replace(REBRAC.algorithm, width=8, actor_penalty=0.1, critic_penalty=0.5), 1e-3),
    ],
    ids=["td3-bc", "rebrac"],
)
def test_td3_bc_and_rebrac(config, rate):
    _, spec, before, after, losses, batches = trained(dataclasses.replace(config, policy_noise=0.0))
    penalties = (0.1, 0.5) if config.layer_norm else None
    actor = mlp(before["actor"], tanh=True)
    update = restated.TD3BC(actor, critics_of(before), rate=rate, noise=0.0, penalties=penalties)
    assert_losses_same(update, batches, spec, losses)
    for module, params in ((update.actor, after["actor"]), (update.slow_actor, after["target_actor"])):
        assert_same(module, params)
    assert_critics_same(update, after)


def test_rvs():
    _, _, before, after, losses, batches = trained(RvSConfig(width=8, normalize_states=True))
    network, log_std = mlp(before["mlp"]), torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*network.parameters(), log_std], lr=1e-3)
    for i, window in enumerate(batches):
        states, actions, to_go, timesteps, _ = (torch.tensor(np.asarray(leaf)[:, 0]) for leaf in window)
        average = to_go / (50 - timesteps)
        mean = network(torch.cat([states, average[:, None]], dim=1))
        loss = -restated.gaussian(mean, log_std).log_prob(actions).mean()
        np.testing.assert_allclose(losses[i], loss.item(), rtol=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same(network, after["mlp"])
    np.testing.assert_allclose(after["log_std"], log_std.detach(), atol=1e-5)
