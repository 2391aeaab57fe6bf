"""Choosing a checkpoint of a run and loading it."""

import contextlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
from jaxtyping import PyTree

from jaxdt.checkpoint.checksums import checkpoint_steps, damaged_checkpoints, none_left
from jaxdt.errors import JaxdtError, one_line


Which = Literal["latest", "best"]


def find_checkpoint(directory: Path, which: Which = "latest", *, damaged: dict[int, str] | None = None) -> int:
    """Step of the latest or of the best undamaged checkpoint; raises JaxdtError when there is none.

    `damaged`: what `damaged_checkpoints` has just answered, which reads every file; None: it is asked here.
    """
    damaged = damaged_checkpoints(directory) if damaged is None else damaged
    steps = [step for step in checkpoint_steps(directory) if step not in damaged]
    if not steps and (damaged or any(directory.glob("*.damaged*"))):
        raise none_left(directory)
    if which == "latest":
        if not steps:
            raise JaxdtError(f"{directory} holds no checkpoint yet; train longer, or resume the run with --resume.")
        return steps[-1]
    if which != "best":
        raise JaxdtError(f"checkpoint must be 'latest' or 'best'; got {which!r}.")
    best = best_of({step: read_metadata(directory, step) for step in steps})
    if best is None:
        raise JaxdtError(
            f"{directory} holds no checkpoint that was evaluated, or measured on held-out episodes, so none is the "
            "best; use the latest."
        )
    return best


def best_of(notes: dict[int, dict[str, Any]]) -> int | None:
    """The step of the highest score, of the metadata of each; None where none was evaluated."""
    scored = {step: float(note["score"]) for step, note in notes.items() if note.get("score") is not None}
    if not scored:
        return None
    # Scores at another target, from before a resume that changed it, cannot be compared.
    target = notes[max(scored)].get("target")
    return max((step for step in scored if notes[step].get("target") == target), key=lambda step: scored[step])


def read_metadata(directory: Path, step: int) -> dict[str, Any]:
    """The JSON saved with a checkpoint."""
    metadata = _described(directory, step).custom_metadata
    return metadata if isinstance(metadata, dict) else {}


def stored_shapes(directory: Path, step: int, part: str) -> dict[str, tuple]:
    """Shape and dtype of each array of a part of a checkpoint, by its path; raises JaxdtError when unreadable."""
    stored = _described(directory, step).metadata
    if not isinstance(stored, dict) or stored.get(part) is None:
        where = f"{directory / str(step)} ({part})"
        raise JaxdtError(f"checkpoint {where} cannot be read: files are missing or damaged.")
    return _shapes(stored[part])


def load_checkpoint(directory: Path, step: int, **expected: PyTree) -> dict[str, PyTree]:
    """The named parts of a checkpoint (`params=`, `training=`), each as its `expected` tree of arrays.

    Raises JaxdtError when what is stored does not fit.
    """
    for part, tree in expected.items():
        stored, where = stored_shapes(directory, step, part), f"{directory / str(step)} ({part})"
        _check_fit(stored, _shapes(tree), where)
        _check_size(tree, directory / str(step))
    abstract = {part: jax.tree.map(_abstract, tree) for part, tree in expected.items()}
    with _reading(directory / str(step)) as ocp:
        return ocp.load_checkpointables(str((directory / str(step)).absolute()), abstract)


def _described(directory: Path, step: int) -> Any:
    with _reading(directory / str(step)) as ocp:
        return ocp.checkpointables_metadata(str((directory / str(step)).absolute()))


@contextlib.contextmanager
def _reading(checkpoint: Path) -> Iterator[Any]:
    """Orbax raises nearly anything at what it cannot read, or answers None: it is one sentence."""
    try:
        with quiet_orbax() as ocp:
            yield ocp
    except Exception as error:
        reason = one_line(error, 200)
        raise JaxdtError(f"checkpoint {checkpoint} cannot be read: {reason}; restore it from a copy.") from error


@contextlib.contextmanager
def quiet_orbax() -> Iterator[Any]:
    """Orbax's v1 API. It logs what it cannot read or write at length; the caller says it in one sentence."""
    from orbax.checkpoint import v1 as ocp  # takes a third of a second, which a run need not begin with

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield ocp
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or device)


def _shapes(tree: PyTree) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in leaves
    }


def _check_fit(stored: dict[str, tuple], expected: dict[str, tuple], where: str) -> None:
    for name in sorted(set(stored) | set(expected)):
        if stored.get(name) != expected.get(name):
            raise JaxdtError(
                f"checkpoint {where} does not fit its config: {name} is "
                f"{_show(stored.get(name))} in the checkpoint and should be {_show(expected.get(name))}."
            )


def _check_size(tree: PyTree, checkpoint: Path) -> None:
    """An array of which nothing is stored reads as zeros, however large it says to be."""
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    stored = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    if size > max(2**29, 4 * stored):
        raise JaxdtError(
            f"checkpoint {checkpoint} would take {size / 2**20:.0f} MiB, far more than its {stored / 2**20:.1f} MiB "
            "hold; restore it from a copy."
        )


def _show(leaf: tuple | None) -> str:
    return "absent" if leaf is None else f"{leaf[1]}{list(leaf[0])}"
