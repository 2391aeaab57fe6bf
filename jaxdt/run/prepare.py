"""From a config and episodes to all that training needs, with every check that can be made beforehand."""

import dataclasses
import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from jaxdt.algorithms import check_method, make_algorithm, measure
from jaxdt.choice import EnvironmentChoice, is_jax_environment
from jaxdt.config import INTERVALS, AlgorithmConfig, TrainConfig
from jaxdt.data.actions import unit_of
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.environments import GymnasiumEnvironment, make_environment
from jaxdt.evaluation.video import try_filming
from jaxdt.parallel import Layout, choose_layout
from jaxdt.run.directory import RunDirectory, RunRecord, describe_making, git_commit, made_again, read_record
from jaxdt.run.doubts import (
    doubt_bounds_of_actions,
    doubt_length_of_episodes,
    doubt_number_of_updates,
    doubt_observations_and_returns,
    doubt_targets,
    doubt_terminations,
    doubt_units_of_actions,
    doubt_warmup,
)
from jaxdt.run.environment import CUSTOM, choice_of, filmed
from jaxdt.run.fit import check_fit
from jaxdt.run.targets import choose_targets
from jaxdt.simulator import are_plain_kwargs, flags_of, identity, with_version
from jaxdt.types import Box, Discrete, Environment, Sampler, Spec


MOST_UPDATES_PER_CALL = 10
"""By default. More gain little and would make signals wait."""


class Prepared(NamedTuple):
    """A checked run that has not begun."""

    record: RunRecord
    store: EpisodeStore
    """To train on: filtered, with actions in [-1, 1] or from 0 on."""
    held_out: EpisodeStore | None
    """To validate on, likewise; None: nothing is."""
    choice: EnvironmentChoice
    """What evaluation is played in."""
    environment: Environment | None
    """Made of it; None: no evaluation."""
    layout: Layout

    def sampler(self, seed: int) -> Sampler:
        """Of the run of that seed; raises JaxdtError where the method cannot draw from these episodes."""
        config, share = self.record.config, self.layout.share(self.record.config.batch_size)
        return make_algorithm(config.algorithm, self.record.spec).sampler(
            self.store,
            batch_size=config.batch_size,
            seed=seed,
            windows_per_pass=None if config.passes is None else self.store.num_episodes,
            **({} if share is None else {"share": share}),
        )


def make_spec(config: AlgorithmConfig, store: Any, env: Any = None) -> Spec:
    """What a method must know of data and environment, to make it with `make_algorithm` and act with `Agent`.

    - `store`: the episodes, all that `load_episodes` takes; what the method measures is measured on them.
    - `env`: whose bounds actions have, as `evaluate` takes it; default: none, and actions are in [-1, 1], or, where
      they pass that, between the lowest and the highest of the data; discrete ones are counted from 0.

    Raises JaxdtError where they do not fit together.
    """
    check_method(config)
    store = load_episodes(store)
    if env is None:
        fixed = store.spec
        doubt_bounds_of_actions(fixed)
    else:
        made = make_environment(EnvironmentChoice(env=env))
        fixed, name = made.spec, made.name
        made.close()
        store = store.with_observations_of(fixed.observation_shape)
        _check_data(store, fixed, name)
    measured = measure(config, store.with_actions_of(fixed.action))
    return dataclasses.replace(fixed, constants=measured)


def prepare_run(
    config: TrainConfig,
    store: EpisodeStore,
    environment: Any,
    command: list[str] | None,
    previous: RunRecord | None = None,
    *,
    seeds: int = 1,
) -> Prepared:
    """Raises JaxdtError when config, episodes and environment do not fit together.

    `environment`: the object to play in; None: what the config or the data name.
    `previous`: the record of the run that goes on. It, or the run that `config.init` names, has the say on
    normalisation and action space: weights mean nothing without theirs. `seeds`: how many train in one program.
    """
    env = _environment_name(config, store, environment)
    config = dataclasses.replace(config, env=env)
    if environment is None and previous is None:
        config = _with_arguments_of_data(config, store)
    choice = choice_of(config, environment, int(store.lengths.max()))
    _check_extras(config, choice)
    sharded = config.shard_parameters
    layout = choose_layout(config.batch_size, seeds=seeds, devices=config.devices, shard_parameters=sharded)
    played_in = None if env == "none" else make_environment(choice)
    try:
        if isinstance(played_in, GymnasiumEnvironment) and choice.parallel != 1:
            played_in.try_several()
        return _prepare(config, store, choice, played_in, layout, command, previous)
    except BaseException:
        if played_in is not None:
            played_in.close()
        raise


def _prepare(
    config: TrainConfig,
    store: EpisodeStore,
    choice: EnvironmentChoice,
    environment: Environment | None,
    layout: Layout,
    command: list[str] | None,
    previous: RunRecord | None,
) -> Prepared:
    data = describe_data(config.dataset, store)
    if environment is not None:
        store = store.with_observations_of(environment.spec.observation_shape)
    rest, held_out = store.split(config.validation_fraction) if config.validation_fraction else (store, None)
    fixed = _spec_of_data(config, store) if environment is None else environment.spec
    spec, algorithm = _spec_and_algorithm(config, rest, fixed, environment, previous)
    algorithm = algorithm.for_data(config.dataset)
    if environment is not None:
        check_fit(environment.spec, environment.name, spec, "the weights")
    make_algorithm(algorithm, spec)  # or it says what does not fit
    filtered = _filtered(rest, config, spec)
    held_out = None if held_out is None else _filtered(held_out, config, spec)
    assert config.env is not None
    given = config
    config = dataclasses.replace(config, algorithm=algorithm, targets=choose_targets(config, store, config.env))
    if previous is None:
        doubt_observations_and_returns(config, store, spec)
        doubt_length_of_episodes(config, store, environment)
        doubt_targets(config, given, store)
        doubt_units_of_actions(config, store, spec)
        if environment is None and config.init is None:
            doubt_bounds_of_actions(spec)
        doubt_terminations(config, filtered)
    config = fill_schedule(config, filtered.num_episodes, resumed=previous is not None)
    if previous is None:
        doubt_number_of_updates(config, filtered.num_episodes)
        doubt_warmup(config)
    if previous is not None and identity(previous.config.env or "none") == identity(given.env or "none"):
        config = dataclasses.replace(config, env=previous.config.env)  # as the run has always written it
    making = {**describe_making(command), "git_commit": git_commit(), "devices": len(layout.devices)}
    if previous is not None:
        making = made_again(previous.made_with, making)
    record = RunRecord(config=config, spec=spec, data=data, made_with=making)
    return Prepared(record, filtered, held_out, choice, environment, layout)


def _filtered(store: EpisodeStore, config: TrainConfig, spec: Spec) -> EpisodeStore:
    """The episodes that the config takes, as models take them."""
    if config.best_fraction < 1:
        store = store.best(config.best_fraction, of=config.best_fraction_of)
    space = _unit(spec.action) if config.normalized_actions else spec.action
    store = store.with_actions_of(space, clip=config.clip_actions)
    return store.with_delayed_rewards() if config.delayed_reward else store


def _spec_of_data(config: TrainConfig, store: EpisodeStore) -> Spec:
    """Where there is no environment; actions that are to be clipped, or said to lie in [-1, 1], are not its bounds."""
    spec = store.spec
    said = config.clip_actions or config.normalized_actions
    return dataclasses.replace(spec, action=_unit(spec.action)) if said else spec


def _unit(space: Box | Discrete) -> Box | Discrete:
    return unit_of(space) if isinstance(space, Box) else space


def fill_schedule(config: TrainConfig, num_episodes: int, *, resumed: bool = False) -> TrainConfig:
    """With `steps`, what the algorithm makes of them, and `updates_per_call` as numbers where they are None."""
    steps = config.steps
    if resumed:
        return dataclasses.replace(config, updates_per_call=config.updates_per_call or 1)
    if steps is not None and config.passes is not None:
        raise JaxdtError(f"give steps or passes, not both; got {steps} and {config.passes} (set the other to None).")
    if steps is None:
        assert config.passes is not None
        steps = config.passes * math.ceil(num_episodes / config.batch_size)
    intervals = math.gcd(steps, *(getattr(config, name) for name in INTERVALS))
    most = max(n for n in range(1, MOST_UPDATES_PER_CALL + 1) if intervals % n == 0)
    return dataclasses.replace(
        config,
        steps=steps,
        algorithm=config.algorithm.for_steps(steps),
        updates_per_call=config.updates_per_call or most,
    )


def describe_data(spec: str | None, store: EpisodeStore) -> dict[str, Any]:
    return {
        "spec": spec,
        "fingerprint": store.fingerprint,
        "env_id": store.env_id,
        "num_episodes": store.num_episodes,
        "num_steps": store.num_steps,
        "longest_episode": int(store.lengths.max()),
        "return_mean": float(store.returns.mean()),
        "return_std": float(store.returns.std()),
        "return_min": float(store.returns.min()),
        "return_max": float(store.returns.max()),
    }


def _environment_name(config: TrainConfig, store: EpisodeStore, environment: Any) -> str:
    if config.env == CUSTOM and environment is None:
        raise JaxdtError("the run is evaluated in an environment of your own; go on from Python, with train(env=...).")
    env = config.env or (None if store.env_id is None else with_version(store.env_id))
    if environment is not None and config.env in (None, "none"):
        env = CUSTOM
    if env is None:
        raise JaxdtError("the data do not name their environment; give --env ID, or --env none to train without one.")
    recorded = None if store.env_id is None else identity(store.env_id)
    if env not in (CUSTOM, "none") and recorded not in (None, identity(env)):
        warnings.warn(f"the data were recorded in {store.env_id}, evaluation is in {env}.", stacklevel=5)
    return env


def _with_arguments_of_data(config: TrainConfig, store: EpisodeStore) -> TrainConfig:
    """In the environment that the data were recorded in, with its keyword arguments and limit unless others are given.

    `env_kwargs={}` gives none.
    """
    if not store.env_kwargs or store.env_id is None or identity(config.env or "none") != identity(store.env_id):
        return config
    recorded = EnvironmentChoice.of_file(store.env_id, store.env_kwargs)
    both = {**(recorded.kwargs or {}), **(config.env_kwargs or {})}
    if config.env_kwargs and both != config.env_kwargs:
        said = f"given keyword arguments replace the data's; {flags_of(store.env_id, both)} has both."
        warnings.warn(said, stacklevel=5)
    if config.env_kwargs is None and recorded.kwargs and are_plain_kwargs(recorded.kwargs):
        config = dataclasses.replace(config, env_kwargs=dict(recorded.kwargs))
    if config.max_episode_steps is None and recorded.max_episode_steps is not None:
        config = dataclasses.replace(config, max_episode_steps=recorded.max_episode_steps)
    return config


def _check_extras(config: TrainConfig, choice: EnvironmentChoice) -> None:
    """What is asked for at the end of a run must be there at its beginning."""
    if config.video and (choice.env == "none" or is_jax_environment(choice.env)):
        raise JaxdtError("--video needs an environment of Gymnasium; leave it out, or give --env.")
    if config.video:
        try_filming(filmed(choice))


def _spec_and_algorithm(
    config: TrainConfig,
    store: EpisodeStore,
    fixed: Spec,
    environment: Environment | None,
    previous: RunRecord | None,
) -> tuple[Spec, AlgorithmConfig]:
    """As trained so far, else `fixed`, of the environment or of all data where there is none, measured on the store."""
    _check_data(store, fixed, "the data" if environment is None else environment.name)
    if previous is not None:
        return previous.spec, config.algorithm
    if config.init is None:
        constants = measure(config.algorithm, _in_the_models_units(config, store, fixed))
        if config.constant_std is not None:
            if "state_std" not in constants:
                raise JaxdtError(
                    f"{config.algorithm.name} divides observations by no standard deviation here; leave constant_std "
                    f"(got {config.constant_std}) out."
                )
            std, constant = constants["state_std"].copy(), store.constant_observations
            std[constant] = np.maximum(std[constant], np.float32(config.constant_std))
            constants = {**constants, "state_std": std}
        return dataclasses.replace(fixed, constants=constants, delayed_reward=config.delayed_reward), config.algorithm
    trained = read_record(RunDirectory(config.init))
    if config.constant_std is not None:
        raise JaxdtError(
            f"the weights of {config.init} keep the statistics that they were trained with; leave constant_std (got "
            f"{config.constant_std}) out, or train anew, without init= (--init)."
        )
    if config.delayed_reward != trained.spec.delayed_reward:
        raise JaxdtError(
            f"the weights of {config.init} have delayed_reward={trained.spec.delayed_reward}; give them that, not "
            f"{config.delayed_reward}."
        )
    _check_data(store, trained.spec, f"the run {config.init}")
    try:
        return trained.spec, config.algorithm.trained_on_from(trained.config.algorithm)
    except JaxdtError as error:
        raise JaxdtError(f"{config.init}: {error}") from error


def _in_the_models_units(config: TrainConfig, store: EpisodeStore, spec: Spec) -> EpisodeStore:
    """What is measured on: actions in [-1, 1], but for rounding and clipping; discrete ones as recorded."""
    space = spec.action
    if not isinstance(space, Box) or config.normalized_actions or (np.abs([*space]) == 1).all():
        return store
    return store.with_actions_of(space, clip=config.clip_actions)


def _check_data(store: EpisodeStore, spec: Spec, name: str) -> None:
    """Which whole numbers the actions may be is checked with the actions."""
    action = spec.action if store.is_discrete and isinstance(spec.action, Discrete) else store.spec.action
    check_fit(dataclasses.replace(store.spec, action=action), "the data", spec, name)
