"""What cannot be beaten: products at this machine's rate, copying, raw physics, reading a file."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarking.shapes import ENV_ID, Shapes
from benchmarking.timing import one_by_one, repeatedly
from jaxdt.simulator import make_simulator, usable_cores


_CHAINED = 4  # products of each form in one call, so that the call itself costs nothing


def product_rate(shapes: Shapes) -> Iterator[float]:
    """Float32 multiply-adds a second times two, of the better of two forms: an MLP's of this model, a big square's."""
    rows, width = 3 * shapes.batch_size * shapes.context_length, shapes.width
    size = 2048 if jax.default_backend() == "cpu" else 8192
    mlp = _rate(rows, width, 4 * width, seconds=0.3)
    square = _rate(size, size, size, seconds=0.3)
    for rates in zip(mlp, square, strict=True):
        yield max(rates)


def _rate(rows: int, width: int, hidden: int, *, seconds: float) -> Iterator[float]:
    """Of (rows, width) times (width, hidden), and of its result times (hidden, width)."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (rows, width))
    up = jax.random.normal(keys[1], (width, hidden)) / width**0.5  # so that values keep their size
    down = jax.random.normal(keys[2], (hidden, width)) / hidden**0.5

    @jax.jit
    def products(x):
        for _ in range(_CHAINED):
            x = jnp.dot(jnp.dot(x, up), down)
        return x

    operations = _CHAINED * 2 * 2 * rows * width * hidden
    return (operations / each for each in repeatedly(lambda: products(x), jax.block_until_ready, seconds=seconds))


def products(shapes: Shapes, operations: int) -> Iterator[float]:
    """Seconds that so many operations take at this machine's product rate."""
    return (operations / rate for rate in product_rate(shapes))


def copy(shapes: Shapes) -> Iterator[float]:
    """Seconds to copy a batch's bytes."""
    source = np.ones(shapes.batch_bytes, np.uint8)
    target = np.empty_like(source)
    return repeatedly(lambda: np.copyto(target, source), seconds=0.2)


def products_or_copy(shapes: Shapes, operations: int) -> Iterator[float]:
    """The longer of both."""
    return map(max, products(shapes, operations), copy(shapes))


def physics(shapes: Shapes, episodes: int) -> Iterator[float]:
    """Seconds an environment step of `episodes` simulations alone, with actions drawn beforehand.

    On all cores where MuJoCo can (from 3.17 on), else Gymnasium's simulators in turn in one thread.
    """
    steps = max(shapes.episode_length // episodes, min(100, shapes.episode_length))
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, episodes, shapes.action_dim)).astype(np.float32)
    reset, step = (_on_all_cores if find_spec("mujoco.batch") else _in_turn)(episodes)

    def play() -> int:
        for each in actions:
            step(each)
        return steps * episodes

    while True:
        reset()
        yield next(one_by_one(play))


_Simulations = tuple[Callable[[], None], Callable[[np.ndarray], None]]
"""`reset()`, to the seeds 0, 1, ...; and `step(actions (b, a))`."""


def _on_all_cores(episodes: int) -> _Simulations:
    from mujoco.batch import Batch

    simulator = make_simulator(ENV_ID).unwrapped
    starts = []
    for seed in range(episodes):
        simulator.reset(seed=seed)
        starts.append((simulator.data.qpos.copy(), simulator.data.qvel.copy()))
    batch = Batch(simulator.model, episodes, min(usable_cores(), episodes))
    qpos, qvel, ctrl = batch.bind("qpos"), batch.bind("qvel"), batch.bind("ctrl")

    def reset() -> None:
        batch.reset()
        qpos[:], qvel[:] = map(np.stack, zip(*starts, strict=True))

    def step(actions: np.ndarray) -> None:
        ctrl[:] = actions
        batch.step(nstep=simulator.frame_skip)

    return reset, step


def _in_turn(episodes: int) -> _Simulations:
    simulators = [make_simulator(ENV_ID) for _ in range(episodes)]

    def reset() -> None:
        for seed, simulator in enumerate(simulators):
            simulator.reset(seed=seed)

    def step(actions: np.ndarray) -> None:
        for simulator, action in zip(simulators, actions, strict=True):
            simulator.step(action)

    return reset, step


def read(shapes: Shapes, path: str) -> Iterator[float]:
    """Seconds to read a file's bytes that the operating system has in memory."""
    return repeatedly(lambda: Path(path).read_bytes())


TASKS = {
    "product_rate": product_rate,
    "products": products,
    "copy": copy,
    "products_or_copy": products_or_copy,
    "physics": physics,
    "read": read,
}
