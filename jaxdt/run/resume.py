"""Whether and how a run may go on."""

import dataclasses
import os
from pathlib import Path

from jaxdt.checkpoint import Which, checkpoint_steps, drop_checkpoints_after
from jaxdt.config import CHANGEABLE, FILLED_IN, Finetuning, TrainConfig, flatten, functions_of
from jaxdt.errors import JaxdtError
from jaxdt.loggers import read_evaluations
from jaxdt.run.directory import RunDirectory, RunRecord, read_record
from jaxdt.run.environment import not_from_a_file
from jaxdt.run.seed_group import SeedGroup
from jaxdt.simulator import MJX, identity


def agree_with_record(config: TrainConfig, previous: RunRecord) -> TrainConfig:
    """The run's own config with what may change taken from `config`; raises JaxdtError where they disagree."""
    stored = previous.config
    if type(config.algorithm) is not type(stored.algorithm):
        raise JaxdtError(
            f"the run was started with {stored.algorithm.name} and cannot go on with {config.algorithm.name}; choose "
            "another --out."
        )
    if config.init is not None:
        config = dataclasses.replace(config, algorithm=config.algorithm.trained_on_from(stored.algorithm))
    given = {"env_given": config.env is not None, "kwargs_given": config.env_kwargs is not None}
    untold = not_from_a_file(stored.env, stored.env_kwargs, **given)
    if untold is not None:
        raise JaxdtError(untold)
    if _is_the_same(config.env, stored.env):
        stored = dataclasses.replace(stored, env=config.env)  # which may name the module that registers it
    acting = [f"algorithm.{name}" for name in stored.algorithm.acting_options]
    again = {name: value for name, value in functions_of(config.algorithm).items() if callable(value)}
    functions = {name: again.get(name, value) for name, value in functions_of(stored.algorithm).items() if value}
    stored = dataclasses.replace(stored, algorithm=dataclasses.replace(stored.algorithm, **functions))
    given, own = flatten(config), flatten(stored)
    for name in given:
        filled_in = name.split(".")[-1] in FILLED_IN and given[name] is None
        # The dataset may have moved: its fingerprint is compared, not its name.
        if given[name] != own[name] and name not in (*CHANGEABLE, *acting, "dataset") and not filled_in:
            raise JaxdtError(
                f"the run was started with {name}={own[name]!r} and cannot go on with {given[name]!r}; "
                "leave that flag out, or choose another --out."
            )
    changes = {name: given[name] for name in CHANGEABLE if not (name in FILLED_IN and given[name] is None)}
    if changes.get("steps", stored.steps) != stored.steps and stored.algorithm.last_step is not None:
        raise JaxdtError(
            f"the run's learning rate was made to end at update {stored.steps}, so it cannot at {changes['steps']}; "
            "leave --steps out, or start another run from this one with --init and --dataset."
        )
    changes["dataset"] = config.dataset or stored.dataset
    chosen = {name.split(".")[-1]: given[name] for name in acting if given[name] is not None}
    algorithm = dataclasses.replace(stored.algorithm, **chosen)
    return dataclasses.replace(stored, algorithm=algorithm, **changes)


def _is_the_same(env: str | None, other: str | None) -> bool:
    if env is None or other is None or env.startswith(MJX) != other.startswith(MJX):
        return False
    return identity(env) == identity(other)


def agree_with_records(config: TrainConfig, group: SeedGroup, records: list[RunRecord | None]) -> TrainConfig:
    """The config that all the runs go on with, of those that have begun; raises JaxdtError where they disagree."""
    pairs = zip(group.configs(config), records, strict=True)
    agreed = [agree_with_record(given, record) for given, record in pairs if record is not None]
    config = agreed[0]
    for other in agreed[1:]:
        if dataclasses.replace(other, seed=config.seed) != config:
            raise JaxdtError(
                f"the runs of the seeds {config.seed} and {other.seed} have gone on with different configs; resume "
                f"each alone: jaxdt train --resume --out {group.path / f'seed-{other.seed}'}."
            )
    return config


def check_same_environment(config: TrainConfig, stored: TrainConfig) -> None:
    """Raises JaxdtError where another one is given than the run was started with."""
    is_same = config.env == stored.env or _is_the_same(config.env, stored.env)
    for name, agrees, given, own in (
        ("env", is_same, config.env, stored.env),
        ("env_kwargs", (config.env_kwargs or {}) == (stored.env_kwargs or {}), config.env_kwargs, stored.env_kwargs),
    ):
        if not agrees:
            raise JaxdtError(
                f"the run was started with {name}={own!r} and cannot go on with {given!r}; leave that out, or choose "
                "another --out."
            )


def check_same_start(stored: Finetuning, run: str | os.PathLike[str] | None, checkpoint: Which | None) -> None:
    """Raises JaxdtError where a fine-tuning is given another run than it began with; one that was moved is believed."""
    if run is not None and os.path.exists(stored.run) and Path(stored.run).resolve() != Path(run).resolve():
        raise JaxdtError(
            f"the fine-tuning was started from {stored.run} and cannot go on from {run}; name that one, or choose "
            "another --out."
        )
    if checkpoint not in (None, stored.checkpoint):
        raise JaxdtError(
            f"the fine-tuning was started from the checkpoint {stored.checkpoint} and cannot go on from {checkpoint}; "
            "leave it out, or choose another --out."
        )


def is_finished(group: SeedGroup, config: TrainConfig, *, asked_for: str | None = None) -> bool:
    """Whether all updates are made, and the last was evaluated.

    Raises JaxdtError when a run has more updates than are asked for, in those words; default: `--steps` and them.
    """
    assert config.steps is not None
    newest = {run.path: steps[-1] for run in group.runs if (steps := checkpoint_steps(run.checkpoints))}
    for path, step in newest.items():
        if step > config.steps:
            raise JaxdtError(f"{path} has {step} updates already; {asked_for or f'--steps {config.steps}'} is fewer.")
    trained = [newest.get(run.path) for run in group.runs] == [config.steps] * len(group.runs)
    return trained and (config.env == "none" or all(_is_evaluated(run, config) for run in group.runs))


def _is_evaluated(run: RunDirectory, config: TrainConfig) -> bool:
    """Not where the environment failed after the last update: that evaluation is played when the run is resumed."""
    played = {record["target"] for record in read_evaluations(run.evaluations)[0] if record["step"] == config.steps}
    return len(played) >= max(1, len(set(read_record(run).config.evaluation_targets)))


def meet_at_one_checkpoint(group: SeedGroup) -> None:
    """Drops what comes after the newest checkpoint that all the runs have: a kill may have come between their saves.

    Raises JaxdtError where a run would lose more than the one checkpoint that a kill can have cost.
    """
    shared = group.steps[-1] if group.steps else 0
    for run in group.runs:
        later = [step for step in checkpoint_steps(run.checkpoints) if step > shared]
        if len(later) > 1:
            raise JaxdtError(
                f"the runs in {group.path} are too far apart to go on together: {run.path.name} is at update "
                f"{later[-1]}, and the newest checkpoint that all have is {shared or 'none'}; resume each alone, "
                f"as in jaxdt train --resume --out {run.path}."
            )
    for run in group.runs:
        drop_checkpoints_after(run.checkpoints, shared)
