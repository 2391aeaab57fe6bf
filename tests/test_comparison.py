"""Runs set side by side; what they reached is written by hand."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

import jaxdt
import jaxdt.plots
from jaxdt.cli import run as run_command
from jaxdt.config import BC_CORL, BEHAVIOR_CLONING, HUGGINGFACE, IQL, PAPER, FinetuneConfig, Finetuning
from jaxdt.loggers import append_line
from jaxdt.run.directory import RunDirectory, RunRecord, write_record
from jaxdt.types import Box, Spec


CHEETAH = {"env": "HalfCheetah-v5", "dataset": "cheetah.npz"}
HOPPER = {"env": "Hopper-v5", "dataset": "hopper.npz"}
MEASURED = {"state_mean": np.zeros(2), "state_std": np.ones(2), "reward_scale": np.float32(1)}


def write_run(
    path, config, returns_by_step, *, fingerprint=None, versions=None, reference="halfcheetah", online=None, **changes
):
    """A run that reached, after so many updates, the mean returns of these targets (or the one, of none)."""
    config = dataclasses.replace(config, **changes)
    spec = Spec(observation_shape=(2,), action=Box([-1.0], [1.0]), constants=MEASURED)
    data = {"spec": config.dataset, "fingerprint": fingerprint or config.dataset, "num_episodes": 2, "num_steps": 9}
    data |= {"return_mean": 20.0, "return_min": 0.0, "return_max": 90.0}
    run = RunDirectory(path)
    path.mkdir(parents=True)
    made_with = {"versions": versions or {"gymnasium": "1.4", "mujoco": "4.0"}}
    write_record(run, RunRecord(config=config, spec=spec, data=data, made_with=made_with, finetuning=online))
    for step, returns in returns_by_step.items():
        for target, value in returns.items() if isinstance(returns, dict) else [(None, returns)]:
            normalized = None if reference is None else value / 10
            record = {"step": step, "target": target, "returns": [value - 1.0, value + 1.0], "lengths": [5, 5]}
            record |= {"return_mean": value, "return_std": 1.0, "normalized_mean": normalized, "reference": reference}
            append_line(run.evaluations, record)
    return path


def write_seeds(path, config, finals, **changes):
    for seed, final in enumerate(finals):
        write_run(path / f"seed-{seed}", config, {1: final / 2, 2: final}, steps=2, seed=seed, **changes)
    return path


@pytest.fixture
def two_methods(tmp_path):
    """Three seeds of each on two tasks; IQL is better on one and ties on the other."""
    write_seeds(tmp_path / "iql-cheetah", IQL, [30.0, 40.0, 80.0], **CHEETAH)
    write_seeds(tmp_path / "bc-cheetah", BEHAVIOR_CLONING, [10.0, 20.0, 24.0], **CHEETAH)
    write_seeds(tmp_path / "iql-hopper", IQL, [5.0, 6.0, 7.0], **HOPPER)
    write_seeds(tmp_path / "bc-hopper", BEHAVIOR_CLONING, [5.0, 6.0, 7.0], **HOPPER)
    return tmp_path


def test_runs_are_grouped_by_method_and_task(two_methods):
    comparison = jaxdt.compare([two_methods])
    assert comparison.methods == ("bc", "iql")
    assert [task.name for task in comparison.tasks] == ["HalfCheetah-v5", "Hopper-v5"]
    score = comparison.score("iql", "HalfCheetah-v5")
    assert (score.seeds, score.returns.tolist(), score.steps, score.episodes) == (
        (0, 1, 2), [30.0, 40.0, 80.0], (2, 2, 2), (2, 2, 2)
    )  # fmt: skip
    assert score.return_mean == 50.0
    assert score.return_std == pytest.approx(np.sqrt((20**2 + 10**2 + 30**2) / 2))
    assert score.curve.tolist() == [[15.0, 30.0], [20.0, 40.0], [40.0, 80.0]]
    assert not comparison.notes


def test_it_says_that_networks_of_ones_own_may_differ(tmp_path):
    algorithm = dataclasses.replace(PAPER.algorithm, network=lambda model: model)
    write_run(tmp_path / "own", PAPER, {2: {9.0: 5.0}}, steps=2, algorithm=algorithm, **CHEETAH)
    assert jaxdt.compare([tmp_path]).notes[0].startswith("own is a network of one's own: whether it was the same")


def test_aggregates_are_of_all_tasks_and_seeds(two_methods):
    comparison = jaxdt.compare([two_methods])
    assert comparison.aggregated == "D4RL score"
    assert comparison.aggregates["iql"].iqm == pytest.approx((0.6 + 0.7 + 3.0 + 4.0) / 4)
    low, high = comparison.aggregates["iql"].interval
    assert low < comparison.aggregates["iql"].iqm < high
    better = next(i for i in comparison.improvements if i.method == "iql")
    assert better.probability == (1.0 + 0.5) / 2
    assert sum(i.probability for i in comparison.improvements) == 1.0


def test_order_of_runs_does_not_matter(two_methods):
    paths = sorted(two_methods.iterdir())
    one, other = jaxdt.compare(paths), jaxdt.compare(paths[::-1])
    assert one.aggregates["bc"].interval == other.aggregates["bc"].interval
    assert set(one.improvements) == set(other.improvements)


def test_methods_of_one_preset_are_named_by_what_differs(tmp_path):
    write_seeds(tmp_path / "a", BEHAVIOR_CLONING, [1.0], **CHEETAH)
    write_seeds(tmp_path / "b", BEHAVIOR_CLONING, [2.0], best_fraction=0.1, **CHEETAH)
    assert jaxdt.compare([tmp_path]).methods == ("bc", "bc best_fraction=0.1")
    assert jaxdt.compare([f"10 % BC={tmp_path / 'b'}", tmp_path / "a"]).methods == ("10 % BC", "bc")
    assert jaxdt.compare([f"BC={tmp_path / '[b]*'}"]).scores[0].return_mean == 2.0
    comparison = jaxdt.compare({"BC": tmp_path / "a", "10 % BC": [tmp_path / "b"]})
    assert comparison.score("10 % BC", "HalfCheetah-v5").return_mean == 2.0


def test_a_method_is_named_by_all_that_it_changes_of_its_preset(tmp_path):
    algorithm = dataclasses.replace(IQL.algorithm, normalize_states=True)
    looked_at = {"eval_every": 1, "eval_episodes": 7, "log_every": 3, "devices": 1, "paper_targets": False}
    write_seeds(tmp_path / "a", BC_CORL, [1.0], best_fraction=0.1, **looked_at, **CHEETAH)
    write_seeds(tmp_path / "b", IQL, [2.0], algorithm=algorithm, **CHEETAH)
    write_seeds(tmp_path / "c", HUGGINGFACE, [3.0], passes=None, **CHEETAH)
    methods = ("bc-corl best_fraction=0.1", "iql normalize_states=True", "huggingface")
    assert jaxdt.compare([tmp_path]).methods == methods


def test_runs_of_one_preset_that_differ_in_how_long_they_were_trained_are_two_methods(tmp_path):
    for steps in (2, 4):
        write_run(tmp_path / f"{steps}", IQL, {steps: 1.0}, steps=steps, batch_size=8, **CHEETAH)
    assert jaxdt.compare([tmp_path]).methods == ("iql steps=2 batch_size=8", "iql steps=4 batch_size=8")


def test_it_says_where_methods_were_trained_for_different_numbers_of_updates(tmp_path):
    write_run(tmp_path / "a", IQL, {300: 2.0}, steps=300, **CHEETAH)
    write_run(tmp_path / "b", BEHAVIOR_CLONING, {100: 1.0}, steps=100, **CHEETAH)
    comparison = jaxdt.compare([tmp_path])
    note = "HalfCheetah-v5: the methods were trained for different numbers of updates: 300 (iql); 100 (bc)"
    assert comparison.notes == (note,)
    assert comparison.improvements  # an update costs one method more than another, so equal numbers would be no fairer


def test_named_runs_made_differently_are_said(tmp_path):
    write_run(tmp_path / "a", BEHAVIOR_CLONING, {2: 1.0}, steps=2, seed=0, **CHEETAH)
    write_run(tmp_path / "b", BEHAVIOR_CLONING, {2: 1.0}, steps=2, seed=1, batch_size=8, **CHEETAH)
    comparison = jaxdt.compare({"BC": tmp_path})
    assert comparison.notes == ("the runs of BC were made with different batch_size",)


def test_last_evaluation_at_the_highest_target_counts(tmp_path):
    reached = {1: {5.0: 50.0, 9.0: 90.0}, 2: {5.0: 60.0, 9.0: 40.0}}
    write_run(tmp_path / "a", PAPER, reached, steps=2, **CHEETAH)
    score = jaxdt.compare([tmp_path]).scores[0]
    assert (score.return_mean, score.targets, score.steps) == (40.0, (9.0,), (2,))
    assert score.curve.tolist() == [[90.0, 40.0]]
    comparison = jaxdt.compare([tmp_path], best=True)
    assert comparison.scores[0].return_mean == 90.0
    assert "best evaluation, which nobody can know beforehand" in str(comparison)
    assert "Asked: paper for 9 on HalfCheetah-v5" in str(comparison)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"eval_seed": 7}, "the first environment seed differs: 1000 (bc); 7 (iql)"),
        ({"env_kwargs": {"b": 1}}, 'the environment\'s arguments differs: {} (bc); {"b": 1} (iql)'),
        ({"max_episode_steps": 9}, "the limit of an episode's steps differs: None (bc); 9 (iql)"),
        ({"env": "HalfCheetah-v4"}, "the environment differs: HalfCheetah-v5 (bc); HalfCheetah-v4 (iql)"),
        ({"versions": {"gymnasium": "1.4", "mujoco": "3.1"}}, "the version of MuJoCo differs: 4.0 (bc); 3.1 (iql)"),
    ],
)
def test_what_may_not_be_compared_is_said_and_counts_nowhere(tmp_path, changes, what):
    write_seeds(tmp_path / "a", BEHAVIOR_CLONING, [1.0, 2.0, 3.0], **CHEETAH)
    write_seeds(tmp_path / "b", IQL, [1.0, 2.0, 3.0], **{**CHEETAH, **changes})
    comparison = jaxdt.compare([tmp_path])
    assert comparison.notes == (
        f"may not be compared: HalfCheetah-v5: {what}",
        "over tasks, only these count: none",
    )
    assert not comparison.aggregates
    assert not comparison.improvements


def test_what_differs_behind_many_letters_differs(tmp_path):
    for name, config, wall in (("a", BEHAVIOR_CLONING, "#"), ("b", IQL, ".")):
        maze = {"env_kwargs": {"maze": "#" * 200 + wall}}
        write_seeds(tmp_path / name, config, [1.0, 2.0, 3.0], **CHEETAH, **maze)
    conflict, _ = jaxdt.compare([tmp_path]).notes
    assert "the environment's arguments differs" in conflict
    assert len(conflict) < 300


def test_a_version_that_is_not_known_hides_none_that_differ(tmp_path):
    for i, versions in enumerate(({"mujoco": "4.0"}, {"mujoco": "3.1"}, {"gymnasium": "1.4"})):
        write_run(tmp_path / str(i), BEHAVIOR_CLONING, {2: 1.0}, steps=2, seed=i, versions=versions, **CHEETAH)
    assert "version of MuJoCo differs: 4.0 (bc); 3.1 (bc)" in jaxdt.compare([tmp_path]).notes[0]
    shutil.rmtree(tmp_path / "1")
    assert jaxdt.compare([tmp_path]).notes == ()


def test_seeds_of_one_fine_tuning_are_one_method_wherever_they_began(tmp_path):
    """The best checkpoints of two runs are of different updates."""
    for seed, first in enumerate((1000, 2000)):
        chosen = FinetuneConfig(rounds=3, updates_per_round=100, seed=seed)
        online = Finetuning(run="runs/a", first_step=first, config=chosen)
        returns = {first + updates: 10.0 + seed + updates for updates in (0, 200, 300)}
        write_run(tmp_path / f"{seed}", IQL, returns, steps=online.last_step, online=online, seed=seed, **HOPPER)
    comparison = jaxdt.compare([tmp_path])
    assert comparison.methods == ("iql rounds=3 updates_per_round=100",)
    (score,) = comparison.scores
    assert (score.seeds, score.curve_steps.tolist()) == ((0, 1), [0, 200, 300])
    assert score.curve.tolist() == [[10.0, 210.0, 310.0], [11.0, 211.0, 311.0]]
    assert comparison.notes == ()


def test_other_data_are_another_task(tmp_path):
    write_seeds(tmp_path / "a", BEHAVIOR_CLONING, [1.0], **CHEETAH)
    write_seeds(tmp_path / "b", IQL, [1.0], env="HalfCheetah-v5", dataset="data/other.npz")
    comparison = jaxdt.compare([tmp_path])
    assert [task.name for task in comparison.tasks] == ["HalfCheetah-v5 on cheetah", "HalfCheetah-v5 on other"]
    assert comparison.notes[0] == "HalfCheetah-v5 on cheetah: no runs of iql (NAME=RUN joins runs made differently)"


def test_runs_that_are_not_finished_or_not_evaluated_are_said(tmp_path):
    write_run(tmp_path / "a", BEHAVIOR_CLONING, {1: 5.0}, steps=2, **CHEETAH)
    write_run(tmp_path / "b", IQL, {}, steps=2, **CHEETAH)
    notes = jaxdt.compare([tmp_path]).notes
    assert notes == (
        f"left out, for it was not evaluated: {tmp_path / 'b'}",
        "may not be compared: bc on HalfCheetah-v5, seed 0, is not finished: it was last evaluated after 1 of 2 "
        "updates",
        "over tasks, only these count: none",
    )


def test_several_tasks_without_reference_have_no_mean(tmp_path):
    write_seeds(tmp_path / "a", IQL, [1.0, 2.0], reference=None, **CHEETAH)
    write_seeds(tmp_path / "b", IQL, [1.0, 2.0], reference=None, **HOPPER)
    assert (
        "no interquartile mean over tasks: no reference returns are known for some of them; give those with "
        "references= (--references ENV=RANDOM,BEST)"
    ) in (jaxdt.compare([tmp_path]).notes)
    alone = jaxdt.compare([tmp_path / "a"])
    assert (alone.aggregated, alone.aggregates["iql"].iqm, alone.aggregates["iql"].interval) == ("return", 1.5, None)


def test_returns_that_are_0_and_100_can_be_given(two_methods, tmp_path, capsys):
    mine = {"reference": None, "env": "my:Mine-v3", "dataset": "mine.npz", "steps": 2}
    write_run(two_methods / "mine", IQL, {2: 30.0}, **mine)
    write_run(two_methods / "ours", BEHAVIOR_CLONING, {2: 15.0}, **mine)
    assert not jaxdt.compare([two_methods]).aggregates
    comparison = jaxdt.compare([two_methods], references={"Mine": (10.0, 60.0), "Hopper-v5": [0, 10]})
    mine = comparison.score("iql", "my:Mine-v3")
    assert (mine.normalized.tolist(), mine.score_name) == ([40.0], "normalised score")
    assert comparison.score("bc", "Hopper-v5").normalized.tolist() == [50.0, 60.0, 70.0]
    assert comparison.score("iql", "HalfCheetah-v5").normalized.tolist() == [3.0, 4.0, 8.0]  # D4RL's, as it was
    assert comparison.aggregated == "normalised score"
    assert comparison.aggregates["bc"].iqm == pytest.approx(np.mean([2, 2.4, 10, 50, 60]))  # of 1 ... 70
    assert run_command(["compare", str(two_methods), "--references", "Mine-v3=10,60"]) == 0
    assert "no interquartile mean" not in capsys.readouterr().out
    for given, says in (
        ("Mine=1", "takes ENV=RANDOM,BEST"),
        ("Mine=5,5", "different"),
        ("Walker2d=0,1", "runs are of"),
    ):
        assert run_command(["compare", str(two_methods), "--references", given]) == 2
        assert says in capsys.readouterr().err


def test_seeds_that_were_asked_for_different_returns_count_nowhere(tmp_path):
    write_run(tmp_path / "a", PAPER, {2: {9.0: 90.0}}, steps=2, seed=0, **CHEETAH)
    write_run(tmp_path / "b", PAPER, {2: {900.0: 0.0}}, steps=2, seed=1, **CHEETAH)
    comparison = jaxdt.compare([tmp_path])
    assert "paper on HalfCheetah-v5: the seeds were asked for different returns: 9.0, 900.0" in comparison.notes[0]
    assert not comparison.aggregates


def test_a_mean_is_of_one_unit(tmp_path):
    write_seeds(tmp_path / "a", IQL, [10.0, 20.0], **CHEETAH)
    write_seeds(tmp_path / "b", BEHAVIOR_CLONING, [10.0, 20.0], reference=None, **CHEETAH)
    comparison = jaxdt.compare([tmp_path])
    assert (comparison.aggregated, {a.iqm for a in comparison.aggregates.values()}) == ("return", {15.0})


def test_links_to_runs_are_followed_but_not_in_circles(tmp_path):
    write_run(tmp_path / "kept" / "a", IQL, {2: 1.0}, steps=2, **CHEETAH)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a").symlink_to(tmp_path / "kept" / "a")
    (tmp_path / "linked" / "round").symlink_to(tmp_path / "linked")
    assert len(jaxdt.compare([tmp_path / "linked"]).scores) == 1
    assert len(jaxdt.compare([tmp_path]).scores[0].seeds) == 1


def test_one_seed_twice_is_refused(tmp_path):
    write_run(tmp_path / "a", IQL, {2: 1.0}, steps=2, **CHEETAH)
    write_run(tmp_path / "b", IQL, {2: 1.0}, steps=2, **CHEETAH)
    with pytest.raises(jaxdt.JaxdtError, match="has the seed 0 twice"):
        jaxdt.compare([tmp_path])
    assert len(jaxdt.compare([tmp_path / "a", tmp_path / "a"]).scores) == 1


def _with_config(path, *keys, value):
    run = RunDirectory(write_run(path, IQL, {1: 1.0}, **CHEETAH))
    document = json.loads(run.config.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    run.config.write_text(json.dumps(document))


_EVALUATION = {"step": 1, "target": None, "returns": [1.0], "return_mean": 1.0, "return_std": 0.0}
_EVALUATION |= {"normalized_mean": None}


def _damaged(path, line):
    RunDirectory(write_run(path, IQL, {}, **CHEETAH)).evaluations.write_text(line + "\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist; give directories"),
        (lambda path: path.mkdir(), "holds no run; give directories"),
        (lambda path: write_run(path, IQL, {}, **CHEETAH), "none of these runs was evaluated"),
        (lambda path: _damaged(path, '{"step": 1}'), "damaged: record 1 is no evaluation"),
        *(
            (lambda path, odd=odd: _damaged(path, json.dumps(_EVALUATION | odd)), "record 1 is no evaluation")
            for odd in (
                *({"step": -3}, {"step": 10**40}, {"step": 1.0}, {"returns": []}, {"returns": [10**400]}),
                *({"return_mean": 1e308}, {"return_mean": float("nan")}, {"return_std": None}, {"target": "9"}),
            )
        ),
        *(
            (lambda path, odd=odd: _with_config(path, "data", "return_max", value=odd), "the data's returns are")
            for odd in ("abc", None, [1], 10**400)
        ),
        (lambda path: _damaged(path, "[1]"), "line 1 is no JSON object"),
        (lambda path: _damaged(path, "[" * 99_999), "line 1 is not JSON"),
    ],
)
def test_what_is_no_evaluated_run_is_refused(tmp_path, make, message):
    make(tmp_path / "run")
    with pytest.raises(jaxdt.JaxdtError, match=message):
        jaxdt.compare([tmp_path / "run"])


def test_command_prints_the_table_and_writes_what_papers_need(two_methods, tmp_path, capsys):
    out = tmp_path / "out"
    runs = [f"IQL_1={two_methods / 'iql-cheetah'}", str(two_methods / "bc-cheetah")]
    assert run_command(["compare", *runs, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| IQL_1  | 3     | 2       | 50.0 ± 26.5    | 5.00 [3.00, 8.00]" in printed
    assert (out / "comparison.md").read_text() in printed
    assert r"IQL\_1 & 3 & 2 & 50.0 $\pm$ 26.5 & 5.00 [3.00, 8.00] \\" in (out / "comparison.tex").read_text()
    rows = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert rows[2] | {"method": "IQL_1", "seed": "2", "return_mean": "80.0", "d4rl_score": "8.0"} == rows[2]
    document = json.loads((out / "comparison.json").read_text())
    assert document["aggregates"]["IQL_1"]["iqm"] == 5.0
    assert document["taken"] == "last"
    for name, magic in (("comparison.png", b"\x89PNG"), ("comparison.pdf", b"%PDF")):
        assert (out / name).read_bytes().startswith(magic)


def test_names_of_files_of_anybodys_harm_neither_terminal_nor_latex(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxdt.plots, "plot_comparison", lambda *arguments: None)
    odd = "\x1b[2J\n\\input|$"
    versions = {"gymnasium": "1.4", "mujoco": odd}
    write_run(tmp_path / "a", IQL, {2: 1.0}, steps=2, preset=odd, env=odd, dataset=odd, versions=versions)
    write_run(tmp_path / "b", IQL, {2: 1.0}, steps=2, preset="b", env=odd, dataset="b.npz")
    write_run(tmp_path / "c", IQL, {2: 1.0}, steps=2, preset="b", env=odd, dataset=odd, seed=1, init=odd)
    comparison = jaxdt.compare([tmp_path])
    assert comparison.methods[0] == "?[2J?\\input|$"
    assert "\x1b" not in str(comparison)
    comparison.write(tmp_path / "out")
    assert not [line for line in (tmp_path / "out" / "comparison.tex").read_text().split("\n") if line[:2] == "\\i"]
    assert r"?[2J?\textbackslash{}input|\$" in (tmp_path / "out" / "comparison.tex").read_text()


def test_info_lists_the_runs_of_a_directory_and_what_they_change(tmp_path, capsys):
    write_run(tmp_path / "a" / "seed-1", IQL, {5: 30.0}, steps=9, seed=1, batch_size=8, **CHEETAH)
    played = {"env_kwargs": {"x": "y"}, "max_episode_steps": 70, "parallel_environments": 3}
    write_run(tmp_path / "b", PAPER, {2: {5.0: 50.0, 9.0: 90.0}}, **HOPPER, **played)
    assert run_command(["info", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}, 2 runs"
    assert lines[2].split() == ["a/seed-1", "iql", "HalfCheetah-v5", "1", "0", "of", "9", "-", "30.0", "±", "1.0"]
    assert 'Hopper-v5 {"x": "y"}' in lines[3]
    assert lines[3].split()[-4:] == ["9.0", "90.0", "±", "1.0"]
    assert run_command(["info", str(tmp_path / "a" / "seed-1")]) == 0
    assert "  other than preset  steps=9, batch_size=8\n" in capsys.readouterr().out
    assert run_command(["info", str(tmp_path / "b")]) == 0
    printed = capsys.readouterr().out
    assert "  step limit             70\n  parallel environments  3\n" in printed
    assert "other than preset" not in printed
