"""`jaxdt collect`, `jaxdt convert` and `jaxdt info`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from jaxdt.cli.parsing import parse
from jaxdt.cli.report import dataset_report, directory_report, run_report
from jaxdt.config import KeywordArguments
from jaxdt.errors import JaxdtError
from jaxdt.run.directory import RunDirectory
from jaxdt.run.seed_group import stored_seeds


@dataclasses.dataclass(frozen=True)
class CollectArguments:
    """Record episodes of a behaviour policy in a Gymnasium environment."""

    out: Path
    """File to write, ending in .npz, .parquet or .hdf5; it must not exist yet."""
    env: str = "HalfCheetah-v5"
    """Gymnasium id."""
    env_kwargs: KeywordArguments = None
    """What the environment's constructor is given beside, as JSON."""
    max_episode_steps: int | None = None
    """Steps after which an episode is cut off; None: the environment's own limit, or where it has none 1000."""
    policy: str = "demo:expert"
    """`demo:LEVEL` (random, beginner, medium, skilled, expert; HalfCheetah, CartPole or Acrobot) or `random`."""
    episodes: int = 50
    """Episodes to record."""
    noise: float = 0.0
    """Standard deviation of the Gaussian noise added to continuous actions, in half widths of the action space."""
    seed: int = 0
    """Environment seed of the first episode; the next ones count up."""


@dataclasses.dataclass(frozen=True)
class ConvertArguments:
    """Write a dataset in another format: `.npz` (ours), `.parquet` (Hugging Face's), `.hdf5` (D4RL's)."""

    spec: Positional[Annotated[str, arg(metavar="SPEC")]]
    """What `--dataset` takes: a file, hf:OWNER/NAME/CONFIG, minari:NAME, dqn:DIR, s3://BUCKET/DIR and its like, `demo`,
    `cartpole`, `acrobot`, or several joined by `+`."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """File to write; its ending chooses the format; it must not exist yet."""
    map_above: float | None = None
    """GiB; larger episodes are unpacked once into a cache on disk and mapped from it; None: a quarter of memory."""
    cut_after: int | None = None
    """Steps after which an episode was cut off, for data that only say where the environment ended one."""


@dataclasses.dataclass(frozen=True)
class InfoArguments:
    """Describe a dataset or a run directory."""

    path: Positional[Annotated[str, arg(metavar="PATH")]]
    """A run directory, one of several seeds or of any runs, or a dataset: what `jaxdt train --dataset` takes."""
    map_above: float | None = None
    """GiB; larger episodes are unpacked once into a cache on disk and mapped from it; None: a quarter of memory."""
    cut_after: int | None = None
    """Steps after which an episode was cut off, for data that only say where the environment ended one."""


def collect_command(arguments: list[str]) -> None:
    parsed = parse(CollectArguments, arguments, "jaxdt collect")
    from jaxdt.data.collecting import collect_episodes
    from jaxdt.data.writing import writer_for
    from jaxdt.progress import console_progress

    write = writer_for(parsed.out)
    progress = console_progress()
    behaviours = _behaviours(parsed)
    progress.start(f"collect {parsed.policy} in {parsed.env}", parsed.episodes, "episode")
    try:
        store = collect_episodes(
            parsed.env,
            behaviours,
            seed=parsed.seed,
            env_kwargs=parsed.env_kwargs,
            max_episode_steps=parsed.max_episode_steps,
            progress=lambda done, total: progress.advance(done),
        )
    finally:
        progress.stop()
    write(store, parsed.out)
    print(dataset_report(str(parsed.out), store))


def _behaviours(parsed: CollectArguments) -> list[Any]:
    from jaxdt.choice import EnvironmentChoice
    from jaxdt.data.collecting import Behaviour, random_policy
    from jaxdt.data.demo import demo_behaviours
    from jaxdt.simulator import action_space, make_simulator

    if parsed.policy == "random":
        simulator = make_simulator(EnvironmentChoice(env=parsed.env, kwargs=parsed.env_kwargs))
        space = action_space(simulator)
        simulator.close()
        return [Behaviour(random_policy(space), parsed.episodes, parsed.noise)]
    kind, _, level = parsed.policy.partition(":")
    if kind != "demo":
        raise JaxdtError(f"--policy must be demo:LEVEL or random; got {parsed.policy!r}.")
    return demo_behaviours(parsed.env, level, parsed.episodes, parsed.noise)


def convert_command(arguments: list[str]) -> None:
    parsed = parse(ConvertArguments, arguments, "jaxdt convert")
    from jaxdt.data.writing import convert
    from jaxdt.progress import console_progress

    store = convert(
        parsed.spec, parsed.out, map_above=parsed.map_above, cut_after=parsed.cut_after, progress=console_progress()
    )
    print(dataset_report(str(parsed.out), store))


def info_command(arguments: list[str]) -> None:
    parsed = parse(InfoArguments, arguments, "jaxdt info")
    if RunDirectory(parsed.path).holds_run or stored_seeds(parsed.path):
        print(run_report(Path(parsed.path)))
    elif (listed := directory_report(Path(parsed.path))) is not None:
        print(listed)
    else:
        from jaxdt.data.loading import load_episodes
        from jaxdt.progress import console_progress

        store = load_episodes(
            parsed.path, map_above=parsed.map_above, cut_after=parsed.cut_after, progress=console_progress()
        )
        print(dataset_report(parsed.path, store))
