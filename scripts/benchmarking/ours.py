"""What jaxdt takes. Never loads torch."""

import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxdt
from benchmarking import floors
from benchmarking.shapes import ENV_ID, RETURN_SCALE, TARGET, Shapes, make_store, num_cores, store_of
from benchmarking.timing import one_by_one, repeatedly
from jaxdt.algorithms.decision_transformer import with_sizes
from jaxdt.config import PAPER
from jaxdt.data.writing import write_episodes
from jaxdt.evaluation.environments import make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.loggers import read_lines
from jaxdt.parallel import stacked
from jaxdt.run.loop import next_batches
from jaxdt.run.prepare import MOST_UPDATES_PER_CALL
from jaxdt.training import compile_update
from jaxdt.types import Algorithm, Box, Spec, Window


def describe(shapes: Shapes) -> Iterator[dict[str, Any]]:
    del shapes
    yield {
        "jaxdt": jaxdt.__version__,
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "cores": num_cores(),
    }


def write_store(shapes: Shapes, path: str) -> Iterator[int]:
    """Writes the episodes as parquet, an episode a row; the size in bytes."""
    write_episodes(store_of(shapes), Path(path))
    yield Path(path).stat().st_size


def train(shapes: Shapes, updates: int = MOST_UPDATES_PER_CALL, seeds: int = 1) -> Iterator[float]:
    """Seconds an update (of all seeds), so many in a call as in `jaxdt train`, on batches that are on the device."""
    algorithm = _algorithm(shapes)
    step = compile_update(algorithm.update, updates_per_call=updates, several_seeds=seeds > 1)
    first = jax.jit(algorithm.init)(jax.random.key(0))
    state = jax.device_put(stacked([first] * seeds), jax.devices()[0])
    windows = next_batches([_sampler(shapes) for _ in range(seeds)], updates)
    keys = stacked([jax.random.key(seed) for seed in range(seeds)])

    def update() -> Any:
        nonlocal state
        state, _ = step(state, windows, keys)
        return state

    return (seconds / updates for seconds in repeatedly(update, jax.block_until_ready))


def sample(shapes: Shapes) -> Iterator[float]:
    """Seconds a batch, in NumPy."""
    sampler = _sampler(shapes)
    return repeatedly(lambda: next(sampler))


def pipeline(shapes: Shapes, directory: str, calls: int = 4) -> Iterator[float]:
    """Seconds an update of a whole run, as its own metrics say of all calls but the first; each time a new run."""
    steps = calls * MOST_UPDATES_PER_CALL
    config = dataclasses.replace(PAPER, env="none", steps=steps, log_every=steps, batch_size=shapes.batch_size)
    config = dataclasses.replace(config, algorithm=_config(shapes), eval_every=steps, save_every=steps)
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
    agent = _agent(shapes)

    def play() -> int:
        [result] = jaxdt.evaluate(agent, ENV_ID, [TARGET], episodes, **options)
        return int(result.lengths.sum())

    return one_by_one(play)


def rollout(shapes: Shapes, environments: int, steps: int = 100) -> Iterator[float]:
    """Seconds an environment step of a compiled rollout; episodes are cut off after `steps`."""
    import gymnasium

    env_id = f"HalfCheetahOf{steps}Steps-v0"
    if env_id not in gymnasium.registry:
        gymnasium.register(env_id, gymnasium.spec(ENV_ID).entry_point, max_episode_steps=steps)
    agent = _agent(shapes)
    evaluator = Evaluator(agent.policy, make_environment(env_id))

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
    )
    return jaxdt.DecisionTransformerConfig(return_scale=RETURN_SCALE, model=model)


def _spec(shapes: Shapes) -> Spec:
    bounds = np.ones(shapes.action_dim, np.float32)
    constants = {
        "state_mean": np.zeros(shapes.state_dim, np.float32),
        "state_std": np.ones(shapes.state_dim, np.float32),
    }
    return Spec(observation_shape=(shapes.state_dim,), action=Box(-bounds, bounds), constants=constants)


def _algorithm(shapes: Shapes) -> Algorithm:
    return jaxdt.make_algorithm(_config(shapes), _spec(shapes))


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


def _agent(shapes: Shapes) -> jaxdt.Agent:
    return jaxdt.Agent(_config(shapes), _model(shapes)[0], _spec(shapes))


TASKS = floors.TASKS | {
    "describe": describe,
    "write_store": write_store,
    "train": train,
    "sample": sample,
    "pipeline": pipeline,
    "act": act,
    "evaluate": evaluate,
    "rollout": rollout,
    "load": load,
    "start": start,
}
