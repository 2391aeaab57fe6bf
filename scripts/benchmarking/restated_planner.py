"""The Trajectory Transformer's planner in plain PyTorch, which reads all that it sees anew for every token.

The peer of planning's benchmark, from the paper and its authors' code. Never loads jax.
"""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self._dropout, self._drop = dropout, nn.Dropout(dropout)
        self._num_heads = num_heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, may_attend: torch.Tensor) -> torch.Tensor:
        b, length, width = x.shape
        normed = self.norms[0](x)
        by_head = (b, length, self._num_heads, width // self._num_heads)
        query, key, value = (
            layer(normed).view(by_head).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        dropout = self._dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=may_attend, dropout_p=dropout
        )
        x = x + self._drop(self.out(attended.transpose(1, 2).reshape(b, length, width)))
        return x + self._drop(self.mlp(self.norms[1](x)))


class Model(nn.Module):
    """Tokens of whole transitions to the logits behind the newest one."""

    def __init__(self, *, row: int, bins: int, transitions: int, width: int, num_layers: int, num_heads: int):
        super().__init__()
        self.row, self.bins = row, bins
        self.tokens = nn.Embedding(bins * row + 1, width)
        self.places = nn.Parameter(torch.zeros(row * transitions - 1, width))
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Parameter(torch.randn(row, bins + 1, width) * 0.1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        place = torch.arange(length)
        row = torch.where(tokens < self.bins, tokens + self.bins * (place % self.row), self.bins * self.row)
        x = self.tokens(row) + self.places[:length]
        may_attend = (place[None] <= place[:, None]) & (place % self.row != self.row - 1)[None]
        may_attend[:, 0] |= ~may_attend.any(dim=1)
        for block in self.blocks:
            x = block(x, may_attend)
        return self.norm(x[:, -1]) @ self.head[(length - 1) % self.row].T


class Planner:
    """Call it with the tokens (1, l) of what was seen, the newest observation last; it returns the first action's.

    Keeps the `beam_width` best of all plans that go on, by expected rewards and value.
    """

    def __init__(
        self,
        model: Model,
        *,
        num_observations: int,
        middles: torch.Tensor,
        horizon: int,
        beam_width: int,
        expansion: int = 2,
        context_transitions: int = 5,
        nucleus: float = 0.4,
        discount: float = 0.99,
    ):
        """`middles` (bins, row): the numbers that bins stand for."""
        self._model, self._middles, self._nucleus = model, middles, nucleus
        self._num_observations, self._num_actions = num_observations, model.row - num_observations - 2
        self._horizon, self._beam_width, self._expansion = horizon, beam_width, expansion
        self._most = context_transitions * model.row - 1
        self._discounts = discount ** torch.arange(horizon + 1)

    @torch.inference_mode()
    def __call__(self, seen: torch.Tensor) -> torch.Tensor:
        first = seen.shape[1]
        plans = seen.repeat(self._beam_width, 1)
        rewards = torch.zeros(self._beam_width, self._horizon + 1)
        for step in range(self._horizon):
            plans, rewards = plans.repeat(self._expansion, 1), rewards.repeat(self._expansion, 1)
            for _ in range(self._num_actions):
                plans = self._append(plans, self._drawn(self._logits(plans)))
            for column, place in ((step, -2), (step + 1, -1)):  # the reward, and what is behind it
                logits = self._logits(plans)
                expected = logits.softmax(dim=1)[:, :-1] @ self._middles[:, place]
                rewards[:, column] = expected
                plans = self._append(plans, logits.argmax(dim=1))
            best = (rewards * self._discounts)[:, : step + 2].sum(dim=1).topk(self._beam_width).indices
            plans, rewards = plans[best], rewards[best]
            for _ in range(self._num_observations if step < self._horizon - 1 else 0):
                plans = self._append(plans, self._logits(plans).argmax(dim=1))
        return plans[0, first : first + self._num_actions]

    def _logits(self, plans: torch.Tensor) -> torch.Tensor:
        row, left_out = self._model.row, 0
        while plans.shape[1] - left_out > self._most:  # whole transitions
            left_out += row
        return self._model(plans[:, left_out:])

    def _drawn(self, logits: torch.Tensor) -> torch.Tensor:
        """From the likeliest tokens that have the nucleus's probability together."""
        probabilities = logits.softmax(dim=1)
        ordered = probabilities.sort(dim=1).values
        left_out = (ordered.cumsum(dim=1) < 1 - self._nucleus).sum(dim=1, keepdim=True)
        bound = ordered.gather(1, left_out.clamp(max=self._model.bins))
        kept = torch.where(probabilities >= bound, probabilities, 0.0)
        return torch.multinomial(kept, 1)[:, 0]

    def _append(self, plans: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([plans, tokens[:, None]], dim=1)
