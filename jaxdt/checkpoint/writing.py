"""Saving the checkpoints of a run, and dropping old ones; several processes save together."""

import gc
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from jaxdt import hosts
from jaxdt.checkpoint.checksums import (
    ANEW,
    CHECKSUMS,
    REPLACED,
    checkpoint_steps,
    checksums_of,
    finish_replacing,
    free_name,
    numbered_directories,
    take_its_place,
)
from jaxdt.checkpoint.reading import best_of, quiet_orbax, read_metadata
from jaxdt.errors import WriteError
from jaxdt.files import open_atomically, writing


KEEP_LATEST = 2
"""Checkpoints kept besides the best."""


class CheckpointWriter:
    """Saves the checkpoints of one run and drops those that are neither among the latest nor the best."""

    def __init__(self, directory: Path):
        self._directory = directory
        hosts.by_first(self._make_ready)
        self._notes = {step: read_metadata(directory, step) for step in checkpoint_steps(directory)}

    def _make_ready(self) -> None:
        with writing(self._directory):
            self._clean()
            self._directory.mkdir(parents=True, exist_ok=True)

    def _clean(self) -> None:
        """Removes what torn saves have left."""
        directory = self._directory
        for torn in directory.glob("*.orbax-checkpoint-tmp*"):  # Orbax leaves some of its own behind
            shutil.rmtree(torn)
        finish_replacing(directory)
        for torn in (*directory.glob(f"*{ANEW}"), *directory.glob(f"*{REPLACED}")):
            shutil.rmtree(torn)
        finished = checkpoint_steps(directory)
        for torn in numbered_directories(directory) - set(finished):  # saved, but not yet summed
            if finished:
                shutil.rmtree(directory / str(torn))
            else:  # perhaps all there is: of a version that wrote no checksums
                (directory / str(torn)).rename(free_name(directory, f"{torn}.unfinished"))

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
        """Returns when the checkpoint is on disk; `score` ranks it for `best`.

        It is the mean return at `target`, or of a run without an environment minus the error on held-out episodes.

        One of the same step, which was saved before it could be evaluated, is replaced once the new one is whole.
        `training`: what going on needs besides the parameters; None: they come from elsewhere.
        """
        checkpoint = self._directory / str(step)
        note = {**metadata, "score": score, "target": target}
        is_there = hosts.told(checkpoint.exists())
        place = self._directory / f"{step}{ANEW}" if is_there else checkpoint
        try:
            with writing(checkpoint), quiet_orbax() as ocp:
                size = sum(leaf.nbytes for leaf in jax.tree.leaves((params, training)))
                hosts.by_first(_ask_for_room, self._directory, 2**20 + size)
                ocp.save_checkpointables(
                    str(place.absolute()),
                    {"params": params} if training is None else {"params": params, "training": training},
                    custom_metadata=note,
                )
            hosts.by_first(_write_checksums, place)
            if is_there:
                with writing(checkpoint):
                    hosts.by_first(take_its_place, place, checkpoint)
        except WriteError:
            with quiet_orbax():
                gc.collect()  # Orbax's unfinished tasks complain as they go
                self._remove_torn(step)
            raise
        self._notes[step] = note
        if hosts.is_first():
            self._drop_old()

    def _remove_torn(self, step: int) -> None:
        """Gives back the room that a save took which failed; what cannot be removed now is, when the run resumes."""
        for _ in range(10):
            torn = [*self._directory.glob(f"{step}.orbax-checkpoint-tmp*")]
            if (self._directory / str(step)).exists():  # or the new one, which is whole, is all there is of the two
                torn += self._directory.glob(f"{step}{ANEW}")
            if step not in self._notes:
                torn += self._directory.glob(str(step))
            if not torn:
                return
            for path in torn:
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.05)  # threads of Orbax that were not waited for may write there for a moment yet

    def _drop_old(self) -> None:
        kept = {*sorted(self._notes)[-KEEP_LATEST:], best_of(self._notes)}
        for step in set(self._notes) - kept:
            _drop(self._directory / str(step))
            del self._notes[step]


def _write_checksums(checkpoint: Path) -> None:
    with open_atomically(checkpoint / CHECKSUMS) as file:
        json.dump(checksums_of(checkpoint), file, indent=1)


def drop_checkpoints_after(directory: Path, last: int) -> None:
    """Only for the process that alone writes to the run."""
    with writing(directory):
        for step in checkpoint_steps(directory):
            if step > last:
                _drop(directory / str(step))


def _drop(checkpoint: Path) -> None:
    # The checksums go first: what a kill leaves of the rest is then unfinished, not damaged.
    (checkpoint / CHECKSUMS).unlink()
    shutil.rmtree(checkpoint)


def _ask_for_room(directory: Path, size: int) -> None:
    """Raises OSError where the disk would refuse a file of `size` bytes.

    Orbax waits for minutes on a disk that is read-only, and its threads print tracebacks of a full one.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(1))
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
