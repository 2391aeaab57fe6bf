"""Whether and how a run may go on."""

import dataclasses
from typing import Any

from jaxdt.checkpoint import checkpoint_steps
from jaxdt.config import CHANGEABLE, ModelConfig, TrainConfig
from jaxdt.errors import JaxdtError
from jaxdt.run.directory import RunDirectory, RunRecord


FILLED_IN = ("env", "targets", "steps", "updates_per_call", "state_dim", "action_dim", "warmup_steps", "total_steps")
"""What `prepare_run` replaces where it is None."""


def agree_with_record(config: TrainConfig, previous: RunRecord) -> TrainConfig:
    """The run's own config with what may change taken from `config`; raises JaxdtError where they disagree."""
    stored = previous.config
    if config.init is not None and config.model == ModelConfig():
        config = dataclasses.replace(config, model=stored.model)  # it is that of the run it started from
    given, own = _flat(config), _flat(stored)
    for name in given:
        filled_in = name in FILLED_IN and given[name] is None
        # The dataset may have moved: its fingerprint is compared, not its name.
        if given[name] != own[name] and name not in (*CHANGEABLE, "dataset") and not filled_in:
            raise JaxdtError(
                f"the run was started with {name}={own[name]!r} and cannot go on with {given[name]!r}; "
                "leave that flag out, or choose another --out."
            )
    changes = {name: given[name] for name in CHANGEABLE if not (name in FILLED_IN and given[name] is None)}
    if changes.get("steps", stored.steps) != stored.steps and stored.optimizer.schedule == "linear":
        raise JaxdtError(
            f"the run's learning rate falls to 0 at update {stored.steps}, so it cannot end at {changes['steps']}; "
            "leave --steps out, or start another run from this one with --init."
        )
    changes["dataset"] = config.dataset or stored.dataset
    return dataclasses.replace(stored, **changes)


def _flat(config: TrainConfig) -> dict[str, Any]:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    model, optimizer = values.pop("model"), values.pop("optimizer")
    return values | vars(model) | vars(optimizer)


def is_finished(run: RunDirectory, config: TrainConfig) -> bool:
    """Raises JaxdtError when the run has more updates than are asked for."""
    steps = checkpoint_steps(run.checkpoints)
    assert config.steps is not None
    if steps and steps[-1] > config.steps:
        raise JaxdtError(f"{run.path} has {steps[-1]} updates already; --steps {config.steps} is fewer.")
    return bool(steps) and steps[-1] == config.steps
