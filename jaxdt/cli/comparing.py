"""`jaxdt compare`."""

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from jaxdt.cli.common import parse


@dataclasses.dataclass(frozen=True)
class CompareArguments:
    """Set methods side by side: what each reached on each task, with intervals over seeds.

    Runs of one method are found by their choices; `NAME=RUN` names them instead. A run counts as one number, the mean
    return of its last evaluation's episodes at its highest target. What may not be compared is said.
    """

    runs: Positional[tuple[str, ...]]
    """Run directories, or directories with runs in them at any depth; NAME=RUN gives the method's name."""
    best: bool = False
    """Take each run's best evaluation instead of its last, which nobody can know beforehand; the table says so."""
    out: Path | None = None
    """Also write comparison.md, .tex, .csv, .json, .png and .pdf into this directory."""


def compare_command(arguments: list[str]) -> None:
    parsed = parse(CompareArguments, arguments, "jaxdt compare")
    from jaxdt.run.comparison import compare

    comparison = compare(parsed.runs, best=parsed.best)
    print(comparison)
    if parsed.out is not None:
        print("\n".join(f"wrote {path}" for path in comparison.write(parsed.out)))
