"""The main job as a new user runs it: `jaxdt train`, nothing else."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

import jaxdt
from jaxdt.data.demo import demo_levels


@pytest.mark.slow
def test_the_demo_reaches_its_targets_within_its_time(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # the tests' own
    done = subprocess.run(
        [sys.executable, "-m", "jaxdt", "train"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "demo-HalfCheetah-v5-1"
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    achieved = [line["return_mean"] for line in lines if line["step"] == lines[-1]["step"]]
    expert = demo_levels()["expert"]
    assert len(achieved) == 3
    assert np.all(np.diff(achieved) >= 0.1 * expert), achieved
    assert achieved[-1] >= 0.8 * expert, achieved
    # Six minutes of two cores; by the clock, a test beside this one would count too.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * 360
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]  # no MUJOCO_LOG.TXT
    assert "settotalmass" not in done.stderr + done.stdout
    assert {"config.json", "metrics.jsonl", "episodes.npz", "checkpoints", "plots"} <= {p.name for p in run.iterdir()}
    agent = jaxdt.Agent.load(run)
    agent.reset(target_return=6000.0)
    assert agent.act(np.zeros(17)).shape == (6,)
