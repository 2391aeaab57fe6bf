"""The Decision Transformer for Atari in plain PyTorch, trained and played as its authors do. Never loads jax.

The peer of the benchmark's rows of frames, from the paper and its authors' code.
"""

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarking.restated_planner import Block


class Model(nn.Module):
    """Logits (b, t, n) at each state of tokens (return, state, action)."""

    def __init__(
        self, *, context_length: int, timesteps: int, actions: int, width: int, layers: int, heads: int, dropout: float
    ):
        super().__init__()
        self.context_length = context_length
        self.encoder = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3136, width),
            nn.Tanh(),
        )
        self.returns = nn.Sequential(nn.Linear(1, width), nn.Tanh())
        self.actions = nn.Sequential(nn.Embedding(actions, width), nn.Tanh())
        self.places = nn.Parameter(torch.zeros(1, 3 * context_length, width))
        self.timesteps = nn.Parameter(torch.zeros(timesteps, width))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, actions, bias=False)

    def forward(
        self, stacks: torch.Tensor, actions: torch.Tensor, returns: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """`stacks` (b, t, 4, 84, 84) in [0, 1]; `actions`, `returns` (b, t); `timestep` (b,) of the whole window."""
        b, t = actions.shape
        states = self.encoder(stacks.reshape(-1, 4, 84, 84)).view(b, t, -1)
        tokens = torch.stack([self.returns(returns[..., None]), states, self.actions(actions)], dim=2)
        x = tokens.view(b, 3 * t, -1) + self.places[:, : 3 * t] + self.timesteps[timestep][:, None]
        x = self.drop(x)
        may_attend = torch.ones(3 * t, 3 * t, dtype=torch.bool, device=x.device).tril()
        for block in self.blocks:
            x = block(x, may_attend)
        return self.head(self.norm(x))[:, 1::3]


class Update:
    """One step of AdamW on the cross-entropy of the actions, by the authors' trainer."""

    def __init__(self, model: Model):
        self._model = model.train()
        weights = {layer.weight for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        rest = [parameter for parameter in model.parameters() if parameter not in weights]
        groups = [{"params": list(weights), "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95))

    def __call__(self, stacks: torch.Tensor, actions: torch.Tensor, returns: torch.Tensor, first: torch.Tensor) -> None:
        logits = self._model(stacks, actions, returns, first)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), actions.flatten())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()


@torch.no_grad()
def play(model: Model, game: Any, target: float, steps: int) -> int:
    """Environment steps of one game, which is cut off after `steps`; every stack of the window is encoded anew."""
    model.eval()
    frame, _ = game.reset(seed=0)
    pictures = deque([np.zeros_like(frame)] * 3 + [frame], maxlen=4)
    stacks, returns, actions = [_stack(pictures)], [target], []
    for step in range(steps):
        first = max(0, step + 1 - model.context_length)
        seen = torch.stack(stacks[first:])[None]
        done = torch.tensor([[*actions[first:], 0]])
        wanted = torch.tensor([returns[first:]], dtype=torch.float32)
        logits = model(seen, done, wanted, torch.tensor([step]))[0, -1]
        action = int(torch.multinomial(torch.softmax(logits, dim=-1), 1))
        frame, reward, ended, cut_off, _ = game.step(action)
        actions.append(action)
        pictures.append(frame)
        stacks.append(_stack(pictures))
        returns.append(returns[-1] - float(reward))
        if ended or cut_off:
            return step + 1
    return steps


def _stack(pictures: deque) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).float() / 255
