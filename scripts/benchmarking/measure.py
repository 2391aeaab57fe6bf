"""Worker processes as their owner sees them, and taking turns between them."""

import collections
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarking.shapes import Shapes


SCRIPTS = Path(__file__).parent.parent
_SETTINGS_OF_OTHERS = ("JAX_", "XLA_", "OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "TORCH_", "PYTORCH_")


class WorkerError(Exception):
    """A worker could not measure; says why."""


@dataclasses.dataclass(frozen=True)
class Call:
    """A task of a worker's module and what it is given."""

    task: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


class Worker:
    """A process that measures tasks of one module; started when it is first asked."""

    def __init__(self, module: str, environment: dict[str, str], log: Path):
        self._module = module
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen | None = None

    def ask(self, call: Call, shapes: Shapes) -> Any:
        """The next value of the task; raises WorkerError when the task fails or the process ends."""
        process = self._process = self._process or self._start()
        request = {"task": call.task, "shapes": dataclasses.asdict(shapes), "options": call.options}
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and the empty line below says so
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line.endswith("\n"):
            raise WorkerError(self._obituary(call))
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{call.task}: {answer['error']}")
        return answer["value"]

    def close(self) -> None:
        """Ends the process; the next `ask` starts a new one."""
        if self._process is not None:
            self.kill()
            self._process.communicate()
            self._process = None

    def kill(self) -> None:
        """From another thread: an `ask` that is waiting raises WorkerError, and the next one starts a new process."""
        with contextlib.suppress(ProcessLookupError, AttributeError):  # it has ended, or never began
            os.killpg(self._process.pid, signal.SIGKILL)  # and a command that it may have started

    def _start(self) -> subprocess.Popen:
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "benchmarking.worker", self._module],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the owner, which then closes it
            )

    def _obituary(self, call: Call) -> str:
        assert self._process is not None
        code = self._process.wait()
        self.close()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said = collections.deque(self._log.read_text(encoding="utf-8", errors="replace").splitlines(), maxlen=10)
        return "\n".join([f"{call.task}: the process of {self._module} {how}; it said last:", *said])


def worker_environment(device: str | None) -> dict[str, str]:
    """Ours without what may be set there for jax, torch and threads; `device`: cpu, gpu, None: what jax finds."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_OF_OTHERS)}
    environment = kept | {name: value for name, value in os.environ.items() if name == "JAX_PLATFORMS"}
    path = os.environ.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPTS), *([path] if path else [])])
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the peer needs room on the same GPU
    environment["HF_HUB_OFFLINE"] = "1"
    if device is not None:
        environment["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda,cpu"}[device]
    return environment


def alternate(turns: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float] | str]:
    """Every turn once, then every turn again, `repeats` times.

    Returns each turn's values, or the reason why one raised WorkerError, which is not called again.
    """
    results: dict[str, list[float] | str] = {name: [] for name in turns}
    for _ in range(repeats):
        for name, turn in turns.items():
            values = results[name]
            if isinstance(values, str):
                continue
            try:
                values.append(turn())
            except WorkerError as error:
                results[name] = str(error)
    return results
