"""Training processes side by side: one a core or GPU, stopped together."""

import concurrent.futures
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdt.errors import JaxdtError
from jaxdt.simulator import usable_cores
from reproducing.plan import Job, is_finished


class Place(NamedTuple):
    """Where one run at a time is computed."""

    cores: frozenset[int]
    gpu: str | None


def places(workers: int | None) -> list[Place]:
    """One for each run at a time: a GPU each where there are several workers and GPUs, a share of the cores each."""
    if workers is not None and workers < 1:
        raise JaxdtError(f"--workers must be at least 1; got {workers}.")
    gpus = _gpus()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(usable_cores()))
    workers = workers or len(gpus) or len(cores)
    shares = [frozenset(cores[i::workers] or cores) for i in range(workers)]
    return [Place(share, gpus[i % len(gpus)] if len(gpus) > 1 else None) for i, share in enumerate(shares)]


def _gpus() -> list[str]:
    """NVIDIA's, as CUDA_VISIBLE_DEVICES names them; none where jax is told to use a CPU."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu and gpu != "-1"]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def run_jobs(jobs: Sequence[Job], free: Sequence[Place]) -> dict[Path, str]:
    """Runs what is not finished; why the others failed, by their directory. A signal stops all of them."""
    waiting = [job for job in jobs if not is_finished(job)]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are finished; {len(free)} at a time", flush=True)
    running, failed, lock = _Running(), {}, threading.Lock()
    free_places: queue.SimpleQueue[Place] = queue.SimpleQueue()
    for place in free:
        free_places.put(place)

    def run(job: Job) -> None:
        place = free_places.get()
        started = time.monotonic()
        try:
            why = running.run(job, place)
        finally:
            free_places.put(place)
        if why is not None:
            failed[job.out] = why
        with lock:
            waiting.remove(job)
            minutes = (time.monotonic() - started) / 60
            said = f"done in {minutes:.1f} min" if why is None else f"failed: {why}"
            name = f"{job.task.name}, {job.method.name}, seed {job.seed}"
            if not running.stopped_by:
                print(f"[{len(jobs) - len(waiting)}/{len(jobs)}] {name}: {said}", flush=True)

    with running.stopping_at_signals(), concurrent.futures.ThreadPoolExecutor(len(free)) as pool:
        list(pool.map(run, list(waiting)))
    if running.stopped_by:
        print("reproduce: stopped; the same command goes on.", file=sys.stderr)
        sys.exit(128 + running.stopped_by)
    return failed


class _Running:
    """The processes that train, and whether they were told to stop."""

    def __init__(self):
        self.stopped_by = 0
        self._processes: set[subprocess.Popen] = set()

    def run(self, job: Job, place: Place) -> str | None:
        """None when the run is done, else why it is not."""
        if self.stopped_by:
            return "stopped"
        job.out.parent.mkdir(parents=True, exist_ok=True)
        log = job.out.with_name(f"{job.out.name}.log")
        # Several on one GPU must not each take all of its memory.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        environment |= {} if place.gpu is None else {"CUDA_VISIBLE_DEVICES": place.gpu}
        code = self._train(job, place, environment, log)
        while code == 2 and not self.stopped_by and "is being trained by process" in _last_words(log):
            time.sleep(10)  # of a script that was killed; it ends, and then there is nothing left to do
            code = self._train(job, place, environment, log)
        if code != 0:
            return _last_words(log) or f"exit code {code}"
        return (
            None if is_finished(job) else f"it was made by another command; delete {job.out}, or choose another --out"
        )

    def _train(self, job: Job, place: Place, environment: dict[str, str], log: Path) -> int:
        with open(log, "a", encoding="utf-8") as output:
            # In a group of its own: a Ctrl-C in the terminal reaches it once, through us.
            process = subprocess.Popen(
                [sys.executable, "-m", "jaxdt", *job.command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, place.cores)
            self._processes.add(process)
            if self.stopped_by:
                process.terminate()
            code = process.wait()
            self._processes.discard(process)
        return code

    def stopping_at_signals(self) -> "_Handlers":
        return _Handlers(self._stop)

    def _stop(self, number: int, frame: object) -> None:
        self.stopped_by = number
        for process in list(self._processes):
            process.send_signal(signal.SIGTERM)


def _last_words(log: Path) -> str:
    """The last line with words in it."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if re.search("[a-z]", line)), "")


_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class _Handlers:
    """Signals that ask to stop are answered by a function for a while."""

    def __init__(self, answer):
        self._answer = answer

    def __enter__(self):
        self._before = {number: signal.signal(number, self._answer) for number in _STOPPING}

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
