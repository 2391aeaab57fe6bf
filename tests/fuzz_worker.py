"""Loads what may be hostile, in a process that may die: a JSON request a line in, a JSON answer a line out."""

import contextlib
import json
import os
import re
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxdt
from jaxdt.errors import JaxdtError
from jaxdt.interop.source import Imported, read_model
from jaxdt.run.importing import import_run
from jaxdt.simulator import is_plain_env_id
from tests.fuzzing import TRIPWIRE


ROOT = Path(__file__).parents[1]
CPU_SECONDS = 5
MAX_MEMORY = 2**30
_VIRTUAL_MEMORY = 32 * 2**30  # so that a bomb ends this process and not the machine; jax alone reserves some


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    watch = Watch()
    sys.addaudithook(watch)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_VIRTUAL_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for line in sys.stdin:
        request = json.loads(line)
        answer = attempt(watch, request["kind"], Path(request["path"]), limited=request["limited"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def attempt(watch: "Watch", kind: str, path: Path, *, limited: bool) -> tuple[str, str]:
    """How loading went: `loaded`, `refused` with the error, or `failed` with what a reader must never do."""
    load, check = KINDS[kind]
    folder = path if path.is_dir() else path.parent
    allowed = max(MAX_MEMORY, 4 * sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
    before = _begin_peak()
    noise: list[str] = []
    try:
        with _limited(CPU_SECONDS if limited else 1000), watch.over(folder if limited else None):
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                loaded = load(path)
        outcome, why = "loaded", ""
    except JaxdtError as error:
        outcome, why = "refused", str(error)
        if not why.isprintable():
            outcome, why = "failed", f"no clear message: {why!r}"
    except BaseException:
        outcome, why = "failed", traceback.format_exc()
    used = _peak() - before
    if outcome == "loaded":
        try:
            check(loaded)
        except BaseException:
            outcome, why = "failed", traceback.format_exc()
        noise = [str(warning.message) for warning in warned if not issubclass(warning.category, UserWarning)]
    faults = [f"{used / 2**20:.0f} MiB of memory were used"] * (used > allowed)
    faults += [f"it did {act}" for act in watch.seen] + [f"it warned: {message}" for message in noise]
    return "failed" if faults else outcome, "\n".join([*faults, why])


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Ends the process with SIGXCPU after so many seconds of computing."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


def load_minari(path: Path) -> jaxdt.EpisodeStore:
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    return jaxdt.load_episodes("minari:fuzz-v0")


def load_dqn(path: Path) -> jaxdt.EpisodeStore:
    return jaxdt.load_episodes(f"dqn:{path}")


def load_weights(path: Path) -> Imported:
    """An import up to the point from which nothing depends on the source any more."""
    return read_model(str(path), num_heads=2 if path.suffix == ".pt" else None)


def load_import(path: Path) -> Path:
    """A whole import, with the statistics beside the weights."""
    shutil.rmtree(path / "run", ignore_errors=True)
    return import_run(path / "model", path / "run", stats=str(path / "stats.json"))


def check_weights(imported: Imported) -> None:
    for leaf in jax.tree.leaves(imported.params):
        assert leaf.dtype == np.float32, leaf.dtype
        assert np.isfinite(leaf).all()
    assert imported.params["embed_state"]["kernel"].shape == (imported.config.state_dim, imported.config.width)
    for name in ("state_mean", "state_std", "action_low", "action_high"):
        values = getattr(imported.known, name)
        assert values is None or np.isfinite(values).all(), name


def check_agent(agent: jaxdt.Agent) -> None:
    agent.reset(1.0)
    try:
        action = agent.act(np.zeros(agent.spec.observation_shape))
    except JaxdtError as error:
        assert "not finite" in str(error)
    else:
        assert action.dtype == np.float32, action.dtype
        assert action.shape == agent.spec.action_shape, action.shape
        assert np.isfinite(action).all(), action


def check_store(store: jaxdt.EpisodeStore) -> None:
    n = store.num_steps
    assert store.offsets.dtype == np.int64, store.offsets.dtype
    assert store.offsets[0] == 0
    assert (store.lengths > 0).all(), store.lengths
    assert store.observations.ndim >= 2
    assert store.observations.dtype == np.float32 or store.observations.dtype.kind in "iu", store.observations.dtype
    assert store.actions.shape == ((n,) if store.is_discrete else (n, store.action_dim))
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        values = getattr(store, name)
        assert len(values) == n, name
        assert np.isfinite(values).all(), name
    for name, dtype in (
        ("actions", np.int32 if store.is_discrete else np.float32),
        ("rewards", np.float32),
        ("terminations", bool),
        ("truncations", bool),
    ):
        assert getattr(store, name).dtype == dtype, name
        assert name == "actions" or getattr(store, name).shape == (n,), name
    assert (store.terminations | store.truncations)[store.offsets[1:] - 1].all()
    assert np.isfinite(store.returns).all()
    assert np.isfinite(store.returns_to_go).all()
    assert all(np.isfinite(part).all() for part in store.statistics)
    assert store.env_id is None or is_plain_env_id(store.env_id), store.env_id


KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Any], None]]] = {
    "episodes": (jaxdt.load_episodes, check_store),
    "minari": (load_minari, check_store),
    "dqn": (load_dqn, check_store),
    "weights": (load_weights, check_weights),
    "import": (load_import, lambda run: check_agent(jaxdt.Agent.load(run))),
    "agent": (jaxdt.Agent.load, check_agent),
}


class Watch:
    """Notes what a reader does that reading a file never needs; Python tells it before it happens."""

    def __init__(self):
        self.seen: list[str] = []
        self._folder: Path | None = None

    @contextlib.contextmanager
    def over(self, folder: Path | None) -> Iterator[None]:
        """While files in a folder, and no others but Python's, may be touched."""
        self.seen, self._folder = [], folder
        try:
            yield
        finally:
            self._folder = None

    def __call__(self, event: str, arguments: tuple) -> None:
        if self._folder is not None and _is_forbidden(event, arguments, self._folder):
            self.seen.append(f"{event} {arguments!r:.200}")


_NEVER = {"os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen"}
_NEVER |= {"socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen", "webbrowser.open"}
_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.link", "os.symlink"}
_PYTHONS = (sys.prefix, sys.base_prefix, ROOT, "/proc", "/sys", "/dev", "/usr", "/etc")
_CACHES = os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ["XDG_CACHE_HOME"]


def _is_forbidden(event: str, arguments: tuple, folder: Path) -> bool:
    match event, arguments:
        case ("exec" | "compile" | "import", (code, *_)):
            return TRIPWIRE in (f"{code.co_names} {code.co_consts}" if hasattr(code, "co_names") else str(code))
        case ("open", (str() | bytes() as name, _, flags)) if flags & (os.O_WRONLY | os.O_RDWR):
            return not _within(name, folder, *_CACHES, os.devnull)
        case ("open" | "os.listdir" | "os.scandir", (str() | bytes() as name, *_)):
            return os.path.exists(name) and not _within(name, folder, *_CACHES, *_PYTHONS)
        case (_, (*names, int(below))) if (
            event in _CHANGES and below == -1
        ):  # else below a directory that was itself seen
            return any(not _within(name, folder, *_CACHES) for name in names if isinstance(name, str | bytes))
    return event in _NEVER


def _within(name: str | bytes, *folders: str | Path) -> bool:
    place = Path(os.path.realpath(os.fsdecode(name)))
    return any(place.is_relative_to(os.path.realpath(folder)) for folder in folders)


def _begin_peak() -> int:
    """The peak until now; on Linux it is counted from here on, elsewhere only what goes beyond it is seen."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
