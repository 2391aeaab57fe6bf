"""One update of implicit Q-learning, TD3+BC and ReBRAC in plain PyTorch, from the papers and their authors' code.

The peer of these methods' benchmark, and what their parity tests compare ours with. Never loads jax.
"""

import copy
import itertools
import math
from typing import NamedTuple

import torch
from torch import nn


class Batch(NamedTuple):
    """Transitions of normalised states; all of shape (b, ...)."""

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_states: torch.Tensor
    ended: torch.Tensor
    next_actions: torch.Tensor | None = None
    """ReBRAC's alone."""


def make_mlp(*sizes: int, tanh: bool = False) -> nn.Sequential:
    """Linear and ReLU in turn, without the last ReLU; `sizes`: numbers of inputs, hidden units and outputs."""
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1], *([nn.Tanh()] if tanh else []))


class ImplicitQLearning:
    """Call it with a batch: it makes one update and returns the critics' loss before it."""

    def __init__(
        self,
        mean: nn.Module,
        log_std: nn.Parameter,
        value: nn.Module,
        critics: list[nn.Module],
        *,
        updates: int,
        rate: float = 3e-4,
        expectile: float = 0.7,
        inverse_temperature: float = 3.0,
    ):
        self.mean, self.log_std, self.value, self.critics = mean, log_std, value, critics
        self.slow_critics = copy.deepcopy(critics)
        self._expectile, self._inverse_temperature = expectile, inverse_temperature
        self._policy_adam = torch.optim.Adam([*mean.parameters(), log_std], lr=rate, fused=True)
        cosine = torch.optim.lr_scheduler.LambdaLR
        self._schedule = cosine(self._policy_adam, lambda i: 0.5 * (1 + math.cos(math.pi * i / updates)))
        self._value_adam, self._critic_adam = _adam([value], rate), _adam(critics, rate)

    def __call__(self, batch: Batch) -> torch.Tensor:
        states, actions, rewards, next_states, ended, _ = batch
        seen = torch.cat([states, actions], dim=1)
        with torch.no_grad():
            believed = torch.minimum(*_values(self.slow_critics, seen))
        above = believed - self.value(states)[:, 0]
        _step(self._value_adam, ((self._expectile - (above <= 0).float()).abs() * above**2).mean())
        with torch.no_grad():
            advantage = believed - self.value(states)[:, 0]
            weight = (self._inverse_temperature * advantage).exp().clamp(max=100)
            aim = rewards + 0.99 * ~ended * self.value(next_states)[:, 0]
        likelihood = gaussian(self.mean(states), self.log_std.clamp(-5, 2)).log_prob(actions)
        _step(self._policy_adam, -(weight * likelihood).mean())
        self._schedule.step()
        loss = _squared_errors(self.critics, seen, aim)
        _step(self._critic_adam, loss)
        _follow(self.slow_critics, self.critics)
        return loss.detach()


class TD3BC:
    """Call it with a batch: it makes one update, every second one of all networks, and returns the critics' loss.

    `penalties`: ReBRAC's of policy and critics, with its other choices of the two losses; None: TD3+BC's.
    """

    def __init__(
        self,
        actor: nn.Module,
        critics: list[nn.Module],
        *,
        rate: float = 3e-4,
        noise: float = 0.2,
        penalties: tuple[float, float] | None = None,
    ):
        self.actor, self.critics = actor, critics
        self.slow_actor, self.slow_critics = copy.deepcopy(actor), copy.deepcopy(critics)
        self._noise, self._penalties, self._updates = noise, penalties, 0
        self._policy_adam, self._critic_adam = _adam([actor], rate), _adam(critics, rate)

    def __call__(self, batch: Batch) -> torch.Tensor:
        seen = torch.cat([batch.states, batch.actions], dim=1)
        loss = _squared_errors(self.critics, seen, self._aim(batch))
        _step(self._critic_adam, loss)
        self._updates += 1
        if self._updates % 2 == 0:
            _step(self._policy_adam, self._policy_loss(batch))
            _follow([self.slow_actor, *self.slow_critics], [self.actor, *self.critics])
        return loss.detach()

    @torch.no_grad()
    def _aim(self, batch: Batch) -> torch.Tensor:
        noise = (self._noise * torch.randn_like(batch.actions)).clamp(-0.5, 0.5)
        next_actions = (self.slow_actor(batch.next_states) + noise).clamp(-1, 1)
        believed = torch.minimum(*_values(self.slow_critics, torch.cat([batch.next_states, next_actions], dim=1)))
        if self._penalties is not None:
            believed = believed - self._penalties[1] * ((next_actions - batch.next_actions) ** 2).sum(dim=1)
        return batch.rewards + 0.99 * ~batch.ended * believed

    def _policy_loss(self, batch: Batch) -> torch.Tensor:
        chosen = self.actor(batch.states)
        seen = torch.cat([batch.states, chosen], dim=1)
        if self._penalties is None:
            values = self.critics[0](seen)[:, 0]
            return ((chosen - batch.actions) ** 2).mean() - 2.5 / values.abs().mean().detach() * values.mean()
        values = torch.minimum(*_values(self.critics, seen))
        penalty = self._penalties[0] * ((chosen - batch.actions) ** 2).sum(dim=1)
        return (penalty - values / values.abs().mean().detach()).mean()


def gaussian(mean: torch.Tensor, log_std: torch.Tensor) -> torch.distributions.Distribution:
    """Of actions; their standard deviations are the same in every state."""
    each = torch.distributions.Normal(mean, log_std.exp().expand_as(mean), validate_args=False)
    return torch.distributions.Independent(each, 1, validate_args=False)


def _values(critics: list[nn.Module], seen: torch.Tensor) -> list[torch.Tensor]:
    return [critic(seen)[:, 0] for critic in critics]


def _squared_errors(critics: list[nn.Module], seen: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
    return torch.stack([((values - aim) ** 2).mean() for values in _values(critics, seen)]).sum()


def _adam(modules: list[nn.Module], rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for module in modules for p in module.parameters()], lr=rate, fused=True)


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _follow(slow: list[nn.Module], fast: list[nn.Module]) -> None:
    for mine, theirs in zip(slow, fast, strict=True):
        for parameter, newer in zip(mine.parameters(), theirs.parameters(), strict=True):
            parameter.lerp_(newer, 0.005)
