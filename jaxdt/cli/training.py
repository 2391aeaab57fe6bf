"""`jaxdt train`."""

import dataclasses
import itertools
import warnings
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from jaxdt.cli.common import device_line, keep_compiled_programs
from jaxdt.cli.parsing import parse
from jaxdt.cli.report import run_report
from jaxdt.config import DEMO, PRESETS, AlgorithmConfig, TrainConfig, check_same_algorithm, flatten
from jaxdt.errors import JaxdtError, did_you_mean
from jaxdt.run.directory import RunDirectory, RunRecord, read_record
from jaxdt.run.seed_group import stored_config


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train a policy on offline episodes, evaluate it and leave a run directory.

    Without options: collects HalfCheetah-v5 episodes from the shipped policies, trains a Decision Transformer on them
    and evaluates it, in minutes on a laptop's CPU. The preset, which comes first (`jaxdt train paper --steps 1000`),
    sets the defaults: `demo` is that, `cartpole` the like with discrete actions, `paper` the recipe of the Decision
    Transformer's authors, `huggingface` that of Hugging Face's tutorial, `large` a model for accelerators; other
    methods are `bc` (behaviour cloning) and `bc-corl` (as CORL has it), `rvs` and `rvs-small` (RvS-R), `iql` (implicit
    Q-learning), `td3-bc` (TD3+BC), `rebrac` (ReBRAC, whose penalties its authors tuned for each data set), `online-dt`
    and `online-dt-small` (the Online Decision Transformer, which `jaxdt finetune` goes on with), `reinformer`
    (Reinformer), `trajectory-transformer` and `trajectory-transformer-small` (the Trajectory Transformer, which plans),
    and `atari`, `atari-pong` and `atari-small` (the Decision Transformer of frames); small ones are for CPUs.
    """

    config: OmitArgPrefixes[TrainConfig]
    seeds: tuple[int, ...] | None = None
    """Train one run of each seed, all in one program, in OUT/seed-N; mean and std over them are in OUT/summary.json."""
    out: Path | None = None
    """Run directory; None: the next free runs/PRESET-ENV-N."""
    resume: bool = False
    """Continue the run in --out. Flags may be left out; those of what is trained must agree with it if given, others
    may change: how long, how often and what is evaluated, filmed and written, devices, acting options. Where there is
    none yet it is begun, if a preset or --dataset is given too: so a job that may be started again is one command."""
    distributed: bool = False
    """Train together with the other processes of a SLURM step (srun), an mpirun, a Kubernetes job or a TPU pod, each
    started with this same command. Never by itself: a lone process would wait for the others."""
    coordinator: str | None = None
    """HOST:PORT of the first process, which the others find it by, where none of those says so; with --num-processes
    and --process-id."""
    num_processes: int | None = None
    """How many processes train together."""
    process_id: int | None = None
    """Which of them this one is, counted from 0."""


def train_command(arguments: list[str]) -> None:
    alone = not any(_is_given(arguments, flag) for flag in ("distributed", *_OTHERS)) or {"-h", "--help"} & {*arguments}
    parsed = parse_train(arguments) if alone else _parse_with_others(arguments)
    if parsed.config.dataset is not None and not parsed.resume and alone:  # jax, which takes seconds, is not loaded yet
        from jaxdt.data.loading import check_is_there

        check_is_there(parsed.config.dataset)
    from jaxdt import hosts
    from jaxdt.progress import Progress, console_progress
    from jaxdt.run.stopping import stop_signals
    from jaxdt.run.train import train

    keep_compiled_programs()
    progress = console_progress() if hosts.is_first() else Progress()
    if not hosts.is_first():
        warnings.simplefilter("ignore")  # the first one's are enough
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
    if hosts.is_first():
        print(run_report(out))


_OTHERS = ("coordinator", "num-processes", "process-id")


def _parse_with_others(arguments: list[str]) -> TrainArguments:
    """Once all processes have met, so that the run that goes on is the one that the first of them sees."""
    from jaxdt import hosts
    from jaxdt.run.processes import as_the_first_sees

    named = [_value_of(arguments, flag) for flag in _OTHERS]
    if None in named and named != [None] * 3:
        raise JaxdtError("--coordinator, --num-processes and --process-id are given together; one of them is missing.")
    for flag, value in zip(_OTHERS[1:], named[1:], strict=True):
        if value is not None and not value.isdecimal():
            raise JaxdtError(f"--{flag} takes a whole number, 0 or more; got {value!r:.40}.")
    out, init, resume = _value_of(arguments, "out"), _value_of(arguments, "init"), "--resume" in arguments
    if not resume and init is None:
        parse_train(arguments)  # what can be refused before the others are there
    coordinator, *numbers = named
    hosts.connect(coordinator, *(None if number is None else int(number) for number in numbers))
    with hosts.in_step():
        if any(each != [resume, init is None] for each in hosts.exchange([resume, init is None])):
            raise JaxdtError("all must be given --resume, or none, and so --init; start all with the same command.")
        if resume and out is not None:
            as_the_first_sees(lambda: stored_config(out) is not None, out)
        if init is not None:
            as_the_first_sees(lambda: RunDirectory(init).holds_run, init)
        return parse_train(arguments)


def parse_train(arguments: list[str]) -> TrainArguments:
    """One parse, whose defaults are those of the preset, of the run that goes on, or of the one that it starts from."""
    preset = arguments[0] if arguments and not arguments[0].startswith("-") else None
    _check_words(arguments, preset)
    config = PRESETS[preset or DEMO.preset]
    out, init = _value_of(arguments, "out"), _value_of(arguments, "init")
    resume = "--resume" in arguments
    if resume and out is None and not {"-h", "--help"} & {*arguments}:
        raise JaxdtError("to resume a run, name its directory with --out.")
    stored = stored_config(out) if out is not None and resume else None
    if stored is not None:
        if preset not in (None, stored.preset):
            raise JaxdtError(f"the run was started with the preset {stored.preset}; leave {preset} out.")
        config = stored
    elif out is not None and resume and preset is None and not _is_given(arguments, "dataset"):
        raise JaxdtError(
            f"{out} holds no run to resume; check --out, or give a preset or --dataset too, which then begins it."
        )
    elif init is not None:
        config = _starting_from(read_record(RunDirectory(init)), preset)
    for given, other in (("steps", "passes"), ("passes", "steps")):
        if stored is None and _is_given(arguments, given) and not _is_given(arguments, other):
            # How long is said in one way: the preset's other way must not stand beside it.
            config = dataclasses.replace(config, **{other: None, given: getattr(config, given) or 1})
    rest = arguments[1:] if preset is not None else arguments
    parsed = parse(TrainArguments, rest, f"jaxdt train{f' {preset}' if preset else ''}", TrainArguments(config=config))
    if stored is None and init is not None:
        _check_shape(parsed.config.algorithm, config.algorithm)
    return parsed


def _check_shape(given: AlgorithmConfig, trained: AlgorithmConfig) -> None:
    """Raises JaxdtError where a flag asks for another shape than the weights have, though it be a default's."""
    asked, theirs = flatten(given), flatten(trained)
    for name, value in flatten(given.trained_on_from(trained)).items():
        if asked[name] not in (theirs[name], value):
            raise JaxdtError(
                f"the weights have {name.split('.')[-1]}={value} and cannot be used with {asked[name]}; leave it out."
            )


def _check_words(arguments: list[str], preset: str | None) -> None:
    if preset is not None and preset not in PRESETS:
        raise JaxdtError(
            f"{preset!r} is not a preset{did_you_mean(preset, PRESETS)}; choose one of {', '.join(PRESETS)}."
        )
    for before, argument in itertools.pairwise(arguments):
        if argument in PRESETS and not before.startswith("-"):
            raise JaxdtError(f"the preset comes first: jaxdt train {argument} ... (it stands after {before!r:.40}).")
    for flag, instead in _OTHER_NAMES.items():
        if _is_given(arguments, flag):
            raise JaxdtError(f"--{flag} is called {instead}.")


_OTHER_NAMES = {
    "eval-context": "--context now",
    "lr": "--learning-rate here",
    "epochs": "--passes here, or give --steps",
    "preset": "nothing here: the preset is the first word, as in jaxdt train paper",
}
"""What people write, and what to write."""


def _starting_from(trained: RunRecord, preset: str | None) -> TrainConfig:
    """A preset with what fine-tuning keeps of the run that it starts from as defaults."""
    algorithm = trained.config.algorithm
    same = [each for each in PRESETS.values() if type(each.algorithm) is type(algorithm)]
    config = PRESETS.get(preset or trained.config.preset, same[0])
    if preset is None and trained.config.dataset != config.dataset:
        config = dataclasses.replace(config, dataset=None)  # that of the preset is not what the weights have seen
    check_same_algorithm(config.algorithm, algorithm)
    algorithm = dataclasses.replace(algorithm, optimizer=config.algorithm.optimizer)
    # A preset's own targets are of the task that it is for; the run's are of the task of its weights.
    targets = config.targets and trained.config.targets
    return dataclasses.replace(config, algorithm=algorithm, targets=targets, delayed_reward=trained.spec.delayed_reward)


def _is_given(arguments: list[str], flag: str) -> bool:
    return any(argument.split("=")[0].replace("_", "-") == f"--{flag}" for argument in arguments)


def _value_of(arguments: list[str], flag: str) -> str | None:
    """What a flag is given at last, as `--flag VALUE` or `--flag=VALUE`."""
    given = None
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == f"--{flag}":
            given = value if equals else following
    return given
