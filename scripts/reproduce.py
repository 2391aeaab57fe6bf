"""Trains every method on every dataset with every seed and compares them: `python scripts/reproduce.py --help`."""

import concurrent.futures
import dataclasses
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import tyro

import jaxdt
from jaxdt.config import PRESETS
from jaxdt.data.d4rl import ENVIRONMENTS
from jaxdt.errors import JaxdtError
from jaxdt.run.finished import read_run
from jaxdt.simulator import usable_cores
from published import D4RL_SETS, SCORES, SOURCES, Quality


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


class Place(NamedTuple):
    """Where one run at a time is computed."""

    cores: frozenset[int]
    gpu: str | None


def main() -> int:
    arguments = tyro.cli(Arguments, prog="python scripts/reproduce.py")
    try:
        methods = [parse_method(text) for text in arguments.methods]
        tasks = d4rl_tasks(arguments.d4rl) if arguments.d4rl is not None else [parse_task(t) for t in arguments.tasks]
        jobs = make_jobs(arguments, tasks, methods)
        failed = run_jobs(jobs, places(arguments.workers))
        return _compare(arguments, jobs, failed)
    except JaxdtError as error:
        print(f"reproduce: error: {error}", file=sys.stderr)
        return 2


def parse_method(text: str) -> Method:
    name, equals, command = text.partition("=") if re.match(r"[^=\s-][^=]*=\s*[\w-]+(\s|$)", text) else ("", "", text)
    words = shlex.split(command)
    if not words or words[0] not in PRESETS:
        raise JaxdtError(f"a method is [NAME=]PRESET and flags; got {text!r}, whose preset is none of {list(PRESETS)}.")
    return Method(name.strip() if equals else " ".join(words), words[0], tuple(words[1:]))


def parse_task(text: str) -> Task:
    env, equals, dataset = text.partition("=")
    if not (env and equals and dataset):
        raise JaxdtError(f"a task is ENV=DATASET, such as Hopper-v5=hopper.npz; got {text!r}.")
    stems = "+".join(PurePath(part).stem for part in dataset.split("+"))
    return Task(f"{env} {stems}", env, dataset)


def d4rl_tasks(directory: Path) -> list[Task]:
    """D4RL's sets as its own files, or as the hub has them: medium-expert is medium and expert, one after the other."""
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
    if not tasks:
        raise JaxdtError("give --tasks ENV=DATASET ..., or --d4rl DIRECTORY.")
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
    return re.sub(r"[^\w.+-]+", "_", name.replace("%", "percent"))[:80]


def is_finished(job: Job) -> bool:
    """Whether the run was made by this very command and evaluated after its last update."""
    if not (job.out / "config.json").exists():
        return False
    run = read_run(job.out)
    same = run.record.made_with.get("command") == ["jaxdt", *job.command]
    return same and bool(run.evaluations) and run.last_evaluation["step"] == run.record.config.steps


def places(workers: int | None) -> list[Place]:
    """One for each run at a time: a GPU each where there are several workers and GPUs, a share of the cores each."""
    gpus = _gpus()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(usable_cores()))
    workers = workers or len(gpus) or len(cores)
    shares = [frozenset(cores[i::workers] or cores) for i in range(workers)]
    return [Place(share, gpus[i % len(gpus)] if len(gpus) > 1 else None) for i, share in enumerate(shares)]


def _gpus() -> list[str]:
    """NVIDIA's, as CUDA_VISIBLE_DEVICES names them; none where jax is told to use a CPU."""
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def run_jobs(jobs: Sequence[Job], free: Sequence[Place]) -> dict[Path, str]:
    """Runs what is not finished; why the others failed, by their directory. Stops all of them at a signal."""
    waiting = [job for job in jobs if not is_finished(job)]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are finished; {len(free)} at a time", flush=True)
    running, failed, lock = _Running(), {}, threading.Lock()
    free_places: queue.SimpleQueue[Place] = queue.SimpleQueue()
    for place in free:
        free_places.put(place)

    def run(job: Job) -> None:
        place = free_places.get()
        started = time.monotonic()
        try:
            why = running.run(job, place)
        finally:
            free_places.put(place)
        if why is not None:
            failed[job.out] = why
        with lock:
            waiting.remove(job)
            minutes = (time.monotonic() - started) / 60
            said = f"done in {minutes:.1f} min" if why is None else f"failed: {why}"
            name = f"{job.task.name}, {job.method.name}, seed {job.seed}"
            if not running.stopped_by:
                print(f"[{len(jobs) - len(waiting)}/{len(jobs)}] {name}: {said}", flush=True)

    with running.stopping_at_signals(), concurrent.futures.ThreadPoolExecutor(len(free)) as pool:
        list(pool.map(run, list(waiting)))
    if running.stopped_by:
        print("reproduce: stopped; the same command goes on.", file=sys.stderr)
        sys.exit(128 + running.stopped_by)
    return failed


class _Running:
    """The processes that train, and whether they were told to stop."""

    def __init__(self):
        self.stopped_by = 0
        self._processes: set[subprocess.Popen] = set()

    def run(self, job: Job, place: Place) -> str | None:
        """None when the run is done, else why it is not."""
        if self.stopped_by:
            return "stopped"
        job.out.parent.mkdir(parents=True, exist_ok=True)
        log = job.out.with_name(f"{job.out.name}.log")
        environment = {**os.environ, **({} if place.gpu is None else {"CUDA_VISIBLE_DEVICES": place.gpu})}
        with open(log, "a", encoding="utf-8") as output:
            # In a group of its own: a Ctrl-C in the terminal reaches it once, through us.
            process = subprocess.Popen(
                [sys.executable, "-m", "jaxdt", *job.command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, place.cores)
            self._processes.add(process)
            if self.stopped_by:
                process.terminate()
            code = process.wait()
            self._processes.discard(process)
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        return None if code == 0 else next((line for line in reversed(lines) if line.strip()), f"exit code {code}")

    def stopping_at_signals(self) -> "_Handlers":
        return _Handlers(self._stop)

    def _stop(self, number: int, frame: object) -> None:
        self.stopped_by = number
        for process in list(self._processes):
            process.send_signal(signal.SIGTERM)


class _Handlers:
    """SIGTERM and SIGINT are answered by a function for a while."""

    def __init__(self, answer):
        self._answer = answer

    def __enter__(self):
        self._before = {number: signal.signal(number, self._answer) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _compare(arguments: Arguments, jobs: Sequence[Job], failed: dict[Path, str]) -> int:
    runs: dict[str, list[Path]] = {}
    for job in jobs:
        if (job.out / "config.json").exists() and job.out not in failed:
            runs.setdefault(job.method.name, []).append(job.out)
    if runs:
        comparison = jaxdt.compare(runs, out=arguments.out / "comparison")
        print(f"\n{comparison}")
        if arguments.d4rl is not None:
            text = beside_published(comparison, jobs)
            (arguments.out / "comparison" / "published.md").write_text(text, encoding="utf-8")
            print(f"\n{text}", end="")
    for out, why in failed.items():
        print(f"reproduce: not there: {out}: {why}", file=sys.stderr)
    return 1 if failed else 0


def beside_published(comparison: jaxdt.Comparison, jobs: Sequence[Job]) -> str:
    """D4RL's scores of our runs, mean ± sample standard deviation over seeds, beside the published ones."""
    names = {job.out.resolve(): job.task.name for job in jobs}
    ours = {(score.method, names[score.runs[0].resolve()]): score for score in comparison.scores}
    lines = ["| | " + " | ".join(f"{m}, ours | published" for m in comparison.methods) + " |"]
    lines.append("|---" * (1 + 2 * len(comparison.methods)) + "|")
    for name, quality in D4RL_SETS:
        cells = [f"{name}-{quality}"]
        for method in comparison.methods:
            score = ours.get((method, f"{name}-{quality}-v2"))
            normalized = None if score is None else score.normalized
            cells.append("no data" if normalized is None else _mean_and_std(normalized))
            cells.append(_published(method, name, quality))
        lines.append(f"| {' | '.join(cells)} |")
    sources = [f"{method}: {SOURCES[method]}" for method in comparison.methods if method in SOURCES]
    return "\n".join([*lines, "", f"Published: {'; '.join(sources) or 'none of these methods'}."]) + "\n"


def _published(method: str, name: str, quality: Quality) -> str:
    return SCORES.get(method, {}).get((name, quality), "-")


def _mean_and_std(values) -> str:
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread} ({len(values)})"


if __name__ == "__main__":
    sys.exit(main())
