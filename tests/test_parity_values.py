"""Ten updates of implicit Q-learning, TD3+BC and RvS-R beside PyTorch's, written from the papers and authors' code."""

import contextlib
import copy
import dataclasses
import math

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.algorithms import make_algorithm, measure
from jaxdt.config import IQLConfig, RvSConfig, TD3BCConfig
from jaxdt.training import compile_update


with contextlib.suppress(ImportError):  # the plain suite leaves these tests out and needs none
    import torch

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
    return torch.nn.Sequential(*layers, linear(params["output"]), *([torch.nn.Tanh()] if tanh else []))


def linear(params):
    layer = torch.nn.Linear(*params["kernel"].shape)
    layer.weight.data, layer.bias.data = torch.tensor(params["kernel"].T.copy()), torch.tensor(params["bias"])
    return layer


def assert_same(module, params):
    for mine, theirs in zip(
        [*[params["hidden"][name] for name in sorted(params["hidden"])], params["output"]],
        [layer for layer in module if isinstance(layer, torch.nn.Linear)],
        strict=True,
    ):
        np.testing.assert_allclose(mine["kernel"].T, theirs.weight.detach(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(mine["bias"], theirs.bias.detach(), rtol=1e-3, atol=1e-5)


def in_torch(batch, spec):
    values = [torch.tensor(np.asarray(leaf)) for leaf in batch]
    mean, std = (torch.tensor(spec.constants[name]) for name in ("state_mean", "state_std"))
    values[0], values[3] = (values[0] - mean) / std, (values[3] - mean) / std
    return values


def adam(*modules, rate):
    return torch.optim.Adam([p for module in modules for p in module.parameters()], lr=rate)


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def follow(slow, fast, rate):
    for mine, theirs in zip(slow.parameters(), fast.parameters(), strict=True):
        mine.data += rate * (theirs.data - mine.data)


def gaussian(mean, log_std):
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp().expand_as(mean)), 1)


def test_implicit_q_learning():
    # A large rate and small rewards, so that the order of the steps shows.
    fast = dataclasses.replace(IQLConfig().optimizer, learning_rate=1e-2)
    config = IQLConfig(width=8, expectile=0.8, rewards="as-recorded", optimizer=fast)
    config, spec, before, after, losses, batches = trained(config)
    actor, value = mlp(before["actor"]["mean"], tanh=True), mlp(before["value"])
    log_std = torch.nn.Parameter(torch.tensor(before["actor"]["log_std"]))
    critics = [mlp(before["critics"][name]) for name in ("first", "second")]
    slow = [copy.deepcopy(critic) for critic in critics]
    policy_adam = torch.optim.Adam([*actor.parameters(), log_std], lr=1e-2)
    falling = torch.optim.lr_scheduler.LambdaLR(policy_adam, lambda i: 0.5 * (1 + math.cos(math.pi * i / UPDATES)))
    value_adam, critic_adam = adam(value, rate=1e-2), adam(*critics, rate=1e-2)
    for i, batch in enumerate(batches):
        states, actions, rewards, next_states, ended = in_torch(batch, spec)
        seen = torch.cat([states, actions], dim=1)
        with torch.no_grad():
            believed = torch.minimum(*(critic(seen)[:, 0] for critic in slow))
        above = believed - value(states)[:, 0]
        step(value_adam, ((config.expectile - (above <= 0).float()).abs() * above**2).mean())
        with torch.no_grad():
            weight = (config.inverse_temperature * (believed - value(states)[:, 0])).exp().clamp(max=100)
            aim = float(spec.constants["reward_scale"]) * rewards + 0.99 * ~ended * value(next_states)[:, 0]
        step(policy_adam, -(weight * gaussian(actor(states), log_std.clamp(-5, 2)).log_prob(actions)).mean())
        falling.step()
        loss = sum(((critic(seen)[:, 0] - aim) ** 2).mean() for critic in critics)
        np.testing.assert_allclose(losses[i], loss.item(), rtol=1e-4)
        step(critic_adam, loss)
        for mine, theirs in zip(slow, critics, strict=True):
            follow(mine, theirs, 0.005)
    assert_same(actor, after["actor"]["mean"])
    np.testing.assert_allclose(after["actor"]["log_std"], log_std.detach(), atol=1e-5)
    assert_same(value, after["value"])
    for i, name in enumerate(("first", "second")):
        assert_same(critics[i], after["critics"][name])
        assert_same(slow[i], after["target_critics"][name])


def test_td3_bc():
    _, spec, before, after, losses, batches = trained(TD3BCConfig(width=8, policy_noise=0.0))
    actor, critics = mlp(before["actor"], tanh=True), [mlp(before["critics"][n]) for n in ("first", "second")]
    slow_actor, slow = copy.deepcopy(actor), [copy.deepcopy(critic) for critic in critics]
    policy_adam, critic_adam = adam(actor, rate=3e-4), adam(*critics, rate=3e-4)
    for i, batch in enumerate(batches):
        states, actions, rewards, next_states, ended = in_torch(batch, spec)
        with torch.no_grad():
            following = torch.cat([next_states, slow_actor(next_states)], dim=1)
            aim = rewards + 0.99 * ~ended * torch.minimum(*(critic(following)[:, 0] for critic in slow))
        seen = torch.cat([states, actions], dim=1)
        loss = sum(((critic(seen)[:, 0] - aim) ** 2).mean() for critic in critics)
        np.testing.assert_allclose(losses[i], loss.item(), rtol=1e-4)
        step(critic_adam, loss)
        if i % 2 == 1:
            chosen = actor(states)
            values = critics[0](torch.cat([states, chosen], dim=1))[:, 0]
            weight = 2.5 / values.abs().mean().detach()
            step(policy_adam, ((chosen - actions) ** 2).mean() - weight * values.mean())
            for mine, theirs in zip([slow_actor, *slow], [actor, *critics], strict=True):
                follow(mine, theirs, 0.005)
    for module, params in ((actor, after["actor"]), (slow_actor, after["target_actor"])):
        assert_same(module, params)
    for i, name in enumerate(("first", "second")):
        assert_same(critics[i], after["critics"][name])
        assert_same(slow[i], after["target_critics"][name])


def test_rvs():
    _, _, before, after, losses, batches = trained(RvSConfig(width=8, normalize_states=True))
    network, log_std = mlp(before["mlp"]), torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*network.parameters(), log_std], lr=1e-3)
    for i, window in enumerate(batches):
        states, actions, to_go, timesteps, _ = (torch.tensor(np.asarray(leaf)[:, 0]) for leaf in window)
        average = to_go / (50 - timesteps)
        mean = network(torch.cat([states, average[:, None]], dim=1))
        loss = -gaussian(mean, log_std).log_prob(actions).mean()
        np.testing.assert_allclose(losses[i], loss.item(), rtol=1e-4)
        step(optimizer, loss)
    assert_same(network, after["mlp"])
    np.testing.assert_allclose(after["log_std"], log_std.detach(), atol=1e-5)
