"""Several seeds in one program: each run is what it would have been alone."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.checkpoint import checkpoint_steps
from jaxdt.cli import run as command
from jaxdt.errors import JaxdtError, NonFiniteError, RunError, SimulationError, StoppedError
from jaxdt.metrics import read_lines
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.evaluate import Player
from jaxdt.run.lock import sole_process
from jaxdt.seeds import stacked
from tests.children import everything_saved, pendulum_episodes, without_clock
from tests.conftest import make_store, tiny_model
from tests.test_run import CONFIG, STORE, PoisonedSampler
from tests.test_stopping import stop_at
from tests.toys import DRIFT_INTERFACE, Drift


SEEDS = (3, 0, 5)
WITHOUT_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}


@pytest.fixture(scope="module", autouse=True)
def quick_plots():
    """Drawing would be half of what these tests do."""

    def touch(path, *_):
        path.parent.mkdir(exist_ok=True)
        path.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdt.run.ledger.plot_loss", touch)
        patch.setattr("jaxdt.run.ledger.plot_returns", touch)
        yield


@pytest.fixture(params=["lax.map", "vmap"])
def mapping(request, monkeypatch):
    """Both ways over seeds, whatever this machine would choose."""
    monkeypatch.setattr("jaxdt.seeds._one_after_the_other", lambda: request.param == "lax.map")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three seeds, never interrupted; tests only read it."""
    return jaxdt.train(CONFIG, STORE, seeds=SEEDS, out=tmp_path_factory.mktemp("seeds") / "whole", env=Drift())


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def is_the_same(out, whole):
    """Bit for bit."""
    for seed in SEEDS:
        ours, its = out / f"seed-{seed}", whole / f"seed-{seed}"
        jax.tree.map(np.testing.assert_array_equal, *map(everything_saved, (ours / "checkpoints", its / "checkpoints")))
        assert checkpoint_steps(ours / "checkpoints")[-2:] == checkpoint_steps(its / "checkpoints")[-2:]
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            assert without_clock(ours / name) == without_clock(its / name)
    assert (out / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


def twenty_updates(dropout):
    model = tiny_model(state_dim=None, action_dim=None, **{} if dropout else WITHOUT_DROPOUT)
    return dataclasses.replace(CONFIG, steps=20, log_every=2, eval_every=20, save_every=20, model=model)


@pytest.fixture(scope="module", params=[False, True], ids=["without dropout", "with dropout"])
def singles(request, tmp_path_factory):
    """The config, and a run of its own for each of two seeds."""
    config, path = twenty_updates(request.param), tmp_path_factory.mktemp("singles")
    for seed in SEEDS[:2]:
        jaxdt.train(dataclasses.replace(config, seed=seed), STORE, out=path / f"seed-{seed}", env=Drift())
    return config, path


def test_each_seed_is_its_single_run(singles, mapping, tmp_path):
    config, path = singles
    out = jaxdt.train(config, STORE, seeds=SEEDS[:2], out=tmp_path / "out", env=Drift())
    for name in ("seed-3", "seed-0"):
        ours, single = out / name, path / name
        assert read_record(RunDirectory(ours)).config == read_record(RunDirectory(single)).config
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
            *(everything_saved(run / "checkpoints")["params"] for run in (ours, single)),
        )
        for file, columns in (("metrics.jsonl", ["loss", "grad_norm"]), ("evaluations.jsonl", ["returns", "lengths"])):
            for column in ("step", *columns):
                values, wanted = ([line[column] for line in read_lines(run / file)] for run in (ours, single))
                np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4)
        assert {file.name for file in ours.iterdir()} == {file.name for file in single.iterdir()}


@pytest.mark.parametrize("context", ["exact", "cached"])
def test_each_seeds_model_plays_its_share_of_one_batch(mapping, context):
    config = tiny_model()
    init, apply = jaxdt.build_model(config)
    params = [jax.tree.map(lambda leaf: leaf * 3, init(jax.random.key(seed))) for seed in SEEDS]
    together = Player(config, apply, DRIFT_INTERFACE, Drift(), context=context, training_seeds=SEEDS)
    alone = Player(config, apply, DRIFT_INTERFACE, Drift(), context=context)
    played = together.play(stacked(params), [1.0, 5.0], 2, seed=7)
    assert played.returns.shape == (len(SEEDS) * 2 * 2,)
    each = [alone.play(its, [1.0, 5.0], 2, seed=7) for its in params]
    np.testing.assert_allclose(played.returns, np.concatenate([one.returns for one in each]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(played.lengths, np.concatenate([one.lengths for one in each]))
    assert np.abs(each[0].returns - each[1].returns).max() > 1e-3


def test_an_episode_that_fails_is_named_with_its_training_seed():
    config = tiny_model()
    init, apply = jaxdt.build_model(config)
    sound = init(jax.random.key(0))
    params = stacked([sound, jax.tree.map(lambda leaf: leaf * np.nan, sound), sound])
    player = Player(config, apply, DRIFT_INTERFACE, Drift(), training_seeds=SEEDS)
    with pytest.raises(SimulationError, match=r"^Drift, seed 0, target 1, episode 0, step 0: the policy's action"):
        player.evaluate_each(params, [1.0, 5.0], 1, seed=0)


def test_the_summary_is_mean_and_sample_deviation_over_seeds(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["seeds"] == [3, 0, 5]
    assert [(s["step"], s["target"]) for s in summary["evaluations"]] == [(6, 1.0), (6, 5.0), (12, 1.0), (12, 5.0)]
    for i, line in enumerate(summary["evaluations"]):
        means = [read_lines(finished / f"seed-{seed}" / "evaluations.jsonl")[i]["return_mean"] for seed in SEEDS]
        assert line["return_means"] == means
        mean = sum(means) / 3
        assert line["return_mean"] == pytest.approx(mean)
        assert line["return_std"] == pytest.approx((sum((value - mean) ** 2 for value in means) / 2) ** 0.5)
        assert line["normalized_means"] is line["normalized_mean"] is line["normalized_std"] is None
        assert len(set(means)) == 3


def test_what_the_runs_show_is_told_of_all_of_them(finished, capsys):
    assert command(["info", str(finished)]) == 0
    printed = capsys.readouterr().out
    assert "seeds         3, 0, 5" in printed
    assert "12 of 12" in printed
    assert "after 12 updates, 3 seeds" in printed
    last = json.loads((finished / "summary.json").read_text())["evaluations"][-1]
    assert f"{last['return_mean']:.1f} ± {last['return_std']:.1f}" in printed
    with pytest.raises(JaxdtError, match=r"holds the runs of several seeds; give one of them: .*seed-0, .*seed-3, "):
        jaxdt.Agent.load(finished)


def test_stopped_seeds_resume_to_what_they_would_have_been(finished, tmp_path):
    out = tmp_path / "stopped"
    with pytest.raises(StoppedError) as caught:
        jaxdt.train(CONFIG, STORE, seeds=SEEDS, out=out, env=Drift(), stop=stop_at(7))
    assert str(caught.value) == f"stopped after update 7 of 12; go on with jaxdt train --resume --out {out}"
    assert [checkpoint_steps(out / f"seed-{seed}" / "checkpoints")[-1] for seed in SEEDS] == [7, 7, 7]
    jaxdt.train(CONFIG, STORE, out=out, env=Drift(), resume=True)
    is_the_same(out, finished)


def test_seeds_killed_between_their_saves_go_back_to_a_checkpoint_that_all_have(finished, copied):
    shutil.rmtree(copied / "seed-0" / "checkpoints" / "12")
    assert checkpoint_steps(copied / "seed-0" / "checkpoints")[-1] == 8
    jaxdt.train(CONFIG, STORE, seeds=sorted(SEEDS), out=copied, env=Drift(), resume=True)
    is_the_same(copied, finished)


def test_when_one_seed_saves_its_best_all_save(tmp_path, monkeypatch):
    """Else a kill between their saves might leave them without a checkpoint in common."""

    def only_seed_3_improves(self, step, evaluations):
        return float(step if "seed-3" in str(self._run.path) else -step)

    monkeypatch.setattr("jaxdt.run.ledger.Ledger.note_evaluations", only_seed_3_improves)
    config = dataclasses.replace(CONFIG, steps=4, eval_every=1, save_every=4)
    out = jaxdt.train(config, STORE, seeds=(0, 3), out=tmp_path / "out", env=Drift())
    assert checkpoint_steps(out / "seed-3" / "checkpoints") == [3, 4]
    assert checkpoint_steps(out / "seed-0" / "checkpoints") == [1, 3, 4]


def test_seeds_killed_before_all_have_begun_begin_again(finished, copied):
    for seed in SEEDS:
        shutil.rmtree(copied / f"seed-{seed}" / "checkpoints")
    shutil.rmtree(copied / "seed-3")
    (copied / "summary.json").write_text(json.dumps({"seeds": SEEDS, "evaluations": []}))
    jaxdt.train(CONFIG, STORE, out=copied, env=Drift(), resume=True)
    is_the_same(copied, finished)


def test_seeds_that_are_too_far_apart_are_not_thrown_away(copied):
    for path in (copied / "seed-5" / "checkpoints").iterdir():
        shutil.rmtree(path)
    with pytest.raises(
        JaxdtError, match=r"too far apart .*: seed-3 is at update 12, .* is none; resume each alone, as"
    ):
        jaxdt.train(CONFIG, STORE, out=copied, env=Drift(), resume=True)
    assert checkpoint_steps(copied / "seed-3" / "checkpoints")[-1] == 12
    jaxdt.train(dataclasses.replace(CONFIG, seed=5), STORE, out=copied / "seed-5", env=Drift(), resume=True)
    assert checkpoint_steps(copied / "seed-5" / "checkpoints")[-1] == 12


def test_finished_seeds_are_left_alone(copied):
    def read_runs():
        return {path: path.read_bytes() for path in sorted(copied.rglob("*")) if path.is_file()}

    before = read_runs()
    jaxdt.train(CONFIG, STORE, out=copied, env=Drift(), resume=True)
    assert read_runs() == before


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({}, {"resume": True, "seeds": (0, 1)}, r"of the seeds 3 0 5 and cannot go on with 0 1; leave --seeds out"),
        ({}, {"seeds": SEEDS}, r"already holds the runs of the seeds 3 0 5; continue them with --resume"),
        ({}, {}, "already holds the runs of the seeds 3 0 5"),
        ({"batch_size": 4}, {"resume": True}, "batch_size=8 and cannot go on with 4"),
        ({"seed": 1}, {"resume": True}, "give seed or seeds, not both; got 1 and"),
        ({"steps": 3}, {"resume": True}, "has 12 updates already; --steps 3 is fewer"),
    ],
)
def test_what_disagrees_with_the_runs_is_refused(copied, change, options, says):
    with pytest.raises(JaxdtError, match=says):
        jaxdt.train(dataclasses.replace(CONFIG, **change), STORE, out=copied, env=Drift(), **options)


def test_a_run_that_went_on_alone_to_another_end_is_refused(copied):
    alone = dataclasses.replace(CONFIG, seed=5, steps=13, targets=(2.0,))
    jaxdt.train(alone, STORE, out=copied / "seed-5", env=Drift(), resume=True)
    with pytest.raises(JaxdtError, match="seeds 3 and 5 have gone on with different configs; resume each alone"):
        jaxdt.train(dataclasses.replace(CONFIG, targets=None), STORE, out=copied, env=Drift(), resume=True)


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ((), r"one or more numbers, each given once; got \[\]"),
        ((1, 2, 1), r"each given once; got \[1, 2, 1\]"),
        ((0, -1), "seed must be at least 0 and below 1073741824; got -1"),
    ],
)
def test_seeds_that_cannot_be_leave_nothing_behind(tmp_path, seeds, says):
    with pytest.raises(JaxdtError, match=says):
        jaxdt.train(CONFIG, STORE, seeds=seeds, out=tmp_path / "out", env=Drift())
    with pytest.raises(JaxdtError, match="give seed or seeds, not both"):
        jaxdt.train(dataclasses.replace(CONFIG, seed=2), STORE, seeds=(0, 1), env=Drift())
    assert not list(tmp_path.iterdir())


def test_a_single_runs_directory_takes_no_seeds(finished):
    with pytest.raises(JaxdtError, match="holds a single run; leave --seeds out to continue it"):
        jaxdt.train(CONFIG, STORE, seeds=(3, 4), out=finished / "seed-3", env=Drift(), resume=True)


def test_no_run_of_a_live_experiment_is_written_by_another_process(copied):
    for directory in (copied, copied / "seed-5"):
        with sole_process(directory), pytest.raises(JaxdtError, match=f"{directory} is being trained by process"):
            jaxdt.train(CONFIG, STORE, out=copied, env=Drift(), resume=True)


def test_a_loss_that_is_not_finite_is_named_with_its_seed(tmp_path, monkeypatch):
    class PoisonedOnce(PoisonedSampler):
        def batch(self, index):
            return super().batch(index if self._seed == 5 else index + 100)

    monkeypatch.setattr("jaxdt.run.loop.WindowSampler", PoisonedOnce)
    config = dataclasses.replace(CONFIG, env="none", save_every=2)
    with pytest.raises(
        NonFiniteError, match=r"^of seed 5, the loss or gradient of update 3, .* last good checkpoint is 2"
    ):
        jaxdt.train(config, STORE, seeds=SEEDS, out=tmp_path / "out")


def test_an_evaluation_that_fails_is_recorded_for_each_seed(tmp_path, monkeypatch):
    def fail(*arguments):
        raise SimulationError("the motor is gone")

    monkeypatch.setattr("jaxdt.run.evaluate.Player.play", fail)
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match=r"update \d+ failed and training goes on: the motor is gone"):
        with pytest.raises(RunError, match=r"the last evaluation failed; the weights are in .*seed-3.*seed-0.*seed-5"):
            jaxdt.train(CONFIG, STORE, seeds=SEEDS, out=out, env=Drift())
    for seed in SEEDS:
        failures = [{"step": step, "failed": "the motor is gone"} for step in (6, 12)]
        assert read_lines(out / f"seed-{seed}" / "evaluations.jsonl") == failures
    assert json.loads((out / "summary.json").read_text())["evaluations"] == []


def test_one_seed_of_an_experiment_is_a_run_like_any_other(tmp_path):
    out = jaxdt.train(dataclasses.replace(CONFIG, steps=2), STORE, seeds=[4], out=tmp_path / "out", env=Drift())
    single = jaxdt.train(dataclasses.replace(CONFIG, steps=2, seed=4), STORE, out=tmp_path / "single", env=Drift())
    of_both = (everything_saved(run / "checkpoints") for run in (out / "seed-4", single))
    jax.tree.map(np.testing.assert_array_equal, *of_both)
    (line, _) = json.loads((out / "summary.json").read_text())["evaluations"]
    assert line["return_std"] is None


def test_the_command_trains_seeds_from_beginning_to_end(tmp_path, capsys):
    pendulum_episodes(tmp_path / "data.npz")
    out = tmp_path / "out"
    flags = "--seeds 1 2 --width 16 --num-layers 1 --context-length 4 --batch-size 8 --steps 4 --warmup-steps 2"
    flags += " --targets 1 5 --eval-every 2 --eval-episodes 2 --save-every 2 --log-every 2 --tensorboard"
    assert command(["train", "paper", "--dataset", str(tmp_path / "data.npz"), "--out", str(out), *flags.split()]) == 0
    printed = capsys.readouterr()
    assert "after 4 updates, 2 seeds" in printed.out
    assert "target -> achieved return over 2 seeds" in printed.err
    assert command(["train", "--resume", "--out", str(out)]) == 0
    assert "is finished: 4 of 4 updates done" in capsys.readouterr().err
    assert command(["train", "--resume", "--seeds", "1", "--out", str(out)]) == 2
    assert "cannot go on with 1" in capsys.readouterr().err
    runs = [str(out / "seed-1"), str(out / "seed-2")]
    assert command(["evaluate", *runs, "--episodes", "2", "--seed", "1000"]) == 0
    last = json.loads((out / "summary.json").read_text())["evaluations"][-1]
    assert f"{last['return_mean']:.1f} ± {last['return_std']:.1f}" in capsys.readouterr().out
    assert command(["export", runs[1], str(tmp_path / "exported")]) == 0
    assert command(["train", "--resume", "--out", runs[0], "--steps", "6"]) == 0
    assert all((out / f"seed-{seed}" / "tensorboard").is_dir() for seed in (1, 2))


def test_a_demo_experiment_keeps_the_episodes_in_each_run(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdt.run.train.collect_demo_episodes", lambda progress: make_store())
    config = dataclasses.replace(CONFIG, steps=1, dataset="demo")
    out = jaxdt.train(config, seeds=(0, 1), out=tmp_path / "out", env=Drift())
    for seed in (0, 1):
        assert jaxdt.load_episodes(out / f"seed-{seed}" / "episodes.npz").fingerprint == STORE.fingerprint
