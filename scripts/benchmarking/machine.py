"""What measures: devices, versions, commit."""

import importlib.util
import os
import platform
import re
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarking.measure import Call, Worker, WorkerError
from benchmarking.shapes import Shapes


PEER_MISSING = "needs pip install -e '.[parity]'"


def describe(ours: Worker, peers: Worker, shapes: Shapes) -> dict[str, Any]:
    """Of both processes and this checkout; `peer` is the reason where there is none."""
    machine = ours.ask(Call("describe"), shapes)
    peer: Any = PEER_MISSING
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers", "datasets")):
        try:
            peer = peers.ask(Call("describe", {"device": peer_device(machine)}), shapes)
        except WorkerError as error:
            peer = str(error)
    return machine | {"processor": _processor(), "python": platform.python_version(), "commit": _commit(), "peer": peer}


def peer_device(machine: dict[str, Any]) -> str:
    """cpu or gpu: where the peer computes if it can."""
    return "gpu" if machine["backend"] == "gpu" else "cpu"


def machine_lines(machine: dict[str, Any]) -> str:
    """For people: a line for ours and one for the peer."""
    device = f"{machine['cores']} cores of {machine['processor']}"
    if machine["backend"] != "cpu":
        device = f"{machine['device']}, {device}"
    commit = f" ({machine['commit']})" if machine["commit"] else ""
    ours = f"ours: jaxdt {machine['jaxdt']}{commit}, jax {machine['jax']} on {device}"
    peer = machine["peer"]
    if isinstance(peer, str):
        return f"{ours}\npeer: {peer}"
    return (
        f"{ours}\npeer: transformers {peer['transformers']}, torch {peer['torch']} on {peer['device']}, "
        f"{peer['threads']} threads, {peer['attention']} attention, fused AdamW; datasets {peer['datasets']}"
    )


class Others:
    """How busy other programs keep this machine, from when it is made."""

    def __init__(self) -> None:
        self._began, self._seconds = time.monotonic(), _processor_seconds_of_others()

    def cores(self) -> float:
        """Cores on average, once our processes have ended; 0 where the system does not tell."""
        return max(_processor_seconds_of_others() - self._seconds, 0.0) / (time.monotonic() - self._began)


def _processor_seconds_of_others() -> float:
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, interrupts, soft, steal = map(int, stat.read_text().split()[1:9])  # without idle, waiting
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    all_busy = (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
    return all_busy - sum(usage.ru_utime + usage.ru_stime for usage in own)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Of this checkout, None where there is none or no git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"commit {head.stdout.strip()}{', changed since' if changed else ''}"
