import contextlib
import io
import json
import operator
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.cli import run
from jaxdt.cli.common import keep_compiled_programs
from jaxdt.cli.completion import COMMANDS, flags_of
from jaxdt.cli.training import TrainArguments, parse_train
from jaxdt.config import PRESETS
from tests.conftest import make_store


TINY = (
    "--width 16 --num-layers 1 --context-length 4 --batch-size 8 --steps 4 --warmup-steps 2 --eval-every 4 "
    "--eval-episodes 1 --save-every 2 --log-every 2"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset that names Pendulum-v1, whose action space is [-2, 2]."""
    path = tmp_path_factory.mktemp("data") / "pendulum.npz"
    assert run(f"collect --env Pendulum-v1 --policy random --episodes 2 --noise 0.1 --out {path}".split()) == 0
    return path


@pytest.fixture(scope="module")
def trained_and_told(data, tmp_path_factory):
    """A run, and what the command printed."""
    out = tmp_path_factory.mktemp("runs") / "pendulum"
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(io.StringIO()) as shown:
        assert run(["train", "paper", "--dataset", str(data), "--out", str(out), "--seed", "3", *TINY]) == 0
    return out, told.getvalue(), shown.getvalue()


@pytest.fixture(scope="module")
def trained(trained_and_told):
    return trained_and_told[0]


def test_collect_records_discrete_actions_of_random_and_scripted_policies(tmp_path, capsys):
    for policy, most in (("random", 100), ("demo:expert", 500)):
        path = tmp_path / f"{policy[-6:]}.npz"
        assert run(f"collect --env CartPole-v1 --policy {policy} --episodes 3 --out {path}".split()) == 0
        assert "actions           0 ... 1, 2 of them" in capsys.readouterr().out
        store = jaxdt.load_episodes(path)
        assert store.is_discrete
        assert (store.num_episodes, store.lengths.max() <= most) == (3, True)
    assert store.lengths.tolist() == [500] * 3


def test_collect_stores_what_was_executed(data):
    store = jaxdt.load_episodes(data)
    assert (store.num_episodes, store.num_steps, store.env_id) == (2, 400, "Pendulum-v1")
    assert np.abs(store.actions).max() <= 2
    assert np.abs(store.actions).max() > 1.5


def test_train_prints_what_was_reached_and_where(trained_and_told):
    out, told, shown = trained_and_told
    assert "target  return mean" in told
    assert f"{out}/plots/returns.png" in told
    assert "cpu" in shown.splitlines()[0]
    record = json.loads((out / "config.json").read_text())
    assert (record["config"]["seed"], record["config"]["preset"]) == (3, "paper")
    assert record["made_with"]["command"][:2] == ["jaxdt", "train"]
    assert record["spec"]["action"]["high"] == [2.0]
    assert "\r" not in shown  # no bar where there is no terminal


@pytest.mark.slow
def test_without_preset_and_out_it_takes_demo_and_the_next_free_directory(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo-none-1").mkdir(parents=True)
    assert run(["train", "--dataset", str(data), "--env", "none", "--clip-actions", *TINY]) == 0
    record = json.loads((tmp_path / "runs" / "demo-none-2" / "config.json").read_text())
    assert record["config"]["preset"] == "demo"


def test_a_finished_run_resumes_to_nothing_and_exits_0(trained, capsys):
    before = sorted(path.stat().st_mtime_ns for path in trained.rglob("*"))
    assert run(["train", "--resume", "--out", str(trained)]) == 0
    assert "finished" in capsys.readouterr().err
    assert sorted(path.stat().st_mtime_ns for path in trained.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--resume", "--seed", "9"], "seed=3 and cannot go on with 9"),
        (["demo", "--resume"], "started with the preset paper"),
        ([], "already holds a run"),
    ],
)
def test_flags_that_disagree_with_the_run_exit_2(trained, capsys, flags, says):
    assert run(["train", *flags, "--out", str(trained)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--steps", "5", "paper"], "the preset comes first: jaxdt train paper ... (it stands after '5')"),
        (
            ["papper"],
            "'papper' is not a preset (did you mean paper?); choose one of demo, cartpole, paper, huggingface, large, "
            "bc, bc-corl, rvs, rvs-small, iql, td3-bc, rebrac",
        ),
        (["paper", "--eval-context", "cached"], "--eval-context is called --context now"),
        (["paper", "--lr", "1e-3"], "--lr is called --learning-rate here"),
        (["--preset=paper"], "--preset is called nothing here: the preset is the first word"),
        (["bc", "--init", "TRAINED"], "the weights are of decision-transformer and cannot be trained by behavior-cl"),
        # 128 is the default of its class, and was asked for nevertheless.
        (
            ["--init", "TRAINED", "--width", "128"],
            "the weights have width=16 and cannot be used with 128; leave it out.",
        ),
        (["paper", "--init", "TRAINED", "--width", "64"], "the weights have width=16 and cannot be used with 64"),
        (
            ["--init", "TRAINED"],
            "give them with dataset= (--dataset), such as those that it was trained on, ",
        ),
        (
            ["--init", "TRAINED", "--dataset", "DATA", "--constant-std", "1", "--env", "none"],
            "keep the statistics that they were trained with; leave constant_std (got 1.0) out",
        ),
    ],
)
def test_what_train_cannot_begin_with_is_one_sentence(trained, data, capsys, arguments, says):
    paths = {"TRAINED": str(trained), "DATA": str(data)}
    assert run(["train", *(paths.get(argument, argument) for argument in arguments)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "name", "read"),
    [
        ("--steps 1e5", "steps", 100_000),
        ("--steps=2.5E+3 --seed 1", "steps", 2_500),
        ("--passes 1e1", "passes", 10),
        ("--learning-rate 1e2", "algorithm.optimizer.learning_rate", 100.0),
        ("--eval_every 1e3", "eval_every", 1_000),
        ("--env 1e5", "env", "1e5"),
        ("--env None", "env", None),
        ("--targets 1e2 -3", "targets", (100.0, -3.0)),
        ("--targets auto", "targets", "auto"),
        ("--timestep-embedding False", "algorithm.model.timestep_embedding", False),
        ('--env-kwargs {"g":1}', "env_kwargs", {"g": 1}),
    ],
)
def test_words_are_read_as_what_a_flag_takes(written, name, read):
    value = operator.attrgetter(name)(parse_train(["paper", *written.split()]).config)
    assert value == read
    assert type(value) is type(read)


def test_a_reader_that_has_seen_enough_is_no_error(trained, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", closefd=True) as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert run(["info", str(trained)]) == 0
    assert capsys.readouterr().err == ""


def test_evaluate_prints_a_table_and_leaves_the_runs_own_file_alone(trained, tmp_path, capsys):
    before = (trained / "evaluations.jsonl").read_bytes()
    out = tmp_path / "scores.json"
    flags = ["--targets", "-200", "-900", "--episodes", "2", "--json", str(out)]
    assert run(["evaluate", str(trained), str(trained), *flags]) == 0
    assert run(["evaluate", str(trained), str(tmp_path)]) == 2
    assert run(["evaluate", str(trained), "--plot-plan"]) == 2
    printed, said = capsys.readouterr()
    assert "makes no plans" in said
    assert "2 episodes a target" in printed
    assert "2 runs" in printed
    records = json.loads(out.read_text())
    assert [record["target"] for record in records] == [-200.0, -900.0] * 2
    assert records[0]["returns"] == records[2]["returns"]
    assert (trained / "evaluations.jsonl").read_bytes() == before


def test_info_describes_a_dataset_and_a_run(data, trained, capsys):
    assert run(["info", str(data)]) == 0
    assert "Pendulum-v1" in capsys.readouterr().out
    assert run(["info", str(trained)]) == 0
    assert "4 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["npz", "parquet", "hdf5"])
def test_convert_keeps_every_step_in_every_format(data, tmp_path, ending, capsys):
    out = tmp_path / f"again.{ending}"
    assert run(["convert", str(data), str(out)]) == 0
    assert "Pendulum-v1" in capsys.readouterr().out
    assert jaxdt.load_episodes(out).fingerprint == jaxdt.load_episodes(data).fingerprint
    assert run(["convert", str(data), str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_info_describes_a_directory_of_episodes(data, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    assert run(["convert", str(data), str(tmp_path / "set" / "train-0.parquet")]) == 0
    assert run(["info", str(tmp_path / "set")]) == 0
    assert "400" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "train paper",
        "train huggingface",
        "finetune",
        "evaluate",
        "collect",
        "convert",
        "import",
        "export",
        "info",
    ],
)
def test_help_answers(command, capsys):
    try:
        code = run([*command.split(), "--help"])
    except SystemExit as exit:  # the parser's own help leaves this way
        code = exit.code
    assert code == 0
    assert "usage: jaxdt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "steps", "passes"),
    [
        ("huggingface", None, 120),
        ("huggingface --steps 7", 7, None),
        ("huggingface --passes=3", None, 3),
        ("paper --passes 3", None, 3),
        ("paper --steps=7", 7, None),
        ("demo", 6000, None),
    ],
)
def test_how_long_is_said_in_one_way(flags, steps, passes):
    config = parse_train(flags.split()).config
    assert (config.steps, config.passes) == (steps, passes)


def test_help_of_a_preset_shows_that_presets_values(capsys):
    texts = {}
    for preset in ("demo", "paper"):
        with pytest.raises(SystemExit):
            run(["train", preset, "--help"])
        texts[preset] = " ".join(capsys.readouterr().out.split())
    assert "(default: 100000)" in texts["paper"]
    assert "(default: 100000)" not in texts["demo"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("fly", "'fly' is not a command; choose one of train, "),
        ("tran", "'tran' is not a command (did you mean train?)"),
        ("compare nowhere", "nowhere does not exist; give directories that jaxdt train wrote"),
        ("compare", "compare needs runs"),
        ("train --dataset missing.npz", "'missing.npz' does not exist"),
        ("train --dataset data.txt --env none", "does not exist"),
        ("train --resume", "name its directory"),
        ("evaluate", "needs a run directory"),
        ("evaluate nowhere", "config.json is missing"),
        ("collect --out x.csv", "episodes are written as .npz, .parquet, .hdf5"),
        ("collect --policy demo:genius --out x.npz", "choose one of random"),
        ("collect --policy ppo --out x.npz", "--policy must be"),
        ("collect --env Hopper-v5 --out x.npz", "are for HalfCheetah, CartPole, Acrobot; got Hopper-v5"),
        ("collect --env CartPole-v1 --policy random --noise 0.1 --out x.npz", "noise is for continuous actions"),
        ("collect --env Nothing-v3 --policy random --out x.npz", "cannot be made"),
        ("collect --policy random --episodes 0 --out x.npz", "at least 1"),
        ("info missing.npz", "does not exist"),
        ("convert demo x.csv", "episodes are written as .npz, .parquet, .hdf5, .h5, .hdf; got 'x.csv'"),
        ("convert missing.npz x.npz", "'missing.npz' does not exist"),
        ("convert hf:nobody x.npz", "must be hf:OWNER/NAME or hf:OWNER/NAME/CONFIG"),
        ("import nowhere runs/x", "'nowhere' does not exist; give a directory"),
        ("export nowhere out", "nowhere does not exist; give a run directory"),
        ("train --init nowhere", "nowhere holds no run"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(command, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(command.split()) == 2
    error = capsys.readouterr().err.splitlines()
    assert says in error[-1]
    assert error[-1].startswith("jaxdt: error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train --no-such-flag", "jaxdt train takes no '--no-such-flag'; jaxdt train --help explains what it takes."),
        (
            "train paper --lerning-rate 3",
            "jaxdt train paper takes no '--lerning-rate' (did you mean --learning-rate?)",
        ),
        ("train paper 3", "jaxdt train paper takes no '3'; "),
        ("train --steps many", "--steps takes a whole number; got 'many'."),
        ("train --steps 1.5e0", "--steps takes a whole number; got '1.5e0'."),
        ("train --steps", "--steps needs a value; "),
        (
            "train --seeds 1 x",
            "--seeds takes whole numbers, separated by spaces; got '1 x' (if 'x' is a run, put it first).",
        ),
        ("train --targets -200,-100", "--targets takes numbers, separated by spaces, or auto; got '-200,-100'."),
        ("train --targets atuo", "or auto; got 'atuo' (did you mean auto?)."),
        ("train --timestep-embedding maybe", "--timestep-embedding takes True or False; got 'maybe'."),
        ("train --plot-format pgn", "--plot-format takes png, svg or pdf; got 'pgn' (did you mean png?)."),
        ("train --env-kwargs {", "--env-kwargs takes a JSON object, such as '{\"g\": 9.8}'; got '{'."),
        ("train --learning-rate -1", "learning_rate must be at least 0"),
        ("train --width 15 --num-heads 2", "jaxdt: error: width must be divisible by num_heads"),
        ("convert", "jaxdt convert needs SPEC and OUT; jaxdt convert --help explains them."),
        ("convert a b c", "jaxdt convert takes no 'c'; "),
        ("log runs", "jaxdt log needs --to {tensorboard,wandb,trackio}; "),
        ("log --to wandb", "log needs a run: jaxdt log runs/cheetah --to wandb."),
        (
            "evaluate --targets 1 2 runs/x",
            "separated by spaces; got '1 2 runs/x' (if 'runs/x' is a run, put it first).",
        ),
        ("compare --references A-v0=0,1 five", "such as Mine-v0=0,250, behind the runs; got 'five'."),
    ],
)
def test_flags_that_cannot_be_are_one_sentence_too(command, says, capsys):
    assert run(command.split()) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith("jaxdt: error: ")
    assert says in error


def test_long_values_are_shown_unbroken(capsys):
    assert run(["train", "--steps", "a" * 150]) == 2
    assert repr("a" * 150) in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_fails_exits_1(data, tmp_path, capsys):
    flags = [
        *TINY,
        "--env",
        "none",
        "--clip-actions",
        "--learning-rate",
        "1e30",
        "--steps",
        "60",
        "--warmup-steps",
        "0",
    ]
    assert run(["train", "--dataset", str(data), "--out", str(tmp_path / "run"), *flags]) == 1
    assert "is not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "program",
    [
        ["-m", "jaxdt", "train"],
        *(pytest.param([f"scripts/{n}.py"], marks=pytest.mark.slow) for n in ("train", "evaluate")),
    ],
)
def test_the_other_ways_to_start_it_answer(program):
    root = os.path.dirname(os.path.dirname(__file__))
    done = subprocess.run([sys.executable, *program, "--help"], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "usage: jaxdt" in done.stdout


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--env", "Nope-v3"], "environment 'Nope-v3' cannot be made"),
        (["--devices", "99"], "devices must be at most 4"),
        (["--trackio"], "trackio needs trackio; pip install 'jaxdt[trackio]'"),
    ],
)
def test_what_needs_no_episodes_is_refused_before_they_are_collected(flags, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxdt.data.loading.collect_demo_episodes", None)
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert run(["train", "demo", "--out", str(tmp_path / "run"), *flags]) == 2
    assert reason in capsys.readouterr().err


def test_import_resolves_names_lazily_and_quickly():
    code = (
        "import time; t = time.perf_counter(); import jaxdt; print(time.perf_counter() - t);"
        "import sys; print(sorted({'jax', 'datasets', 'matplotlib', 'gymnasium', 'mujoco'} & set(sys.modules)));"
        "import jaxdt.cli; jaxdt.cli.run(['train', '--dataset', 'missing.npz']); print('jax' in sys.modules);"
        "print(all(hasattr(jaxdt, name) for name in jaxdt.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    seconds, loaded, with_command, complete = done.stdout.split("\n")[:4]
    assert float(seconds) < 1
    assert loaded == "[]"
    assert with_command == "False"  # so that what is typed wrongly is said at once
    assert "'missing.npz' does not exist" in done.stderr
    assert complete == "True"


@pytest.mark.slow
def test_the_command_finds_what_it_compiled_before(tmp_path):
    make_store().save(tmp_path / "data.npz")
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    kept = []
    for name in ("first", "second"):
        command = ["train", "bc", "--env", "none", "--dataset", "data.npz", "--out", name, *TINY]
        subprocess.run(
            [sys.executable, "-m", "jaxdt", *command], cwd=tmp_path, env=environment, timeout=120, check=True
        )
        kept.append(sorted(path.name for path in (tmp_path / "cache" / "jaxdt" / "compiled").glob("*-cache")))
    assert [name for name in kept[0] if name.startswith("jit_steps-")]
    assert kept[1] == kept[0]


def test_a_cache_that_jax_was_told_of_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    assert before is not None
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize(("processes", "backend", "keeps"), [(1, "gpu", True), (2, "cpu", True), (2, "gpu", False)])
def test_programs_are_kept_but_of_several_processes_gpus(tmp_path, monkeypatch, processes, backend, keeps):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("jaxdt.hosts.count", lambda: processes)
    monkeypatch.setattr("jax.default_backend", lambda: backend)
    told, before = [], jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        keep_compiled_programs()
        told = jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert told == (str(tmp_path / "jaxdt" / "compiled") if keeps else None)


def test_help_of_training_names_every_preset():
    assert all(f"`{name}`" in (TrainArguments.__doc__ or "") for name in PRESETS)


def completed(script, *words):
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in ("jaxdt", *words))
    asked = f"source '{script}'; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _jaxdt; echo \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60, check=True)
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_tab_completes_commands_presets_flags_and_their_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("SHELL", "/usr/bin/bash")
    (tmp_path / ".bashrc").write_text("alias x=y")
    for _ in range(2):  # the second adds nothing
        assert run(["--install-completion"]) == 0
    script = tmp_path / ".local/share/jaxdt/completion.bash"
    assert (tmp_path / ".bashrc").read_text() == f"alias x=y\nsource {script}\n"
    assert completed(script, "ex") == ["export"]
    assert completed(script, "train", "at") == ["atari", "atari-pong", "atari-small"]
    assert completed(script, "train", "iql", "--inv") == ["--inverse-temperature"]
    assert completed(script, "train", "demo", "--no-vi") == ["--no-video"]
    assert completed(script, "evaluate", "runs/a", "--sampling", "") == ["greedy", "sample"]
    assert completed(script, "evaluate", "runs/a") == []  # then it is bash's own turn: files
    assert run(["--install-completion", "fish"]) == 0
    text = (tmp_path / ".config/fish/completions/jaxdt.fish").read_text()
    assert "-l sampling -x -a 'greedy sample'" in text
    assert run(["--install-completion", "tcsh"]) == 2
    assert "is for bash, zsh, fish; got 'tcsh'" in capsys.readouterr().err


def test_settings_of_a_shell_may_have_any_encoding(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    before = "alias gr\u00fc\u00dfe=y".encode("latin-1") + b"\r\n"
    (tmp_path / ".bashrc").write_bytes(before)
    for _ in range(2):  # the second adds nothing
        assert run(["--install-completion", "bash"]) == 0
    script = tmp_path / ".local/share/jaxdt/completion.bash"
    assert (tmp_path / ".bashrc").read_bytes() == before + f"source {script}\n".encode()


def test_every_flag_that_help_names_is_completed(capsys):
    for command, kind in COMMANDS.items():
        with pytest.raises(SystemExit):
            run([command, "--help"])
        lines = re.findall(r"^\W{0,3}(--.*)", capsys.readouterr().out, re.MULTILINE)
        shown = {flag for line in lines for flag in re.findall(r"--[a-z][\w-]*", line)}
        assert shown or command == "convert", command
        assert shown <= flags_of(kind).keys(), command
