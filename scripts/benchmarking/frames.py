"""What the Decision Transformer of frames takes. Never loads torch."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import jaxdt
from benchmarking.shapes import GAME, GAME_TARGET, PICTURE, Shapes
from benchmarking.timing import one_by_one, repeatedly
from jaxdt.choice import EnvironmentChoice
from jaxdt.training import compile_update
from jaxdt.types import Discrete, Spec


def _algorithm(shapes: Shapes, **chosen: Any) -> tuple[jaxdt.AtariDTConfig, Spec]:
    config = jaxdt.AtariDTConfig(
        context_length=shapes.context_length,
        width=shapes.width,
        num_layers=shapes.num_layers,
        num_heads=shapes.num_heads,
        **chosen,
    ).for_steps(10**6)
    constants = {"longest_episode": np.float32(shapes.max_episode_length), "windows": np.float32(10**6)}
    action = Discrete(shapes.action_dim)
    return config, Spec(observation_shape=PICTURE, observation_dtype="uint8", action=action, constants=constants)


def train_frames(shapes: Shapes, updates: int = 2) -> Iterator[float]:
    """Seconds an update, several in a call, on batches that are on the device."""
    algorithm = jaxdt.make_algorithm(*_algorithm(shapes))
    rng = np.random.default_rng(0)
    steps = 2 * shapes.context_length
    store = jaxdt.EpisodeStore.from_arrays(
        rng.integers(0, 256, (steps, *PICTURE), np.uint8),
        np.arange(steps) % shapes.action_dim,
        np.ones(steps),
        episode_ends=[steps],
    )
    sampler = algorithm.sampler(store, batch_size=shapes.batch_size, seed=0)
    batches = jax.device_put(jax.tree.map(lambda *each: np.stack(each), *itertools.islice(sampler, updates)))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    step = compile_update(algorithm.update, updates_per_call=updates)

    def update() -> object:
        nonlocal state
        state, _ = step(state, batches, jax.random.key(0))
        return state

    return (seconds / updates for seconds in repeatedly(update, jax.block_until_ready))


def evaluate_games(shapes: Shapes, episodes: int = 10, steps: int = 1_000, context: str = "exact") -> Iterator[float]:
    """Seconds an environment step of the whole call `evaluate`, of games that are cut off after `steps`.

    With a cached context the model is the one that is told the timestep of each step.
    """
    config, spec = _algorithm(shapes, context=context, positions="step" if context == "cached" else "window")
    params = jax.jit(jaxdt.make_algorithm(config, spec).init)(jax.random.key(0)).params
    agent = jaxdt.Agent(config, params, spec, env_id=GAME)
    choice = EnvironmentChoice(env=GAME, max_episode_steps=steps)

    def play() -> int:
        [result] = jaxdt.evaluate(agent, choice, [GAME_TARGET], episodes)
        return int(result.lengths.sum())

    play()  # compiles
    return one_by_one(play)
