"""`kill -9` while logs of a game are unpacked and while it is played, and the run ends as if nothing had happened."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdt import load_episodes
from jaxdt.checkpoint import checkpoint_steps
from jaxdt.loggers import read_lines
from jaxdt.run.directory import RunDirectory
from tests import test_dqn_replay
from tests.children import everything_saved, start, without_clock


FLAGS = (
    "--targets 3 --steps 4 --eval-every 2 --eval-episodes 2 --save-every 1 --log-every 1 --updates-per-call 1 "
    "--batch-size 2 --context-length 2 --width 8 --num-layers 1 --num-heads 1 --resume"
).split()
PLAYED = {"max_num_frames_per_episode": 1200, "noop_max": 0, "full_action_space": True}
"""Three hundred steps of the emulators, so that a kill finds them at work."""


class Killable:
    """A `jaxdt` process; what it says goes to a file, and what it keeps to a cache of its own."""

    def __init__(self, home: Path, log: Path, arguments: list[str]):
        self.home, self.log = home, log
        with open(log, "a") as out:
            through = ["env", f"XDG_CACHE_HOME={home}"]
            command = ["-m", "jaxdt", *arguments, "--map-above", "0"]
            self.process = start(command, home.parent / "compiled", through, stdout=out, stderr=out)

    def kill_when(self, found: Callable[[], bool], pause: float = 0.0) -> None:
        try:
            while self.process.poll() is None and not found():
                time.sleep(0.0005)
            time.sleep(pause)
            assert self.process.poll() is None, self.log.read_text()
            assert found()
        finally:
            self.process.kill()
            self.process.wait()

    def finish(self) -> None:
        assert self.process.wait(timeout=300) == 0, self.log.read_text()

    def is_unpacking(self) -> bool:
        """Some pictures are in the cache, under a name that is not an entry's yet."""
        found = list(self.home.glob("jaxdt/episodes/.*.tmp/observations.npy"))
        return bool(found) and found[0].stat().st_size > 2**20

    def entries(self) -> tuple[int, int]:
        """Whole ones and half ones in the cache."""
        names = [path.name for path in self.home.glob("jaxdt/episodes/*") if path.is_dir()]
        return sum(not name.startswith(".") for name in names), sum(name.endswith(".tmp") for name in names)


@pytest.fixture
def logs(tmp_path) -> Path:
    checkpoints = {n: test_dqn_replay.checkpoint(n, (90, 60, 150), size=84) for n in (48, 49)}
    return test_dqn_replay.write(tmp_path / "Pong" / "1" / "replay_logs", checkpoints)


def test_logs_whose_unpacking_was_killed_are_unpacked_whole(tmp_path, monkeypatch, logs):
    killed = Killable(tmp_path / "home", tmp_path / "log", ["info", f"dqn:{logs}"])
    killed.kill_when(killed.is_unpacking)
    assert killed.entries() == (0, 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(killed.home))
    store = load_episodes(f"dqn:{logs}", map_above=0)
    assert store.mapped_in is not None
    assert store.fingerprint == load_episodes(f"dqn:{logs}").fingerprint
    assert killed.entries() == (1, 0)


class Trained(Killable):
    def __init__(self, home: Path, out: Path, logs: Path):
        self.run = RunDirectory(out)
        played = ["--env", "ALE/Pong-v5", "--env-kwargs", json.dumps(PLAYED)]
        arguments = ["train", "atari-small", *FLAGS, "--dataset", f"dqn:{logs}", "--out", str(out), *played]
        super().__init__(home, Path(f"{out}.log"), arguments)

    def is_playing(self) -> bool:
        """After the second update, before that evaluation's line."""
        done = [line["step"] for line in read_lines(self.run.metrics)][-1:]
        return done == [2] and not read_lines(self.run.evaluations)


@pytest.mark.slow
def test_a_run_of_pictures_killed_while_it_loads_and_while_it_plays_ends_as_one_that_was_not(tmp_path, logs):
    whole = Trained(tmp_path / "home-0", tmp_path / "whole", logs)
    whole.finish()
    runs = [Trained(tmp_path / "home-1", tmp_path / "killed", logs)]
    runs[-1].kill_when(runs[-1].is_unpacking)
    assert not runs[-1].run.config.exists()
    runs.append(Trained(tmp_path / "home-1", tmp_path / "killed", logs))
    runs[-1].kill_when(runs[-1].is_playing, pause=0.02)
    killed = Trained(tmp_path / "home-1", tmp_path / "killed", logs)
    killed.finish()
    ours, its = (everything_saved(each.run.checkpoints) for each in (killed, whole))
    jax.tree.map(np.testing.assert_array_equal, ours, its)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert without_clock(killed.run.path / name) == without_clock(whole.run.path / name)
    assert [line["step"] for line in read_lines(whole.run.evaluations)] == [2, 4]
    assert checkpoint_steps(killed.run.checkpoints) == checkpoint_steps(whole.run.checkpoints)
    assert killed.entries() == (1, 0)
    assert "Traceback" not in killed.log.read_text()
    assert "damaged" not in killed.log.read_text()
