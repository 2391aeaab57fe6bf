"""Real `jaxdt` processes, for the tests that kill, measure and compare them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

import jaxdt
from jaxdt.checkpoint import checkpoint_steps
from jaxdt.loggers import read_lines


def start(arguments: list[str], cache: Path | None = None, through: Sequence[str] = (), **options) -> subprocess.Popen:
    """`python arguments`, with this jaxdt whatever else is installed.

    `cache`: where compiled programs are kept and looked up; None: everything is compiled anew. `through`: a command
    that runs it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    root = str(Path(jaxdt.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    if cache is None:
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    else:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return subprocess.Popen([*through, sys.executable, *arguments], env=environment, text=True, **options)


def pendulum_episodes(path: Path) -> None:
    """Random episodes that fit InvertedPendulum-v5, whose episodes last some ten steps."""
    rng = np.random.default_rng(0)
    jaxdt.EpisodeStore.from_arrays(
        rng.normal(size=(120, 4)).astype(np.float32),
        rng.uniform(-0.9, 0.9, size=(120, 1)),
        rng.normal(size=120),
        episode_ends=20 * np.arange(1, 7),
        env_id="InvertedPendulum-v5",
    ).save(path)


def without_clock(path: Path) -> list[dict]:
    """The lines of a `.jsonl` file without what depends on the machine's speed."""
    return [
        {name: value for name, value in line.items() if not name.endswith(("_per_second", "seconds"))}
        for line in read_lines(path)
    ]


def everything_saved(checkpoints: Path) -> dict:
    """Parameters and optimiser state of the latest checkpoint, as nested dictionaries of arrays."""
    path = str(checkpoints / str(checkpoint_steps(checkpoints)[-1]))
    stored = ocp.checkpointables_metadata(path).metadata
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {
        part: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), stored[part])
        for part in ("params", "training")
    }
    return ocp.load_checkpointables(path, shapes)
