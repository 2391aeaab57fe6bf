"""The rows of scripts/gpu_check.py: what is measured on a GPU, how it is shown, and when it is wrong."""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

from benchmarking.measure import Call
from benchmarking.products import update_operations
from benchmarking.report import PAPER_UPDATES, share_of_peak
from benchmarking.shapes import ATARI, ENV_ID, LARGE, PLANNING, Shapes


SECTIONS = {
    "agree": "20 updates here and on the CPU: largest relative differences, and the largest one of a weight; and how "
    "far losses and gradient norms are from the ones that are recorded",
    "paper": "one update of the paper's shape, batches on the device unless it says sampled",
    "run": "a whole `jaxdt train paper` of 5,000 updates, sampling included",
    "seeds": "one update of several seeds at once",
    "large": "width 1024, 12 layers of 16 heads, K 64, bfloat16",
    "batch": "one update of larger batches",
    "evaluate": "HalfCheetah, 100 steps an episode, cached acting unless it says exact",
    "act": "the newest action of so many windows at once",
    "peer": "Hugging Face's model in PyTorch on the same card",
    "plan": "the Trajectory Transformer at its authors' sizes: HalfCheetah, each step planned anew",
    "frames": "the Decision Transformer for Atari at its authors' sizes; games of at most 1,000 steps",
    "graphs": "the paper's shape, ten updates a call, with other command buffers (CUDA graphs)",
}
"""What `--only` takes, in the order of measuring: a first call compiles for 10 to 30 s, and time may run out."""
FLOAT32 = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
"""Else jax multiplies float32 on a GPU as TF32."""
FRAME_EPOCHS, FRAME_TRANSITIONS = 5, 500_000
"""What the authors of the Decision Transformer train on a game."""
AGREE_WITHIN = {"highest": 1e-4, "default": 3e-3}
"""Relative difference of losses and gradient norms in 20 updates, by the precision of products."""
RECORDED_WITHIN = {"highest": 1e-3, "default": 3e-3}
"""Difference from the numbers recorded on a CPU."""
LARGEST_STEP = 4e-3
"""How far a weight may lie off: two ways of rounding a gradient near 0 part by twice the rate, 1e-4, an update."""
GRAPHS = {
    "none": "--xla_gpu_enable_command_buffer=",
    "around the loop": "--xla_gpu_enable_command_buffer=+WHILE --xla_gpu_graph_min_graph_size=1",
    "around the loop, unrolled": "--xla_gpu_enable_command_buffer=+WHILE --xla_gpu_graph_min_graph_size=1 "
    "--xla_gpu_command_buffer_unroll_loops=true",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    call: Call
    shapes: Shapes = dataclasses.field(default_factory=Shapes)
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    """Environment variables; every other value of them is a process of its own."""
    module: str = "benchmarking.ours"
    process: str = ""
    """Of its own for each name, so that others' memory is not counted."""
    repeats: int | None = None
    """None: as asked for."""
    seeds: int = 1


def make_rows(directory: Path, device: str) -> dict[str, list[Row]]:
    """By section; `directory`: for runs, `device`: gpu or cpu, of the peer."""
    there, peer = {"directory": str(directory)}, {"device": device}
    bfloat16 = Shapes(dtype="bfloat16")
    train = [Row(name=f"{n} a call, TF32", call=Call("train", {"updates": n})) for n in (1, 10, 100)]
    rows = {
        "agree": [
            Row(name="float32", call=Call("agree"), settings=FLOAT32, repeats=1),
            Row(name="TF32, jax's default", call=Call("agree"), repeats=1),
        ],
        "paper": [
            *train,
            *(
                Row(name=f"{n} a call, TF32, sampled", call=Call("train", {"updates": n, "sampling": True}))
                for n in (10, 100)
            ),
            *(
                Row(name=f"{n} a call, {kind}", call=Call("train", {"updates": n}), shapes=shapes, settings=settings)
                for n in (10, 1, 100)
                for kind, shapes, settings in (("bfloat16", bfloat16, {}), ("float32", Shapes(), FLOAT32))
            ),
        ],
        "run": [
            Row(name=name, call=Call("pipeline", there | {"updates": 5000}), shapes=shapes, repeats=1)
            for name, shapes in (("10 a call, TF32", Shapes()), ("10 a call, bfloat16", bfloat16))
        ],
        "peer": [
            Row(name="train, TF32", call=Call("train", peer), module="benchmarking.peers"),
            *(
                Row(name=f"act at {n}", call=Call("act", peer | {"environments": n}), module="benchmarking.peers")
                for n in (1, 64, 1024)
            ),
        ],
        "act": [Row(name=f"act at {n}", call=Call("act", {"environments": n})) for n in (1, 64, 1024, 4096)],
        "evaluate": [
            *(_play(n, ENV_ID) for n in (64, 1024)),
            _play(64, ENV_ID, context="exact"),
            *(_play(n, f"mjx:{ENV_ID}") for n in (1024, 8192, 64)),
            _play(8192, ENV_ID),
        ],
        "plan": [
            Row(
                name=f"horizon {horizon}, beam {width}, {'1 episode' if n == 1 else f'{n} episodes'}",
                call=Call("plan", {"horizon": horizon, "beam_width": width, "episodes": n}),
                shapes=PLANNING,
            )
            for horizon, width, n in ((5, 32, 1), (15, 128, 64))
        ],
        "seeds": [Row(name=f"{n} seeds", call=Call("train", {"seeds": n}), seeds=n) for n in (5, 16, 64)],
        "frames": [
            Row(name="train, batch 128", call=Call("train_frames"), shapes=ATARI),
            Row(
                name="train, batch 128, PyTorch",
                call=Call("train_frames", peer),
                shapes=ATARI,
                module="benchmarking.peers",
            ),
            *(
                Row(
                    name=f"evaluate, 10 games, {context}",
                    call=Call("evaluate_games", {"context": context}),
                    shapes=ATARI,
                    repeats=1,
                )
                for context in ("exact", "cached")
            ),
        ],
        "batch": [
            Row(
                name=f"batch {n:,}, {kind}", call=Call("train", {"updates": 1}), shapes=Shapes(batch_size=n, dtype=kind)
            )
            for n, kind in ((512, "float32"), (4096, "float32"), (4096, "bfloat16"), (16384, "bfloat16"))
        ],
        "large": [
            *(
                Row(
                    name=f"batch {n}",
                    call=Call("train", {"updates": 1}),
                    shapes=dataclasses.replace(LARGE, batch_size=n),
                    process="large",
                )
                for n in (64, 256)
            ),
            Row(name="most memory held", call=Call("memory"), repeats=1, process="large"),
            *(
                Row(
                    name=f"a block's attention, batch 256, {kernel}",
                    call=Call("attention", {"kernel": kernel}),
                    shapes=dataclasses.replace(LARGE, batch_size=256),
                )
                for kernel in ("ours", "cudnn")
            ),
        ],
        "graphs": [Row(name=name, call=Call("train"), settings={"XLA_FLAGS": flags}) for name, flags in GRAPHS.items()],
    }
    return {section: rows[section] for section in SECTIONS}


def _play(environments: int, env: str, context: str = "cached") -> Row:
    name = f"{env}, {environments:,} episodes{', exact' if context == 'exact' else ''}"
    return Row(name=name, call=Call("rollout", {"environments": environments, "env": env, "context": context}))


def show(row: Row, values: list[Any], machine: dict[str, Any]) -> str:
    """The median of what was measured, for people."""
    if row.call.task == "agree":
        return ", ".join(f"{name} {value:.1e}" for name, value in values[0].items())
    value = statistics.median(values)
    match row.call.task:
        case "memory":
            return f"{value / 2**30:.1f} GiB"
        case "act" | "attention":
            return f"{1e3 * value:.3f} ms"
        case "rollout" | "plan" | "evaluate_games":
            return f"{1 / value:,.0f} steps/s"
        case "train_frames":
            seconds = value * FRAME_EPOCHS * FRAME_TRANSITIONS / row.shapes.batch_size
            epochs = f"{FRAME_EPOCHS} epochs of {FRAME_TRANSITIONS:,} transitions"
            return f"{1e3 * value:.3f} ms, {1 / value:,.1f} a second; {epochs} in {seconds:.0f} s"
        case "pipeline":
            return f"{1e3 * value:.3f} ms an update; {PAPER_UPDATES:,} in {PAPER_UPDATES * value:.0f} s"
    shown = f"{1e3 * value:.3f} ms, {1 / value:,.0f} a second"
    if row.module != "benchmarking.ours":
        return shown
    rate = row.seeds * update_operations(row.shapes) / value
    precision = "float32" if row.settings == FLOAT32 else "TF32"
    precision = "bfloat16" if row.shapes.dtype == "bfloat16" else precision
    return f"{shown}; {rate / 1e12:.1f} TFLOP/s, {share_of_peak(rate, machine, precision)}"


def failure(row: Row, values: list[Any]) -> str | None:
    """Why a result is wrong; None: it is not, or cannot be."""
    if row.call.task != "agree":
        return None
    precision = "highest" if row.settings == FLOAT32 else "default"
    within, of_recorded = AGREE_WITHIN[precision], RECORDED_WITHIN[precision]
    most = {"loss": within, "grad_norm": within, "weights": LARGEST_STEP, "recorded": of_recorded}
    if all(value < most[name] for name, value in values[0].items()):  # not where one is NaN
        return None
    return (
        f"loss and gradient norm may differ by {within:g}, and a weight by {LARGEST_STEP:g}; from what is recorded by "
        f"{of_recorded:g}"
    )
