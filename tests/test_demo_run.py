"""The main jobs as a new user runs them: `jaxdt train` and `jaxdt train cartpole`, nothing else.

They train at full length, since what the presets reach and how long they take is what they promise.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxdt
from jaxdt.data.demo import demo_levels


def train(directory: Path, *arguments: str) -> tuple[list[float], float, str]:
    """Runs `jaxdt train` there: the returns achieved in the end, seconds of processor time, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # the tests' own
    done = subprocess.run(
        [sys.executable, "-m", "jaxdt", "train", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    (run,) = (directory / "runs").iterdir()
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    achieved = [line["return_mean"] for line in lines if line["step"] == lines[-1]["step"]]
    # Not by the clock: a test beside this one would count too.
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return achieved, seconds, done.stderr + done.stdout


@pytest.mark.slow
def test_the_demo_reaches_its_targets_within_its_time(tmp_path):
    achieved, seconds, printed = train(tmp_path)
    run, expert = tmp_path / "runs" / "demo-HalfCheetah-v5-1", demo_levels()["expert"]
    assert len(achieved) == 3
    assert np.all(np.diff(achieved) >= 0.1 * expert), achieved
    assert achieved[-1] >= 0.85 * expert, achieved
    assert seconds < 2 * 180  # three minutes of two cores
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]  # no MUJOCO_LOG.TXT
    assert "settotalmass" not in printed
    assert {"config.json", "metrics.jsonl", "episodes.npz", "checkpoints", "plots"} <= {p.name for p in run.iterdir()}
    agent = jaxdt.Agent.load(run)
    agent.reset(target_return=6000.0)
    assert agent.act(np.zeros(17)).shape == (6,)


@pytest.mark.slow
def test_cartpole_follows_its_targets_within_its_time(tmp_path):
    achieved, seconds, _ = train(tmp_path, "cartpole")
    np.testing.assert_allclose(achieved[:2], [50, 200], rtol=1 / 3)
    assert achieved[2] >= 450
    assert seconds < 2 * 120  # two minutes of two cores
    assert (tmp_path / "runs" / "cartpole-CartPole-v1-1" / "episodes.npz").is_file()
