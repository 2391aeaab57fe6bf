"""The benchmark measures what it says, on shapes that cost nothing."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import time
import typing
from pathlib import Path

import jax
import numpy as np
import pytest

import benchmark
import gpu_check
from benchmarking import floors, frames, ours
from benchmarking.curves import CURVES, draw_curve, measure_curve
from benchmarking.gpu_rows import FLOAT32, Row as GpuRow, failure, make_rows as gpu_rows_of
from benchmarking.machine import Others
from benchmarking.measure import Call, Worker, WorkerError, alternate, worker_environment
from benchmarking.products import forward_operations, update_operations, value_update_operations
from benchmarking.report import document, quantity, remarks, table
from benchmarking.rows import Line, Row, make_rows, measure_row
from benchmarking.shapes import VALUES, Shapes, store_of
from benchmarking.timing import one_by_one, repeatedly
from jaxdt.algorithms.decision_transformer import make_train_step, with_sizes
from jaxdt.config import PAPER
from jaxdt.models import build_model
from jaxdt.parallel import Layout
from jaxdt.simulator import usable_cores


SCRIPTS = Path(__file__).parent.parent / "scripts"
TINY = Shapes(
    batch_size=3, context_length=2, width=4, num_layers=2, max_episode_length=9, num_episodes=3, episode_length=9
)
TOY_TASKS = """
import itertools, os, signal

def count(shapes, step):
    print("a library talks")
    return itertools.count(shapes.batch_size, step)

def fail(shapes):
    raise ValueError("no such thing")
    yield

def die(shapes, how):
    yield 1.0
    os.write(2, b"out of luck\\n")
    os.kill(os.getpid(), signal.SIGKILL) if how == "signal" else os._exit(3)

TASKS = {"count": count, "fail": fail, "die": die}
"""


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "toy_tasks.py").write_text(TOY_TASKS)
    environment = worker_environment("cpu")
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    worker = Worker("toy_tasks", environment, tmp_path / "log")
    yield worker
    worker.close()


def test_operations_of_a_small_model_are_those_counted_by_hand():
    # A window: 6 tokens of width 4. Embeddings: 2 * 2 * (1 + 17 + 6) * 4 = 384.
    # First block: keys and values 384, query and projection 384, attention 576, MLP 1536: 2880.
    # Last block, 2 answers: 384, 128, 192, 512: 1216. Head: 2 * 2 * 4 * 6 = 96.
    assert forward_operations(TINY, 5) == 5 * (384 + 2880 + 1216 + 96)
    assert update_operations(TINY) == 3 * (2 * 384 + 3 * (2880 + 1216 + 96))
    # One answer: 384, 64, 96, 256 and a head of 48.
    assert forward_operations(TINY, 5, newest_only=True) == 5 * (384 + 2880 + 800 + 48)


def test_operations_of_small_value_functions_are_those_counted_by_hand():
    # A row, width 4: the policy 2 * (17 * 4 + 4 * 4 + 4 * 6) = 216, V 176, a critic of 17 + 6 numbers 224.
    # Trained, three times that without the gradient of what they see, 136, 136 and 184: 512, 392 and 488.
    assert value_update_operations(TINY, "iql") == 3 * (2 * 224 + 392 + 2 * 176 + 512 + 2 * 488)
    # Every second time the policy, and a critic forward and back to the 6 numbers of the action.
    every_time = 216 + 2 * 224 + 2 * 488
    assert value_update_operations(TINY, "td3-bc") == 3 * (every_time + (512 + 224 + 224 - 136) // 2)


@pytest.mark.parametrize("method", ["iql", "td3-bc"])
def test_operations_of_a_value_methods_update_are_about_xlas(method):
    shapes = dataclasses.replace(VALUES, num_episodes=2)
    algorithm = ours.make_value_algorithm(shapes, method)
    batch = algorithm.sampler(store_of(shapes), batch_size=shapes.batch_size, seed=0).batch(0)
    state, key = jax.eval_shape(algorithm.init, jax.random.key(0)), jax.random.key(1)
    updates = algorithm.update.updates if method == "td3-bc" else [algorithm.update]
    counted = [jax.jit(update).lower(state, batch, key).cost_analysis()["flops"] for update in updates]
    expected = value_update_operations(shapes, method)
    assert expected <= np.mean(counted) < 1.15 * expected


@pytest.mark.parametrize("newest_only", [False, True])
def test_operations_of_the_papers_forward_pass_are_about_xlas(newest_only):
    shapes = Shapes(num_episodes=2, batch_size=4)
    init, apply = build_model(with_sizes(ours._config(shapes).model, ours._spec(shapes)))
    params = jax.eval_shape(init, jax.random.key(0))
    lowered = jax.jit(apply, static_argnames="newest_only").lower(
        params, ours._full_windows(shapes, 4), newest_only=newest_only
    )
    expected = forward_operations(shapes, 4, newest_only=newest_only)
    assert expected <= lowered.cost_analysis()["flops"] < 1.1 * expected


@pytest.mark.slow
def test_operations_of_the_papers_update_are_about_xlas():
    shapes = Shapes(num_episodes=2, batch_size=8)
    init, apply = build_model(with_sizes(ours._config(shapes).model, ours._spec(shapes)))
    params = jax.eval_shape(init, jax.random.key(0))

    def update(params, window, key):
        step, state = make_train_step(apply, params, PAPER.algorithm.optimizer)
        return step(state, window, key)

    lowered = jax.jit(update).lower(params, ours._full_windows(shapes, 8), jax.random.key(1))
    expected = update_operations(shapes)
    assert expected <= lowered.cost_analysis()["flops"] < 1.15 * expected


def test_a_batchs_bytes_are_those_of_its_arrays():
    assert TINY.batch_bytes == sum(values.nbytes for values in next(ours._sampler(TINY)))


def test_a_worker_goes_on_with_equal_requests_whatever_libraries_print(worker):
    assert [worker.ask(Call("count", {"step": 2}), TINY) for _ in range(3)] == [3, 5, 7]
    assert worker.ask(Call("count", {"step": 1}), TINY) == 3
    worker.close()
    assert worker.ask(Call("count", {"step": 2}), TINY) == 3  # a new process


def test_a_task_that_fails_leaves_its_worker_alive(worker):
    worker.ask(Call("count", {"step": 2}), TINY)
    with pytest.raises(WorkerError, match="fail: ValueError: no such thing"):
        worker.ask(Call("fail"), TINY)
    assert worker.ask(Call("count", {"step": 2}), TINY) == 5


@pytest.mark.parametrize(
    ("how", "said"),
    [pytest.param("signal", "was ended by signal 9", marks=pytest.mark.slow), ("exit", "ended with exit code 3")],
)
def test_a_worker_that_dies_is_reported_with_its_last_words_and_replaced(worker, how, said):
    assert worker.ask(Call("die", {"how": how}), TINY) == 1.0
    with pytest.raises(WorkerError, match=rf"(?s)die: the process of toy_tasks {said}.*out of luck"):
        worker.ask(Call("die", {"how": how}), TINY)
    assert worker.ask(Call("die", {"how": how}), TINY) == 1.0


def test_turns_alternate_and_one_that_fails_does_not_stop_the_others():
    said = []

    def turn(name, fails_at=None):
        def take():
            if len(said) == fails_at:
                raise WorkerError("broken")
            said.append(name)
            return float(len(said))

        return take

    measured = alternate({"ours": turn("ours"), "peer": turn("peer", fails_at=4), "floor": turn("floor")}, 3)
    assert said == ["ours", "peer", "floor", "ours", "floor", "ours", "floor"]
    assert measured == {"ours": [1, 4, 6], "peer": "broken", "floor": [3, 5, 7]}


@pytest.mark.slow
def test_every_repeat_of_a_row_with_a_first_value_is_a_new_process(worker):
    row = Row(name="second", first="first", ours=Call("count", {"step": 2}), floor=Call("count", {"step": 1}))
    first, second = measure_row(row, worker, "no peer", TINY, 2)
    assert (first.name, first.ours) == ("first", [3, 3])
    assert (second.name, second.ours, second.peer, second.floor) == ("second", [5, 5], None, [3, 3])
    of_its_own = dataclasses.replace(row, first=None, shapes=dataclasses.replace(TINY, batch_size=4))
    [line] = measure_row(of_its_own, worker, "no peer", TINY, 2)
    assert (line.ours, line.floor) == ([4, 6], [4, 5])


def test_workers_inherit_no_settings(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_something=1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    assert not {"XLA_FLAGS", "OMP_NUM_THREADS"} & worker_environment(None).keys()
    assert worker_environment(None)["JAX_PLATFORMS"] == "tpu"
    assert worker_environment("cpu")["JAX_PLATFORMS"] == "cpu"


def make_line(**changes) -> Line:
    values = {"name": "train", "ours": [0.2, 0.1, 0.4], "peer": [0.3, 0.1, 0.4], "floor": [0.05, 0.05, 0.05]}
    return Line(**{**values, "floor_is": "products", "is_rate": False, **changes})


def test_the_table_shows_medians_spread_ratio_and_share():
    head, row, _, floor = table([make_line()]).splitlines()
    assert head.split() == "ours peer times as fast floor our share of it".split()
    assert re.split("  +", row) == [
        "train",
        "200 ms (100 to 400)",
        "300 ms (100 to 400)",
        "1.50 x",
        "50.0 ms (50.0 to 50.0)",
        "25.0 %",
    ]
    assert floor == "floor of train: products"


def test_the_table_says_what_a_missing_peer_needs_and_why_one_failed():
    text = table([make_line(peer="needs pip install -e '.[parity]'"), make_line(name="act", peer="killed by 9")])
    assert "needs pip install -e '.[parity]'" in text.splitlines()[1]
    assert "failed, see below" in text.splitlines()[2]
    assert "failed: act: killed by 9" in text
    assert " x" not in text


def test_quantities_are_readable():
    assert quantity([1.6e-5, 1.6e-5], False) == "16.0 µs (16.0 to 16.0)"
    assert quantity([2e-9], False) == "0.002 µs"
    assert quantity([1234.5], False) == "1,234 s"
    assert quantity([0.0005, 0.00025], True) == "3,000 steps/s (2,000 to 4,000)"
    assert quantity(None, True) == ""


def test_the_document_has_every_repeat_and_both_ratios():
    [rate] = document([make_line(is_rate=True)])
    assert rate["ours"] == {"median": 0.2, "min": 0.1, "max": 0.4, "repeats": [0.2, 0.1, 0.4]}
    assert rate["times_as_fast"] == pytest.approx(1.5)
    assert rate["share_of_floor"] == pytest.approx(0.25)
    [missing] = document([make_line(peer="needs more")])
    assert missing["peer"] == {"missing": "needs more"}
    assert missing["times_as_fast"] is None


def test_an_accelerator_adds_its_use_and_the_papers_training():
    lines = [make_line(ours=[0.001]), make_line(name="pipeline", ours=[0.0011, 0.001, 0.0012], beside=[0.001] * 3)]
    lines.append(make_line(name="train, 5 seeds", ours=[0.5, 0.6, 0.4], beside=[0.1, 0.1, 0.1]))
    machine = {"backend": "gpu", "device": "NVIDIA H200", "busy_elsewhere": 0.05}
    added, seeds, use, projected = remarks(lines, Shapes(), machine)
    assert added == "pipeline - train, measured in turns: +10.0 % of train"
    assert seeds == "train, 5 seeds, measured in turns: 5.00 times the time of one"
    assert use == "train: 11.9 TFLOP/s of matrix products, 2.41 % of its peak of 494.5 TFLOP/s (TF32, dense)"
    assert projected == "100,000 paper updates at pipeline's pace: 110 s"
    _, _, use, _ = remarks(lines, Shapes(), machine | {"device": "Abacus 3"})
    assert use.endswith("share of peak unknown: we know no peak of Abacus 3")
    assert remarks(lines, Shapes(), machine | {"backend": "cpu"}) == [added, seeds]


def test_what_we_do_ourselves_is_no_other_program():
    others = Others()
    command = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", command], check=True)
    elsewhere = others.cores() * (time.perf_counter() - began)
    # Whatever else runs, a core that we used is not counted; the system counts in hundredths of a second.
    assert 0 <= elsewhere <= usable_cores() * (time.perf_counter() - began) - 0.3 + 0.1


def test_a_busy_machine_is_remarked():
    [busy] = remarks([], Shapes(), {"backend": "cpu", "busy_elsewhere": 1.7})
    assert busy.startswith("other programs kept 1.7 cores busy")


def test_repeatedly_times_calls_after_one_that_is_not_timed():
    calls, waits = [], []
    seconds = repeatedly(lambda: calls.append(1), waits.append, seconds=0.0)
    assert [next(seconds) >= 0 for _ in range(2)] == [True, True]
    assert (len(calls), len(waits)) == (2 + 2 * (1 + 3), 2 + 2 * 2)
    assert 0.001 < next(one_by_one(lambda: sum(range(10**6)) and 2)) < 1


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "episodes.parquet"
    assert next(ours.write_store(TINY, str(path))) == path.stat().st_size
    return path


@pytest.fixture
def hasty(monkeypatch):
    for module in (ours, floors, frames):
        monkeypatch.setattr(module, "repeatedly", functools.partial(repeatedly, seconds=0.0))


@pytest.mark.slow
def test_our_tasks_and_floors_measure_small_shapes(hasty, episodes, tmp_path):
    path, shallow = str(episodes), dataclasses.replace(TINY, num_layers=1)
    measured = [ours.train(shallow, updates=2, seeds=2), ours.train_values(shallow, "td3-bc", updates=2, seeds=2)]
    measured += [ours.sample(TINY), ours.act(shallow, 2), ours.load(TINY, path), ours.attention(TINY, "ours")]
    measured += [ours.plan(dataclasses.replace(shallow, state_dim=3, action_dim=1), horizon=1, beam_width=2)]
    game = dataclasses.replace(shallow, action_dim=6)
    measured += [ours.train_frames(game, updates=1), ours.evaluate_games(game, episodes=2, steps=3)]
    for seconds in map(next, [*measured, floors.copy(TINY), floors.read(TINY, path), floors.physics(TINY, 2)]):
        assert 0 < seconds < 10
    longer = [ours.pipeline(TINY, str(tmp_path), updates=20), ours.rollout(TINY, 2, steps=3), ours.evaluate(TINY, 1)]
    longer += [ours.start(TINY, str(tmp_path)), floors.products_or_copy(TINY, 10**6)]
    for seconds in map(next, longer):
        assert 0 < seconds < 100


def test_without_mujocos_threads_the_floor_of_evaluate_is_gymnasium_in_turn(monkeypatch):
    monkeypatch.setattr(floors, "find_spec", lambda module: None)
    monkeypatch.setattr(floors, "_on_all_cores", None)
    assert 0 < next(floors.physics(TINY, 2)) < 10


def test_rows_name_tasks_that_are_there(tmp_path):
    by_name = make_rows(Shapes(), tmp_path, "cpu")
    assert {*by_name, "curves"} == set(typing.get_args(benchmark.Name))
    rows = [row for rows in by_name.values() for row in rows]
    called = {call.task for row in rows for call in (row.ours, row.floor, row.beside) if call}
    called |= {call.task for curve in CURVES for call in curve.points.values()}
    assert called <= ours.TASKS.keys()
    gpu_rows = [row for rows in gpu_rows_of(tmp_path, "cpu").values() for row in rows]
    on_gpu = {row.call.task for row in gpu_rows if row.module == "benchmarking.ours"}
    assert called | on_gpu | {"describe", "write_store", "product_rate"} == ours.TASKS.keys()


def test_what_a_gpu_may_differ_by_depends_on_how_it_multiplies():
    for settings, allowed, recorded in ((FLOAT32, 1e-4, 1e-3), ({}, 3e-3, 3e-3)):
        right = {"loss": 0.0, "grad_norm": 0.0, "weights": 0.0}
        row = GpuRow(name="", call=Call("agree"), settings=settings)
        assert failure(row, [{**right, "loss": 0.9 * allowed, "weights": 1e-3}]) is None
        assert f"may differ by {allowed:g}" in failure(row, [{**right, "grad_norm": 1.1 * allowed}])
        for name in right:
            assert failure(row, [{**right, name: float("nan")}]) is not None
        for away in (1.1 * recorded, float("nan")):
            assert f"is recorded by {recorded:g}" in failure(row, [{**right, "recorded": away}])
        assert failure(row, [{**right, "recorded": 0.9 * recorded}]) is None
    assert failure(GpuRow(name="", call=Call("train")), [1.0]) is None


@pytest.mark.slow
def test_twenty_updates_on_this_cpu_are_those_that_are_recorded():
    [found] = ours.agree(Shapes())
    assert found["loss"] == found["grad_norm"] == found["weights"] == 0
    assert found["recorded"] < 1e-4


def test_the_gpu_check_ends_in_time(tmp_path, monkeypatch, capsys):
    """What is being measured when its minutes are over is given up, and nothing is begun after them."""
    given_up, now = [], iter([0, 0, 0, 500, 599, 700, 800])

    class Worker:
        def __init__(self, *arguments):
            pass

        def ask(self, call, shapes):
            return 1.0

        def kill(self):
            pass

        close = kill

    class Timer:
        def __init__(self, seconds, function):
            given_up.append(seconds)

        start = cancel = lambda self: None

    monkeypatch.setattr(gpu_check, "Worker", Worker)
    monkeypatch.setattr(gpu_check.threading, "Timer", Timer)
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(gpu_check._Check, "_say_machine", lambda check: None)
    rows = {"paper": [GpuRow(name=str(i), call=Call("sample"), shapes=TINY) for i in range(5)]}
    monkeypatch.setattr(gpu_check, "make_rows", lambda directory, device: rows)
    check = gpu_check._Check(gpu_check.Arguments(minutes=10), tmp_path)
    check._machine = {"device": "cpu"}
    check.run()
    assert given_up == [120, 120, 100, 1]
    assert "left out: 10 minutes are over" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gpu_check_says_every_row_and_goes_on_after_one_that_fails(tmp_path, monkeypatch, capsys):
    rows = {
        "agree": [GpuRow(name="float32", call=Call("agree", {"updates": 2}), shapes=TINY, repeats=1)],
        "paper": [
            GpuRow(name="one", call=Call("train", {"updates": 1, "sampling": True}), shapes=TINY),
            GpuRow(name="none", call=Call("no such task"), shapes=TINY),
        ],
        "large": [GpuRow(name="memory", call=Call("memory"), shapes=TINY)],
    }
    monkeypatch.setattr(gpu_check, "make_rows", lambda directory, device: rows)
    monkeypatch.setattr(
        sys, "argv", ["gpu_check", "--device", "cpu", "--repeats", "1", "--json", str(tmp_path / "out")]
    )
    assert gpu_check.main() == 0
    said = capsys.readouterr().out
    assert re.search(r"float32 +loss 0.0e\+00, grad_norm 0.0e\+00, weights 0.0e\+00\n", said)
    assert re.search(r"one +[\d.,]+ ms, [\d,]+ a second; [\d.]+ TFLOP/s", said)
    assert re.search(r"none +no such task: KeyError: 'no such task'\n", said)
    assert "no wrong results" in said
    document = json.loads((tmp_path / "out").read_text())
    assert [row["name"] for row in document["rows"]] == ["float32", "one", "none", "memory"]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_sizes_are_those_of_each_device(monkeypatch, devices):
    import model_sizes

    monkeypatch.setattr("jaxdt.parallel._SMALL", 64)
    shapes = dataclasses.replace(TINY, width=32, batch_size=4)
    layout = model_sizes._layout(model_sizes.Arguments(devices=devices))
    (count, held), (_, whole) = (
        model_sizes._count(shapes, each) for each in (layout, Layout(tuple(jax.devices()[:1])))
    )
    assert whole / 4 == pytest.approx(3 * count, abs=2)  # weights, two moments, two counters
    assert whole / devices <= held < 1.3 * whole / devices
    seconds, temporaries = model_sizes._compiled(shapes, layout)
    assert seconds > 0
    assert temporaries > 0


@pytest.mark.slow
def test_curves_are_drawn(tmp_path):
    class Pretended:
        def close(self):
            pass

        def ask(self, call, shapes):
            return 0.001 * shapes.batch_size * shapes.context_length

    for curve in CURVES:
        measured = measure_curve(curve, Pretended(), Shapes(), 2)
        assert list(measured) == list(curve.points)
        draw_curve(curve, measured, tmp_path / f"{curve.name}.png", "a machine")
    assert len(list(tmp_path.glob("*.png"))) == len(CURVES)


def test_help_answers_and_a_wrong_number_of_repeats_is_refused():
    command = [sys.executable, str(SCRIPTS / "benchmark.py")]
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent)}
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, env=environment, check=True)
    assert "--only" in shown.stdout
    refused = subprocess.run([*command, "--repeats", "0"], capture_output=True, text=True, env=environment)
    assert refused.returncode == 1
    assert refused.stderr == "benchmark: error: --repeats must be at least 1; got 0.\n"


@pytest.mark.parity
@pytest.mark.filterwarnings("default")
def test_the_collators_windows_are_our_samplers(episodes, tmp_path):
    from benchmarking import peers

    batch = peers._collator(TINY, str(episodes), str(tmp_path)).batch(200)
    theirs = _by_window(batch["states"].numpy(), batch["attention_mask"].numpy() > 0, batch)
    window = ours._sampler(dataclasses.replace(TINY, batch_size=200)).batch(0)
    mine = _by_window(window.states, window.mask, window._asdict())
    steps = store_of(TINY).num_steps
    assert theirs.keys() == mine.keys()
    assert len(mine) == steps  # every first step there is
    for first, expected in mine.items():
        for name, values in expected.items():
            np.testing.assert_allclose(theirs[first][name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def _by_window(states: np.ndarray, mask: np.ndarray, arrays: dict) -> dict:
    """Real positions of each array, by the first real state, which no two windows share."""
    found = {}
    for i in range(len(mask)):
        real = {
            name: np.asarray(arrays[name])[i][mask[i]].squeeze()
            for name in ("states", "actions", "returns_to_go", "timesteps")
        }
        found[round(float(states[i][mask[i]][0, 0]), 4)] = real
    return found


@pytest.mark.parity
@pytest.mark.filterwarnings("default")
def test_peers_tasks_measure_small_shapes(episodes, tmp_path):
    from benchmarking import peers

    given = {"path": str(episodes), "directory": str(tmp_path)}
    measured = [
        peers.train(TINY, device="cpu"),
        peers.train_values(TINY, "iql", device="cpu"),
        peers.train_values(TINY, "td3-bc", device="cpu"),
        peers.sample(TINY, **given),
        peers.pipeline(TINY, **given, device="cpu"),
        peers.act(TINY, 2, device="cpu"),
        peers.evaluate(TINY, device="cpu"),
        peers.plan(TINY, horizon=2, beam_width=2),
        peers.load(TINY, **given),
        peers.train_frames(TINY, device="cpu"),
        peers.evaluate_games(dataclasses.replace(TINY, action_dim=6), steps=5),
    ]
    for seconds in map(next, measured):
        assert 0 < seconds < 10
    tasks = {row.peer.task for rows in make_rows(Shapes(), tmp_path, "cpu").values() for row in rows if row.peer}
    assert tasks | {"describe"} == peers.TASKS.keys()


@pytest.mark.parity
def test_the_restated_planner_predicts_and_plans_as_the_original():
    import torch

    from benchmarking.restated_planner import Model, Planner
    from tests.trajectory import BINS, CONFIG, EDGES, GOLDEN, ROW

    sizes = {name: CONFIG[name] for name in ("bins", "transitions", "width", "num_layers", "num_heads")}
    model = Model(row=ROW, **sizes)
    theirs = {"tokens.weight": "tok_emb.weight", "norm.weight": "ln_f.weight", "norm.bias": "ln_f.bias"}
    for i in range(CONFIG["num_layers"]):
        for mine, its in (("norms.0", "ln1"), ("norms.1", "ln2"), ("mlp.0", "mlp.0"), ("mlp.2", "mlp.2")):
            theirs |= {f"blocks.{i}.{mine}.{part}": f"blocks.{i}.{its}.{part}" for part in ("weight", "bias")}
        for mine, its in (("query", "query"), ("key", "key"), ("value", "value"), ("out", "proj")):
            theirs |= {f"blocks.{i}.{mine}.{part}": f"blocks.{i}.attn.{its}.{part}" for part in ("weight", "bias")}
    state = {mine: torch.tensor(GOLDEN[f"param/{its}"]) for mine, its in theirs.items()}
    state |= {"places": torch.tensor(GOLDEN["param/pos_emb"][0]), "head": torch.tensor(GOLDEN["param/head.weight"])}
    model.load_state_dict(state)
    tokens = torch.tensor(GOLDEN["tokens"]).long()
    for length in (1, 7, 20):
        logits = model(tokens[:, :length]).detach().numpy()
        np.testing.assert_allclose(logits, GOLDEN["logits"][:, length - 1], atol=1e-5)
    planner = Planner(
        model,
        num_observations=CONFIG["observation_dim"],
        middles=torch.tensor((EDGES[1:] + EDGES[:-1]) / 2),
        horizon=CONFIG["plan"]["horizon"],
        beam_width=CONFIG["plan"]["beam_width"],
        context_transitions=CONFIG["plan"]["max_context_transitions"],
        nucleus=1e-6,  # the likeliest alone
    )
    first = planner(torch.tensor(GOLDEN["plan_prefix"]).long())
    actions = slice(CONFIG["observation_dim"], -2)
    np.testing.assert_array_equal(first, GOLDEN["plan_greedy"][0, actions])
    assert model.bins == BINS


@pytest.mark.parity
def test_neither_worker_loads_the_others_library():
    for module, other in (("ours", "torch"), ("peers", "jax")):
        code = f"import sys, benchmarking.{module}; sys.exit({other!r} in sys.modules)"
        subprocess.run([sys.executable, "-c", code], env=worker_environment("cpu"), check=True)


@pytest.mark.parity
def test_the_restated_model_of_frames_predicts_as_the_original():
    import torch

    from benchmarking.restated_atari import Model
    from tests.test_atari_dt import FRAMES, GOLDEN, SIZES, TENSORS

    model = Model(
        context_length=5, timesteps=41, actions=SIZES["vocab"], width=SIZES["width"], layers=SIZES["num_layers"],
        heads=SIZES["num_heads"], dropout=0.1,
    ).eval()  # fmt: skip
    theirs = {"head.weight": "head.weight", "actions.0.weight": "action_embeddings.0.weight"}
    for part in ("weight", "bias"):
        theirs |= {f"norm.{part}": f"ln_f.{part}", f"returns.0.{part}": f"ret_emb.0.{part}"}
        theirs |= {f"encoder.{i}.{part}": f"state_encoder.{i}.{part}" for i in (0, 2, 4, 7)}
        for i in range(SIZES["num_layers"]):
            names = {"norms.0": "ln1", "norms.1": "ln2", "mlp.0": "mlp.0", "mlp.2": "mlp.2", "out": "attn.proj"}
            names |= {name: f"attn.{name}" for name in ("query", "key", "value")}
            theirs |= {f"blocks.{i}.{mine}.{part}": f"blocks.{i}.{its}.{part}" for mine, its in names.items()}
    state = {mine: torch.tensor(TENSORS[its]) for mine, its in theirs.items()}
    places, timesteps = torch.tensor(TENSORS["pos_emb"][:, :15]), torch.tensor(TENSORS["global_pos_emb"][0])
    model.load_state_dict(state | {"places": places, "timesteps": timesteps})
    stacks = torch.tensor(np.stack([FRAMES[:, i : i + 4] for i in range(5)], axis=1)) / 255
    actions, returns = torch.tensor(GOLDEN["actions"]), torch.tensor(GOLDEN["returns_to_go"])
    logits = model(stacks, actions, returns, torch.tensor(GOLDEN["first_timesteps"])).detach()
    np.testing.assert_allclose(logits, GOLDEN["logits"], atol=1e-5)
