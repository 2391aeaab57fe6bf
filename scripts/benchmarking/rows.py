"""The benchmark's rows: what is measured of ours, of the peer, and as the floor."""

import dataclasses
import typing
from pathlib import Path

from benchmarking.measure import Call, Worker, alternate
from benchmarking.products import forward_operations, update_operations, value_update_operations
from benchmarking.shapes import ATARI, PLANNING, VALUES, Shapes, ValueMethod
from jaxdt.config import Context


LONG = 3
"""Repeats that a row of many seconds takes at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison. All that is measured is seconds: a call, an update, a batch or an environment step."""

    name: str
    ours: Call
    peer: Call | None = None
    floor: Call | None = None
    floor_is: str = ""
    first: str | None = None
    """Every repeat is a process of its own; its first value is reported under this name, its second under `name`."""
    beside: Call | None = None
    """Of ours, measured in the same turns, to compare `ours` with."""
    is_rate: bool = False
    """Shown as environment steps a second."""
    repeats: int | None = None
    """At most so many."""
    shapes: Shapes | None = None
    """Of this row; None: the table's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """What the table shows in a line: seconds of each repeat, or the reason why there are none."""

    name: str
    ours: list[float] | str
    peer: list[float] | str | None
    floor: list[float] | str | None
    floor_is: str
    is_rate: bool
    beside: list[float] | str | None = None


def make_rows(shapes: Shapes, directory: Path, device: str) -> dict[str, list[Row]]:
    """All rows by the name that `--only` takes; `device`: cpu or gpu, of the peer; `directory`: for large files."""
    episodes = {"path": str(directory / "episodes.parquet")}
    place = {"directory": str(directory)}
    update = update_operations(shapes)
    return {
        "train": [
            Row(
                name="train",
                ours=Call("train"),
                peer=Call("train", {"device": device}),
                floor=Call("products", {"operations": update}),
                floor_is="the matrix products that our update needs, at the product rate measured beside it",
            )
        ],
        "sample": [
            Row(
                name="sample",
                ours=Call("sample"),
                peer=Call("sample", episodes | place),
                floor=Call("copy"),
                floor_is="copying the batch's bytes",
            )
        ],
        "pipeline": [
            Row(
                name="pipeline",
                ours=Call("pipeline", place),
                peer=Call("pipeline", episodes | place | {"device": device}),
                floor=Call("products_or_copy", {"operations": update}),
                floor_is="the longer of those products and that copying",
                beside=Call("train"),
                repeats=LONG,
            )
        ],
        "seeds": [
            Row(name="train, 5 seeds", ours=Call("train", {"seeds": 5}), beside=Call("train")),
        ],
        **{f"train-{method}": _train_values(method, device) for method in typing.get_args(ValueMethod)},
        "plan": [
            Row(
                name="plan, horizon 5, beam 32",
                ours=Call("plan", {"horizon": 5, "beam_width": 32}),
                peer=Call("plan", {"horizon": 5, "beam_width": 32}),
                is_rate=True,
                repeats=LONG,
                shapes=PLANNING,
            )
        ],
        "train-atari": [
            Row(
                name="train atari",
                ours=Call("train_frames"),
                peer=Call("train_frames", {"device": device}),
                repeats=LONG,
                shapes=ATARI,
            )
        ],
        "evaluate-atari": [
            Row(
                name="evaluate, 10 games" + ", cached" * (context == "cached"),
                ours=Call("evaluate_games", {"episodes": 10, "context": context}),
                peer=Call("evaluate_games"),
                is_rate=True,
                repeats=LONG,
                shapes=ATARI,
            )
            for context in ("exact", "cached")
        ],
        "act": [_act(shapes, environments, device) for environments in (1, 16, 64, 256)],
        "evaluate": [
            _evaluate(episodes, device, context) for episodes, context in ((1, "exact"), (64, "exact"), (64, "cached"))
        ],
        "load": [
            Row(
                name="load",
                ours=Call("load", episodes),
                peer=Call("load", episodes | place),
                floor=Call("read", episodes),
                floor_is="reading the file's bytes from the operating system's memory",
                repeats=LONG,
            )
        ],
        "compile": [
            Row(name="compile, cached", first="compile, cold", ours=Call("start", place), repeats=LONG),
        ],
    }


def _train_values(method: ValueMethod, device: str) -> list[Row]:
    one = {"method": method}
    return [
        Row(
            name=f"train {method}",
            ours=Call("train_values", one),
            peer=Call("train_values", one | {"device": device}),
            floor=Call("products", {"operations": value_update_operations(VALUES, method)}),
            floor_is="the matrix products that our update needs, at the product rate measured beside it",
            shapes=VALUES,
        ),
        Row(
            name=f"train {method}, 5 seeds",
            ours=Call("train_values", one | {"seeds": 5}),
            beside=Call("train_values", one),
            shapes=VALUES,
        ),
    ]


def _act(shapes: Shapes, environments: int, device: str) -> Row:
    operations = forward_operations(shapes, environments, newest_only=True)
    return Row(
        name=f"act, {environments} environment{'s' * (environments > 1)}",
        ours=Call("act", {"environments": environments}),
        peer=Call("act", {"environments": environments, "device": device}),
        floor=Call("products", {"operations": operations}),
        floor_is="the products that the newest action needs",
    )


def _evaluate(episodes: int, device: str, context: Context) -> Row:
    name = f"evaluate, {episodes} episode{'s' * (episodes > 1)}" + ", cached" * (context == "cached")
    return Row(
        name=name,
        first=f"{name}, first call",
        ours=Call("evaluate", {"episodes": episodes, "context": context}),
        peer=Call("evaluate", {"device": device}),
        floor=Call("physics", {"episodes": episodes}),
        floor_is="MuJoCo's steps alone, on all cores (before MuJoCo 3.17: Gymnasium's, in one thread)",
        is_rate=True,
        repeats=LONG,
    )


def measure_row(row: Row, ours: Worker, peers: Worker | str, shapes: Shapes, repeats: int) -> list[Line]:
    """Ours, the peer and the floor in turns; `peers`: the worker, or the reason why there is none."""
    shapes = row.shapes or shapes

    def fresh() -> float:
        ours.close()
        return ours.ask(row.ours, shapes)

    turns = {"first": fresh} if row.first else {}
    turns["ours"] = lambda: ours.ask(row.ours, shapes)
    if row.peer is not None and isinstance(peers, Worker):
        turns["peer"] = lambda: peers.ask(row.peer, shapes)
    if row.beside is not None:
        turns["beside"] = lambda: ours.ask(row.beside, shapes)
    if row.floor is not None:
        turns["floor"] = lambda: ours.ask(row.floor, shapes)
    measured = alternate(turns, min(repeats, row.repeats or repeats))
    shared = {
        "peer": None if row.peer is None else measured.get("peer", peers),
        "floor": measured.get("floor"),
        "floor_is": row.floor_is,
        "is_rate": row.is_rate,
        "beside": measured.get("beside"),
    }
    names = {"first": row.first, "ours": row.name}
    return [Line(name=names[turn], ours=measured[turn], **shared) for turn in names if turn in measured]


def needs_episodes(name: str) -> bool:
    """Whether the rows of that name read the file of episodes."""
    return name in ("sample", "pipeline", "load")
