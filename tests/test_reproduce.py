"""`scripts/reproduce.py`, whose processes are stood in for by a shell script."""

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import jaxdt
import jaxdt.plots
import reproduce
from jaxdt.config import BEHAVIOR_CLONING
from jaxdt.run.directory import RunDirectory, read_record, write_record
from reproducing import plan
from reproducing.published import D4RL_SETS, SCORES, SOURCES
from tests.test_comparison import CHEETAH, write_run


def jobs_of(out, *, tasks=("Hopper-v5=a.npz+b/c.npz",), methods=("bc", "10% BC=bc --best-fraction 0.1"), **changes):
    arguments = plan.Arguments(out=out, tasks=tasks, methods=methods, seeds=(0, 1), **changes)
    parsed = [plan.parse_task(task) for task in tasks]
    return plan.make_jobs(arguments, parsed, [plan.parse_method(method) for method in methods])


def test_every_seed_of_every_method_on_every_task_is_a_command(tmp_path):
    jobs = jobs_of(tmp_path, eval_episodes=3)
    assert len(jobs) == 4
    out = tmp_path / "Hopper-v5_a+c" / "10percent_BC" / "seed-1"
    common = ["--dataset", "a.npz+b/c.npz", "--env", "Hopper-v5", "--eval-episodes", "3"]
    expected = ["train", "bc", "--best-fraction", "0.1", *common, "--seed", "1", "--out", str(out), "--resume"]
    assert jobs[3].command == expected
    assert jobs[0].command[:2] == ["train", "bc"]
    assert [job.seed for job in jobs] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("iql", ("iql", "iql", ())),
        ("IQL, ours=iql --expectile 0.9", ("IQL, ours", "iql", ("--expectile", "0.9"))),
        ("iql --expectile=0.9", ("iql --expectile=0.9", "iql", ("--expectile=0.9",))),
    ],
)
def test_methods_are_presets_with_a_name_and_flags(text, method):
    assert plan.parse_method(text) == method


@pytest.mark.parametrize("text", ["", "nothing", "IQL=", "IQL=nothing --steps 1"])
def test_what_is_no_preset_is_refused(text):
    with pytest.raises(jaxdt.JaxdtError, match=r"a method is \[NAME=\]PRESET"):
        plan.parse_method(text)


@pytest.mark.parametrize("text", ["Hopper-v5", "=a.npz", "Hopper-v5="])
def test_what_is_no_task_is_refused(text):
    with pytest.raises(jaxdt.JaxdtError, match="a task is ENV=DATASET"):
        plan.parse_task(text)


def test_two_of_one_name_are_refused(tmp_path):
    with pytest.raises(jaxdt.JaxdtError, match="have the same name"):
        jobs_of(tmp_path, methods=("bc", "bc"))


def test_d4rl_sets_are_its_files_or_the_hubs_and_asked_for_the_papers_return(tmp_path):
    (tmp_path / "hopper_medium_expert-v2.hdf5").touch()
    tasks = {task.name: task for task in plan.d4rl_tasks(tmp_path)}
    assert len(tasks) == 9
    assert tasks["hopper-medium-expert-v2"].dataset == str(tmp_path / "hopper_medium_expert-v2.hdf5")
    joined = tasks["walker2d-medium-expert-v2"]
    assert joined.dataset == f"{plan.HUB}/walker2d-medium-v2+{plan.HUB}/walker2d-expert-v2"
    assert (joined.env, joined.targets) == ("Walker2d-v4", (5000.0,))
    assert tasks["halfcheetah-medium-v2"].targets == (6000.0,)
    methods = [plan.parse_method(method) for method in ("DT=paper", "IQL=iql", "twice=paper --targets 12000")]
    jobs = plan.make_jobs(plan.Arguments(out=tmp_path, seeds=(0,)), [joined], methods)
    assert jobs[0].command[6:8] == ["--targets", "5000.0"]
    assert "--targets" not in jobs[1].command
    assert jobs[2].command.count("--targets") == 1


def test_published_scores_average_to_what_their_papers_say():
    averages = {"DT": 74.7, "BC": 47.7, "10% BC (CORL)": 69.3, "TD3+BC": 76.5, "IQL": 81.6, "ReBRAC": 89.7}
    known = {method: [float(s.split()[0]) for s in by_set.values() if s != "-"] for method, by_set in SCORES.items()}
    assert np.mean(known.pop("10% BC")) == pytest.approx(61.6, abs=0.06)  # of six sets, whose mean no paper gives
    means = {method: np.mean(scores) for method, scores in known.items()}
    assert means == pytest.approx(averages, abs=0.06)
    assert SOURCES.keys() == SCORES.keys()


def finish(job, *, at=None, command=None):
    """As if its run had been trained."""
    path = at or job.out
    write_run(path, BEHAVIOR_CLONING, {2: 30.0 + job.seed}, steps=2, seed=job.seed, reference="hopper", **CHEETAH)
    run = RunDirectory(path)
    record = read_record(run)
    made_with = {**record.made_with, "command": ["jaxdt", *(command or job.command)]}
    write_record(run, dataclasses.replace(record, made_with=made_with))


@pytest.fixture
def program(tmp_path, monkeypatch):
    """What is run instead of Python: it notes its arguments, and copies a run that was made for it, fails or waits."""
    script = tmp_path / "program"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$CUDA_VISIBLE_DEVICES $*" >> {tmp_path}/calls\n'
        'case "$*" in *--log-every*) echo "why it failed"; echo "----"; exit 2;; '
        f'*--clip-actions*) trap "exit 143" TERM; touch {tmp_path}/waiting; while :; do sleep 0.02; done;; esac\n'
        'while [ "$1" != "--out" ]; do shift; done\n'
        f'[ -e "$2" ] || cp -r "{tmp_path}/made/$(basename "$(dirname "$2")")-$(basename "$2")" "$2"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))
    return tmp_path / "calls"


def prepare(jobs, tmp_path):
    """The runs that the program will copy."""
    for job in jobs:
        finish(job, at=tmp_path / "made" / f"{job.out.parent.name}-{job.out.name}")


def test_only_what_is_missing_is_run(tmp_path, program, capsys):
    jobs = jobs_of(tmp_path / "out")
    prepare(jobs, tmp_path)
    finish(jobs[0])
    assert reproduce.run_jobs(jobs, reproduce.places(2)) == {}
    called = program.read_text().splitlines()
    assert sorted(called) == sorted(f" -m jaxdt {' '.join(job.command)}" for job in jobs[1:])
    printed = capsys.readouterr().out
    assert "1 of 4 runs are finished; 2 at a time" in printed
    assert "[4/4]" in printed
    assert reproduce.run_jobs(jobs, reproduce.places(2)) == {}
    assert len(program.read_text().splitlines()) == 3


def test_a_run_of_another_command_is_not_taken_for_it(tmp_path, program):
    (job, *_) = jobs_of(tmp_path / "out")
    finish(job, command=[*job.command, "--batch-size", "8"])
    (why,) = reproduce.run_jobs([job], reproduce.places(1)).values()
    assert why == f"it was made by another command; delete {job.out}, or choose another --out"
    moved = [word if word != str(job.out) else "elsewhere" for word in job.command]
    finish(job, at=tmp_path / "moved", command=moved)
    assert plan.is_finished(job._replace(out=tmp_path / "moved"))


def test_one_failure_does_not_stop_the_others_and_is_said(tmp_path, program, capsys, monkeypatch):
    monkeypatch.setattr(jaxdt.plots, "plot_comparison", lambda *arguments: None)
    jobs = jobs_of(tmp_path / "out", methods=("bc", "bad=bc --log-every 1"))
    prepare(jobs, tmp_path)
    jobs[2].out.mkdir(parents=True)
    (jobs[2].out / "config.json").write_text("damaged")  # copied over by nobody: it is there
    failed = reproduce.run_jobs(jobs, reproduce.places(1))
    assert failed == {
        jobs[1].out: "why it failed",
        jobs[2].out: f"it was made by another command; delete {jobs[2].out}, or choose another --out",
        jobs[3].out: "why it failed",
    }
    arguments = plan.Arguments(out=tmp_path / "out")
    assert reproduce._compare(arguments, jobs, failed) == 1
    assert (tmp_path / "out" / "comparison" / "comparison.md").exists()
    assert f"not there: {jobs[1].out}: why it failed" in capsys.readouterr().err


def test_a_signal_stops_all_and_nothing_new_begins(tmp_path, program, capsys):
    jobs = jobs_of(tmp_path / "out", methods=("one=bc --clip-actions", "two=bc --clip-actions"))

    def stop():
        while not Path(tmp_path / "waiting").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as raised:
        reproduce.run_jobs(jobs, reproduce.places(1))
    thread.join()
    assert raised.value.code == 143
    assert len(program.read_text().splitlines()) == 1
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "give --tasks ENV=DATASET ..., or --d4rl DIRECTORY"),
        ("--tasks A=b --d4rl .", "give --tasks ENV=DATASET ..., or --d4rl DIRECTORY"),
        ("--d4rl nowhere", "--d4rl must be a directory"),
        ("--tasks A=b --workers 0 --methods bc", "--workers must be at least 1; got 0"),
        ("--tasks A=b --methods bc\t--nosuchflag\t1", "the method 'bc --nosuchflag 1' cannot be trained so"),
        ("--tasks A=b --methods bc\t--seed\t3", "--seed is set for every run by this script"),
        ("--tasks A=b --methods bc\t'", "No closing quotation"),
    ],
)
def test_what_cannot_be_reproduced_is_one_sentence_before_anything_runs(flags, says, tmp_path, monkeypatch, capsys):
    words = [word.replace("\t", " ") for word in flags.split(" ") if word]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--out", str(tmp_path / "out"), *words])
    assert reproduce.main() == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_gpus_have_a_run_each(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [place.gpu for place in reproduce.places(None)] == ["2", "5"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert {place.gpu for place in reproduce.places(2)} == {None}
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert {place.gpu for place in reproduce.places(2)} == {None}


def test_d4rl_scores_stand_beside_the_published_ones(tmp_path):
    tasks = [task for task in plan.d4rl_tasks(tmp_path) if task.name == "hopper-medium-v2"]
    arguments = plan.Arguments(out=tmp_path, d4rl=tmp_path, seeds=(0, 1))
    jobs = plan.make_jobs(arguments, tasks, [plan.parse_method("BC=bc")])
    for job in jobs:
        finish(job)
    text = reproduce.beside_published(jaxdt.compare({"BC": [job.out for job in jobs]}), jobs)
    assert "| hopper-medium | 3.0 ± 0.1 (2) | 63.9 |" in text
    assert "| walker2d-medium | no data | 77.3 |" in text
    assert text.count("\n| ") == len(D4RL_SETS)


@pytest.mark.slow
def test_it_trains_compares_and_goes_on_after_a_stop(tmp_path):
    steps, generator = 200, np.random.default_rng(0)
    arrays = {"observations": generator.normal(size=(steps, 3)), "actions": generator.uniform(-2, 2, (steps, 1))}
    ends = np.arange(50, steps + 1, 50)
    jaxdt.EpisodeStore.from_arrays(**arrays, rewards=generator.normal(size=steps), episode_ends=ends).save(
        tmp_path / "pendulum.npz"
    )
    looks = "--steps 20 --eval-every 20 --log-every 10 --batch-size 8"
    command = [sys.executable, "scripts/reproduce.py", "--tasks", f"Pendulum-v1={tmp_path / 'pendulum.npz'}"]
    command += ["--methods", f"bc {looks}", f"RvS=rvs-small {looks} --targets auto"]
    command += ["--seeds", "0", "1", "--eval-episodes", "2", "--out", str(tmp_path / "out")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while first.poll() is None and not list(tmp_path.glob("out/*/*/seed-0/config.json")):
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 143, errors
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "[4/4]" in again.stdout
    scores = json.loads((tmp_path / "out" / "comparison" / "comparison.json").read_text())["scores"]
    assert {(score["method"], tuple(score["seeds"]), tuple(score["steps"])) for score in scores} == {
        (f"bc {looks}", (0, 1), (20, 20)),
        ("RvS", (0, 1), (20, 20)),
    }
    assert "4 of 4 runs are finished" in subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
