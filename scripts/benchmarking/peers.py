"""What Hugging Face's model and tutorial, and other methods in plain PyTorch, take. Never loads jax."""

import tempfile
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import torch
import transformers

from benchmarking import restated, restated_atari, restated_planner
from benchmarking.collator import Collator
from benchmarking.shapes import ENV_ID, GAME, GAME_TARGET, RETURN_SCALE, TARGET, Shapes, ValueMethod, store_of
from benchmarking.timing import one_by_one, repeatedly
from jaxdt.simulator import make_simulator, usable_cores


# PyTorch's fused attention, Hugging Face's default, where its version has it for this model.
ATTENTION = "sdpa" if transformers.DecisionTransformerModel._supports_sdpa else "eager"

torch.set_num_threads(usable_cores())
torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as jax does by default
datasets.disable_progress_bars()


def describe(shapes: Shapes, device: str) -> Iterator[dict[str, Any]]:
    del shapes
    yield {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "datasets": datasets.__version__,
        "threads": torch.get_num_threads(),
        "attention": ATTENTION,
        "device": torch.cuda.get_device_name() if _found(device).type == "cuda" else "cpu",
    }


def train(shapes: Shapes, device: str) -> Iterator[float]:
    """Seconds an update on one batch that is on the device."""
    update = _Update(shapes, _found(device))
    batch = update.to_device(_random_batch(shapes, shapes.batch_size))
    return repeatedly(lambda: update(batch), _synchronize)


def train_values(shapes: Shapes, method: ValueMethod, device: str) -> Iterator[float]:
    """Seconds an update on one batch that is on the device."""
    where, state, action = _found(device), shapes.state_dim, shapes.action_dim
    hidden = [shapes.width] * shapes.num_layers
    policy = restated.make_mlp(state, *hidden, action, tanh=True).to(where)
    critics = [restated.make_mlp(state + action, *hidden, 1).to(where) for _ in range(2)]
    if method == "iql":
        value = restated.make_mlp(state, *hidden, 1).to(where)
        log_std = torch.nn.Parameter(torch.zeros(action, device=where))
        update = restated.ImplicitQLearning(policy, log_std, value, critics, updates=10**6)
    else:
        update = restated.TD3BC(policy, critics)
    size = shapes.batch_size
    batch = restated.Batch(
        states=torch.randn(size, state, device=where),
        actions=torch.rand(size, action, device=where) * 2 - 1,
        rewards=torch.randn(size, device=where),
        next_states=torch.randn(size, state, device=where),
        ended=torch.zeros(size, dtype=torch.bool, device=where),
    )
    return repeatedly(lambda: update(batch), _synchronize)


def sample(shapes: Shapes, path: str, directory: str) -> Iterator[float]:
    """Seconds of the collator alone, without the 64 rows that the tutorial's loader fetches and the collator drops."""
    collator = _collator(shapes, path, directory)
    return repeatedly(lambda: collator.batch(shapes.batch_size))


def pipeline(shapes: Shapes, path: str, directory: str, device: str) -> Iterator[float]:
    """Seconds of the collator and an update, one after the other as in the tutorial."""
    collator = _collator(shapes, path, directory)
    update = _Update(shapes, _found(device))
    return repeatedly(lambda: update(update.to_device(collator.batch(shapes.batch_size))), _synchronize, seconds=2.0)


def act(shapes: Shapes, environments: int, device: str) -> Iterator[float]:
    """Seconds of a forward pass on windows of K steps."""
    model = _model(shapes).eval().to(_found(device))
    batch = {name: values.to(_found(device)) for name, values in _random_batch(shapes, environments).items()}

    def predict() -> None:
        with torch.no_grad():
            model(**batch)
        _synchronize()

    return repeatedly(predict)


def evaluate(shapes: Shapes, device: str) -> Iterator[float]:
    """Seconds an environment step of the tutorial's loop, which plays one episode."""
    model, simulator = _model(shapes).eval().to(_found(device)), make_simulator(ENV_ID)
    mean, std = torch.zeros(shapes.state_dim), torch.ones(shapes.state_dim)
    return one_by_one(lambda: _play_episode(model, simulator, mean.to(model.device), std.to(model.device), shapes))


def load(shapes: Shapes, path: str, directory: str) -> Iterator[float]:
    """Seconds from a parquet file to NumPy arrays, an episode at a time from its nested lists.

    `datasets` formatting rows as NumPy itself was measured to take five times as long.
    """
    del shapes

    def read_all() -> int:
        for episode in _read_table(path, directory):
            for values in episode.values():
                np.array(values, np.float32)
        return 1

    return one_by_one(read_all)


class _Update:
    """The tutorial's model and loss, AdamW and clipping, one update a call."""

    def __init__(self, shapes: Shapes, device: torch.device):
        self._device = device
        self._model = _model(shapes).train().to(device)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)

    def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: values.to(self._device) for name, values in batch.items() if name != "dones"}

    def __call__(self, batch: dict[str, torch.Tensor]) -> None:
        real = batch["attention_mask"].bool()
        predicted = self._model(**batch).action_preds
        loss = torch.mean((predicted[real] - batch["actions"][real]) ** 2)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 0.25)
        self._optimizer.step()


@torch.no_grad()
def _play_episode(model: Any, simulator: Any, mean: torch.Tensor, std: torch.Tensor, shapes: Shapes) -> int:
    """The history grows by a step at a time; the model sees its last K steps, padded on the left with zeros."""
    device = model.device
    observation, _ = simulator.reset(seed=0)
    states = torch.from_numpy(observation).float().to(device).reshape(1, -1)
    actions = torch.zeros(0, shapes.action_dim, device=device)
    rewards = torch.zeros(0, device=device)
    to_go = torch.full((1, 1), TARGET / RETURN_SCALE, device=device)
    timesteps = torch.zeros(1, 1, dtype=torch.long, device=device)
    for step in range(shapes.episode_length):
        actions = torch.cat([actions, torch.zeros(1, shapes.action_dim, device=device)])
        rewards = torch.cat([rewards, torch.zeros(1, device=device)])
        action = _newest_action(model, (states - mean) / std, actions, to_go, timesteps, shapes)
        actions[-1] = action
        observation, reward, terminated, truncated, _ = simulator.step(action.cpu().numpy())
        states = torch.cat([states, torch.from_numpy(observation).float().to(device).reshape(1, -1)])
        rewards[-1] = reward
        to_go = torch.cat([to_go, to_go[:, -1:] - reward / RETURN_SCALE], dim=1)
        timesteps = torch.cat([timesteps, torch.full((1, 1), step + 1, device=device)], dim=1)
        if terminated or truncated:
            break
    return step + 1


def plan(shapes: Shapes, horizon: int, beam_width: int) -> Iterator[float]:
    """Seconds a planned environment step of one episode whose context is full; on the CPU alone."""
    row, bins = shapes.state_dim + shapes.action_dim + 2, 100
    model = restated_planner.Model(
        row=row,
        bins=bins,
        transitions=shapes.context_length,
        width=shapes.width,
        num_layers=shapes.num_layers,
        num_heads=shapes.num_heads,
    )
    context = min(5, shapes.context_length)
    planner = restated_planner.Planner(
        model,
        num_observations=shapes.state_dim,
        middles=torch.randn(bins, row),
        horizon=horizon,
        beam_width=beam_width,
        context_transitions=context,
    )
    seen = torch.randint(bins, (1, (context - 1) * row + shapes.state_dim))
    return repeatedly(lambda: planner(seen))


def train_frames(shapes: Shapes, device: str) -> Iterator[float]:
    """Seconds an update on one batch that is on the device, stacks formed, as the authors' loader leaves it."""
    where, size = _found(device), (shapes.batch_size, shapes.context_length)
    update = restated_atari.Update(_atari_model(shapes).to(where))
    stacks = torch.rand(*size, 4, 84, 84, device=where)
    actions = torch.randint(shapes.action_dim, size, device=where)
    returns, first = torch.ones(size, device=where), torch.zeros(size[0], dtype=torch.long, device=where)
    return repeatedly(lambda: update(stacks, actions, returns, first), _synchronize)


def evaluate_games(shapes: Shapes, steps: int = 1_000) -> Iterator[float]:
    """Seconds an environment step of one game after the other, on the CPU, of games that are cut off after `steps`."""
    model, game = _atari_model(shapes), make_simulator(GAME)
    return one_by_one(lambda: restated_atari.play(model, game, GAME_TARGET, steps))


def _atari_model(shapes: Shapes) -> restated_atari.Model:
    return restated_atari.Model(
        context_length=shapes.context_length,
        timesteps=shapes.max_episode_length + 1,
        actions=shapes.action_dim,
        width=shapes.width,
        layers=shapes.num_layers,
        heads=shapes.num_heads,
        dropout=0.1,
    )


def _newest_action(
    model: Any,
    states: torch.Tensor,
    actions: torch.Tensor,
    to_go: torch.Tensor,
    timesteps: torch.Tensor,
    shapes: Shapes,
) -> torch.Tensor:
    length = shapes.context_length
    count = min(len(states), length)

    def window(values: torch.Tensor) -> torch.Tensor:
        padding = torch.zeros((1, length - count, *values.shape[2:]), dtype=values.dtype, device=values.device)
        return torch.cat([padding, values[:, -count:]], dim=1)

    return model(
        states=window(states[None]),
        actions=window(actions[None]),
        rewards=None,
        returns_to_go=window(to_go[..., None]),
        timesteps=window(timesteps).clamp(max=shapes.max_episode_length - 1),
        attention_mask=window(torch.ones(1, count, dtype=torch.long, device=states.device)),
    ).action_preds[0, -1]


def _model(shapes: Shapes) -> Any:
    config = transformers.DecisionTransformerConfig(
        state_dim=shapes.state_dim,
        act_dim=shapes.action_dim,
        hidden_size=shapes.width,
        n_layer=shapes.num_layers,
        max_ep_len=shapes.max_episode_length,
    )
    return transformers.DecisionTransformerModel._from_config(config, attn_implementation=ATTENTION)


def _random_batch(shapes: Shapes, size: int) -> dict[str, torch.Tensor]:
    steps = (size, shapes.context_length)
    return {
        "states": torch.randn(*steps, shapes.state_dim),
        "actions": torch.rand(*steps, shapes.action_dim),
        "rewards": torch.randn(*steps, 1),
        "returns_to_go": torch.randn(*steps, 1),
        "timesteps": torch.arange(shapes.context_length).repeat(size, 1),
        "attention_mask": torch.ones(steps),
    }


def _collator(shapes: Shapes, path: str, directory: str) -> Collator:
    store = store_of(shapes)
    return Collator(
        _read_table(path, directory),
        store.lengths,
        *store.statistics,
        context_length=shapes.context_length,
        max_episode_length=shapes.max_episode_length,
        return_scale=RETURN_SCALE,
    )


def _read_table(path: str, directory: str) -> datasets.Dataset:
    """The columns of Hugging Face's own dataset; `directory`: where the table is unpacked to."""
    columns = ["observations", "actions", "rewards", "dones"]
    return datasets.Dataset.from_parquet(path, columns=columns, cache_dir=tempfile.mkdtemp(dir=directory))


def _found(device: str) -> torch.device:
    return torch.device("cuda" if device == "gpu" and torch.cuda.is_available() else "cpu")


def _synchronize(result: Any = None) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


TASKS = {
    "describe": describe,
    "train": train,
    "train_values": train_values,
    "sample": sample,
    "pipeline": pipeline,
    "act": act,
    "evaluate": evaluate,
    "plan": plan,
    "train_frames": train_frames,
    "evaluate_games": evaluate_games,
    "load": load,
}
