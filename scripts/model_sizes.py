"""What models of several sizes need: `python scripts/model_sizes.py`."""

import dataclasses
import math
import time
from pathlib import Path

import jax
import tyro

from benchmarking.ours import make_benchmark_algorithm
from benchmarking.products import update_operations
from benchmarking.shapes import LARGE, Shapes
from jaxdt.parallel import Layout, choose_layout
from jaxdt.training import compile_update
from jaxdt.types import Window


SIZES = {
    "paper": Shapes(),
    "512 x 6": Shapes(width=512, num_layers=6, num_heads=8, batch_size=256),
    "large": dataclasses.replace(LARGE, batch_size=256),
    "1024 x 24": dataclasses.replace(LARGE, num_layers=24, batch_size=256),
    "2048 x 24": dataclasses.replace(LARGE, width=2048, num_layers=24, batch_size=256),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Count parameters and operations, and compile an update of each size without running it.

    Compiles for the device that jax finds, or for a GPU that is not there (see `gpu`).
    """

    only: tuple[str, ...] = ()
    """Sizes by name; none: all."""
    gpu: Path | None = None
    """A GPU's description as text, as XLA has them in xla/tools/hlo_opt/gpu_specs; needs jax's CUDA plugin only."""
    dtype: str = "bfloat16"
    """Of the computations."""
    devices: int = 1
    """How many share batch and state (`--shard-parameters`); the memory is then that of each. Parts of a CPU are made
    by JAX_NUM_CPU_DEVICES."""


def main() -> None:
    arguments = tyro.cli(Arguments, prog="python scripts/model_sizes.py")
    layout = _layout(arguments)
    print("size: parameters; a batch of an update; operations of its products; weights and AdamW; compiled in, and its")
    print("temporaries: as it is | with --rematerialize | with --scan-layers | with both")
    for name in arguments.only or SIZES:
        shapes = dataclasses.replace(SIZES[name], dtype=arguments.dtype)
        count, kept = _count(shapes, layout)
        print(
            f"{name}: {count / 1e6:,.1f} M; {shapes.batch_size} x K {shapes.context_length}; "
            f"{update_operations(shapes) / 1e12:,.3g} TFLOP; {kept / 2**30:.3g} GiB",
            end="",
            flush=True,
        )
        for scan, anew in ((False, False), (False, True), (True, False), (True, True)):
            changed = dataclasses.replace(shapes, rematerialize=anew, scan_layers=scan)
            seconds, temporaries = _compiled(changed, layout)
            print(f"{' |' if scan or anew else ';'} {seconds:.3g} s, {temporaries / 2**30:.3g} GiB", end="", flush=True)
        print()


def _layout(arguments: Arguments) -> Layout:
    shared = arguments.devices > 1
    if arguments.gpu is None:
        return choose_layout(256, devices=arguments.devices, shard_parameters=shared)
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name="described",
        topology=f"1x1x{arguments.devices}",
        target_config=arguments.gpu.read_text(),
    )
    return Layout(tuple(described.devices), shard_parameters=shared)


def _count(shapes: Shapes, layout: Layout) -> tuple[int, int]:
    """Parameters, and bytes of them and of what the optimiser keeps on each device."""
    state = jax.eval_shape(make_benchmark_algorithm(shapes).init, jax.random.key(0))
    held = (state.params, state.opt_state)
    sizes = jax.tree.map(
        lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        held,
        layout.state(held),
    )
    return sum(leaf.size for leaf in jax.tree.leaves(state.params)), sum(jax.tree.leaves(sizes))


def _compiled(shapes: Shapes, layout: Layout) -> tuple[float, int]:
    """Seconds to compile an update, and the bytes that each device needs beside the state."""
    algorithm, key = make_benchmark_algorithm(shapes), jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(algorithm.init, key)
    steps = (1, shapes.batch_size, shapes.context_length)
    batch = Window(
        states=jax.ShapeDtypeStruct((*steps, shapes.state_dim), "float32"),
        actions=jax.ShapeDtypeStruct((*steps, shapes.action_dim), "float32"),
        returns_to_go=jax.ShapeDtypeStruct(steps, "float32"),
        timesteps=jax.ShapeDtypeStruct(steps, "int32"),
        mask=jax.ShapeDtypeStruct(steps, "bool"),
    )
    where = (layout.state(state), jax.tree.map(lambda _: layout.batches, batch), layout.by_seed)
    there = jax.tree.map(lambda leaf, sharding: leaf.update(sharding=sharding), (state, batch, key), where)
    lowered = compile_update(algorithm.update, updates_per_call=1, layout=layout).lower(*there)
    began = time.perf_counter()
    compiled = lowered.compile()
    return time.perf_counter() - began, compiled.memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    main()
