"""The `jaxdt` command: parses, calls, prints. Exit codes: 0 done, 1 the run failed, 2 bad input."""

import dataclasses
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from jaxdt import __version__
from jaxdt.config import PRESETS, TrainConfig
from jaxdt.errors import JaxdtError, RunError
from jaxdt.files import open_atomically
from jaxdt.report import dataset_report, evaluation_table, evaluations_document, run_report, runs_table


USAGE = """usage: jaxdt COMMAND [OPTIONS]

A Decision Transformer in JAX: offline episodes in, a policy steered by a target return out.

commands:
  train [demo|paper]   train on offline episodes, evaluate, leave a run directory
  evaluate RUN ...     play episodes at target returns and print what they reach
  collect              record episodes of a behaviour policy
  info PATH            describe a dataset or a run directory

options:
  -h, --help           this text; `jaxdt COMMAND --help` explains every option of a command
  --version            print the version
"""


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train a Decision Transformer on offline episodes, evaluate it and leave a run directory.

    Without options: collects HalfCheetah-v5 episodes from the shipped policies, trains on them and evaluates, in
    minutes on a laptop's CPU. The preset sets the defaults: `demo` is that, `paper` the recipe of Chen et al. 2021.
    """

    preset: Positional[Literal["demo", "paper"]]
    """Where the defaults come from; `jaxdt train paper --help` shows that preset's."""
    config: OmitArgPrefixes[TrainConfig]
    out: Path | None = None
    """Run directory; None: the next free runs/PRESET-ENV-N."""
    resume: bool = False
    """Continue the run in --out; other flags may be left out and must agree with it if given."""


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Play episodes at target returns, all side by side, and print what they reach."""

    runs: Positional[tuple[Path, ...]]
    """Run directories; for several, mean and standard deviation over them are printed too."""
    env: str | None = None
    """Gymnasium id; None: the run's."""
    targets: tuple[float, ...] | None = None
    """Target returns, in the environment's reward units; None: the run's."""
    episodes: int = 10
    """Episodes a target."""
    seed: int = 0
    """Environment seed of each target's first episode; the next ones count up."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which weights; best: of the highest mean return at the run's highest target."""
    json: Path | None = None
    """Also write every episode's return and length to this file."""
    video: bool = False
    """Also render one episode a target to RUN/videos (needs the `video` extra)."""


@dataclasses.dataclass(frozen=True)
class CollectArguments:
    """Record episodes of a behaviour policy in a Gymnasium environment."""

    out: Path
    """File to write, ending in .npz; it must not exist yet."""
    env: str = "HalfCheetah-v5"
    """Gymnasium id."""
    policy: str = "demo:expert"
    """`demo:LEVEL` (random, beginner, medium, skilled, expert; HalfCheetah only) or `random`."""
    episodes: int = 50
    """Episodes to record."""
    noise: float = 0.0
    """Standard deviation of the Gaussian noise added to actions, in half widths of the action space."""
    seed: int = 0
    """Environment seed of the first episode; the next ones count up."""


@dataclasses.dataclass(frozen=True)
class InfoArguments:
    """Describe a dataset or a run directory."""

    path: Positional[str]
    """A run directory, an .npz file, `demo`, or several datasets joined by `+`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Runs the command and returns its exit code."""
    warnings.showwarning = _show_warning
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": _train,
        "evaluate": _evaluate,
        "collect": _collect,
        "info": _info,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if arguments[0] not in commands:
        return _fail(f"{arguments[0]!r} is not a command; choose one of {', '.join(commands)}.", 2)
    try:
        commands[arguments[0]](arguments[1:])
    except JaxdtError as error:
        return _fail(str(error), 2)
    except (RunError, OSError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted.", 130)
    return 0


def _train(arguments: list[str]) -> None:
    parsed = _parse_train(arguments)
    from jaxdt.progress import console_progress
    from jaxdt.run.train import train

    progress = console_progress()
    progress.say(_device_line())
    out = train(
        parsed.config,
        out=parsed.out,
        resume=parsed.resume,
        progress=progress,
        command=["jaxdt", "train", *arguments],
    )
    print(run_report(out))


def _parse_train(arguments: list[str]) -> TrainArguments:
    """Twice: first for the preset, the directory and --resume, then with the defaults that these bring."""
    without_help = [argument for argument in arguments if argument not in ("-h", "--help")]
    first = _parse(TrainArguments, without_help, "jaxdt train", _train_defaults("demo"))
    defaults = _train_defaults(first.preset)
    if first.resume and first.out is not None and (first.out / "config.json").is_file():
        from jaxdt.run.directory import RunDirectory, read_record

        stored = read_record(RunDirectory(first.out)).config
        # A preset that was given wins over either default; one that was not follows it.
        second = _parse(TrainArguments, without_help, "jaxdt train", _train_defaults("paper"))
        if first.preset == second.preset != stored.preset:
            raise JaxdtError(f"the run was started with the preset {stored.preset}; leave {first.preset} out.")
        defaults = dataclasses.replace(defaults, config=stored)
    return _parse(TrainArguments, arguments, "jaxdt train", defaults)


def _train_defaults(preset: str) -> TrainArguments:
    return TrainArguments(preset=preset, config=PRESETS[preset])  # type: ignore[arg-type]


def _evaluate(arguments: list[str]) -> None:
    parsed = _parse(EvaluateArguments, arguments, "jaxdt evaluate")
    if not parsed.runs:
        raise JaxdtError("evaluate needs a run directory: jaxdt evaluate runs/cheetah.")
    from jaxdt.progress import console_progress
    from jaxdt.run.agent import Agent
    from jaxdt.run.evaluate import evaluate, render_videos

    progress = console_progress()
    agents = [Agent.load(path, parsed.checkpoint) for path in parsed.runs]
    if len({(parsed.env or agent.env_id, parsed.targets or agent.targets) for agent in agents}) > 1:
        raise JaxdtError("the runs have different environments or targets; give --env and --targets to compare them.")
    progress.say(_device_line())
    results = []
    for path, agent in zip(parsed.runs, agents, strict=True):
        evaluations = evaluate(agent, parsed.env, parsed.targets, parsed.episodes, parsed.seed, progress=progress)
        results.append(evaluations)
        print(evaluation_table(str(path), evaluations))
        if parsed.video:
            videos = render_videos(agent, path / "videos", parsed.env, parsed.targets, parsed.seed, progress=progress)
            print("\n".join(f"wrote {video}" for video in videos))
    if len(results) > 1:
        print(runs_table(results))
    if parsed.json is not None:
        runs = [str(path) for path in parsed.runs]
        with open_atomically(parsed.json) as file:
            json.dump(evaluations_document(runs, results), file, indent=1)
        print(f"wrote {parsed.json}")


def _collect(arguments: list[str]) -> None:
    parsed = _parse(CollectArguments, arguments, "jaxdt collect")
    if parsed.out.suffix != ".npz":
        raise JaxdtError(f"--out must end in .npz; got {parsed.out}.")
    if parsed.out.exists():
        raise JaxdtError(f"{parsed.out} exists; choose another --out, or remove it first.")
    from jaxdt.data.collecting import Behaviour, collect_episodes
    from jaxdt.progress import console_progress

    progress = console_progress()
    behaviour = Behaviour(_behaviour_policy(parsed.policy, parsed.env), parsed.episodes, parsed.noise)
    progress.start(f"collect {parsed.policy} in {parsed.env}", parsed.episodes, "episode")
    try:
        store = collect_episodes(
            parsed.env, [behaviour], seed=parsed.seed, progress=lambda done, total: progress.advance(done)
        )
    finally:
        progress.stop()
    store.save(parsed.out)
    print(dataset_report(str(parsed.out), store))


def _behaviour_policy(name: str, env_id: str) -> Any:
    from jaxdt.data.collecting import random_policy
    from jaxdt.data.demo import demo_policy
    from jaxdt.simulator import action_bounds, make_simulator

    if name == "random":
        simulator = make_simulator(env_id)
        bounds = action_bounds(simulator)
        simulator.close()
        return random_policy(*bounds)
    kind, _, level = name.partition(":")
    if kind != "demo":
        raise JaxdtError(f"--policy must be demo:LEVEL or random; got {name!r}.")
    policy = demo_policy(level)
    if not env_id.startswith("HalfCheetah-"):
        raise JaxdtError(f"the demo policies are for HalfCheetah; got --env {env_id} (use --policy random there).")
    return policy


def _info(arguments: list[str]) -> None:
    parsed = _parse(InfoArguments, arguments, "jaxdt info")
    if Path(parsed.path).is_dir():
        print(run_report(Path(parsed.path)))
    else:
        from jaxdt.data.loading import load_episodes

        print(dataset_report(parsed.path, load_episodes(parsed.path)))


def _parse(kind: type, arguments: list[str], prog: str, default: Any = None) -> Any:
    extra = {} if default is None else {"default": default}
    return tyro.cli(kind, args=arguments, prog=prog, **extra)


def _device_line() -> str:
    """One line naming the device, and a second one when a GPU is there that jax cannot use."""
    import jax

    kind = jax.devices()[0].device_kind
    line = f"jaxdt {__version__}, jax {jax.__version__} on {jax.device_count()} x {kind} ({jax.default_backend()})"
    if jax.default_backend() == "cpu" and any(Path("/dev").glob("nvidia[0-9]*")):
        line += "\nwarning: this machine has an NVIDIA GPU that jax cannot use; pip install 'jaxdt[cuda]'"
    return line


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    del category, filename, lineno, file, line
    print(f"jaxdt: warning: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(f"jaxdt: error: {' '.join(message.split())}", file=sys.stderr)
    return code
