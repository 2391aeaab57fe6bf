import dataclasses
import inspect
import json
import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.algorithms import make_algorithm
from jaxdt.checkpoint import checkpoint_steps, find_checkpoint, load_checkpoint
from jaxdt.cli import run as command
from jaxdt.config import OptimizerConfig, TrainConfig
from jaxdt.errors import JaxdtError, NonFiniteError, RunError, SimulationError, StoppedError, WriteError
from jaxdt.loggers import read_lines
from jaxdt.progress import Progress
from jaxdt.run import evaluate as evaluation, loop
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.environment import how_to_go_on
from jaxdt.run.loop import what_is_due
from jaxdt.run.prepare import fill_schedule, prepare_run
from jaxdt.run.resume import agree_with_record
from jaxdt.run.train import with_store
from tests.conftest import make_store, tiny_algorithm
from tests.runs import CONFIG, STORE, weights_of, without_clock
from tests.toys import Dial, Drift, dial_episodes


pytestmark = pytest.mark.usefixtures("quick_plots")
CONFIG_WITHOUT_ENVIRONMENT = dataclasses.replace(CONFIG, env="none", save_every=12)


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_run_leaves_everything_it_promises(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["config"]["steps"] == 12
    assert config["data"]["fingerprint"] == STORE.fingerprint
    assert {"versions", "device", "command"} <= set(config["made_with"])
    for name in ("plots/loss.png", "plots/returns.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
    assert checkpoint_steps(finished / "checkpoints")[-1] == 12


def test_metrics_are_written_at_the_interval_and_at_the_end(finished):
    lines = read_lines(finished / "metrics.jsonl")
    assert [line["step"] for line in lines] == [5, 10, 12]
    for line in lines:
        assert set(line) == {"step", "loss", "learning_rate", "grad_norm", "updates_per_second", "seconds"}
    assert lines[0]["learning_rate"] == pytest.approx(1e-3)


@pytest.mark.slow
def test_held_out_episodes_are_measured_and_not_trained_on(finished, tmp_path):
    config = dataclasses.replace(CONFIG_WITHOUT_ENVIRONMENT, validation_fraction=0.25)
    run = jaxdt.train(config, STORE, out=tmp_path / "run")
    rest, held_out = STORE.split(0.25)
    alone = jaxdt.train(CONFIG_WITHOUT_ENVIRONMENT, rest, out=tmp_path / "alone")
    jax.tree.map(np.testing.assert_array_equal, weights_of(run), weights_of(alone))
    agent = jaxdt.Agent.load(run)
    algorithm = make_algorithm(agent.config, agent.spec)
    sampler = algorithm.sampler(held_out.with_actions_of(agent.spec.action), batch_size=8, seed=0)
    each = [jax.jit(algorithm.validate)(agent.params, sampler.batch(i)) for i in range(4)]
    last = read_lines(run / "metrics.jsonl")[-1]
    for name in ("loss", "action_error"):
        assert last[f"validation_{name}"] == pytest.approx(np.mean([one[name] for one in each]), rel=1e-5)


def test_without_an_environment_the_best_weights_are_those_of_the_least_error_on_held_out_episodes(
    tmp_path, monkeypatch, capsys
):
    errors = {3: 0.5, 6: 0.25, 9: 0.75, 12: 0.5}
    measured = iter([{"validation_action_error": error}] for error in errors.values())
    monkeypatch.setattr(loop.Validation, "__call__", lambda validation, params: next(measured))
    config = dataclasses.replace(CONFIG_WITHOUT_ENVIRONMENT, validation_fraction=0.25, eval_every=3, log_every=12)
    run = jaxdt.train(dataclasses.replace(config, updates_per_call=3), STORE, out=tmp_path / "run")
    checkpoints = RunDirectory(run).checkpoints
    assert find_checkpoint(checkpoints, "best") == 6
    assert checkpoint_steps(checkpoints) == [6, 12]
    assert command(["info", str(run)]) == 0
    assert "best validation action error  0.2500" in capsys.readouterr().out
    measured = iter([{}] for _ in range(4))  # as where no episode is held out
    unmeasured = jaxdt.train(
        dataclasses.replace(config, validation_fraction=0.0, targets=(3.0,), updates_per_call=3),
        STORE,
        out=tmp_path / "un",
    )
    with pytest.raises(JaxdtError, match="none is the best"):
        jaxdt.Agent.load(unmeasured, "best")


def test_evaluations_name_every_target_at_every_interval(finished):
    lines = read_lines(finished / "evaluations.jsonl")
    assert [(line["step"], line["target"]) for line in lines] == [(6, 1.0), (6, 5.0), (12, 1.0), (12, 5.0)]
    for line in lines:
        assert len(line["returns"]) == len(line["lengths"]) == 2
        assert line["return_mean"] == pytest.approx(np.mean(line["returns"]))
        assert line["return_std"] == pytest.approx(np.std(line["returns"]))
        assert line["normalized_mean"] is None


def test_episodes_given_in_python_are_not_called_by_a_presets_dataset(finished, tmp_path):
    config, store = with_store(dataclasses.replace(CONFIG, dataset="demo"), STORE, Progress())
    assert (config.dataset, store) == (None, STORE)
    named = dataclasses.replace(CONFIG, dataset="mine.npz")  # which may be where they come from
    assert with_store(named, STORE, Progress())[0].dataset == "mine.npz"
    with pytest.raises(JaxdtError, match="was trained on episodes that were given in Python; give them again"):
        jaxdt.train(dataclasses.replace(CONFIG, steps=20), out=shutil.copytree(finished, tmp_path / "r"), resume=True)


def test_a_run_whose_data_have_moved_says_how_to_name_them(tmp_path):
    config = dataclasses.replace(CONFIG_WITHOUT_ENVIRONMENT, steps=8)
    STORE.save(tmp_path / "here.npz")
    run = jaxdt.train(config, tmp_path / "here.npz", out=tmp_path / "run")
    (tmp_path / "here.npz").rename(tmp_path / "there.npz")
    longer = dataclasses.replace(config, steps=12)
    with pytest.raises(JaxdtError, match=r"does not exist; .* name that place with --dataset \(dataset=\)\.$"):
        jaxdt.train(longer, out=run, resume=True)
    jaxdt.train(longer, tmp_path / "there.npz", out=run, resume=True)


def test_logged_loss_is_the_mean_since_the_line_before(finished, tmp_path):
    config = dataclasses.replace(CONFIG, log_every=1, save_every=12, env="none")
    each = jaxdt.train(config, STORE, out=tmp_path / "each")
    losses = [line["loss"] for line in read_lines(each / "metrics.jsonl")]
    means = [line["loss"] for line in read_lines(finished / "metrics.jsonl")]
    np.testing.assert_allclose(means, [np.mean(losses[:5]), np.mean(losses[5:10]), np.mean(losses[10:])], rtol=1e-6)


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(finished, tmp_path):
    out = tmp_path / "resumed"
    jaxdt.train(dataclasses.replace(CONFIG, steps=8), STORE, out=out, env=Drift())
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        # What a run stopped at 8 writes because it ends there, an uninterrupted one does not.
        lines = [line for line in read_lines(out / name) if line["step"] != 8]
        (out / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    checkpoint = out / "checkpoints" / "8" / "_CHECKPOINT_METADATA"
    metadata = json.loads(checkpoint.read_text())
    assert metadata["custom_metadata"]["losses"] == []
    shutil.rmtree(out / "checkpoints" / "8")  # so it goes on from 4, in the middle of a logging interval
    jaxdt.train(CONFIG, STORE, out=out, env=Drift(), resume=True)
    made = read_record(RunDirectory(out)).made_with
    assert [each["command"] for each in made["resumed"]] == [made["command"]]
    assert made["started"] <= made["resumed"][0]["started"]
    jax.tree.map(np.testing.assert_array_equal, weights_of(out), weights_of(finished))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert without_clock(out / name) == without_clock(finished / name)


@pytest.mark.parametrize(("seeds", "rate"), [(None, 2e-3), pytest.param((3, 4), 3e-3, marks=pytest.mark.slow)])
def test_the_update_is_compiled_once_and_another_run_compiles_nothing(tmp_path, seeds, rate):
    algorithm = tiny_algorithm(optimizer=jaxdt.OptimizerConfig(learning_rate=rate))
    config = dataclasses.replace(CONFIG, env="none", steps=6, algorithm=algorithm)
    compiled = []

    def note(event, seconds, *, fun_name="", **_):
        compiled.extend([fun_name] * ("backend_compile" in event))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        jaxdt.train(config, STORE, out=tmp_path / "first", seeds=seeds)
        # The initial state and the update, which is called otherwise where several seeds share it.
        assert len([name for name in compiled if name in ("jit(<lambda>)", "jit(steps)")]) == 2, compiled
        compiled.clear()
        jaxdt.train(config, STORE, out=tmp_path / "second", seeds=seeds)
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def test_a_damaged_checkpoint_costs_only_what_came_after_the_one_before(finished, copied):
    latest = copied / "checkpoints" / "12"
    data = max((path for path in latest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    reader = shutil.copytree(copied, copied.parent / "reader")
    with pytest.warns(UserWarning, match=r"checkpoint 12 of .* is damaged .*; it is now 12.damaged"):
        agent = jaxdt.Agent.load(reader)
    assert (reader / "checkpoints" / "12.damaged").is_dir()
    with pytest.warns(UserWarning, match="checkpoint 12 of"):
        jaxdt.train(CONFIG, STORE, out=copied, env=Drift(), resume=True)
    jax.tree.map(np.testing.assert_array_equal, weights_of(copied), weights_of(finished))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert without_clock(copied / name) == without_clock(finished / name)
    before = load_checkpoint(reader / "checkpoints", checkpoint_steps(reader / "checkpoints")[-1], params=agent.params)
    jax.tree.map(np.testing.assert_array_equal, agent.params, before["params"])


def test_a_finished_run_is_left_alone(copied):
    before = {path: path.read_bytes() for path in sorted(copied.rglob("*")) if path.is_file()}
    jaxdt.train(CONFIG, STORE, out=copied, env=Drift(), resume=True)
    assert {path: path.read_bytes() for path in sorted(copied.rglob("*")) if path.is_file()} == before


def test_videos_that_a_kill_prevented_are_made_up_for(copied, monkeypatch):
    rendered = []
    monkeypatch.setattr("jaxdt.run.train.render_videos", lambda agent, directory, *_, **__: rendered.append(directory))
    config = dataclasses.replace(CONFIG, video=True)
    jaxdt.train(config, STORE, out=copied, env=Drift(), resume=True)
    (copied / "videos").mkdir()
    for target in ("1", "5"):
        assert rendered == [copied / "videos"]
        (copied / "videos" / f"target-{target}.mp4").touch()
    jaxdt.train(config, STORE, out=copied, env=Drift(), resume=True)
    assert rendered == [copied / "videos"]
    monkeypatch.setattr(
        "jaxdt.run.train.render_videos", lambda agent, directory, env, targets, **_: rendered.append(targets)
    )
    jaxdt.train(dataclasses.replace(config, targets=(2.0,)), STORE, out=copied, env=Drift(), resume=True)
    assert rendered[1:] == [[2.0]]  # not those that the run was made with


@pytest.mark.slow
def test_a_finished_run_trains_longer_for_other_targets_and_best_is_of_them(copied):
    jaxdt.train(dataclasses.replace(CONFIG, steps=18, targets=(-50.0,)), STORE, out=copied, env=Drift(), resume=True)
    assert checkpoint_steps(copied / "checkpoints")[-1] == 18
    lines = read_lines(copied / "evaluations.jsonl")
    assert (lines[-1]["step"], lines[-1]["target"]) == (18, -50.0)
    assert read_record(RunDirectory(copied)).config.targets == (-50.0,)
    means = {line["step"]: line["return_mean"] for line in lines if line["target"] == -50.0}
    assert means[find_checkpoint(copied / "checkpoints", "best")] == max(means.values())


@pytest.mark.slow
def test_resuming_before_the_first_checkpoint_starts_again(finished, copied):
    shutil.rmtree(copied / "checkpoints")
    jaxdt.train(CONFIG, STORE, out=copied, env=Drift(), resume=True)
    jax.tree.map(np.testing.assert_array_equal, weights_of(copied), weights_of(finished))
    assert without_clock(copied / "metrics.jsonl") == without_clock(finished / "metrics.jsonl")


def test_resuming_an_absent_directory_starts_from_the_config_at_quantiles_of_the_datas_returns(tmp_path):
    config = dataclasses.replace(CONFIG, targets=None, steps=1)
    out = jaxdt.train(config, STORE, out=tmp_path / "new", env=Drift(), resume=True)
    assert checkpoint_steps(out / "checkpoints") == [1]
    expected = np.quantile(STORE.returns, [0.2, 0.5, 0.8, 1.0])
    np.testing.assert_allclose(read_record(RunDirectory(out)).config.targets, expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 3}, "seed=0 and cannot go on with 3"),
        ({"algorithm": tiny_algorithm(optimizer=OptimizerConfig(learning_rate=1.0, warmup_steps=2))}, "learning_rate"),
        ({"algorithm": tiny_algorithm(width=32)}, "width"),
        ({"steps": 3}, "12 updates already; --steps 3 is fewer"),
    ],
)
def test_flags_that_disagree_with_the_run_are_refused(copied, change, says):
    with pytest.raises(JaxdtError, match=says):
        jaxdt.train(dataclasses.replace(CONFIG, **change), STORE, out=copied, env=Drift(), resume=True)


def test_other_data_is_refused_by_its_fingerprint(copied):
    with pytest.raises(JaxdtError, match="fingerprints differ"):
        jaxdt.train(dataclasses.replace(CONFIG, steps=20), make_store(seed=1), out=copied, env=Drift(), resume=True)


def test_a_directory_that_holds_a_run_is_not_overwritten(finished):
    with pytest.raises(JaxdtError, match="already holds a run; continue it with --resume"):
        jaxdt.train(CONFIG, STORE, out=finished, env=Drift())


def test_a_directory_with_other_files_is_not_written_to(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(JaxdtError, match="not empty and holds no run"):
        jaxdt.train(CONFIG, STORE, out=tmp_path, env=Drift())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_bad_input_leaves_nothing_behind(tmp_path):
    with pytest.raises(JaxdtError, match="do not name their environment"):
        jaxdt.train(CONFIG, STORE, out=tmp_path / "run")
    with pytest.raises(JaxdtError, match="observations of the data have 3 numbers, those of Dial 2"):
        jaxdt.train(CONFIG, STORE, out=tmp_path / "run", env=Dial())
    with pytest.raises(JaxdtError, match="HalfCheetah-v5 17"):
        jaxdt.train(dataclasses.replace(CONFIG, env="HalfCheetah-v5"), STORE, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_actions_outside_the_space_are_refused_with_the_way_out(tmp_path):
    store = dataclasses.replace(STORE, actions=STORE.actions * 2)
    config = dataclasses.replace(CONFIG, env="none", steps=1)
    with pytest.raises(JaxdtError, match=r"of 22 actions lie outside .* clip_actions=True \(--clip-actions\)"):
        jaxdt.train(dataclasses.replace(config, normalized_actions=True), store, out=tmp_path / "run")
    out = jaxdt.train(dataclasses.replace(config, clip_actions=True), store, out=tmp_path / "run")
    assert np.abs([*read_record(RunDirectory(out)).spec.action]).max() == 1


def test_without_a_simulator_it_trains_and_does_not_evaluate(tmp_path):
    config = dataclasses.replace(CONFIG_WITHOUT_ENVIRONMENT, targets=None, plot_format="svg")
    out = jaxdt.train(config, STORE, out=tmp_path / "run")
    assert checkpoint_steps(out / "checkpoints")[-1] == 12
    assert not (out / "evaluations.jsonl").exists()
    assert [path.name for path in (out / "plots").iterdir()] == ["loss.svg"]
    agent = jaxdt.Agent.load(out)
    agent.reset(target_return=2.0)
    assert agent.act(np.zeros(3)).shape == (2,)
    with pytest.raises(JaxdtError, match="names no environment"):
        jaxdt.evaluate(out)


class Told(Progress):
    """What was reported, in order."""

    def __init__(self):
        self.reports = []

    def say(self, text):
        self.reports.append(text)

    def start(self, task, total, unit, done=0):
        if unit == "update":
            self.reports.append(task)


def test_nobody_waits_for_compiling_or_the_last_plots_unaware_and_others_are_drawn_once_a_minute(tmp_path, monkeypatch):
    told = Told()
    compiling = loop._compiling_beside
    monkeypatch.setattr(loop, "_compiling_beside", lambda *of: told.say("compiles") or compiling(*of))
    monkeypatch.setattr("jaxdt.run.writer._OneRun.draw_plots", lambda run: told.say("draws"))
    config = dataclasses.replace(CONFIG, steps=4, eval_every=1)
    jaxdt.train(config, STORE, out=tmp_path / "run", env=Drift(), progress=told)
    assert [text for text in told.reports if "->" not in text] == [
        "train", "compiles", "draws", "drawing plots and saving", "draws"
    ]  # fmt: skip


def test_a_run_that_is_stopped_has_its_newest_plots(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "jaxdt.run.writer._OneRun.draw_plots",
        lambda run: drawn.append(len(read_lines(run.directory.evaluations))),
    )
    calls = iter(range(100))
    config = dataclasses.replace(CONFIG, eval_every=1)
    with pytest.raises(StoppedError):
        jaxdt.train(
            config, STORE, out=tmp_path / "run", env=Drift(), stop=lambda: signal.SIGTERM if next(calls) == 2 else None
        )
    assert drawn == [2, 6]  # two targets an evaluation


def test_the_library_prints_nothing_of_itself(tmp_path, capfd):
    jaxdt.train(dataclasses.replace(CONFIG, env="none", steps=1), STORE, out=tmp_path / "run")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


class PoisonedSampler(jaxdt.WindowSampler):
    """The third batch has a return-to-go that is not a number."""

    def batch(self, index):
        window = super().batch(index)
        return window if index != 2 else window._replace(returns_to_go=np.full_like(window.returns_to_go, np.nan))


@pytest.mark.parametrize("updates_per_call", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path, monkeypatch, updates_per_call):
    monkeypatch.setattr("jaxdt.algorithms.decision_transformer.WindowSampler", PoisonedSampler)
    config = dataclasses.replace(CONFIG, env="none", log_every=6, save_every=2)
    whole = jaxdt.train(dataclasses.replace(config, steps=2, log_every=1), STORE, out=tmp_path / "whole")
    loss = read_lines(whole / "metrics.jsonl")[1]["loss"]  # not of update 4, whose batch is sound
    says = r"gradient of update 3, .* is not finite; the last finite loss was (.*) and .* last good checkpoint is 2;"
    with pytest.raises(NonFiniteError) as caught:
        jaxdt.train(dataclasses.replace(config, updates_per_call=updates_per_call), STORE, out=tmp_path / "run")
    found = re.search(says, str(caught.value))
    assert found is not None
    assert float(found[1]) == pytest.approx(loss, rel=1e-5)
    assert checkpoint_steps(tmp_path / "run" / "checkpoints") == [2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights_of(tmp_path / "run")))
    assert read_lines(tmp_path / "run" / "metrics.jsonl") == []


def test_an_evaluation_that_fails_is_told_and_training_goes_on(tmp_path, monkeypatch):
    def fail(*arguments):
        raise SimulationError("the motor is gone")

    evaluate = jaxdt.evaluation.evaluator.Evaluator.run_episodes
    monkeypatch.setattr("jaxdt.evaluation.evaluator.Evaluator.run_episodes", fail)
    with pytest.warns(UserWarning, match=r"update \d+ failed and training goes on: the motor is gone"):
        with pytest.raises(RunError, match="the last evaluation failed; the weights are in"):
            jaxdt.train(dataclasses.replace(CONFIG, save_every=12), STORE, out=tmp_path / "run", env=Drift())
    assert checkpoint_steps(tmp_path / "run" / "checkpoints")[-1] == 12
    failures = read_lines(tmp_path / "run" / "evaluations.jsonl")
    assert failures == [{"step": step, "failed": "the motor is gone"} for step in (6, 12)]
    weights = jaxdt.Agent.load(tmp_path / "run").params

    monkeypatch.setattr("jaxdt.evaluation.evaluator.Evaluator.run_episodes", evaluate)
    config = dataclasses.replace(CONFIG, save_every=12)
    for _ in range(2):  # the second time it is finished
        jaxdt.train(config, STORE, out=tmp_path / "run", env=Drift(), resume=True)
    played = [line for line in read_lines(tmp_path / "run" / "evaluations.jsonl") if "failed" not in line]
    assert [(line["step"], line["target"]) for line in played] == [(12, target) for target in CONFIG.targets]
    jax.tree.map(np.testing.assert_array_equal, jaxdt.Agent.load(tmp_path / "run", "best").params, weights)
    assert (tmp_path / "run" / "plots" / "returns.png").exists()


def test_what_is_needed_at_the_end_is_asked_for_at_the_beginning(tmp_path):
    with pytest.raises(JaxdtError, match="--video needs an environment of Gymnasium"):
        jaxdt.train(dataclasses.replace(CONFIG, video=True), STORE, out=tmp_path / "run", env=Drift())
    assert not (tmp_path / "run").exists()


def test_best_is_the_highest_mean_return_at_the_highest_target(finished):
    lines = [line for line in read_lines(finished / "evaluations.jsonl") if line["target"] == 5.0]
    best = max(lines, key=lambda line: line["return_mean"])
    evaluations = jaxdt.evaluate(finished, Drift(), targets=[5.0], episodes=2, seed=CONFIG.eval_seed, checkpoint="best")
    np.testing.assert_allclose(evaluations[0].returns, best["returns"], rtol=1e-5)


def test_an_agent_has_its_weights_and_no_other_checkpoint(finished, tmp_path):
    agent = jaxdt.Agent.load(finished)
    for use in (
        lambda: jaxdt.evaluate(agent, Drift(), [5.0], 1, checkpoint="best"),
        lambda: jaxdt.to_huggingface(agent, tmp_path / "model", checkpoint="best"),
        lambda: jaxdt.to_stablehlo(agent, tmp_path / "model", checkpoint="best"),
    ):
        with pytest.raises(JaxdtError, match=r"an Agent has the weights .*; leave checkpoint \(got 'best'\) out"):
            use()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [JaxdtError("no encoder"), WriteError("no space left"), SimulationError("it fell")])
def test_what_was_played_is_there_though_nothing_can_be_drawn(finished, monkeypatch, error):
    play = evaluation.evaluate_and_draw

    def draw():
        raise error

    monkeypatch.setattr(
        evaluation, "evaluate_and_draw", lambda *arguments, **options: (play(*arguments, **options)[0], draw)
    )
    with pytest.warns(UserWarning, match=f"the evaluation is complete, but not all was drawn: {error}"):
        assert len(jaxdt.evaluate(finished, Drift(), [5.0], 2)[0].returns) == 2


def test_what_goes_on_with_a_run_can_be_pasted(finished):
    record = read_record(RunDirectory(finished))
    of_files = dataclasses.replace(record, config=CONFIG_WITHOUT_ENVIRONMENT, data={**record.data, "spec": "a.npz"})
    again = how_to_go_on("train", Path("my runs/x"), of_files)
    assert again == "jaxdt train --resume --out 'my runs/x'"


def test_another_run_of_the_same_model_compiles_nothing_anew(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, env="none", targets=None, steps=1)
    jaxdt.train(config, STORE, out=tmp_path / "first")
    monkeypatch.setattr("jaxdt.run.loop.compile_update", None)
    jaxdt.train(dataclasses.replace(config, seed=1), STORE, out=tmp_path / "second")
    with pytest.raises(TypeError):
        jaxdt.train(
            dataclasses.replace(config, algorithm=tiny_algorithm(optimizer=OptimizerConfig(warmup_steps=1))),
            STORE,
            out=tmp_path / "third",
        )


def test_filters_reach_the_run():
    config = dataclasses.replace(CONFIG, env="none", steps=1, best_fraction=0.5, delayed_reward=True)
    prepared = prepare_run(config, STORE, None, None, None)
    record = prepared.record
    assert record.spec.delayed_reward
    np.testing.assert_allclose(record.spec.constants["state_mean"], STORE.statistics.mean, rtol=1e-6)
    for of in ("steps", "episodes"):
        kept = prepare_run(dataclasses.replace(config, best_fraction_of=of), STORE, None, None, None).store
        np.testing.assert_array_equal(kept.observations, STORE.best(0.5, of=of).observations)
    with pytest.raises(JaxdtError, match=r"started with best_fraction_of='steps' and cannot go on with 'episodes'"):
        agree_with_record(dataclasses.replace(config, best_fraction_of="episodes"), record)


def test_the_return_asked_for_changes_what_the_policy_does(tmp_path):
    """Only the return-to-go tells what to do in Dial; a policy that ignores it cannot pass."""
    config = TrainConfig(
        steps=400,
        batch_size=32,
        targets=(-4.0, 0.0, 4.0),
        eval_every=400,
        eval_episodes=2,
        algorithm=tiny_algorithm(
            return_scale=8.0, embedding_dropout=0.0, optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=20)
        ),
    )
    out = jaxdt.train(config, dial_episodes(), out=tmp_path / "dial", env=Dial())
    achieved = [line["return_mean"] for line in read_lines(out / "evaluations.jsonl")]
    np.testing.assert_allclose(achieved, [-4.0, 0.0, 4.0], atol=0.8)


@pytest.mark.parametrize(
    ("step", "minutes", "stopping", "due"),
    [
        (1, 0.0, False, ""),
        (5, 0.0, False, "log"),
        (6, 0.0, False, "evaluate"),
        (8, 0.0, False, "save"),
        (10, 0.0, False, "log"),
        (12, 0.0, False, "log evaluate save"),
        (1, 10.1, False, "save"),
        (1, 9.9, False, ""),
        (1, 0.0, True, "save"),
    ],
)
def test_what_is_due_after_an_update(step, minutes, stopping, due):
    """Of 12; log every 5, evaluate every 6, save every 4."""
    found = what_is_due(CONFIG, step, overdue=minutes > CONFIG.save_every_minutes, stopping=stopping)
    assert [name for name in found._fields if getattr(found, name)] == due.split()


@pytest.mark.parametrize(
    ("intervals", "chosen"),
    [
        ({"steps": 100, "log_every": 50, "eval_every": 40, "save_every": 30}, 10),
        ({"steps": 21, "log_every": 7, "eval_every": 14, "save_every": 70}, 7),
        ({"steps": 13, "log_every": 5, "eval_every": 6, "save_every": 4}, 1),
        ({"steps": 100, "log_every": 50, "eval_every": 50, "save_every": 50, "updates_per_call": 25}, 25),
    ],
)
def test_as_many_updates_a_call_as_fit_are_chosen(intervals, chosen):
    config = dataclasses.replace(CONFIG, **intervals)
    assert fill_schedule(config, num_episodes=3).updates_per_call == chosen


def test_a_presets_name_instead_of_a_config_is_answered_with_what_to_write():
    says = r"config must be a TrainConfig; got 'papr' \(for a preset write train\(jaxdt\.preset\(\"paper\"\), ep"
    with pytest.raises(JaxdtError, match=says):
        inspect.unwrap(jaxdt.train)("papr")
    with pytest.raises(JaxdtError, match=r"got dict \(give it first: train\(jaxdt\.TrainConfig"):
        inspect.unwrap(jaxdt.train)({})


def test_arguments_of_evaluate_that_are_written_wrongly_are_named():
    with pytest.raises(JaxdtError, match=r"^evaluate has no targts \(did you mean targets\?\)\.$"):
        jaxdt.evaluate("nowhere", targts=[1.0])
    with pytest.raises(JaxdtError, match=r"^evaluate has no temprature \(did you mean temperature\?\)\.$"):
        jaxdt.evaluate("nowhere", temprature=1.0)
