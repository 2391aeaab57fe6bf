"""The import table of the design: which room may import which."""

import ast
import typing
from pathlib import Path

import pytest

import jaxdt
from jaxdt.config import AlgorithmConfig


PACKAGE = Path(jaxdt.__file__).parent
BASE = {"config", "types", "errors", "files", "tables"}
MAY_IMPORT = {
    "config": {"errors", "types"},
    "types": {"errors", "spec", "tables"},
    "spec": {"errors"},
    "tables": set(),
    "errors": set(),
    "files": {"errors"},
    "pickles": {"errors"},
    "progress": set(),
    "games": set(),
    "resizing": set(),
    "atari": {"errors", "games", "resizing"},
    "choice": {"errors", "games", "atari"},
    "stepping": {"errors"},
    "simulator": {"errors", "types", "choice", "games"},
    "pools": {"errors", "games", "atari", "stepping", "simulator"},
    "data": BASE | {"games", "resizing", "choice", "stepping", "simulator", "pools", "pickles", "progress"},
    "models": BASE | {"stacking"},
    "hosts": {"errors"},
    "parallel": BASE | {"hosts", "stacking"},
    "stacking": BASE,
    "flat": set(),
    "training": BASE | {"parallel", "flat"},
    "algorithms": BASE | {"data", "models", "stacking", "training"},
    "evaluation": BASE | {"choice", "stepping", "simulator", "pools", "progress", "stacking", "parallel", "data"},
    "interop": BASE | {"games", "pickles", "simulator", "data"},
    "checkpoint": BASE | {"hosts"},
    "loggers": BASE,
    "statistics": set(),
    "plots": BASE | {"statistics"},
    "run": BASE
    | {
        "simulator",
        "progress",
        "data",
        "models",
        "algorithms",
        "training",
        "parallel",
        "stacking",
        "evaluation",
        "interop",
    }
    | {"choice", "checkpoint", "loggers", "plots", "statistics", "games", "hosts"},
    "cli": BASE | {"choice", "progress", "simulator", "data", "loggers", "checkpoint", "run", "hosts"},
    "__main__": {"cli"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_what_the_design_allows(path):
    room = room_of(path)
    ours = {module.split(".")[1] for module in imported_modules(path) if module.startswith("jaxdt.")}
    assert ours - {room, "__version__"} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_data_never_imports_jax_and_only_models_imports_flax(path):
    libraries = {module.split(".")[0] for module in imported_modules(path)}
    simulators = {"games", "resizing", "atari", "choice", "stepping", "simulator", "pools"}
    if room_of(path) in BASE | simulators | {"data", "pickles", "progress"}:
        assert not libraries & {"jax", "optax", "orbax"}
    if room_of(path) != "models":
        assert "flax" not in libraries


def test_one_file_alone_asks_which_of_several_processes_this_is():
    assert {path.name for path in FILES if "jax.process_index" in path.read_text()} == {"hosts.py"}


def test_every_file_is_short_enough_to_read():
    long = {path.name: count for path in FILES if (count := len(path.read_text().splitlines())) > 320}
    assert not long


def test_nothing_but_weights_from_and_to_others_knows_an_algorithm_by_name():
    """What is written for one method alone is a seam in the wrong place."""
    shared = [path for path in FILES if room_of(path) in {"training", "parallel", "evaluation", "checkpoint", "cli"}]
    shared += [
        path for path in (PACKAGE / "run").glob("*.py") if path.stem not in ("importing", "exporting", "upgrade")
    ]
    named = {
        path.name: node.id
        for path in shared
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id in {kind.__name__ for kind in typing.get_args(AlgorithmConfig)}
    }
    assert not named
