"""Disks that are full or read-only: one sentence, nothing lost, and the run goes on when that is put right."""

import contextlib
import dataclasses
import os
import resource
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.checkpoint import CHECKSUMS, CheckpointWriter, checkpoint_steps, damaged_checkpoints
from jaxdt.cli import run as command
from jaxdt.errors import WriteError
from jaxdt.run.importing import import_run
from jaxdt.types import Box, Spec
from tests.children import everything_saved, start, without_clock
from tests.conftest import tiny_algorithm
from tests.runs import CONFIG as OF_RUN, STORE
from tests.toys import Drift


CONFIG = dataclasses.replace(OF_RUN, steps=8, eval_every=4, save_every=2, log_every=1, targets=(5.0,))


# Orbax's threads leave files and coroutines behind that cannot end well where the disk refuses in the midst of a save.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Disk:
    """From the `nth` time that a file whose path holds `name` is opened for writing, no file can be written to.

    The kernel refuses, by its limit on the size of files, so libraries in C++ and their threads meet it too.
    """

    def __init__(self):
        self.name, self.left = "", 0
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        sys.addaudithook(self._watch)  # for good: an audit hook cannot be taken away

    def _watch(self, event, arguments):
        writes = event == "os.mkdir" or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        if self.left and writes and self.name in str(arguments[0]):
            self.left -= 1
            if not self.left:
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, self.limits[1]))

    @contextlib.contextmanager
    def fails_at(self, name, nth=1):
        self.name, self.left = name, nth
        try:
            yield
        finally:
            reached, self.left = not self.left, 0
            resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)
        assert reached, f"{name} was not written {nth} times"


@pytest.fixture(scope="module")
def disk():
    return Disk()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return jaxdt.train(CONFIG, STORE, out=tmp_path_factory.mktemp("disk") / "whole", env=Drift())


def fail_and_go_on(disk, whole, out, sites):
    """Resumes one run again and again, and has it fail at each site once."""
    safe = None
    for name, nth, shown in sites:
        with pytest.raises(WriteError) as caught:
            with disk.fails_at(name, nth):
                jaxdt.train(CONFIG, STORE, out=out, env=Drift(), resume=True)
        said, steps = str(caught.value), checkpoint_steps(out / "checkpoints")
        assert f"{shown} cannot be written: the file would be larger than this process may write" in said, (name, said)
        assert "\n" not in said
        if (out / "config.json").exists():
            again = f"jaxdt.train(..., store=..., env=..., out='{out}', resume=True)"
            assert f"goes on with {again} when that is put right" in said
            assert (f"safe up to checkpoint {steps[-1]}" if steps else "no checkpoint was saved yet") in said
        assert not damaged_checkpoints(out / "checkpoints")
        assert not steps or steps[-1] >= (safe or 0)
        safe = steps[-1] if steps else None
        if steps:
            jaxdt.Agent.load(out)
    jaxdt.train(CONFIG, STORE, out=out, env=Drift(), resume=True)
    jax.tree.map(np.testing.assert_array_equal, *map(everything_saved, (out / "checkpoints", whole / "checkpoints")))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert without_clock(out / name) == without_clock(whole / name)
    left = {path.name for path in out.rglob("*") if "tmp" in path.name}
    assert not left


@pytest.mark.slow
def test_every_write_of_a_run_may_fail(disk, whole, tmp_path):  # before `quick_plots`: its figures are drawn
    sites = [
        (".holder.", 1, ".holder"),
        (".config.json.", 1, "config.json"),
        (".config.json.", 2, "config.json"),
        ("/metrics.jsonl", 1, "metrics.jsonl"),
        ("/checkpoints", 2, "checkpoints/2"),  # asks for room, after making the directory
        ("orbax-checkpoint-tmp", 1, "checkpoints/2"),
        ("params/array_metadatas", 1, "checkpoints/2"),
        ("_CHECKPOINT_METADATA", 1, "checkpoints/2"),
        (f".{CHECKSUMS}.", 1, CHECKSUMS),
        (f".{CHECKSUMS}.", 2, CHECKSUMS),
        (".metrics.jsonl.", 1, "metrics.jsonl"),  # cut back to the checkpoint
        ("/evaluations.jsonl", 2, "evaluations.jsonl"),
        (".loss.png.", 1, "loss.png"),
        (".returns.png.", 1, "returns.png"),
        (f".{CHECKSUMS}.", 1, CHECKSUMS),
        (".config.json.", 1, "config.json"),
        ("/metrics.jsonl", 2, "metrics.jsonl"),
    ]
    fail_and_go_on(disk, whole, tmp_path / "run", sites)


@pytest.mark.slow
def test_a_write_that_fails_ends_the_run_which_then_goes_on(disk, whole, tmp_path, quick_plots):
    sites = [("/metrics.jsonl", 3, "metrics.jsonl"), (f".{CHECKSUMS}.", 1, CHECKSUMS)]
    fail_and_go_on(disk, whole, tmp_path / "run", sites)


@pytest.mark.slow
def test_a_failed_save_leaves_the_checkpoints_before_it_and_no_litter(disk, tmp_path):
    params = {"kernel": jax.numpy.ones((64, 64))}
    writer = CheckpointWriter(tmp_path)
    for step in (1, 2):
        writer.save(step, params=params, metadata={}, score=None)
    for name in ("/tmp", "3.orbax-checkpoint-tmp", "params", f".{CHECKSUMS}."):
        with pytest.raises(WriteError, match=r"3.* cannot be written: the file would be larger"), disk.fails_at(name):
            writer.save(3, params=params, metadata={}, score=None)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"], name
    assert not damaged_checkpoints(tmp_path)
    writer.save(3, params=params, metadata={}, score=None)
    assert checkpoint_steps(tmp_path) == [2, 3]


def test_tensorboard_on_a_full_disk_fails_instead_of_waiting_forever(disk, tmp_path):
    from jaxdt.loggers import TensorBoard

    board = TensorBoard(tmp_path / "tensorboard")
    for step in range(20):
        board.write(step, {"loss": 0.5})
    with disk.fails_at("other"):
        (tmp_path / "other").touch()
        with pytest.raises(WriteError, match="tensorboard cannot be written: the file"):
            board.write(20, {"loss": 0.5})
    with contextlib.suppress(WriteError):
        board.close()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("collect --env InvertedPendulum-v5 --policy random --episodes 1 --out {out}.npz", ".npz"),
        ("convert {data} {out}.npz", ".npz"),
        ("convert {data} {out}.parquet", ".parquet"),
        ("convert {data} {out}.hdf5", ".hdf5"),
        ("export {run} {out}", ""),
        ("import {exported} {out}", ""),
        ("evaluate {run} --env InvertedPendulum-v5 --targets 1 --episodes 1 --json {out}.json", ".json"),
    ],
)
def test_other_commands_say_it_in_one_sentence_too(disk, small, tmp_path, capsys, arguments, name):
    out = tmp_path / "out"
    with disk.fails_at(f"/.out{name}."):
        code = command(arguments.format(**small, out=out).split())
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 1
    assert said.startswith(f"jaxdt: error: {out}{name} cannot be written: the file would be larger than")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A dataset, a run that was never trained and its export, all small."""
    from tests.children import pendulum_episodes

    path = tmp_path_factory.mktemp("small")
    pendulum_episodes(path / "data.npz")
    store = jaxdt.load_episodes(path / "data.npz")
    algorithm = tiny_algorithm(state_dim=store.state_dim, action_dim=store.action_dim)
    constants = {"state_mean": store.statistics.mean, "state_std": store.statistics.std}
    spec = Spec(
        observation_shape=(4,), action=Box(np.full(1, -3, np.float32), np.full(1, 3, np.float32)), constants=constants
    )
    params = jax.jit(jaxdt.build_model(algorithm.model)[0])(jax.random.key(0))
    jaxdt.to_huggingface(jaxdt.Agent(algorithm, params, spec), path / "exported")
    return {
        "data": path / "data.npz",
        "run": import_run(path / "exported", path / "run"),
        "exported": path / "exported",
    }


MOUNTED = """
import os, subprocess, sys
from pathlib import Path
from jaxdt.checkpoint import checkpoint_steps, damaged_checkpoints
from jaxdt.cli import run as command
import jaxdt

disk, data = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], check=True)
out = disk / "run"
flags = "--env none --width 16 --num-layers 1 --context-length 4 --batch-size 4 --log-every 1 --save-every 2".split()
resume = ["train", "paper", "--resume", "--dataset", data, "--out", str(out), *flags]
train = lambda steps: command([*resume, "--steps", str(steps)])
say = lambda *words: print(*words, file=sys.stderr, flush=True)
assert train(4) == 0
with open(disk / "ballast", "wb", buffering=0) as ballast:
    try:
        while True:
            ballast.write(bytes(4096))
    except OSError:
        pass
say("FULL", train(8))
assert checkpoint_steps(out / "checkpoints")[-1] == 4 and not damaged_checkpoints(out / "checkpoints")
jaxdt.Agent.load(out)
(disk / "ballast").unlink()
say("ROOM", train(8), checkpoint_steps(out / "checkpoints"))
subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
say("READ-ONLY", train(10))
jaxdt.Agent.load(out)
assert command(["info", str(out)]) == 0
assert command(["convert", data, str(disk / "new.npz")]) == 1
assert command(["train", "--dataset", data, "--out", str(disk / "new"), "--steps", "2", *flags]) == 1
subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
say("WRITABLE", train(10), checkpoint_steps(out / "checkpoints"))
subprocess.run(["umount", "-l", str(disk)])
"""


def can_mount():
    unshare = shutil.which("unshare")
    return unshare is not None and subprocess.run([unshare, "-rm", "mount", "-t", "tmpfs", "x", "/mnt"]).returncode == 0


@pytest.mark.slow
def test_a_real_full_and_read_only_disk_lose_nothing(small, tmp_path):
    if not can_mount():
        pytest.skip("this machine lets us mount nothing; the tests above have the kernel refuse in another way")
    (tmp_path / "disk").mkdir()
    (tmp_path / "mounted.py").write_text(MOUNTED)
    arguments = [str(tmp_path / "mounted.py"), str(tmp_path / "disk"), str(small["data"])]
    process = start(arguments, tmp_path / "cache", through=["unshare", "-rm"], stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("jaxdt: error: ")]
    assert [line.split(" cannot be written: ")[1].split(";")[0] for line in errors] == [
        "the disk is full",
        *["the file system is read-only"] * 3,
    ]
    assert "is safe up to checkpoint 4, and goes on with jaxdt train --resume --out" in errors[0]
    assert "is safe up to checkpoint 8, and goes on with" in errors[1]
    for line in ("FULL 1", "ROOM 0 [6, 8]", "READ-ONLY 1", "WRITABLE 0 [8, 10]"):
        assert line in said.splitlines()
