"""Several processes train one run: real ones, which speak over this machine's loopback."""

import contextlib
import dataclasses
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt import FrameSampler, TrajectorySampler, TransitionSampler, WindowSampler, hosts
from jaxdt.checkpoint import checkpoint_steps
from jaxdt.cli.training import train_command
from jaxdt.errors import JaxdtError
from jaxdt.loggers import read_lines
from jaxdt.parallel import Vote, choose_layout
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.processes import as_the_first_sees, check_same_weights
from tests.children import everything_saved, pendulum_episodes, start
from tests.conftest import make_store


FLAGS = "--width 16 --num-layers 1 --context-length 3 --batch-size 12 --updates-per-call 1 --log-every 2".split()
ALONE = "another process of this run has ended, or cannot be reached; start all again with --resume"


class Together:
    """Runs of `jaxdt train` by several processes in one directory, whose data and programs they share."""

    def __init__(self, shared: Path, out: Path, *flags: str):
        self.shared, self.out, self.flags = shared, out, flags
        self.logs: list[Path] = []

    def start(
        self,
        processes: int,
        *flags: str,
        of_one: dict[int, list[str]] | None = None,
        found_by: Callable[[int], list[str]] | None = None,
        program: dict[int, str] | None = None,
    ) -> list[subprocess.Popen]:
        """`of_one`: flags that one process alone is given. `found_by`: what a scheduler tells each; None: by flags.

        `program`: what one process runs in place of jaxdt itself.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.logs = [Path(f"{self.out}.{process}.log") for process in range(processes)]
        command = f"train bc --dataset {self.shared / 'data.npz'} --out {self.out}".split()
        started = []
        for process, path in enumerate(self.logs):
            which = (program or {}).get(process, "-m jaxdt").split()
            arguments = [*which, *command, *FLAGS, *self.flags, *flags, *(of_one or {}).get(process, [])]
            if found_by is not None:
                arguments.append("--distributed")
            elif processes > 1:
                arguments += ["--coordinator", address, "--num-processes", str(processes), "--process-id", str(process)]
            through = () if found_by is None else ("env", *found_by(process))
            with open(path, "w") as log:
                started.append(start(arguments, self.shared / "cache", through, stdout=log, stderr=subprocess.STDOUT))
        return started

    def finish(self, processes: int, *flags: str) -> None:
        assert self.wait(self.start(processes, *flags)) == [0] * processes, self.said()

    def wait(self, processes: list[subprocess.Popen], seconds: float = 240) -> list[int]:
        """Exit codes."""
        until = time.monotonic() + seconds
        try:
            return [process.wait(timeout=max(until - time.monotonic(), 0.1)) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()

    def wait_for(self, step: int, processes: list[subprocess.Popen]) -> None:
        """Until that update is in metrics.jsonl."""
        while not any(line["step"] >= step for line in read_lines(self.out / "metrics.jsonl")):
            assert all(process.poll() is None for process in processes), self.said()
            time.sleep(0.01)

    def said(self) -> str:
        return "\n".join(path.read_text() for path in self.logs)

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in read_lines(self.out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hosts")
    pendulum_episodes(path / "data.npz")
    return path


def is_close(ours: Together, whole: Together) -> None:
    assert len(ours.losses) == len(whole.losses)
    np.testing.assert_allclose(ours.losses, whole.losses, rtol=1e-5)
    saved = [everything_saved(each.out / "checkpoints") for each in (ours, whole)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *saved)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "splits_state"),
    [("--env none --map-above 0", False), ("--shard-parameters --width 128 --num-layers 2 --eval-episodes 1", True)],
)
def test_two_processes_train_what_one_trains(shared, tmp_path, monkeypatch, flags, splits_state):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run, whole = Together(shared, tmp_path / "two"), Together(shared, tmp_path / "one")
    run.finish(2, *flags.split(), "--steps", "6")
    mapped = list((tmp_path / "cache" / "jaxdt" / "episodes").glob("data-*/offsets.npy"))
    assert len(mapped) == ("--map-above" in flags)
    config = dataclasses.replace(read_record(RunDirectory(run.out)).config, shard_parameters=False, map_above=None)
    jaxdt.train(config, shared / "data.npz", out=whole.out)
    is_close(run, whole)
    made = read_record(RunDirectory(run.out)).made_with
    assert (made["devices"], made["process_count"]) == (2, 2)
    first, second = (path.read_text() for path in run.logs)
    assert "trains on 2 devices of 2 processes, each with 6 of the 12 windows of a batch" in first
    assert bool(re.search("each device holds 5[0-9]% of weights", first)) == splits_state
    assert "trained on" in first
    of_others = r"\[Gloo\].*\n|.*another process is unpacking it; waiting for that\n"  # or it came later
    assert not re.sub(of_others, "", second)


STORE = make_store(lengths=(7, 3, 12))
SAMPLERS = {
    "windows": (lambda **drawn: WindowSampler(STORE, context_length=4, **drawn), 12),
    "passes": (lambda **drawn: WindowSampler(STORE, context_length=4, windows_per_pass=7, **drawn), 4),
    "transitions": (lambda **drawn: TransitionSampler(STORE, **drawn), 12),
    "trajectories": (lambda **drawn: TrajectorySampler(STORE, transitions=3, **drawn), 12),
    "frames": (lambda **drawn: FrameSampler(make_store(discrete=3), context_length=4, **drawn), 12),
}


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_a_batch_make_up_the_batch(kind, processes):
    make, size = SAMPLERS[kind]
    each = size // processes
    whole = make(batch_size=size, seed=5)
    shares = [make(batch_size=size, seed=5, share=slice(i * each, (i + 1) * each)) for i in range(processes)]
    for index in (0, 1, 63, 64, 200):
        parts = [share.batch(index) for share in shares]
        joined = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
        jax.tree.map(np.testing.assert_array_equal, joined, whole.batch(index))


@pytest.mark.parametrize(
    ("batch", "devices", "used"), [(12, None, [0, 2]), (12, 2, [0, 2]), (12, 4, [0, 1, 2, 3]), (2, None, [0, 2])]
)
def test_each_process_has_as_many_devices(monkeypatch, batch, devices, used):
    monkeypatch.setattr("jaxdt.hosts.count", lambda: 2)
    monkeypatch.setattr("jaxdt.parallel._devices_of_each_process", jax.devices)  # two and two
    assert choose_layout(batch, devices=devices).devices == tuple(jax.devices()[i] for i in used)


@pytest.mark.parametrize(
    ("batch", "devices", "says"),
    [
        (12, 3, r"got 2 processes, devices=3 and batch_size=12; give devices=2 \(--devices 2\), or"),
        (6, 4, r"got 2 processes, devices=4 and batch_size=6; give devices=2 \(--devices 2\), or"),
        (5, None, "got 2 processes, one device a process and batch_size=5; start another number of processes, or"),
        (12, 1, r"got 2 processes, devices=1 and batch_size=12; give devices=2 \(--devices 2\), or"),
        (12, 6, "devices must be at most 4, as many as jax finds for 2 processes; got 6"),
    ],
)
def test_devices_that_processes_cannot_share_are_refused(monkeypatch, batch, devices, says):
    monkeypatch.setattr("jaxdt.hosts.count", lambda: 2)
    monkeypatch.setattr("jaxdt.parallel._devices_of_each_process", jax.devices)
    with pytest.raises(JaxdtError, match=says):
        choose_layout(batch, devices=devices)


@pytest.mark.parametrize("calls_a_save", [1, 2, 3, 7, 100])
def test_a_signal_is_heeded_however_often_is_saved(monkeypatch, calls_a_save):
    monkeypatch.setattr("jaxdt.hosts.count", lambda: 2)
    monkeypatch.setattr("jaxdt.parallel._devices_of_each_process", jax.devices)
    vote, said = Vote(choose_layout(12, devices=4)), []
    for call in range(1, 13):
        said.append(vote(15 if call >= 5 else 0, 1 if call == 8 else 0))
        if call % calls_a_save == 0:
            vote.forget(1)
    assert [stop for stop, _ in said] == [0] * 6 + [15] * 6  # two calls later
    saved_since = any(call % calls_a_save == 0 for call in (8, 9))
    assert [overdue for _, overdue in said] == [0] * 9 + [0 if saved_since else 1, 0, 0]


def test_other_weights_than_the_firsts_are_refused(monkeypatch):
    weights = {"bias": np.zeros(3, np.float32), "kernel": np.ones((3, 2), np.float32)}
    monkeypatch.setattr("jaxdt.hosts.count", lambda: 2)
    for first, agree in ((weights, True), ({**weights, "bias": np.full(3, 1e-6, np.float32)}, False)):
        sent = []
        with monkeypatch.context() as patch:
            patch.setattr("jaxdt.hosts.exchange", lambda mine, sent=sent: sent.append(mine) or [mine])
            check_same_weights(first, "runs/a")
        monkeypatch.setattr("jaxdt.hosts.exchange", lambda mine, sent=sent: [*sent, mine])
        refused = pytest.raises(JaxdtError, match="must start from the same weights, and those of runs/a are not")
        with contextlib.nullcontext() if agree else refused:
            check_same_weights(jax.tree.map(jax.numpy.asarray, weights), "runs/a")


@pytest.fixture(scope="module")
def whole(shared) -> Together:
    """By one process, never interrupted."""
    run = Together(shared, shared / "whole", *LONG)
    run.finish(1)
    return run


LONG = "--env InvertedPendulum-v5 --steps 60 --eval-every 20 --save-every 10 --eval-episodes 2".split()


@pytest.mark.slow
def test_a_signal_to_one_stops_all_at_the_same_update_and_two_go_on_for_three(shared, whole, tmp_path):
    run = Together(shared, tmp_path / "run", *LONG)
    processes = run.start(3)
    run.wait_for(12, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert run.wait(processes) == [128 + signal.SIGTERM] * 3, run.said()
    stopped = {re.search(r"stopped after update (\d+) of 60", log.read_text())[1] for log in run.logs}  # type: ignore[index]
    assert stopped == {str(checkpoint_steps(run.out / "checkpoints")[-1])}
    run.finish(2, "--resume")
    is_close(run, whole)
    assert [line["step"] for line in read_lines(run.out / "evaluations.jsonl")] == [20, 40, 60]
    run.finish(2, "--resume")  # which is finished
    assert "is finished: 60 of 60 updates done" in run.said()


@pytest.mark.slow
def test_two_devices_of_each_of_two_processes_start_from_another_run(shared, whole, tmp_path, monkeypatch):
    flags = ("--init", str(whole.out), "--env", "none", "--steps", "4", "--validation-fraction", "0.2")
    run, alone = (Together(shared, tmp_path / name, *flags) for name in ("run", "alone"))
    alone.finish(1)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    run.finish(2, "--devices", "4")
    assert "trains on 4 devices of 2 processes, each with 3 of the 12 windows of a batch" in run.said()
    is_close(run, alone)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "then"), [(0, 3), (1, 1)])
def test_a_process_that_is_killed_ends_the_other_with_one_sentence_and_any_number_goes_on(
    shared, whole, tmp_path, victim, then
):
    run = Together(shared, tmp_path / "run", *LONG)
    processes = run.start(2)
    run.wait_for(12, processes)
    processes[victim].kill()
    killed = time.monotonic()
    codes = run.wait(processes)
    assert time.monotonic() - killed < 60
    assert (codes[victim], codes[1 - victim]) == (-signal.SIGKILL, 1)
    said = run.logs[1 - victim].read_text()
    assert said.count(ALONE) == 1
    assert "Traceback" not in said
    run.finish(then, "--resume")
    is_close(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_killed_ten_times_at_random_the_run_ends_as_what_it_would_have_been(shared, whole, tmp_path, count):
    run, chance = Together(shared, tmp_path / "run", *LONG), random.Random(0)
    for _ in range(10):
        before = max(checkpoint_steps(run.out / "checkpoints"), default=0)
        processes = run.start(count, "--resume")
        while f"on {count} x cpu" not in run.logs[0].read_text():  # before it the others wait longer
            assert all(process.poll() is None for process in processes), run.said()
            time.sleep(0.01)
        if chance.random() < 0.7:
            run.wait_for(min(before + chance.randrange(2, 12), 56), processes)
        time.sleep(chance.uniform(0, 1.5))
        processes[chance.randrange(count)].kill()
        codes = run.wait(processes)
        assert set(codes) <= {0, 1, -signal.SIGKILL}, run.said()
        assert "Traceback" not in run.said()
    run.finish(count, "--resume")
    is_close(run, whole)


def told_by_slurm(process: int) -> list[str]:
    told = f"JOB_ID={os.getpid()} STEP_NODELIST=127.0.0.1 NTASKS=2 PROCID={process} LOCALID={process}"
    return [f"SLURM_{each}" for each in told.split()]


def told_by_open_mpi(process: int) -> list[str]:
    told = f"WORLD_SIZE=2 WORLD_RANK={process} WORLD_LOCAL_RANK={process}"
    address = f"OMPI_MCA_orte_hnp_uri={os.getpid() << 12}.0;tcp://127.0.0.1:34911"
    return [address, *(f"OMPI_COMM_{each}" for each in told.split())]


@pytest.mark.slow
@pytest.mark.parametrize("found_by", [told_by_slurm, told_by_open_mpi])
def test_the_others_are_found_by_what_schedulers_say(shared, tmp_path, found_by):
    run = Together(shared, tmp_path / "run", "--env", "none", "--steps", "2")
    assert run.wait(run.start(2, found_by=found_by)) == [0, 0], run.said()
    assert "trains on 2 devices of 2 processes" in run.said()


@pytest.mark.slow
def test_without_a_scheduler_nothing_is_found(shared, tmp_path):
    run = Together(shared, tmp_path / "run", "--env", "none", "--steps", "2", "--distributed")
    assert run.wait(run.start(1)) == [2]
    assert "finds no others to train with" in run.said()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "of_one", "says"),
    [
        ("--seeds 0 1", {}, "seeds cannot be divided among processes; got 2 seeds and 2 processes; leave seeds="),
        ("--video", {}, r"video must be left out where several processes train; .* jaxdt evaluate RUN --video"),
        ("--batch-size 5", {}, "batch_size of devices; got 2 processes, one device a process and batch_size=5"),
        ("", {1: ["--seed", "1"]}, r"must train the same; seed is 0 in the first and 1 in process 1"),
        ("", {1: ["--dataset", "no.npz"]}, r"no.npz"),
        ("", {1: ["--resume"]}, "all must be given --resume, or none, and so --init"),
        ("", {1: ["--out", "elsewhere"]}, "must be on a disk that all processes share"),
    ],
)
def test_what_one_refuses_all_refuse_in_a_sentence(shared, tmp_path, monkeypatch, flags, of_one, says):
    monkeypatch.chdir(tmp_path)
    run = Together(shared, tmp_path / "run", "--env", "none", "--steps", "2")
    began = time.monotonic()
    codes = run.wait(run.start(2, *flags.split(), of_one=of_one))
    assert codes == [2, 2], run.said()
    assert time.monotonic() - began < 120  # of which 40 s for a disk that may be slow to show what others wrote
    for log in run.logs:
        assert re.search(says, log.read_text()), run.said()
        assert "Traceback" not in log.read_text()
    assert not RunDirectory(run.out).holds_run


FOUR = "SLURM_STEP_TASKS_PER_NODE=4(x2) SLURM_NODEID=1"  # processes a machine
OF_MPI = "OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2"


@pytest.mark.parametrize(
    ("told", "own"),
    [
        # Shown alone: --gpus-per-task=1 and =4, and one process a machine.
        (f"{FOUR} SLURM_LOCALID=3 SLURM_GPUS_ON_NODE=4 CUDA_VISIBLE_DEVICES=0", [0]),
        (f"{FOUR} SLURM_LOCALID=3 CUDA_VISIBLE_DEVICES=GPU-8932f937", [0]),
        (f"{FOUR} SLURM_LOCALID=1 SLURM_GPUS_ON_NODE=16 CUDA_VISIBLE_DEVICES=4,5,6,7", [0, 1, 2, 3]),
        ("SLURM_STEP_TASKS_PER_NODE=4,1 SLURM_NODEID=1 SLURM_LOCALID=0 CUDA_VISIBLE_DEVICES=0,1", [0, 1]),
        # Shown those of all processes of the machine.
        (f"{FOUR} SLURM_LOCALID=3 SLURM_GPUS_ON_NODE=4 CUDA_VISIBLE_DEVICES=0,1,2,3", [3]),
        (f"{FOUR} SLURM_LOCALID=1 SLURM_GPUS_ON_NODE=8 CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7", [2, 3]),
        (f"{OF_MPI} CUDA_VISIBLE_DEVICES=0,1,2,3", [2, 3]),
        # It does not say.
        (f"{FOUR} SLURM_LOCALID=3", None),
        (f"{FOUR} SLURM_LOCALID=3 CUDA_VISIBLE_DEVICES=0,1 JAX_PLATFORMS=cpu", None),
        (f"{FOUR} SLURM_LOCALID=3 SLURM_GPUS_ON_NODE=1 CUDA_VISIBLE_DEVICES=-1", None),
        (f"{FOUR} SLURM_LOCALID=3 CUDA_VISIBLE_DEVICES=NoDevFiles", None),
        (f"{FOUR} SLURM_LOCALID=3 CUDA_VISIBLE_DEVICES=0,1,2,3 JAX_LOCAL_DEVICE_IDS=1", None),
        ("SLURM_STEP_TASKS_PER_NODE=4 SLURM_NODEID=1 SLURM_LOCALID=0 CUDA_VISIBLE_DEVICES=0,1", None),
        ("CUDA_VISIBLE_DEVICES=0,1", None),
    ],
)
def test_a_process_trains_on_the_gpus_that_are_its_own(monkeypatch, told, own):
    given: dict[str, object] = {}
    monkeypatch.setattr("os.environ", dict(each.split("=") for each in told.split()))
    monkeypatch.setattr("jax.distributed.initialize", lambda *others, **named: given.update(named))
    hosts.connect("127.0.0.1:1", 2, 0)
    assert given["local_device_ids"] == own


@pytest.mark.parametrize(
    "told",
    [
        f"{FOUR} SLURM_LOCALID=0 SLURM_GPUS_ON_NODE=8 CUDA_VISIBLE_DEVICES=0,1,2,3",  # as --gpu-bind=closest shows them
        f"{FOUR} SLURM_LOCALID=0 CUDA_VISIBLE_DEVICES=0,1",
        f"{FOUR} SLURM_LOCALID=0 SLURM_GPUS_ON_NODE=1 CUDA_VISIBLE_DEVICES=0",  # of all four
        f"{OF_MPI} CUDA_VISIBLE_DEVICES=0,1,2",
    ],
)
def test_gpus_that_other_processes_may_be_shown_too_are_refused(monkeypatch, told):
    monkeypatch.setattr("os.environ", dict(each.split("=") for each in told.split()))
    with pytest.raises(JaxdtError, match=r"^each of the \d .* this one is shown \d .* say in JAX_LOCAL_DEVICE_IDS"):
        hosts.connect("127.0.0.1:1", 2, 0)


def test_what_another_process_does_not_see_yet_is_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr("jaxdt.hosts.is_first", lambda: False)
    monkeypatch.setattr("jaxdt.hosts.told", lambda mine: [True])  # by the first
    monkeypatch.setattr("jaxdt.run.processes.time.sleep", lambda seconds: None)
    looks = iter([[False], JaxdtError("half of a file"), OSError(), [True]])

    def look():
        seen = next(looks)
        if isinstance(seen, Exception):
            raise seen
        return seen

    assert as_the_first_sees(look, tmp_path) == [True]
    assert list(looks) == []
    with pytest.raises(JaxdtError, match=r"on a disk that all processes share; got .*, which does not hold here"):
        as_the_first_sees(lambda: [False], tmp_path, patience=0)


LATE = """
import sys
from jaxdt.cli import main
from jaxdt.run.directory import RunDirectory

looks, holds_run = iter(range(1000)), RunDirectory.holds_run.fget
RunDirectory.holds_run = property(lambda run: next(looks) not in (0, 1, 2, 5, 6) and holds_run(run))
sys.exit(main())
"""


@pytest.mark.slow
def test_a_run_that_one_process_sees_late_goes_on(shared, whole, tmp_path):
    """As on a network file system: the second one finds nothing for a while, before its options are read and after."""
    run = Together(shared, tmp_path / "run", *LONG)
    run.finish(1, "--steps", "20")
    (tmp_path / "late.py").write_text(LATE)
    processes = run.start(2, "--resume", "--steps", "60", program={1: str(tmp_path / "late.py")})
    assert run.wait(processes) == [0, 0], run.said()
    is_close(run, whole)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            "--coordinator localhost:1 --num-processes two --process-id 0",
            "--num-processes takes a whole number, .* 'two'",
        ),
        ("--distributed --widht 16", "--widht"),  # before the others are waited for
        ("--distributed --resume --out r --coordinator a:1 --process-id 0", "together; one of them is missing"),
        ("--num_processes=2", "--coordinator, --num-processes and --process-id are given together"),
        ("--coordinator localhost:1", "--coordinator, --num-processes and --process-id are given together"),
        (
            "--coordinator localhost --num-processes 2 --process-id 0",
            "takes HOST:PORT, the first process's; got 'local",
        ),
    ],
)
def test_flags_that_name_no_others_are_refused(flags, says):
    with pytest.raises(JaxdtError, match=says):
        train_command(["bc", *flags.split()])


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_waits_for_nobody(monkeypatch, capsys, tmp_path, flag):
    monkeypatch.setattr("jaxdt.hosts.connect", lambda *others: pytest.fail("it would wait"))
    with pytest.raises(SystemExit):
        train_command(["bc", "--distributed", "--resume", "--out", str(tmp_path), flag])
    assert "--distributed" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train_command(["--resume", flag])
    assert "--distributed" in capsys.readouterr().out
