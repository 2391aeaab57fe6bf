"""From a config and episodes to all that training needs, with every check that can be made beforehand."""

import dataclasses
import importlib.util
import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from jaxdt.config import INTERVALS, ModelConfig, TrainConfig
from jaxdt.data.d4rl import paper_targets
from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.environments import JaxEnvironment
from jaxdt.run.directory import RunDirectory, RunRecord, describe_making, read_record
from jaxdt.simulator import action_bounds, make_simulator
from jaxdt.types import Box, Interface


MOST_UPDATES_PER_CALL = 10
"""By default. More gain little and would make signals wait."""


class Prepared(NamedTuple):
    """A checked run that has not begun."""

    record: RunRecord
    store: EpisodeStore
    """Filtered, with actions in [-1, 1]."""
    environment: str | JaxEnvironment | None
    """None: no evaluation."""


def prepare_run(
    config: TrainConfig,
    store: EpisodeStore,
    environment: JaxEnvironment | None,
    command: list[str] | None,
    previous: RunRecord | None = None,
) -> Prepared:
    """Raises JaxdtError when config, episodes and environment do not fit together.

    `previous`: the record of the run that goes on. It, or the run that `config.init` names, has the say on
    normalisation and action bounds: weights mean nothing without theirs.
    """
    if config.env == "custom" and environment is None:
        raise JaxdtError(
            "the run is evaluated in a JaxEnvironment of your own; go on from Python, with train(env=...)."
        )
    env = "custom" if environment is not None else config.env or store.env_id
    if env is None:
        raise JaxdtError("the data do not name their environment; give --env ID, or --env none to train without one.")
    _check_extras(config, env)
    played_in = environment if environment is not None else None if env == "none" else env
    bounds = _check_environment(played_in, store)
    interface, model = _starting_point(config, store, bounds, previous)
    filtered = store.best(config.best_fraction) if config.best_fraction < 1 else store
    filtered = filtered.with_actions_of(Box(interface.action_low, interface.action_high), clip=config.clip_actions)
    if config.delayed_reward:
        filtered = filtered.with_delayed_rewards()
    filtered = filtered.with_statistics(interface.state_mean, interface.state_std)
    config = dataclasses.replace(
        config,
        env=env,
        targets=choose_targets(config, store, env),
        model=model,
        **(
            fill_schedule(config, filtered.num_episodes)
            if previous is None
            else {"updates_per_call": config.updates_per_call or 1}
        ),
    )
    record = RunRecord(
        config=config,
        interface=interface,
        data=describe_data(config.dataset, store),
        made_with=describe_making(command),
    )
    return Prepared(record, filtered, played_in)


def choose_targets(config: TrainConfig, store: EpisodeStore, env: str) -> tuple[float, ...]:
    """The targets given, else the paper's where it names the environment, else quantiles of the data's returns."""
    if config.targets is not None:
        return tuple(float(target) for target in config.targets)
    paper = paper_targets(env)
    if config.paper_targets and paper is not None:
        return paper
    return tuple(float(target) for target in np.quantile(store.returns, config.target_quantiles))


def fill_schedule(config: TrainConfig, num_episodes: int) -> dict[str, Any]:
    """`steps`, the optimiser's warm-up and end, and `updates_per_call` as numbers where they are None."""
    steps, optimizer = config.steps, config.optimizer
    if steps is not None and config.passes is not None:
        raise JaxdtError(f"give steps or passes, not both; got {steps} and {config.passes} (set the other to None).")
    if steps is None:
        assert config.passes is not None
        steps = config.passes * math.ceil(num_episodes / config.batch_size)
    if optimizer.warmup_steps is None:
        optimizer = dataclasses.replace(optimizer, warmup_steps=math.ceil(optimizer.warmup_fraction * steps))
    if optimizer.schedule == "linear" and optimizer.total_steps is None:
        optimizer = dataclasses.replace(optimizer, total_steps=steps)
    intervals = math.gcd(steps, *(getattr(config, name) for name in INTERVALS))
    most = max(n for n in range(1, MOST_UPDATES_PER_CALL + 1) if intervals % n == 0)
    return {"steps": steps, "optimizer": optimizer, "updates_per_call": config.updates_per_call or most}


def _starting_point(
    config: TrainConfig, store: EpisodeStore, bounds: tuple[np.ndarray, np.ndarray], previous: RunRecord | None
) -> tuple[Interface, ModelConfig]:
    """What stands between policy and environment, and the model's shape: as trained so far, else from the data."""
    if previous is not None:
        return previous.interface, previous.model
    if config.init is None:
        mean, std = store.statistics
        interface = Interface(
            state_mean=mean,
            state_std=std,
            action_low=bounds[0],
            action_high=bounds[1],
            return_scale=config.return_scale,
            delayed_reward=config.delayed_reward,
        )
        return interface, _fill_sizes(config, store)
    started_from = read_record(RunDirectory(config.init))
    for name in ("return_scale", "delayed_reward"):
        given, own = getattr(config, name), getattr(started_from.interface, name)
        if given != own:
            raise JaxdtError(f"the weights of {config.init} have {name}={own}; give them that, not {given}.")
    if started_from.interface.state_mean.shape != store.observations.shape[1:]:
        raise JaxdtError(
            f"the run {config.init} was trained on observations of shape {started_from.interface.state_mean.shape}, "
            f"the data have {store.observations.shape[1:]}; fine-tune on data of the same environment."
        )
    model = inherit_model(config.model, started_from.model, config.init)
    _fill_sizes(dataclasses.replace(config, model=model), store)
    return started_from.interface, model


def inherit_model(given: ModelConfig, own: ModelConfig, init: str) -> ModelConfig:
    """The model of the run `init`; only context length, dtype and dropouts may differ, else JaxdtError is raised."""
    if given == ModelConfig():
        return own
    free = ("context_length", "dtype", "embedding_dropout", "attention_dropout", "residual_dropout")
    for field in dataclasses.fields(ModelConfig):
        mine, theirs = getattr(given, field.name), getattr(own, field.name)
        if field.name not in (*free, "initialization") and mine not in (None, theirs):
            raise JaxdtError(
                f"the weights of {init} have {field.name}={theirs} and cannot be used with {mine}; leave it out, or "
                f"give model=Agent.load({init!r}).config."
            )
    return dataclasses.replace(own, **{name: getattr(given, name) for name in free})


def describe_data(spec: str | None, store: EpisodeStore) -> dict:
    return {
        "spec": spec,
        "fingerprint": store.fingerprint,
        "env_id": store.env_id,
        "num_episodes": store.num_episodes,
        "num_steps": store.num_steps,
        "return_mean": float(store.returns.mean()),
        "return_std": float(store.returns.std()),
        "return_min": float(store.returns.min()),
        "return_max": float(store.returns.max()),
    }


def _check_extras(config: TrainConfig, env: str) -> None:
    """What is asked for at the end of a run must be there at its beginning."""
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise JaxdtError("--tensorboard needs tensorboardX; pip install 'jaxdt[tensorboard]'.")
    if config.video and env in ("none", "custom"):
        raise JaxdtError("--video needs an environment of Gymnasium; leave it out, or give --env.")
    if config.video and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise JaxdtError("--video needs imageio with ffmpeg; pip install 'jaxdt[video]'.")


def _fill_sizes(config: TrainConfig, store: EpisodeStore):
    for name in ("state_dim", "action_dim"):
        given, found = getattr(config.model, name), getattr(store, name)
        if given not in (None, found):
            raise JaxdtError(f"the config's {name} is {given} but the data's is {found}; leave it out of the config.")
    return dataclasses.replace(config.model, state_dim=store.state_dim, action_dim=store.action_dim)


def _check_environment(environment: str | JaxEnvironment | None, store: EpisodeStore) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the action space, [-1, 1] where there is no simulator to say otherwise."""
    if isinstance(environment, str):
        simulator = make_simulator(environment)
        state_dim, bounds = simulator.observation_space.shape[0], action_bounds(simulator)  # type: ignore[index]
        simulator.close()
        _warn_of_other_environment(environment, store)
    else:
        ones = np.ones(store.action_dim if environment is None else environment.action_dim, np.float32)
        state_dim, bounds = store.state_dim if environment is None else environment.state_dim, (-ones, ones)
    _check_size(state_dim, store.state_dim, "observations", environment)
    _check_size(len(bounds[0]), store.action_dim, "actions", environment)
    return bounds


def _warn_of_other_environment(environment: str, store: EpisodeStore) -> None:
    name = environment.rpartition(":")[2].rsplit("-v", 1)[0]
    if store.env_id is not None and store.env_id.rsplit("-v", 1)[0] != name:
        warnings.warn(f"the data were recorded in {store.env_id}, evaluation is in {environment}.", stacklevel=4)


def _check_size(of_environment: int, of_data: int, what: str, environment: str | JaxEnvironment | None) -> None:
    if of_environment != of_data:
        name = environment if isinstance(environment, str) else type(environment).__name__
        raise JaxdtError(
            f"the {what} of the data have {of_data} numbers, those of {name} {of_environment}; "
            "choose the environment that the data were recorded in."
        )
