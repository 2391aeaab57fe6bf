"""Several processes that train one run, on one machine or many; nothing else asks which of them this is.

Each does all that the others do, in the same order. The first alone writes, plays and prints.
"""

import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
from jaxtyping import Array, PyTree

from jaxdt.errors import JaxdtError, RunError, StoppedError, one_line


HEARTBEAT = 30
"""Seconds without a sign of life after which a process counts as dead, where nothing else tells it sooner."""

_PATIENCE = 10.0  # seconds that a process which has failed waits for the others to hear why
_numbers = itertools.count()  # of what is told, the same in all processes


def connect(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Before anything is computed: waits for the others; None: as SLURM, Open MPI, Kubernetes or a TPU pod says.

    Raises JaxdtError where none of these says anything, the others cannot be reached, or `own_gpus` does.
    """
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise JaxdtError(f"--coordinator takes HOST:PORT, the first process's; got {coordinator!r:.80}.")
    own = own_gpus(os.environ)
    jax.config.update("jax_enable_preemption_service", False)  # which would keep SIGTERM for itself
    try:
        with _saying_so_on_abort():
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                local_device_ids=own,
                heartbeat_timeout_seconds=HEARTBEAT,
            )
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        why = one_line(error, 200).rstrip(".")
        raise JaxdtError(
            f"this process finds no others to train with: {why}; start it with srun or mpirun, on a TPU pod or in a "
            "Kubernetes job, or give --coordinator HOST:PORT, --num-processes N and --process-id I."
        ) from error


def own_gpus(told: Mapping[str, str]) -> list[int] | None:
    """Which of the GPUs that a scheduler shows this process it trains on; None: it does not say, so as jax chooses.

    `told`: environment variables. Jax takes the one whose number is the process's own on its machine, which is not
    there where each is shown its own alone (SLURM's `--gpus-per-task`; jax's issue 28194), and is one of many where a
    machine has one process (issue 16788). Raises JaxdtError where it shows some, not all, of several processes' GPUs.
    """
    shown, ours = told.get("CUDA_VISIBLE_DEVICES", ""), _place_on_machine(told)
    platforms = (told.get("JAX_PLATFORMS") or "cuda").split(",")
    is_of_gpus = shown not in ("", "-1", "void", "NoDevFiles") and {"cuda", "gpu"} & {*platforms}
    if not is_of_gpus or ours is None or "JAX_LOCAL_DEVICE_IDS" in told:
        return None
    number, (place, processes) = shown.count(",") + 1, ours
    on_node = told.get("SLURM_GPUS_ON_NODE", "")
    there = int(on_node) if on_node.isdecimal() else number  # for all processes of this machine
    enough = not on_node.isdecimal() or there >= processes
    if enough and (number == 1 or processes == 1 or number * processes == there):
        return list(range(number))  # shown to this process alone
    if number != there or number % processes:
        raise JaxdtError(
            f"each of the {processes} processes of a machine needs GPUs of its own; this one is shown {number} "
            f"(CUDA_VISIBLE_DEVICES={shown:.60}) of {there}; start one process a GPU (--gpus-per-task=1), or say in "
            "JAX_LOCAL_DEVICE_IDS which of them it takes, such as 0,1, or by JAX_PLATFORMS=cpu that it takes none."
        )
    each = number // processes
    return list(range(place * each, (place + 1) * each))


def _place_on_machine(told: Mapping[str, str]) -> tuple[int, int] | None:
    """This process's number among those of its machine, and how many these are, as SLURM or Open MPI says."""
    try:
        if "OMPI_COMM_WORLD_LOCAL_RANK" in told:
            return int(told["OMPI_COMM_WORLD_LOCAL_RANK"]), int(told["OMPI_COMM_WORLD_LOCAL_SIZE"])
        of_each = re.findall(r"(\d+)(?:\(x(\d+)\))?", told["SLURM_STEP_TASKS_PER_NODE"])  # such as 4(x2),3
        processes = [int(number) for number, times in of_each for _ in range(int(times or 1))]
        return int(told["SLURM_LOCALID"]), processes[int(told["SLURM_NODEID"])]
    except (KeyError, ValueError, IndexError):
        return None


def count() -> int:
    """How many train together; 1 unless `connect`, or `jax.distributed.initialize`, came first."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    return count() == 1 or jax.process_index() == 0


def exchange(value: Any) -> list[Any]:
    """What each process gives, as JSON, for all and in their order. None goes on before all have come here.

    Raises JaxdtError where another process has failed.
    """
    if count() == 1:
        return [value]
    answers = _all_answers({"value": value})
    for process, answer in enumerate(answers):
        if "error" in answer:
            raise _OthersError(f"process {process} of {count()} has failed: {answer['error']}")
    return [answer["value"] for answer in answers]


def told(value: Any) -> Any:
    """What the first process gives, as JSON, for all."""
    return value if count() == 1 else exchange(value if is_first() else None)[0]


def by_first(do: Callable[..., Any], *arguments: Any) -> Any:
    """What the first process alone does; all wait for it, and have what it returns, which must be JSON."""
    if count() == 1:
        return do(*arguments)
    return told(do(*arguments) if is_first() else None)


def here(tree: PyTree[Array]) -> PyTree[Array]:
    """This process's own copy of arrays that all devices hold."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


@contextlib.contextmanager
def in_step() -> Iterator[None]:
    """Around what processes do together: what one of them refuses all refuse, and where one is lost all end at once.

    Else the others would wait for it, for minutes or for ever. The process itself ends then, not the block alone.
    """
    if count() == 1:
        yield
        return
    with _saying_so_on_abort():
        try:
            yield
        except (StoppedError, _OthersError):
            raise  # in all of them
        except BaseException as error:
            if isinstance(error, JaxdtError | RunError | OSError) and _all_hear(error):
                raise
            _end(error)


class _OthersError(JaxdtError):
    """What another process has met."""


def _all_answers(mine: dict[str, Any], patience: float | None = None) -> list[dict[str, Any]]:
    """Raises TimeoutError where one has not answered after `patience` seconds; None: waits as long as it takes."""
    client, place = _client(), f"jaxdt/{next(_numbers)}"
    until = None if patience is None else time.monotonic() + patience
    client.key_value_set(f"{place}/{jax.process_index()}", json.dumps(mine))
    if is_first():
        answers = [json.loads(_wait_for(f"{place}/{process}", until)) for process in range(count())]
        client.key_value_set(f"{place}/all", json.dumps(answers))
        return answers
    return json.loads(_wait_for(f"{place}/all", until))


def _client() -> Any:
    """What processes tell each other by, for which there is no public name."""
    from jax._src.distributed import global_state

    assert global_state.client is not None
    return global_state.client


def _wait_for(key: str, until: float | None) -> str:
    client = _client()
    while until is None or time.monotonic() < until:
        try:
            return client.blocking_key_value_get(key, 2000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
    raise TimeoutError(key)


def _all_hear(error: BaseException) -> bool:
    with contextlib.suppress(TimeoutError, jax.errors.JaxRuntimeError):
        _all_answers({"error": str(error)}, _PATIENCE)
        return True
    return False


_LOST = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination", "Connection", "barrier")
_GONE = "another process of this run has ended, or cannot be reached; start all again with --resume"


def _end(error: BaseException) -> NoReturn:
    what = one_line(error, 300)
    if isinstance(error, JaxdtError | RunError | OSError):
        _leave(what)
    if any(word in what for word in _LOST):
        _leave(f"{_GONE} ({what}).")
    traceback.print_exception(error)
    _leave(f"{type(error).__name__}: {what}; the other processes end with this one.")


_last_words = threading.Lock()  # never let go of: of two threads that leave, one speaks


def _leave(sentence: str) -> NoReturn:
    _last_words.acquire()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        print(f"jaxdt: error: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)


@contextlib.contextmanager
def _saying_so_on_abort() -> Iterator[None]:
    """jaxlib aborts a process that hears of another one's death, and lets nobody catch that in Python."""
    if sys.platform == "win32":
        yield
        return

    def on_abort(number: int) -> None:
        del number
        _leave(f"{_GONE}.")

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    library = ctypes.CDLL(None)
    library.signal.restype, library.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        library.signal(signal.SIGABRT, before)
