"""What jaxdt takes. Never loads torch."""

import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxdt
from benchmarking import floors
from benchmarking.frames import evaluate_games, train_frames
from benchmarking.shapes import ENV_ID, RETURN_SCALE, TARGET, Shapes, ValueMethod, make_store, store_of
from benchmarking.timing import one_by_one, repeatedly
from jaxdt.algorithms.decision_transformer import with_sizes
from jaxdt.config import PAPER, Context
from jaxdt.data.writing import write_episodes
from jaxdt.evaluation.environments import make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.loggers import read_lines
from jaxdt.models.attention import KVCache, attend, causal_and_real
from jaxdt.parallel import Layout
from jaxdt.run.loop import next_batches
from jaxdt.run.prepare import MOST_UPDATES_PER_CALL
from jaxdt.simulator import usable_cores
from jaxdt.stacking import stacked
from jaxdt.training import compile_update
from jaxdt.types import Algorithm, Box, Sampler, Spec, Window


def describe(shapes: Shapes) -> Iterator[dict[str, Any]]:
    del shapes
    yield {
        "jaxdt": jaxdt.__version__,
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "cores": usable_cores(),
    }


def write_store(shapes: Shapes, path: str) -> Iterator[int]:
    """Writes the episodes as parquet, an episode a row; the size in bytes."""
    write_episodes(store_of(shapes), Path(path))
    yield Path(path).stat().st_size


def train(
    shapes: Shapes, updates: int = MOST_UPDATES_PER_CALL, seeds: int = 1, *, sampling: bool = False
) -> Iterator[float]:
    """Seconds an update (of all seeds), so many in a call as in `jaxdt train`.

    On batches that are on the device, or with `sampling` drawn and sent there while it works, as training does.
    """
    samplers = [_sampler(shapes) for _ in range(seeds)]
    return _train(make_benchmark_algorithm(shapes), samplers, updates, sampling=sampling)


def train_values(
    shapes: Shapes, method: ValueMethod, updates: int = MOST_UPDATES_PER_CALL, seeds: int = 1
) -> Iterator[float]:
    """The same of a method that learns values."""
    algorithm, store = make_value_algorithm(shapes, method), store_of(shapes)
    samplers = [algorithm.sampler(store, batch_size=shapes.batch_size, seed=seed) for seed in range(seeds)]
    return _train(algorithm, samplers, updates)


def _train(
    algorithm: Algorithm, samplers: Sequence[Sampler], updates: int, *, sampling: bool = False
) -> Iterator[float]:
    seeds = len(samplers)
    layout = Layout(tuple(jax.devices()[:1]), seeds)
    step = compile_update(algorithm.update, updates_per_call=updates, layout=layout)
    first = jax.jit(algorithm.init)(jax.random.key(0))
    state = layout.place_state(stacked([first] * seeds))
    windows = next_batches(samplers, updates)
    keys = stacked([jax.random.key(seed) for seed in range(seeds)])

    def update() -> Any:
        nonlocal state, windows
        state, _ = step(state, windows, keys)
        if sampling:
            windows = next_batches(samplers, updates)
        return state

    return (seconds / updates for seconds in repeatedly(update, jax.block_until_ready))


def agree(shapes: Shapes, updates: int = 20) -> Iterator[dict[str, float]]:
    """Largest relative difference of the losses and gradient norms of `updates` updates here and on the CPU.

    And the largest difference of a weight after them; at once with the full learning rate, so that weights move. Of
    the paper's shape also how far losses and norms are from those that are recorded here.
    """
    config = dataclasses.replace(_config(shapes), optimizer=jaxdt.OptimizerConfig(warmup_steps=1))
    algorithm = jaxdt.make_algorithm(config, _spec(shapes))
    keys, outcomes = jax.random.split(jax.random.key(0)), []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        step = compile_update(algorithm.update, updates_per_call=updates)
        with jax.default_device(device):
            windows = jax.device_put(next_batches([_sampler(shapes)], updates), device)
            state = jax.device_put(jax.jit(algorithm.init)(keys[0]), device)
            state, metrics = step(state, windows, jax.device_put(keys[1], device))
        outcomes.append(jax.tree.map(np.asarray, (metrics, state.params)))
    (metrics, params), (expected, expected_params) = outcomes
    differences = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), params, expected_params)
    relative = {name: np.abs(metrics[name] / expected[name] - 1) for name in ("loss", "grad_norm")}
    yield (
        {name: float(np.max(values)) for name, values in relative.items()}
        | {"weights": max(jax.tree.leaves(differences))}
        | _from_recorded(metrics, shapes)
    )


RECORDED = {1: (0.534979, 0.310475), 10: (0.525473, 0.287204), 20: (0.486916, 0.264307)}
"""Loss and gradient norm of these updates of the paper's shape, on a CPU with jax 0.10.2."""


def _from_recorded(metrics: dict[str, np.ndarray], shapes: Shapes) -> dict[str, float]:
    if shapes != Shapes() or len(metrics["loss"]) < max(RECORDED):
        return {}
    found = [[metrics[name][number - 1] for name in ("loss", "grad_norm")] for number in RECORDED]
    return {"recorded": float(np.max(np.abs(np.array(found) - np.array(list(RECORDED.values())))))}


def memory(shapes: Shapes) -> Iterator[int]:
    """The most bytes of the device that this process has held; 0 where it does not say."""
    del shapes
    while True:
        yield (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def sample(shapes: Shapes) -> Iterator[float]:
    """Seconds a batch, in NumPy."""
    sampler = _sampler(shapes)
    return repeatedly(lambda: next(sampler))


def pipeline(shapes: Shapes, directory: str, updates: int = 40) -> Iterator[float]:
    """Seconds an update of a whole run, as its own metrics say of all calls but the first; each time a new run."""
    config = dataclasses.replace(
        PAPER,
        env="none",
        steps=updates,
        log_every=updates,
        eval_every=updates,
        save_every=updates,
        batch_size=shapes.batch_size,
        algorithm=_config(shapes),
    )
    while True:
        run = jaxdt.train(config, store_of(shapes), out=Path(tempfile.mkdtemp(dir=directory)))
        yield 1 / read_lines(run / "metrics.jsonl")[-1]["updates_per_second"]


def act(shapes: Shapes, environments: int) -> Iterator[float]:
    """Seconds from windows on the device to the newest action of each."""
    params, apply = _model(shapes)
    windows = jax.device_put(_full_windows(shapes, environments))
    policy = jax.jit(lambda params, window: apply(params, window, newest_only=True)[:, 0])
    return repeatedly(lambda: jax.block_until_ready(policy(params, windows)))


def evaluate(shapes: Shapes, episodes: int, **options: Any) -> Iterator[float]:
    """Seconds an environment step of the whole call `evaluate`, whose `options` are passed on."""
    agent = _agent(_config(shapes), shapes)

    def play() -> int:
        [result] = jaxdt.evaluate(agent, ENV_ID, [TARGET], episodes, **options)
        return int(result.lengths.sum())

    return one_by_one(play)


def rollout(
    shapes: Shapes, environments: int, steps: int = 100, env: str = ENV_ID, context: Context = "exact"
) -> Iterator[float]:
    """Seconds an environment step of a compiled rollout; episodes are cut off after `steps`."""
    agent = _agent(dataclasses.replace(_config(shapes), context=context), shapes)
    environment = make_environment(env)
    environment.max_episode_steps = steps
    evaluator = Evaluator(agent.policy, environment)

    def play() -> int:
        return int(np.sum(evaluator.run_episodes(agent.params, [TARGET], environments, 0).lengths))

    play()  # compiles
    return one_by_one(play)


def load(shapes: Shapes, path: str) -> Iterator[float]:
    """Seconds to load a parquet file's episodes."""
    del shapes
    import pyarrow.parquet  # noqa: F401  not part of what loading takes

    def load_all() -> int:
        jaxdt.load_episodes(path)
        return 1

    return one_by_one(load_all)


def start(shapes: Shapes, directory: str) -> Iterator[float]:
    """Seconds from the start of `jaxdt train paper` on 20 episodes to its first update.

    The first has an empty compilation cache, the later ones what the first left in it.
    """
    here = Path(tempfile.mkdtemp(dir=directory))
    make_store(20, shapes.episode_length, shapes.state_dim, shapes.action_dim).save(here / "episodes.npz")
    command = [sys.executable, "-m", "jaxdt", "train", "paper", "--dataset", str(here / "episodes.npz")]
    command += ["--env", "none", "--steps", "1", "--out"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(here / "cache")}
    for number in itertools.count():
        yield _seconds_to_first_update(command, here / f"run-{number}", environment)


def _seconds_to_first_update(command: list[str], out: Path, environment: dict[str, str]) -> float:
    metrics = out / "metrics.jsonl"
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, str(out)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not metrics.exists():
        time.sleep(0.005)
    seconds = time.perf_counter() - began
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"jaxdt train ended with exit code {process.returncode}: {said[-500:]}")
    return seconds


def _config(shapes: Shapes) -> jaxdt.DecisionTransformerConfig:
    model = jaxdt.ModelConfig(
        context_length=shapes.context_length,
        max_episode_length=shapes.max_episode_length,
        width=shapes.width,
        num_layers=shapes.num_layers,
        num_heads=shapes.num_heads,
        dtype=shapes.dtype,
        rematerialize=shapes.rematerialize,
        scan_layers=shapes.scan_layers,
    )
    return jaxdt.DecisionTransformerConfig(return_scale=RETURN_SCALE, model=model)


def _spec(shapes: Shapes) -> Spec:
    bounds = np.ones(shapes.action_dim, np.float32)
    constants = {
        "state_mean": np.zeros(shapes.state_dim, np.float32),
        "state_std": np.ones(shapes.state_dim, np.float32),
    }
    return Spec(observation_shape=(shapes.state_dim,), action=Box(-bounds, bounds), constants=constants)


def make_benchmark_algorithm(shapes: Shapes) -> Algorithm:
    return jaxdt.make_algorithm(_config(shapes), _spec(shapes))


def make_value_algorithm(shapes: Shapes, method: ValueMethod) -> Algorithm:
    kind = jaxdt.IQLConfig if method == "iql" else jaxdt.TD3BCConfig
    spec = _spec(shapes)
    spec = dataclasses.replace(spec, constants=spec.constants | {"reward_scale": np.ones(())})
    return jaxdt.make_algorithm(kind(width=shapes.width, num_layers=shapes.num_layers).for_steps(10**6), spec)


def plan(shapes: Shapes, horizon: int, beam_width: int, episodes: int = 1) -> Iterator[float]:
    """Seconds an environment step of episodes side by side whose context is full, each step planned anew."""
    config = jaxdt.TrajectoryTransformerConfig(
        transitions=shapes.context_length,
        context_transitions=min(5, shapes.context_length),
        width=shapes.width,
        num_layers=shapes.num_layers,
        num_heads=shapes.num_heads,
        horizon=horizon,
        beam_width=beam_width,
    )
    config, store = config.for_data(None).for_steps(1), store_of(shapes)
    algorithm = jaxdt.make_algorithm(config, spec := jaxdt.make_spec(config, store))
    params = jax.jit(algorithm.init)(jax.random.key(0)).params
    act = jax.jit(algorithm.policy.act)
    observation, reward = jnp.zeros((episodes, *spec.observation_shape)), jnp.zeros(episodes)
    memory, keys = algorithm.policy.start(jnp.zeros(episodes)), jax.random.split(jax.random.key(1), episodes)
    for _ in range(config.context_transitions):
        memory, _ = act(params, memory, observation, reward, keys)
    seconds = repeatedly(lambda: act(params, memory, observation, reward, keys), jax.block_until_ready)
    return (each / episodes for each in seconds)


def _model(shapes: Shapes) -> tuple[Any, Any]:
    init, apply = jaxdt.build_model(with_sizes(_config(shapes).model, _spec(shapes)))
    return jax.jit(init)(jax.random.key(0)), apply


def _sampler(shapes: Shapes) -> jaxdt.WindowSampler:
    return jaxdt.WindowSampler(
        store_of(shapes),
        shapes.context_length,
        shapes.batch_size,
        return_scale=RETURN_SCALE,
        max_episode_length=shapes.max_episode_length,
    )


def _full_windows(shapes: Shapes, count: int) -> Window:
    rng = np.random.default_rng(0)
    steps = (count, shapes.context_length)
    return Window(
        states=rng.standard_normal((*steps, shapes.state_dim), np.float32),
        actions=rng.uniform(-1, 1, (*steps, shapes.action_dim)).astype(np.float32),
        returns_to_go=rng.standard_normal(steps, np.float32),
        timesteps=np.tile(np.arange(shapes.context_length, dtype=np.int32), (count, 1)),
        mask=np.ones(steps, bool),
    )


def _agent(config: jaxdt.DecisionTransformerConfig, shapes: Shapes) -> jaxdt.Agent:
    return jaxdt.Agent(config, _model(shapes)[0], _spec(shapes))


def attention(shapes: Shapes, kernel: Literal["ours", "cudnn"]) -> Iterator[float]:
    """Seconds of one block's attention with its gradients, no weight dropped: as our models compute it, or cuDNN."""
    width, heads, steps = shapes.width, shapes.num_heads, shapes.context_length
    may_attend = causal_and_real(jnp.ones((1, steps), bool))

    def by_head(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], heads, -1)

    def attended(query: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        if kernel == "ours":
            return attend(query, KVCache.of(keys, values, heads), may_attend)
        parts, mask = map(by_head, (query, keys, values)), may_attend[:, None]
        return jax.nn.dot_product_attention(*parts, mask=mask, implementation=kernel)

    draws = jax.random.normal(jax.random.key(0), (3, shapes.batch_size, 3 * steps, width), shapes.dtype)
    gradients = jax.jit(jax.grad(lambda *parts: jnp.sum(attended(*parts).astype(jnp.float32) ** 2), (0, 1, 2)))
    return repeatedly(lambda: jax.block_until_ready(gradients(*draws)))


TASKS = floors.TASKS | {
    "describe": describe,
    "write_store": write_store,
    "train": train,
    "train_values": train_values,
    "agree": agree,
    "attention": attention,
    "memory": memory,
    "sample": sample,
    "pipeline": pipeline,
    "act": act,
    "plan": plan,
    "evaluate": evaluate,
    "rollout": rollout,
    "train_frames": train_frames,
    "evaluate_games": evaluate_games,
    "load": load,
    "start": start,
}
