"""Runs that are asked to stop, and two processes that want the same run."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt import JaxdtError
from jaxdt.checkpoint import checkpoint_steps
from jaxdt.errors import StoppedError
from jaxdt.loggers import read_lines
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.lock import sole_process
from jaxdt.run.stopping import never, stop_signals
from tests.conftest import make_store
from tests.runs import CONFIG, STORE, weights_of, without_clock
from tests.toys import Drift


pytestmark = pytest.mark.usefixtures("quick_plots")


def stop_at(update: int, number: int = signal.SIGTERM):
    """Asks to stop from that update on."""
    calls = iter(range(1, 1000))
    return lambda: int(number) if next(calls) >= update else None


@pytest.mark.slow
def test_a_run_stopped_again_and_again_ends_as_what_it_would_have_been(finished, tmp_path):
    out = tmp_path / "stopped"
    for first, update in ((0, 1), (1, 5), (5, 6)):
        with pytest.raises(StoppedError) as caught:
            jaxdt.train(CONFIG, STORE, out=out, env=Drift(), resume=True, stop=stop_at(update - first))
        again = f"jaxdt.train(..., store=..., env=..., out='{out}', resume=True)"
        assert str(caught.value) == f"stopped after update {update} of 12; go on with {again}"
        assert caught.value.signal_number == 15
        assert checkpoint_steps(out / "checkpoints")[-1] == update
    jaxdt.train(CONFIG, STORE, out=out, env=Drift(), resume=True)
    jax.tree.map(np.testing.assert_array_equal, weights_of(out), weights_of(finished))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert without_clock(out / name) == without_clock(finished / name)


@pytest.mark.slow
def test_a_call_of_several_updates_is_finished_before_a_stop(tmp_path):
    config = dataclasses.replace(CONFIG, log_every=6, save_every=12, updates_per_call=2)
    whole = jaxdt.train(config, STORE, out=tmp_path / "whole", env=Drift())
    out = tmp_path / "stopped"
    with pytest.raises(StoppedError, match="stopped after update 8 of 12; go on"):
        jaxdt.train(config, STORE, out=out, env=Drift(), stop=stop_at(4))
    jaxdt.train(config, STORE, out=out, env=Drift(), resume=True)
    jax.tree.map(np.testing.assert_array_equal, weights_of(out), weights_of(whole))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert without_clock(out / name) == without_clock(whole / name)


def test_a_run_asked_to_stop_at_its_last_update_is_finished(tmp_path):
    config = dataclasses.replace(CONFIG, steps=3, env="none")
    out = jaxdt.train(config, STORE, out=tmp_path / "run", stop=stop_at(3))
    assert read_lines(out / "metrics.jsonl")[-1]["step"] == 3


@pytest.mark.parametrize(("minutes", "kept"), [(1e-9, [2, 3]), (1e9, [3])])
def test_a_checkpoint_is_saved_after_so_many_minutes(tmp_path, minutes, kept):
    config = dataclasses.replace(CONFIG, steps=3, env="none", targets=None, save_every=100, save_every_minutes=minutes)
    out = jaxdt.train(config, STORE, out=tmp_path / "run")
    assert checkpoint_steps(out / "checkpoints") == kept


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_saves_says_how_to_go_on_and_exits(tmp_path, number, code):
    make_store().save(tmp_path / "data.npz")
    command = "train paper --env none --width 16 --num-layers 1 --context-length 2 --batch-size 2 --steps 1000000"
    command += f" --log-every 50 --dataset {tmp_path / 'data.npz'} --out {tmp_path / 'run'}"
    run = RunDirectory(tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-m", "jaxdt", *command.split()], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: run.metrics.exists() or process.poll() is not None)
        with pytest.raises(JaxdtError, match=rf"is being trained by process {process.pid} on "):
            jaxdt.train(read_record(run).config, make_store(), out=run.path, resume=True)
        assert read_lines(run.metrics)  # reading a live run is always allowed
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, printed
    step = checkpoint_steps(run.checkpoints)[-1]
    assert f"stopped after update {step} of 1000000; go on with jaxdt train --resume --out" in printed
    assert "jaxdt: stopping and saving after what is being computed; once more to stop at once" in printed
    assert "Traceback" not in printed


def test_a_second_signal_a_while_after_the_first_stops_at_once_whatever_runs():
    code = """
import hashlib, time
from jaxdt.run import stopping
from jaxdt.run.stopping import stop_signals
stopping.PATIENCE = 0.3
with stop_signals() as stop:
    print("ready", flush=True)
    while stop() is None:
        time.sleep(0.01)
    print("asked", stop(), flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes in C, which returns to no handler of Python's
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked 15\n"
        process.send_signal(signal.SIGTERM)  # as `timeout` does
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.4)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    finally:
        process.kill()
        process.stdout.close()


def test_signals_are_as_before_after_the_block():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_signals() as stop:
        assert stop() is None
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: stop() == signal.SIGTERM)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert never() is None


def test_a_process_that_dies_lets_go_of_its_run(tmp_path):
    code = f"""
import time
from pathlib import Path
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.lock import sole_process
with sole_process(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(JaxdtError, match=f"is being trained by process {process.pid} on .*; wait until it ends"):
            with sole_process(tmp_path):
                pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with sole_process(tmp_path):
        assert (tmp_path / ".holder").read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / ".holder").exists()
