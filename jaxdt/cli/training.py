"""`jaxdt train`."""

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from jaxdt.cli.common import device_line, keep_compiled_programs, parse
from jaxdt.config import PRESETS, TrainConfig
from jaxdt.errors import JaxdtError
from jaxdt.report import run_report
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.experiment import stored_config


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train a Decision Transformer on offline episodes, evaluate it and leave a run directory.

    Without options: collects HalfCheetah-v5 episodes from the shipped policies, trains on them and evaluates, in
    minutes on a laptop's CPU. The preset sets the defaults: `demo` is that, `paper` the recipe of Chen et al. 2021,
    `huggingface` that of Hugging Face's tutorial.
    """

    preset: Positional[Literal["demo", "huggingface", "paper"]]
    """Where the defaults come from; `jaxdt train paper --help` shows that preset's."""
    config: OmitArgPrefixes[TrainConfig]
    seeds: tuple[int, ...] | None = None
    """Train one run of each seed, all in one program, in OUT/seed-N; mean and std over them are in OUT/summary.json."""
    out: Path | None = None
    """Run directory; None: the next free runs/PRESET-ENV-N."""
    resume: bool = False
    """Continue the run in --out; other flags may be left out and must agree with it if given."""


def train_command(arguments: list[str]) -> None:
    parsed = _parse_train(arguments)
    from jaxdt.progress import console_progress
    from jaxdt.run.stopping import stop_signals
    from jaxdt.run.train import train

    progress = console_progress()
    keep_compiled_programs()
    progress.say(device_line())
    with stop_signals() as stop:
        out = train(
            parsed.config,
            seeds=parsed.seeds,
            out=parsed.out,
            resume=parsed.resume,
            progress=progress,
            stop=stop,
            command=["jaxdt", "train", *arguments],
        )
    print(run_report(out))


def _parse_train(arguments: list[str]) -> TrainArguments:
    """Twice: first for the preset, --out with --resume, or --init, then with the defaults that these bring."""
    without_help = [argument for argument in arguments if argument not in ("-h", "--help")]
    first = parse(TrainArguments, without_help, "jaxdt train", _train_defaults("demo"))
    defaults = _train_defaults(first.preset)
    for given, other in (("steps", "passes"), ("passes", "steps")):
        if _names(arguments, given) and not _names(arguments, other):
            # How long is said in one way: the preset's other way must not stand beside it.
            values = {given: getattr(first.config, given), other: None}
            defaults = dataclasses.replace(defaults, config=dataclasses.replace(defaults.config, **values))
    stored = stored_config(first.out) if first.resume and first.out is not None else None
    if first.config.init is not None and stored is None:
        started_from = read_record(RunDirectory(first.config.init)).config
        inherited = {name: getattr(started_from, name) for name in ("model", "return_scale", "delayed_reward")}
        defaults = dataclasses.replace(defaults, config=dataclasses.replace(defaults.config, **inherited))
    # A preset that was given wins over either default; one that was not follows it.
    second = parse(TrainArguments, without_help, "jaxdt train", _train_defaults("paper"))
    preset_given = first.preset == second.preset
    if first.resume and first.out is not None and not (stored or preset_given or _names(arguments, "dataset")):
        raise JaxdtError(
            f"{first.out} holds no run to resume; check --out, or give a preset or --dataset too, which then begins it."
        )
    if stored is not None:
        if preset_given and first.preset != stored.preset:
            raise JaxdtError(f"the run was started with the preset {stored.preset}; leave {first.preset} out.")
        defaults = dataclasses.replace(defaults, config=stored)
    return parse(TrainArguments, arguments, "jaxdt train", defaults)


def _names(arguments: list[str], flag: str) -> bool:
    return any(argument.split("=")[0] == f"--{flag}" for argument in arguments)


def _train_defaults(preset: str) -> TrainArguments:
    return TrainArguments(preset=preset, config=PRESETS[preset])  # type: ignore[arg-type]
