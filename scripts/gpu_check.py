"""One table of what a GPU does with jaxdt: `python scripts/gpu_check.py --json OUT`."""

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import tyro

from benchmarking.gpu_rows import SECTIONS, Row, failure, make_rows, show
from benchmarking.machine import describe, machine_lines
from benchmarking.measure import Worker, WorkerError, worker_environment
from benchmarking.shapes import Shapes
from jaxdt.files import open_atomically


LONGEST_ROW = 120.0
"""Seconds after which a row is given up."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Check that a GPU computes what a CPU does, and measure training, acting and evaluating on it.

    Prints after every row, so that a run that is cut off has said something; what is not installed is skipped with its
    reason. The whole takes some ten minutes.
    """

    json: Path | None = None
    """Write everything here too, every repeat included, after every row."""
    only: tuple[str, ...] = ()
    """Sections to measure, in this order; none: all."""
    repeats: int = 3
    """Times that each row is measured, about a second each; the median is shown."""
    minutes: float = 10.0
    """No row is begun after that, and one that is being measured is given up."""
    device: str = "gpu"
    """`cpu` tries the script out where there is no GPU."""


def main() -> int:
    arguments = tyro.cli(Arguments, prog="python scripts/gpu_check.py")
    unknown = set(arguments.only) - set(SECTIONS)
    if unknown or arguments.repeats < 1:
        sys.exit(f"gpu_check: error: --only takes {' '.join(SECTIONS)}, --repeats 1 or more; got {arguments}.")
    with tempfile.TemporaryDirectory(prefix="jaxdt-gpu-check-") as name:
        return _Check(arguments, Path(name)).run()


class _Check:
    """The rows one after the other; rows of equal settings share a process, since starting one takes seconds."""

    def __init__(self, arguments: Arguments, directory: Path):
        self._arguments, self._directory = arguments, directory
        self._began = time.monotonic()
        self._workers: dict[tuple, Worker] = {}
        self._done: list[dict[str, Any]] = []
        self._machine: dict[str, Any] = {}
        self._wrong = 0

    def run(self) -> int:
        try:
            self._say_machine()
            rows = make_rows(self._directory, self._arguments.device)
            for section in self._arguments.only or rows:
                print(f"\n{section}: {SECTIONS[section]}", flush=True)
                for row in rows[section]:
                    self._measure(section, row)
        finally:
            for worker in self._workers.values():
                worker.close()
        print(f"\n{time.monotonic() - self._began:.0f} s; {self._wrong or 'no'} wrong results")
        return int(self._wrong > 0)

    def _say_machine(self) -> None:
        shapes = Shapes()
        ours, peers = self._worker("benchmarking.ours", {}), self._worker("benchmarking.peers", {})
        try:
            self._machine = describe(ours, peers, shapes) | {"driver": _driver()}
        except WorkerError as error:
            sys.exit(f"gpu_check: error: {error}")
        if self._machine["backend"] != self._arguments.device:
            sys.exit(f"gpu_check: error: jax finds no {self._arguments.device} here, only {self._machine['device']}.")
        print(f"{machine_lines(self._machine)}\ndriver: {self._machine['driver']}", flush=True)

    def _measure(self, section: str, row: Row) -> None:
        left = 60 * self._arguments.minutes - (time.monotonic() - self._began)
        if left <= 0:
            self._report(section, row, f"left out: {self._arguments.minutes:g} minutes are over")
            return
        worker = self._worker(row.module, row.settings, row.process)
        given_up = threading.Timer(min(LONGEST_ROW, left), worker.kill)
        given_up.start()
        try:
            values = [worker.ask(row.call, row.shapes) for _ in range(row.repeats or self._arguments.repeats)]
            self._report(section, row, values)
        except WorkerError as error:
            self._report(section, row, str(error).splitlines()[-1])
        finally:
            given_up.cancel()

    def _report(self, section: str, row: Row, values: list[Any] | str) -> None:
        """`values`, or why there are none."""
        text = values if isinstance(values, str) else show(row, values, self._machine)
        wrong = None if isinstance(values, str) else failure(row, values)
        self._wrong += wrong is not None
        print(f"  {row.name:<44} {text}{f'  WRONG: {wrong}' if wrong else ''}", flush=True)
        entry = {"section": section, "name": row.name, "task": row.call.task, "options": row.call.options}
        self._done.append(
            entry | {"shapes": dataclasses.asdict(row.shapes), "settings": row.settings, "values": values}
        )
        if self._arguments.json is not None:
            document = {"command": sys.argv, "machine": self._machine, "rows": self._done}
            with open_atomically(self._arguments.json) as file:
                json.dump(document, file, indent=1)

    def _worker(self, module: str, settings: dict[str, str], process: str = "") -> Worker:
        key = (module, *settings.items(), process)
        if key not in self._workers:
            environment = worker_environment(self._arguments.device) | settings
            environment["JAX_COMPILATION_CACHE_DIR"] = str(self._directory / "compiled")  # rows share programs
            self._workers[key] = Worker(module, environment, self._directory / f"{len(self._workers)}.log")
        return self._workers[key]


def _driver() -> str | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    asked = [command, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
