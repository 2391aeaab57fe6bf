"""Several seeds that were stopped, killed or resumed, and what is told of them all."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.checkpoint import checkpoint_steps
from jaxdt.cli import run as command
from jaxdt.errors import JaxdtError, StoppedError
from jaxdt.loggers import read_lines
from jaxdt.progress import decimals
from jaxdt.run.lock import sole_process
from tests.children import everything_saved, without_clock
from tests.conftest import make_store
from tests.runs import CONFIG, STORE
from tests.test_seeds import SEEDS
from tests.test_stopping import stop_at
from tests.toys import Drift


pytestmark = pytest.mark.usefixtures("quick_plots")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick_plots):
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
    assert "seeds 3, 0, 5" in " ".join(printed.split())
    assert "12 of 12" in printed
    assert "after 12 updates, 3 seeds" in printed
    last = json.loads((finished / "summary.json").read_text())["evaluations"][-1]
    form = decimals(last["return_mean"], last["return_std"])
    assert f"{last['return_mean']:{form}} ± {last['return_std']:{form}}" in printed
    with pytest.raises(JaxdtError, match=r"holds the runs of several seeds; give one of them: .*seed-0, .*seed-3, "):
        jaxdt.Agent.load(finished)


@pytest.mark.slow
def test_seeds_killed_between_their_saves_go_back_to_a_checkpoint_that_all_have(finished, copied):
    shutil.rmtree(copied / "seed-0" / "checkpoints" / "12")
    assert checkpoint_steps(copied / "seed-0" / "checkpoints")[-1] == 8
    with pytest.raises(JaxdtError, match="fingerprints differ"):
        jaxdt.train(CONFIG, make_store(seed=1), out=copied, env=Drift(), resume=True)
    assert checkpoint_steps(copied / "seed-3" / "checkpoints")[-1] == 12  # nothing is thrown away before the checks
    jaxdt.train(CONFIG, STORE, seeds=sorted(SEEDS), out=copied, env=Drift(), resume=True)
    is_the_same(copied, finished)


@pytest.mark.slow
def test_seeds_killed_before_all_have_begun_begin_again_and_stopped_ones_go_on(finished, copied):
    for seed in SEEDS:
        shutil.rmtree(copied / f"seed-{seed}" / "checkpoints")
    shutil.rmtree(copied / "seed-3")
    (copied / "summary.json").write_text(json.dumps({"seeds": SEEDS, "evaluations": []}))
    with pytest.raises(StoppedError) as caught:
        jaxdt.train(CONFIG, STORE, out=copied, env=Drift(), resume=True, stop=stop_at(7))
    again = f"jaxdt.train(..., store=..., env=..., out='{copied}', resume=True)"
    assert str(caught.value) == f"stopped after update 7 of 12; go on with {again}"
    assert [checkpoint_steps(copied / f"seed-{seed}" / "checkpoints")[-1] for seed in SEEDS] == [7, 7, 7]
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


def test_a_single_runs_directory_takes_no_seeds(finished):
    with pytest.raises(JaxdtError, match="holds a single run; leave --seeds out to continue it"):
        jaxdt.train(CONFIG, STORE, seeds=(3, 4), out=finished / "seed-3", env=Drift(), resume=True)


def test_no_run_of_a_live_experiment_is_written_by_another_process(copied):
    for directory in (copied, copied / "seed-5"):
        with sole_process(directory), pytest.raises(JaxdtError, match=f"{directory} is being trained by process"):
            jaxdt.train(CONFIG, STORE, out=copied, env=Drift(), resume=True)
