"""Which checkpoints are whole: sha256 checksums of their files, written last."""

import hashlib
import shutil
import warnings
from pathlib import Path

from jaxdt.errors import JaxdtError, one_line
from jaxdt.files import read_json


CHECKSUMS = "sha256.json"
"""In each checkpoint, written last: the sha256 of every other file. Orbax does not notice a flipped bit."""


ANEW = ".anew"
"""Behind the step of a checkpoint that is to take the place of another."""
REPLACED = ".replaced"
"""Behind the step of that other one, until it is removed."""


def checkpoint_steps(directory: Path) -> list[int]:
    """Steps of the finished checkpoints, rising: those that have their checksums."""
    return sorted(step for step in numbered_directories(directory) if (directory / str(step) / CHECKSUMS).is_file())


def numbered_directories(directory: Path) -> set[int]:
    """Steps of the directories that bear one, unfinished ones too."""
    if not directory.is_dir():
        return set()
    return {int(path.name) for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()}


def damaged_checkpoints(directory: Path) -> dict[int, str]:
    """The finished checkpoints whose files are not what was saved, and what is wrong with each."""
    damage = {step: _damage(directory / str(step)) for step in checkpoint_steps(directory)}
    # What has no checksums by now was not damaged: a live run deletes its old checkpoints.
    summed = set(checkpoint_steps(directory))
    return {step: what for step, what in damage.items() if what is not None and step in summed}


def take_its_place(anew: Path, checkpoint: Path) -> None:
    """Of a checkpoint that may be there already; at every moment one of them is whole, by this name or another."""
    replaced = checkpoint.with_name(f"{checkpoint.name}{REPLACED}")
    if checkpoint.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        checkpoint.rename(replaced)
    anew.rename(checkpoint)
    shutil.rmtree(replaced, ignore_errors=True)  # what stays goes when the run is resumed


def finish_replacing(directory: Path) -> None:
    """What a kill has left of a checkpoint that was taking another's place becomes one of the two."""
    for anew in directory.glob(f"*{ANEW}"):
        checkpoint = anew.with_suffix("")
        if (anew / CHECKSUMS).exists() and not (checkpoint / CHECKSUMS).exists():
            take_its_place(anew, checkpoint)


def quarantine_damaged(directory: Path) -> None:
    """Renames damaged checkpoints to `<step>.damaged`, with a warning, so that the ones before them are used.

    Before that a replacement that a kill has stopped is finished, so that nobody takes its checkpoint for missing.
    Only for the process that alone writes to the run. Raises JaxdtError when there were some and none is left.
    """
    finish_replacing(directory)
    for step, damage in damaged_checkpoints(directory).items():
        aside = free_name(directory, f"{step}.damaged")
        (directory / str(step)).rename(aside)
        warnings.warn(f"checkpoint {step} of {directory} is damaged ({damage}); it is now {aside.name}.", stacklevel=3)
    if not checkpoint_steps(directory) and any(directory.glob("*.damaged*")):
        raise none_left(directory)


def none_left(directory: Path) -> JaxdtError:
    return JaxdtError(
        f"every checkpoint in {directory} is damaged; restore one from a copy, or train again with another --out."
    )


def free_name(directory: Path, name: str) -> Path:
    names = (name, *(f"{name}-{i}" for i in range(2, 1000)))
    return next(directory / free for free in names if not (directory / free).exists())


def checksums_of(checkpoint: Path) -> dict[str, str]:
    """sha256 of every file below a checkpoint but the checksums themselves, by its path in it."""
    checksums = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / CHECKSUMS and not path.name.startswith(f".{CHECKSUMS}."):
            with open(path, "rb") as file:
                checksums[path.relative_to(checkpoint).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return checksums


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, in a few words; None where they are what was saved."""
    try:
        saved = read_json(checkpoint / CHECKSUMS)
        found = checksums_of(checkpoint)
    except (OSError, ValueError) as error:
        return f"its checksums cannot be read: {one_line(error, 200)}"
    if not isinstance(saved, dict):
        return "its checksums are no JSON object"
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
