"""Checkpoints of a run, through Orbax's v1 API: `<directory>/<step>/{params,training}`.

Parameters are stored apart from the optimiser's state, so that acting reads the parameters alone.
"""

import contextlib
import gc
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from jaxdt.errors import JaxdtError, WriteError, one_line
from jaxdt.files import open_atomically, read_json, writing


SUMS = "sha256.json"
"""In each checkpoint, written last: the sha256 of every other file. Orbax does not notice a flipped bit."""

KEEP_LATEST = 2
"""Checkpoints kept besides the best."""

Which = Literal["latest", "best"]


class CheckpointWriter:
    """Saves the checkpoints of one run and drops those that are neither among the latest nor the best."""

    def __init__(self, directory: Path):
        self._directory = directory
        with writing(directory):
            self._clean()
            directory.mkdir(parents=True, exist_ok=True)
        self._notes = {step: read_metadata(directory, step) for step in checkpoint_steps(directory)}

    def _clean(self) -> None:
        """Removes what torn saves have left."""
        directory = self._directory
        for torn in directory.glob("*.orbax-checkpoint-tmp*"):  # Orbax leaves some of its own behind
            shutil.rmtree(torn)
        finished = checkpoint_steps(directory)
        for torn in _steps(directory) - set(finished):  # saved, but not yet summed
            if finished:
                shutil.rmtree(directory / str(torn))
            else:  # perhaps all there is: of a version that wrote no sums
                (directory / str(torn)).rename(_free_name(directory, f"{torn}.unfinished"))

    def save(
        self,
        step: int,
        *,
        params: PyTree,
        training: PyTree = None,
        metadata: dict[str, Any],
        score: float | None,
        target: float | None = None,
    ) -> None:
        """Returns when the checkpoint is on disk; `score`, the mean return at `target`, ranks it for `best`.

        `training`: what going on needs besides the parameters; None: they come from elsewhere.
        """
        checkpoint = self._directory / str(step)
        note = {**metadata, "score": score, "target": target}
        try:
            with writing(checkpoint), _quiet_orbax():
                _ask_for_room(self._directory, 2**20 + sum(leaf.nbytes for leaf in jax.tree.leaves((params, training))))
                ocp.save_checkpointables(
                    str(checkpoint.absolute()),
                    {"params": params} if training is None else {"params": params, "training": training},
                    custom_metadata=note,
                )
            with open_atomically(checkpoint / SUMS) as file:
                json.dump(_sums(checkpoint), file, indent=1)
        except WriteError:
            with _quiet_orbax():
                gc.collect()  # Orbax's unfinished tasks complain as they go
                self._remove_torn(step)
            raise
        self._notes[step] = note
        self._drop_old()

    def _remove_torn(self, step: int) -> None:
        """Gives back the room that a save took which failed; what cannot be removed now is, when the run resumes."""
        for torn in (*self._directory.glob(f"{step}.orbax-checkpoint-tmp*"), self._directory / str(step)):
            shutil.rmtree(torn, ignore_errors=True)

    def _drop_old(self) -> None:
        kept = {*sorted(self._notes)[-KEEP_LATEST:], _best(self._notes)}
        for step in set(self._notes) - kept:
            _drop(self._directory / str(step))
            del self._notes[step]


def checkpoint_steps(directory: Path) -> list[int]:
    """Steps of the finished checkpoints, rising: those that have their sums."""
    return sorted(step for step in _steps(directory) if (directory / str(step) / SUMS).is_file())


def drop_checkpoints_after(directory: Path, last: int) -> None:
    """Only for the process that alone writes to the run."""
    with writing(directory):
        for step in checkpoint_steps(directory):
            if step > last:
                _drop(directory / str(step))


def _drop(checkpoint: Path) -> None:
    # The sums go first: what a kill leaves of the rest is then unfinished, not damaged.
    (checkpoint / SUMS).unlink()
    shutil.rmtree(checkpoint)


def damaged_checkpoints(directory: Path) -> dict[int, str]:
    """The finished checkpoints whose files are not what was saved, and what is wrong with each."""
    damage = {step: _damage(directory / str(step)) for step in checkpoint_steps(directory)}
    # What has no sums by now was not damaged: a live run deletes its old checkpoints.
    summed = set(checkpoint_steps(directory))
    return {step: what for step, what in damage.items() if what is not None and step in summed}


def set_damaged_aside(directory: Path) -> None:
    """Renames damaged checkpoints to `<step>.damaged`, with a warning, so that the ones before them are used.

    Only for the process that alone writes to the run. Raises JaxdtError when there were some and none is left.
    """
    for step, damage in damaged_checkpoints(directory).items():
        aside = _free_name(directory, f"{step}.damaged")
        (directory / str(step)).rename(aside)
        warnings.warn(f"checkpoint {step} of {directory} is damaged ({damage}); it is now {aside.name}.", stacklevel=3)
    if not checkpoint_steps(directory) and any(directory.glob("*.damaged*")):
        raise _none_left(directory)


def find_checkpoint(directory: Path, which: Which = "latest", *, damaged: dict[int, str] | None = None) -> int:
    """Step of the latest or of the best undamaged checkpoint; raises JaxdtError when there is none.

    `damaged`: what `damaged_checkpoints` has just answered, which reads every file; None: it is asked here.
    """
    damaged = damaged_checkpoints(directory) if damaged is None else damaged
    steps = [step for step in checkpoint_steps(directory) if step not in damaged]
    if not steps and (damaged or any(directory.glob("*.damaged*"))):
        raise _none_left(directory)
    if which == "latest":
        if not steps:
            raise JaxdtError(f"{directory} holds no checkpoint yet; train longer, or resume the run with --resume.")
        return steps[-1]
    if which != "best":
        raise JaxdtError(f"checkpoint must be 'latest' or 'best'; got {which!r}.")
    best = _best({step: read_metadata(directory, step) for step in steps})
    if best is None:
        raise JaxdtError(f"{directory} holds no evaluated checkpoint, so none is the best; use the latest.")
    return best


def _best(notes: dict[int, dict[str, Any]]) -> int | None:
    """The step of the highest score, of the metadata of each; None where none was evaluated."""
    scored = {step: float(note["score"]) for step, note in notes.items() if note.get("score") is not None}
    if not scored:
        return None
    # Scores at another target, from before a resume that changed it, cannot be compared.
    target = notes[max(scored)].get("target")
    return max((step for step in scored if notes[step].get("target") == target), key=lambda step: scored[step])


def _none_left(directory: Path) -> JaxdtError:
    return JaxdtError(
        f"every checkpoint in {directory} is damaged; restore one from a copy, or train again with another --out."
    )


def _free_name(directory: Path, name: str) -> Path:
    names = (name, *(f"{name}-{i}" for i in range(2, 1000)))
    return next(directory / free for free in names if not (directory / free).exists())


def _steps(directory: Path) -> set[int]:
    """Steps of the directories that bear one, unfinished ones too."""
    if not directory.is_dir():
        return set()
    return {int(path.name) for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()}


def _sums(checkpoint: Path) -> dict[str, str]:
    """sha256 of every file below a checkpoint but the sums themselves, by its path in it."""
    sums = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / SUMS and not path.name.startswith(f".{SUMS}."):
            with open(path, "rb") as file:
                sums[path.relative_to(checkpoint).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, in a few words; None where they are what was saved."""
    try:
        saved = read_json(checkpoint / SUMS)
        found = _sums(checkpoint)
    except (OSError, ValueError) as error:
        return f"its sums cannot be read: {one_line(error, 200)}"
    if not isinstance(saved, dict):
        return "its sums are no JSON object"
    if links := [path.name for path in checkpoint.rglob("*") if path.is_symlink()]:
        return f"{links[0]} is a link"
    for name in sorted(set(saved) | set(found)):
        if name not in found:
            return f"{name} is missing"
        if name not in saved:
            return f"{name} was not saved with it"
        if saved[name] != found[name]:
            return f"{name} has changed"
    return None


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
    with _reading(directory / str(step)):
        return ocp.load_checkpointables(str((directory / str(step)).absolute()), abstract)


def _ask_for_room(directory: Path, size: int) -> None:
    """Raises OSError where the disk would refuse a file of `size` bytes.

    Orbax waits for minutes on a disk that is read-only, and its threads print tracebacks of a full one.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(1))
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def _described(directory: Path, step: int) -> Any:
    with _reading(directory / str(step)):
        return ocp.checkpointables_metadata(str((directory / str(step)).absolute()))


@contextlib.contextmanager
def _reading(checkpoint: Path) -> Iterator[None]:
    """Orbax raises nearly anything at what it cannot read, or answers None: it is one sentence."""
    try:
        with _quiet_orbax():
            yield
    except Exception as error:
        reason = one_line(error, 200)
        raise JaxdtError(f"checkpoint {checkpoint} cannot be read: {reason}; restore it from a copy.") from error


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax logs what it cannot read or write at length; the caller says it in one sentence."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
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
