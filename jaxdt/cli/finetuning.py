"""`jaxdt finetune`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from jaxdt.cli.common import device_line, keep_compiled_programs
from jaxdt.cli.parsing import parse
from jaxdt.cli.report import run_report
from jaxdt.config import FinetuneConfig, KeywordArguments
from jaxdt.errors import JaxdtError
from jaxdt.run.seed_group import SeedGroup, stored_seeds


@dataclasses.dataclass(frozen=True)
class FinetuneArguments:
    """Fine-tune a trained run online (Online Decision Transformer): each round plays episodes with actions drawn from
    the policy, adds them to the best episodes of the data, and trains on both.

    RUN is any run whose policy can draw its actions. What is left is a run directory like RUN, which is not changed.
    """

    run: Positional[Annotated[Path | None, arg(metavar="RUN")]] = None
    """Run directory to start from; may be left out with --resume --out."""
    config: OmitArgPrefixes[FinetuneConfig] = dataclasses.field(default_factory=FinetuneConfig)
    seeds: tuple[int, ...] | None = None
    """Fine-tune once with each seed, one after the other, in OUT/seed-N; RUN may be a directory with a run of each."""
    dataset: str | None = None
    """Episodes that the replay begins with, as for jaxdt train; None: those that RUN was trained on."""
    env: str | None = None
    """Environment to explore and evaluate in, a Gymnasium id, or `mjx:` and one; None: RUN's."""
    env_kwargs: KeywordArguments = None
    """What the environment's constructor is given beside, as JSON; None: in RUN's own environment RUN's."""
    checkpoint: Literal["latest", "best"] | None = None
    """Which weights of RUN; best: of the highest mean return at its highest target; None: the latest."""
    out: Path | None = None
    """Run directory; None: RUN-finetuned."""
    resume: bool = False
    """Continue the fine-tuning in --out. Flags may be left out; those of what is trained must agree with it if given,
    others may change: how many rounds, how often and what is evaluated."""


def finetune_command(arguments: list[str]) -> None:
    parsed = parse(FinetuneArguments, arguments, "jaxdt finetune", FinetuneArguments())
    if parsed.run is None and not (parsed.resume and parsed.out):
        raise JaxdtError("finetune needs a run: jaxdt finetune runs/cheetah, or --resume --out DIRECTORY.")
    from jaxdt.progress import console_progress
    from jaxdt.run.each_seed import begun_with
    from jaxdt.run.finetune import default_out, finetune
    from jaxdt.run.stopping import stop_signals

    if parsed.resume:
        begun_in = parsed.out or default_out(parsed.run or "")
        begun = begun_with(SeedGroup(begun_in, stored_seeds(begun_in)))
        if begun is not None:
            parsed = parse(FinetuneArguments, arguments, "jaxdt finetune", FinetuneArguments(config=begun))
            parsed.config.going_on_from(begun, default_agrees=False)  # a flag was given, be it the default
    progress = console_progress()
    keep_compiled_programs()
    progress.say(device_line())
    with stop_signals() as stop:
        out = finetune(
            parsed.run,
            parsed.config,
            parsed.dataset,
            seeds=parsed.seeds,
            out=parsed.out,
            env=parsed.env,
            env_kwargs=parsed.env_kwargs,
            checkpoint=parsed.checkpoint,
            resume=parsed.resume,
            progress=progress,
            stop=stop,
            command=["jaxdt", "finetune", *arguments],
        )
    print(run_report(out))
