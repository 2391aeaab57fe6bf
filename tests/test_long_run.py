"""A long run takes no more of the machine at its end than at its beginning."""

import json
import subprocess
import sys

import pytest

from tests.children import start


UPDATES, ROUNDS = 20_000, 1_000
MEASURING = """
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
    def __init__(self, every):
        self.every = every

    def advance(self, done, **numbers):
        if done % self.every == self.every // 4:  # between the evaluations and saves
            measure(done)
"""
TRAINING = f"""{MEASURING}
config = TrainConfig(
    steps={UPDATES}, batch_size=2, targets=(1.0, 5.0), eval_every=1000, eval_episodes=1, save_every=1000, log_every=100,
    algorithm=tiny_algorithm(num_layers=1, context_length=2),
)
jaxdt.train(config, make_store(), out=sys.argv[1], env=Drift(), progress=Measuring({UPDATES // 100}))
print(json.dumps(measured))
"""
FINE_TUNING = f"""{MEASURING}
import warnings
from tests.toys import Buttons, button_episodes
warnings.simplefilter("ignore")  # of observations that are constant
config = TrainConfig(
    steps=1, batch_size=2, targets=(1.0,), eval_episodes=1, algorithm=jaxdt.RvSConfig(width=8, num_layers=1)
)
run = jaxdt.train(config, button_episodes(), out=sys.argv[1], env=Buttons())
online = jaxdt.FinetuneConfig(
    rounds={ROUNDS}, updates_per_round=2, replay_capacity=50, evaluate_every={ROUNDS // 20}, save_every={ROUNDS // 20}
)
progress = Measuring({ROUNDS // 100})
jaxdt.finetune(run, online, button_episodes(), out=sys.argv[1] + "-finetuned", env=Buttons(), progress=progress)
print(json.dumps(measured))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory, files and threads are read from /proc")
@pytest.mark.parametrize(
    ("code", "length"), [(TRAINING, UPDATES), (FINE_TUNING, ROUNDS)], ids=["training", "fine-tuning"]
)
def test_a_long_run_does_not_creep(tmp_path, code, length):
    process = start(["-c", code, str(tmp_path / "run")], tmp_path / "cache", stdout=subprocess.PIPE)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    measured = json.loads(printed.splitlines()[-1])
    settled = [moment for moment in measured if moment["step"] > length // 10]
    first, grown = settled[0]["resident"], max(moment["resident"] for moment in settled) - settled[0]["resident"]
    print(f"{first / 2**20:.0f} MiB resident after a tenth, {grown / 2**20:.1f} MiB more at most; {settled[-1]}")
    assert grown < max(0.02 * first, 16 * 2**20)
    for name in ("files", "compiled"):
        assert len({moment[name] for moment in settled}) == 1, [moment[name] for moment in measured]
    threads = [moment["threads"] for moment in settled]
    assert max(threads) <= threads[0] + 2, threads  # a library's pool may start one late; eighteen saves come after
    after_one_evaluation = [moment for moment in measured if moment["step"] > length // 20]
    assert len({moment["compiled"] for moment in after_one_evaluation}) == 1
