"""`kill -9` at any moment, `--resume`, and the run is what it would have been."""

import random
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdt.checkpoint import checkpoint_steps, find_checkpoint
from jaxdt.cli import run as command
from jaxdt.loggers import read_lines
from jaxdt.run.directory import RunDirectory
from tests.children import everything_saved, pendulum_episodes, start, without_clock


STEPS, EVALUATE_EVERY, SAVE_EVERY = 16, 8, 5
FLAGS = (
    f"--steps {STEPS} --eval-every {EVALUATE_EVERY} --save-every {SAVE_EVERY} --log-every 1 --targets 1 5 "
    "--eval-episodes 2 --width 16 --num-layers 1 --context-length 8 --batch-size 16 --warmup-steps 2"
).split()
PHASES = ("compile", "step", "evaluation", "save")


class Trained:
    """One run directory, and the processes that train in it one after the other."""

    def __init__(self, shared: Path, out: Path):
        self.shared, self.run = shared, RunDirectory(out)
        self.begun = 0

    def start(self, *, cached: bool = True):
        self.begun = _modified(self.run.config)
        data = ["--dataset", str(self.shared / "data.npz"), "--out", str(self.run.path), "--resume"]
        cache = self.shared / "cache" if cached else None
        with open(f"{self.run.path}.log", "a") as log:
            return start(["-m", "jaxdt", "train", "paper", *data, *FLAGS], cache, stdout=log, stderr=log)

    def finish(self) -> None:
        assert self.start().wait(timeout=300) == 0, self.log()

    def log(self) -> str:
        return Path(f"{self.run.path}.log").read_text()

    def phase(self) -> str:
        """What the newest process does, or did when it was killed, by the files it has written."""
        config, metrics = _modified(self.run.config), _modified(self.run.metrics)
        if config == self.begun:
            return "start"
        if metrics <= config:  # the loop writes config.json before its first update, and a line after each
            return "compile"
        if _is_saving(self.run.checkpoints):
            return "save"
        done = [line["step"] for line in read_lines(self.run.metrics)][-1:]
        evaluated = [line["step"] for line in read_lines(self.run.evaluations)]
        if done and done[0] % EVALUATE_EVERY == 0 and evaluated.count(done[0]) < 2:
            return "evaluation"
        return "step"


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _is_saving(checkpoints: Path) -> bool:
    """Whether a save is under way: Orbax's directory has another name until it is whole, and sums come after it."""
    finished = set(map(str, checkpoint_steps(checkpoints)))
    names = {path.name for path in checkpoints.iterdir()} if checkpoints.is_dir() else set()
    return any(name.isdecimal() or "orbax-checkpoint-tmp" in name for name in names - finished)


def kill(trained: Trained, phase: str | None, chance: random.Random, pause: float) -> str | None:
    """Starts the run again and kills it `pause` at most after it enters the phase, None: after it started.

    Returns the phase in which the kill found it; None where the run had ended by then, which is no kill.
    """
    process = trained.start(cached=phase != "compile")
    try:
        while phase is not None and process.poll() is None and trained.phase() != phase:
            time.sleep(0.0005)
        time.sleep(pause * chance.random())
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    if process.returncode == 0:
        return None
    assert process.returncode == -signal.SIGKILL, trained.log()
    return trained.phase()


def is_what_it_would_have_been(trained: Trained, whole: Trained) -> None:
    ours, its = everything_saved(trained.run.checkpoints), everything_saved(whole.run.checkpoints)
    jax.tree.map(np.testing.assert_array_equal, ours, its)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert without_clock(trained.run.path / name) == without_clock(whole.run.path / name)
    assert checkpoint_steps(trained.run.checkpoints) == checkpoint_steps(whole.run.checkpoints)
    assert find_checkpoint(trained.run.checkpoints, "best") == find_checkpoint(whole.run.checkpoints, "best")
    assert (trained.run.plots / "returns.png").is_file()
    log = trained.log()
    assert "Traceback" not in log, log
    assert "damaged" not in log, log


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("killing")
    pendulum_episodes(path / "data.npz")
    return path


@pytest.fixture(scope="module")
def whole(shared) -> Trained:
    """The run that nothing disturbs; it also fills the cache of compiled programs."""
    trained = Trained(shared, shared / "whole")
    trained.finish()
    assert [line["step"] for line in read_lines(trained.run.metrics)] == list(range(1, STEPS + 1))
    return trained


@pytest.mark.slow
def test_a_run_killed_in_each_phase_ends_as_the_one_that_was_not(shared, whole):
    trained, chance = Trained(shared, shared / "killed"), random.Random(0)
    found = [kill(trained, phase, chance, 0.01) for phase in ("compile", "save", "evaluation")]
    trained.finish()
    assert found == ["compile", "save", "evaluation"]
    assert f"{trained.run.path} begins anew, for it has no checkpoint yet" in trained.log()
    assert f"{trained.run.path} goes on after update 5 of 16" in trained.log()
    is_what_it_would_have_been(trained, whole)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(shared, whole):
    seed, began = 1, time.monotonic()
    chance = random.Random(seed)
    wanted: list[str | None] = [*PHASES * 4, *[None] * 8]
    chance.shuffle(wanted)
    found: list[str] = []
    runs = [Trained(shared, shared / "killed-often-0")]
    while len(found) < 20 or any(found.count(phase) < 3 for phase in PHASES):
        assert len(found) < 40, f"seed {seed} found {found}"
        phase = wanted.pop() if wanted else next(phase for phase in PHASES if found.count(phase) < 3)
        killed_in = kill(runs[-1], phase, chance, {None: 6.0, "step": 0.002}.get(phase, 0.03))
        if killed_in is None:  # it had ended: the next kills are another run's
            is_what_it_would_have_been(runs[-1], whole)
            runs.append(Trained(shared, shared / f"killed-often-{len(runs)}"))
        else:
            found.append(killed_in)
    runs[-1].finish()
    print(f"{len(found)} kills, seed {seed}, {time.monotonic() - began:.0f} s, {len(runs)} runs: {found}")
    is_what_it_would_have_been(runs[-1], whole)


@pytest.mark.slow
def test_two_processes_train_to_the_same_bits(shared, whole):
    other = Trained(shared, shared / "other")
    other.finish()
    is_what_it_would_have_been(other, whole)


@pytest.mark.slow
@pytest.mark.parametrize("left", [[], [".lock", ".holder", ".holder.x1.tmp", ".config.json.x2.tmp"]])
def test_a_run_killed_before_its_config_begins_anew(shared, tmp_path, capsys, left):
    out = tmp_path / "run"
    out.mkdir()
    for name in left:
        (out / name).write_text("half")
    flags = ["--out", str(out), "--steps", "1", "--env", "none", "--width", "16", "--num-layers", "1"]
    assert command(["train", "--resume", *flags]) == 2
    assert "holds no run to resume; check --out, or give a preset or --dataset too" in capsys.readouterr().err
    assert command(["train", "--resume", "--dataset", str(shared / "data.npz"), *flags]) == 0
    assert checkpoint_steps(out / "checkpoints") == [1]
    assert not list(out.glob(".*.tmp"))
