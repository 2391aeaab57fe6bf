"""A long run takes no more of the machine at its end than at its beginning."""

import json
import subprocess
import sys

import pytest

from tests.children import start


UPDATES = 20_000
TRAINING = f"""
import json, os, sys, threading, time
from pathlib import Path
import jax
import jaxdt
from jaxdt.config import OptimizerConfig, TrainConfig
from jaxdt.progress import Progress
from tests.conftest import make_store, tiny_algorithm
from tests.toys import Drift

compiled, measured = [], []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
)

def measure(step):
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    files = len(os.listdir("/proc/self/fd"))
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    threads = len(names) - names.count("ts_pool_worker")  # TensorStore's pool, under Orbax, fills slowly to its bound
    measured.append(dict(step=step, resident=resident, files=files, threads=threads, compiled=len(compiled)))

class Measuring(Progress):
    def advance(self, done, **numbers):
        if done % {UPDATES // 100} == 50:  # between the evaluations and saves
            measure(done)

config = TrainConfig(
    steps={UPDATES}, batch_size=2, targets=(1.0, 5.0), eval_every=1000, eval_episodes=1, save_every=1000, log_every=100,
    algorithm=tiny_algorithm(num_layers=1, context_length=2),
)
jaxdt.train(config, make_store(), out=sys.argv[1], env=Drift(), progress=Measuring())
print(json.dumps(measured))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory, files and threads are read from /proc")
def test_a_long_run_does_not_creep(tmp_path):
    process = start(["-c", TRAINING, str(tmp_path / "run")], tmp_path / "cache", stdout=subprocess.PIPE)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    measured = json.loads(printed.splitlines()[-1])
    settled = [moment for moment in measured if moment["step"] > UPDATES // 10]
    first, grown = settled[0]["resident"], max(moment["resident"] for moment in settled) - settled[0]["resident"]
    print(f"{first / 2**20:.0f} MiB resident after a tenth, {grown / 2**20:.1f} MiB more at most; {settled[-1]}")
    assert grown < max(0.02 * first, 16 * 2**20)
    for name in ("files", "compiled"):
        assert len({moment[name] for moment in settled}) == 1, [moment[name] for moment in measured]
    threads = [moment["threads"] for moment in settled]
    assert max(threads) <= threads[0] + 2, threads  # a library's pool may start one late; eighteen saves come after
    after_one_evaluation = [moment for moment in measured if moment["step"] > 1000]
    assert len({moment["compiled"] for moment in after_one_evaluation}) == 1
