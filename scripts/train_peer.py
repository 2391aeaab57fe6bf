"""Trains Hugging Face's Decision Transformer in PyTorch by the paper's recipe, for our runs to be compared with.

`python scripts/train_peer.py --dataset hopper-medium.npz --out peers/hopper-0 --seed 0` writes one model for every
`--save-every` updates, `OUT/STEPS`, each of which `jaxdt import OUT/STEPS RUN --env Hopper-v5` makes a run that
`jaxdt evaluate` plays. Model, gradients and optimiser are PyTorch's, and so are the weights it begins with; windows are
drawn here, apart from those of jaxdt. Needs torch and transformers (extra `parity`).
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
import transformers
import tyro
from tqdm import trange

import jaxdt


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train Hugging Face's model from the original's initial weights, by the original's recipe."""

    dataset: str
    """Episodes, as `jaxdt train` takes them; actions in [-1, 1]."""
    out: Path
    """Directory for a model of each interval."""
    seed: int = 0
    """Of initial weights, windows and dropout."""
    steps: int = 4_000
    """Updates."""
    warmup_steps: int = 1_000
    """Updates over which the learning rate rises to 1e-4."""
    save_every: int = 1_000
    """Updates between models."""
    batch_size: int = 64
    """Windows of an update."""
    context_length: int = 20
    """Environment steps of a window."""
    return_scale: float = 1_000.0
    """What returns-to-go are divided by."""
    max_episode_length: int = 1_000
    """Later steps count as this one."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """PyTorch's."""


class Windows:
    """Draws episodes in proportion to their length, then a first step; padded on the left, as the original does."""

    def __init__(self, arguments: Arguments, store: jaxdt.EpisodeStore):
        self._arguments, self._rng = arguments, np.random.default_rng(arguments.seed)
        self._observations, self._actions = store.observations, store.actions
        self._lengths, self._starts = store.lengths, np.cumsum(store.lengths) - store.lengths
        self._shares = store.lengths / store.lengths.sum()
        self.mean = self._observations.mean(axis=0, dtype=np.float64)
        self.std = self._observations.std(axis=0, dtype=np.float64) + 1e-6
        rewards = np.split(store.rewards.astype(np.float64), self._starts[1:])
        self._to_go = np.concatenate([np.cumsum(each[::-1])[::-1] for each in rewards])

    def batch(self) -> dict[str, torch.Tensor]:
        """What the model is called with."""
        shape = (self._arguments.batch_size, self._arguments.context_length)
        states, actions = np.zeros((*shape, len(self.mean))), np.full((*shape, self._actions.shape[1]), -10.0)
        to_go, timesteps, mask = np.zeros((*shape, 1)), np.zeros(shape, np.int64), np.zeros(shape)
        for row, episode in enumerate(self._rng.choice(len(self._lengths), size=shape[0], p=self._shares)):
            first = self._rng.integers(self._lengths[episode])
            count = min(shape[1], self._lengths[episode] - first)
            steps = slice(self._starts[episode] + first, self._starts[episode] + first + count)
            states[row, -count:], actions[row, -count:] = self._observations[steps], self._actions[steps]
            to_go[row, -count:, 0] = self._to_go[steps] / self._arguments.return_scale
            timesteps[row, -count:] = np.minimum(
                np.arange(first, first + count), self._arguments.max_episode_length - 1
            )
            mask[row, -count:] = 1
        arrays = {"states": (states - self.mean) / self.std, "actions": actions, "returns_to_go": to_go}
        tensors = {name: torch.from_numpy(values.astype(np.float32)) for name, values in arrays.items()}
        tensors |= {"timesteps": torch.from_numpy(timesteps), "attention_mask": torch.from_numpy(mask).float()}
        return {name: values.to(self._arguments.device) for name, values in tensors.items()}


def make_model(arguments: Arguments, state_dim: int, action_dim: int) -> transformers.DecisionTransformerModel:
    """With the original's initial weights: GPT-2's in the blocks, PyTorch's own around them, and no position table."""
    config = transformers.DecisionTransformerConfig(
        state_dim=state_dim,
        act_dim=action_dim,
        hidden_size=128,
        max_ep_len=arguments.max_episode_length,
        n_inner=4 * 128,
        attn_implementation="eager",
    )
    model = transformers.DecisionTransformerModel(config)
    for name, module in model.named_modules():
        if name and not name.startswith("encoder") and hasattr(module, "reset_parameters"):
            module.reset_parameters()
    with torch.no_grad():
        model.encoder.wpe.weight.zero_()
    model.encoder.wpe.weight.requires_grad_(False)
    return model.to(arguments.device).train()


def main(arguments: Arguments) -> None:
    if arguments.out.exists() and any(arguments.out.iterdir()):
        raise SystemExit(f"train_peer: error: {arguments.out} is not empty; choose another --out.")
    torch.manual_seed(arguments.seed)
    store = jaxdt.load_episodes(arguments.dataset)
    windows = Windows(arguments, store)
    model = make_model(arguments, store.observations.shape[1], store.actions.shape[1])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / arguments.warmup_steps, 1))
    losses = []
    for step in trange(1, arguments.steps + 1, unit=" updates"):
        batch = windows.batch()
        real = batch["attention_mask"][..., None]
        errors = torch.square(model(**batch).action_preds - batch["actions"]) * real
        loss = errors.sum() / (real.sum() * errors.shape[-1])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.25)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        if step % arguments.save_every == 0 or step == arguments.steps:
            write(arguments, model, windows, store, arguments.out / str(step))
            print(f"{arguments.out / str(step)}: loss of the last 200 updates {np.mean(losses[-200:]):.4f}")


def write(arguments: Arguments, model: torch.nn.Module, windows: Windows, store: jaxdt.EpisodeStore, out: Path) -> None:
    """A directory that `jaxdt import` reads, with the targets that `jaxdt train` would choose."""
    model.save_pretrained(out)
    known = {
        "state_mean": windows.mean.tolist(),
        "state_std": windows.std.tolist(),
        "return_scale": arguments.return_scale,
        "context_length": arguments.context_length,
        "env_id": store.env_id,
        "targets": np.quantile(store.returns, jaxdt.TrainConfig().target_quantiles).tolist(),
    }
    (out / "normalization.json").write_text(json.dumps(known))


if __name__ == "__main__":
    main(tyro.cli(Arguments, prog="python scripts/train_peer.py"))
