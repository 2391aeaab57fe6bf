"""Which runs there are to make: methods, tasks and seeds as commands of `jaxdt train`."""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdt.cli.training import parse_train
from jaxdt.config import PRESETS
from jaxdt.data.d4rl import ENVIRONMENTS
from jaxdt.errors import JaxdtError
from jaxdt.run.finished import dataset_name, read_run
from reproducing.published import D4RL_SETS


D4RL_METHODS = ("DT=paper", "BC=bc", "10% BC=bc --best-fraction 0.1")
HUB = "hf:edbeeching/decision_transformer_gym_replay"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train each method on each task with each seed, what is missing only, and set them side by side.

    One process a run, one after the other on each core or GPU; a run that was killed goes on where its last checkpoint
    is when the same command is given again. OUT/comparison then holds the table and the figure of `jaxdt compare`.
    """

    out: Path
    """Holds all runs, as TASK/METHOD/seed-N."""
    tasks: tuple[str, ...] = ()
    """ENV=DATASET each, such as Hopper-v5=a.npz+b.npz; what `jaxdt train --env` and `--dataset` take."""
    methods: tuple[str, ...] = D4RL_METHODS
    """[NAME=]PRESET each, with flags of `jaxdt train` behind it: "10% BC=bc --best-fraction 0.1"."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    d4rl: Path | None = None
    """Instead of tasks, the nine MuJoCo sets of D4RL (v2): this directory's .hdf5 files where it has them, else the
    hub's; scores are printed beside the published ones."""
    eval_episodes: int | None = None
    """Of every evaluation; None: the presets'."""
    workers: int | None = None
    """Runs at a time; None: one a GPU, or one a core, which trains more in all than one run on all cores."""


class Task(NamedTuple):
    name: str
    env: str
    dataset: str
    targets: tuple[float, ...] = ()
    """To ask for; empty: the preset's rule."""


class Method(NamedTuple):
    name: str
    preset: str
    flags: tuple[str, ...]


class Job(NamedTuple):
    task: Task
    method: Method
    seed: int
    out: Path
    command: list[str]
    """Of `jaxdt`, without the program."""


def make_tasks(arguments: Arguments) -> list[Task]:
    if (arguments.d4rl is None) == (not arguments.tasks):
        raise JaxdtError("give --tasks ENV=DATASET ..., or --d4rl DIRECTORY.")
    return [parse_task(text) for text in arguments.tasks] if arguments.d4rl is None else d4rl_tasks(arguments.d4rl)


def parse_method(text: str) -> Method:
    name, equals, command = text.partition("=") if re.match(r"[^=\s-][^=]*=\s*[\w-]+(\s|$)", text) else ("", "", text)
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise JaxdtError(f"a method is [NAME=]PRESET and flags; got {text!r}: {error}.") from error
    ours = [word for word in words if word.split("=")[0] in _OURS]
    if ours:
        raise JaxdtError(f"{ours[0]} is set for every run by this script; leave it out of the method {text!r}.")
    if not words or words[0] not in PRESETS:
        raise JaxdtError(f"a method is [NAME=]PRESET and flags; got {text!r}, whose preset is none of {list(PRESETS)}.")
    return Method(name.strip() if equals else " ".join(words), words[0], tuple(words[1:]))


_OURS = ("--dataset", "--env", "--seed", "--seeds", "--out", "--resume", "--eval-episodes")


def parse_task(text: str) -> Task:
    env, equals, dataset = text.partition("=")
    if not (env and equals and dataset):
        raise JaxdtError(f"a task is ENV=DATASET, such as Hopper-v5=hopper.npz; got {text!r}.")
    return Task(f"{env} {dataset_name(dataset)}", env, dataset)


def d4rl_tasks(directory: Path) -> list[Task]:
    """D4RL's sets as its own files, or as the hub has them: medium-expert is medium and expert, one after the other."""
    if not directory.is_dir():
        raise JaxdtError(f"--d4rl must be a directory, which need not hold all files; {directory} is none.")
    tasks = []
    for name, quality in D4RL_SETS:
        file = directory / f"{name}_{quality.replace('-', '_')}-v2.hdf5"
        parts = ("medium", "expert") if quality == "medium-expert" else (quality,)
        dataset = str(file) if file.exists() else "+".join(f"{HUB}/{name}-{part}-v2" for part in parts)
        # What the paper reports: of the two returns that its code asks for, HalfCheetah's lower and the others' higher.
        asked = ENVIRONMENTS[name].paper_targets or ()
        target = asked[:1] if name == "halfcheetah" else asked[-1:]
        tasks.append(Task(f"{name}-{quality}-v2", f"{ENVIRONMENTS[name].name}-v4", dataset, target))
    return tasks


def make_jobs(arguments: Arguments, tasks: Sequence[Task], methods: Sequence[Method]) -> list[Job]:
    jobs = []
    for seed in arguments.seeds:  # all methods once before any of them twice
        for task in tasks:
            for method in methods:
                out = arguments.out / _directory_name(task.name) / _directory_name(method.name) / f"seed-{seed}"
                command = ["train", method.preset, *method.flags, "--dataset", task.dataset, "--env", task.env]
                if task.targets and PRESETS[method.preset].algorithm.takes_target and "--targets" not in method.flags:
                    command += ["--targets", *map(str, task.targets)]
                if arguments.eval_episodes is not None:
                    command += ["--eval-episodes", str(arguments.eval_episodes)]
                command += ["--seed", str(seed), "--out", str(out), "--resume"]
                jobs.append(Job(task, method, seed, out, command))
    if len({job.out for job in jobs}) < len(jobs):
        raise JaxdtError("two methods, tasks or seeds have the same name; name methods as NAME=PRESET.")
    return jobs


def _directory_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+|^\.+", "_", name.replace("%", "percent"))[:80]


def check_command(job: Job) -> None:
    """Raises JaxdtError for flags that `jaxdt train` does not take, before any run begins."""
    try:
        parse_train([word for word in job.command[1:] if word != "--resume"])
    except JaxdtError as error:
        raise JaxdtError(f"the method {job.method.name!r} cannot be trained so: {error}") from error


def is_finished(job: Job) -> bool:
    """Whether the run was made by this very command, wherever it lies, and evaluated after its last update."""
    try:
        run = read_run(job.out)
    except JaxdtError:
        return False
    at = job.command.index("--out")
    made = run.record.made_with.get("command")
    if not isinstance(made, list) or len(made) != len(job.command) + 1:
        return False
    same = [*made[1 : at + 2], *made[at + 3 :]] == [*job.command[: at + 1], *job.command[at + 2 :]]
    return same and bool(run.evaluations) and run.is_finished
