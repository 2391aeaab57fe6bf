"""Measures jaxdt beside what it replaces: `python scripts/benchmark.py --help`."""

import dataclasses
import json
import signal
import sys
import tempfile
import typing
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarking.curves import CURVES, draw_curve, measure_curve
from benchmarking.machine import Others, describe, machine_lines, peer_device
from benchmarking.measure import Call, Worker, WorkerError, worker_environment
from benchmarking.report import document, quantity, remarks, table
from benchmarking.rows import Line, make_rows, measure_row, needs_episodes
from benchmarking.shapes import ATARI, PLANNING, VALUES, Shapes
from jaxdt.files import open_atomically


Name = Literal[
    "train",
    "sample",
    "pipeline",
    "seeds",
    "train-iql",
    "train-td3-bc",
    "plan",
    "train-atari",
    "evaluate-atari",
    "act",
    "evaluate",
    "load",
    "compile",
    "curves",
]
TITLE = (
    "batch {0.batch_size}, K {0.context_length}, width {0.width}, {0.num_layers} layers, HalfCheetah ({0.state_dim} "
    "numbers observed, {0.action_dim} acted), {0.max_episode_length:,} timesteps, dropout 0.1 (IQL, TD3+BC: batch "
    "{1.batch_size}, {1.num_layers} x {1.width} units; plan: Trajectory Transformer, width {2.width}, {2.num_layers} "
    "layers, {2.context_length} transitions; atari: batch {3.batch_size}, K {3.context_length}, {3.num_layers} layers "
    "of {3.num_heads} heads, Pong of at most 1,000 steps); medians (least to most)"
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure jaxdt beside Hugging Face's model and tutorial, and beside what the machine can do at best.

    `train-iql` and `train-td3-bc` have the same update in plain PyTorch beside them.

    Ours and the peer's run in processes of their own, which take turns. The peer needs the extra `parity`. The whole
    takes about a quarter of an hour on two cores that nothing else uses.
    """

    only: tuple[Name, ...] = ()
    """Rows to measure, and `curves`, which draws how cost grows; none: all."""
    device: Literal["cpu", "gpu"] | None = None
    """Where to compute; None: where jax does by default."""
    json: Path | None = None
    """Also write everything here, every repeat included."""
    repeats: int = 5
    """Turns that each takes; rows of many seconds take at most 3."""
    curves: Path = Path("benchmark-curves")
    """Directory of the curves' figures."""


def main() -> int:
    arguments = tyro.cli(Arguments, prog="python scripts/benchmark.py")
    if arguments.repeats < 1:
        sys.exit(f"benchmark: error: --repeats must be at least 1; got {arguments.repeats}.")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what follows cleans up
    with tempfile.TemporaryDirectory(prefix="jaxdt-benchmark-") as name:
        environment = worker_environment(arguments.device)
        ours = Worker("benchmarking.ours", environment, Path(name) / "ours.log")
        peers = Worker("benchmarking.peers", environment, Path(name) / "peers.log")
        try:
            return _run(arguments, ours, peers, Path(name))
        except WorkerError as error:
            sys.exit(f"benchmark: error: {error}")
        finally:
            ours.close()
            peers.close()


def _run(arguments: Arguments, ours: Worker, peers: Worker, directory: Path) -> int:
    shapes, names = Shapes(), arguments.only or typing.get_args(Name)
    others, machine = Others(), describe(ours, peers, shapes)
    if arguments.device not in (None, machine["backend"]):
        raise WorkerError(f"jax finds no {arguments.device} here, only {machine['device']}.")
    lines = _measure_rows(names, arguments.repeats, machine, ours, peers, shapes, directory)
    curves = _measure_curves(arguments, machine, ours, shapes) if "curves" in names else {}
    ours.close()
    peers.close()
    machine["busy_elsewhere"] = others.cores()
    says = remarks(lines, shapes, machine)
    if lines:
        title = TITLE.format(shapes, VALUES, PLANNING, ATARI)
        print("\n".join([machine_lines(machine), title, "", table(lines), *says]))
    if arguments.json is not None:
        everything = {"command": sys.argv, "machine": machine, "shapes": dataclasses.asdict(shapes)}
        everything |= {"rows": document(lines), "remarks": says, "curves": curves}
        with open_atomically(arguments.json) as file:
            json.dump(everything, file, indent=1)
    return int(any(isinstance(line.ours, str) for line in lines))


def _measure_rows(
    names: Any, repeats: int, machine: dict, ours: Worker, peers: Worker, shapes: Shapes, directory: Path
) -> list[Line]:
    rows = make_rows(shapes, directory, peer_device(machine))
    if any(map(needs_episodes, names)):
        _say(f"writing {shapes.num_episodes * shapes.episode_length:,} steps")
        ours.ask(Call("write_store", {"path": str(directory / "episodes.parquet")}), shapes)
    peer = machine["peer"] if isinstance(machine["peer"], str) else peers
    lines = []
    for row in (row for name in names for row in rows.get(name, [])):
        _say(f"measuring {row.name}")
        for line in measure_row(row, ours, peer, shapes, repeats):
            beside = f", peer {quantity(line.peer, line.is_rate)}" if line.peer is not None else ""
            _say(f"  {line.name}: {quantity(line.ours, line.is_rate)}{beside}")
            lines.append(line)
    return lines


def _measure_curves(arguments: Arguments, machine: dict, ours: Worker, shapes: Shapes) -> dict[str, Any]:
    arguments.curves.mkdir(parents=True, exist_ok=True)
    measured = {}
    for curve in CURVES:
        _say(f"measuring {curve.name}")
        measured[curve.name] = measure_curve(curve, ours, shapes, min(arguments.repeats, 3))
        path = arguments.curves / f"{curve.name}.png"
        draw_curve(curve, measured[curve.name], path, f"{machine['processor']}, {machine['cores']} cores")
        _say(f"  drawn: {path}")
    return measured


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
