"""What a run is evaluated in: as it was given, as it is remembered, and what must be given again."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdt.choice import DEFAULT_LIMIT, EnvironmentChoice, is_jax_environment, registered_game
from jaxdt.config import TrainConfig, functions_of, whole
from jaxdt.errors import JaxdtError
from jaxdt.run.directory import RunRecord
from jaxdt.simulator import MJX, are_plain_kwargs, flags_of, gymnasium_id, identity, is_plain_env_id, with_version


CUSTOM = "custom"
"""What a run calls an environment that no id and keyword arguments make."""


def remembered(config: TrainConfig, env: Any) -> tuple[TrainConfig, Any]:
    """The config with the id and keyword arguments of what was given, and the object to play in, None: theirs."""
    if env is None or isinstance(env, str):
        env_id = config.env if env is None else env
        return dataclasses.replace(config, env=env_id and with_version(env_id)), None
    one_by_one = config.parallel_environments == 1
    named = None if is_jax_environment(env) or (one_by_one and _is_ales_own(env)) else _named(env)
    if named is None:
        return dataclasses.replace(config, env=CUSTOM), env
    env_id, kwargs = named
    config = dataclasses.replace(config, env=env_id, env_kwargs={**kwargs, **(config.env_kwargs or {})} or None)
    return config, env if one_by_one else None


def _is_ales_own(env: Any) -> bool:
    """Whether it is ale_py's environment of a game, which is not what its id makes where it is played itself."""
    import gymnasium

    if not isinstance(env, gymnasium.Env) or registered_game(env.spec) is None:
        return False
    spec: Any = env.spec
    return spec.entry_point == gymnasium.spec(spec.id).entry_point


def _named(env: Any) -> tuple[str, dict[str, Any]] | None:
    """Of an EnvSpec or an Env, what `gymnasium.make` makes its like of; None where that is not to be had as JSON."""
    import gymnasium

    spec: Any = env.spec if isinstance(env, gymnasium.Env) else env
    if (game := registered_game(spec)) is not None:
        plain = _as_json(game[1])
        return None if plain is None else (with_version(game[0]), plain)
    registered = gymnasium.registry.get(getattr(spec, "id", ""))
    if registered is None or spec.additional_wrappers != registered.additional_wrappers:
        return None
    kwargs = {
        name: value
        for name, value in spec.kwargs.items()
        if name != "render_mode" and not (name in registered.kwargs and _same(registered.kwargs[name], value))
    }
    if spec.max_episode_steps != registered.max_episode_steps:
        kwargs["max_episode_steps"] = spec.max_episode_steps or -1  # Gymnasium's word for none
    plain, same = _as_json(kwargs), spec.entry_point == registered.entry_point
    return (spec.id, plain) if plain is not None and same and registered.kwargs.keys() <= spec.kwargs.keys() else None


def _as_json(kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The same as JSON gives it back; None where that is something else."""
    try:
        plain = json.loads(json.dumps(kwargs, allow_nan=False, default=_number))
        return plain if plain == kwargs else None
    except (TypeError, ValueError):
        return None


def _number(value: Any) -> Any:
    """Python's own of NumPy's; an array is no list to every environment."""
    if not isinstance(value, np.generic):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return value.item()


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # arrays
        return False


def choice_of(config: TrainConfig, env: Any, longest_episode: int) -> EnvironmentChoice:
    """`env`: the object to play in, where the config's id does not make it."""
    return EnvironmentChoice(
        env=config.env if env is None else env,
        kwargs=config.env_kwargs,
        max_episode_steps=config.max_episode_steps,
        default_limit=max(DEFAULT_LIMIT, longest_episode),
        parallel=config.parallel_environments,
    )


def choice_of_record(record: RunRecord) -> EnvironmentChoice:
    """What the run says, whether or not it may be used: see `must_be_given_again`."""
    longest = record.data.get("longest_episode")
    return choice_of(record.config, None, longest if type(longest) is int else 0)


def must_be_given_again(env: str | None, kwargs: Mapping[str, Any] | None) -> str | None:
    """Why what a run says is not played in, and what to give; None where it may be."""
    if env in (None, "none"):
        return "the run names no environment; give one with --env (env=), such as HalfCheetah-v5."
    if env == CUSTOM:
        return "the run was evaluated in an environment of your own; give it again, from Python, with env=."
    return not_from_a_file(env, kwargs)


def not_from_a_file(
    env: str | None, kwargs: Mapping[str, Any] | None, *, env_given: bool = False, kwargs_given: bool = False
) -> str | None:
    """Why a file's environment is not made as it stands, and what to repeat; None where it may be, or was repeated."""
    if env is not None and not env_given and not is_plain_env_id(env):
        return f"a file may name no module to import; repeat {flags_of(env, kwargs)} if you trust it."
    if env is not None and not kwargs_given and not are_plain_kwargs(dict(kwargs or {})):
        return f"a file may name no path to open; repeat {flags_of(env, kwargs)} if you trust it."
    return None


def how_to_go_on(command: str, out: Path, record: RunRecord) -> str:
    """What goes on with a run, for people: the command, or the call where something of it was an object."""
    config = record.config
    untold = config.env is not None and not_from_a_file(config.env, config.env_kwargs)
    objects = {
        "config": any(functions_of(config.algorithm).values()),
        "store": record.data.get("spec") is None,
        "env": config.env == CUSTOM,
    }
    if any(objects.values()):
        objects["env"] |= bool(untold)
        given = ", ".join(f"{name}=..." for name, is_one in objects.items() if is_one)
        return f"jaxdt.{command}(..., {given}, out={str(out)!r}, resume=True)"
    repeated = flags_of(config.env or "", config.env_kwargs) if untold else ""
    return f"jaxdt {command} --resume --out {shlex.quote(str(out))}{repeated and ' '}{repeated}"


def with_what_a_file_may_say(config: TrainConfig) -> TrainConfig:
    """Of a file: without an environment and keyword arguments that must be given again."""
    env = config.env if is_plain_env_id(config.env) else None
    kwargs = config.env_kwargs if are_plain_kwargs(config.env_kwargs or {}) else None
    return dataclasses.replace(config, env=env, env_kwargs=kwargs)


def chosen(
    own: EnvironmentChoice,
    missing: str | None,
    env: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: Any = None,
    parallel: Any = None,
) -> EnvironmentChoice:
    """A run's `own` with what is given instead; in another environment its keyword arguments and limit do not hold.

    `missing`: why `own` may not be used as it stands; raises it as JaxdtError where nothing is given instead.
    """
    max_episode_steps = _count(max_episode_steps, "max_episode_steps")
    parallel = _count(parallel, "parallel_environments")
    if isinstance(env, EnvironmentChoice):
        return env
    if env is None and missing is not None:
        raise JaxdtError(missing)
    env = own.env if env is None else with_version(env) if isinstance(env, str) else env
    is_own = identity(env) == identity(own.env or "none") if isinstance(env, str) else own.env == CUSTOM
    if kwargs is None and is_own and (isinstance(env, str) or _is_a_function(env)):
        if missing is not None and not are_plain_kwargs(dict(own.kwargs or {})):
            raise JaxdtError(missing)
        kwargs = own.kwargs
    return dataclasses.replace(
        own,
        env=env,
        kwargs=kwargs,
        max_episode_steps=max_episode_steps or (own.max_episode_steps if is_own else None),
        parallel=parallel or own.parallel,
    )


def check_alike(choices: Sequence[EnvironmentChoice]) -> None:
    """Raises JaxdtError where what several runs are played in, by ids, is not the same."""
    kinds = {
        "environments (--env)": {(choice.env.startswith(MJX), identity(choice.env)) for choice in choices},
        "keyword arguments (--env-kwargs)": {
            json.dumps(dict(choice.kwargs or {}), sort_keys=True) for choice in choices
        },
        "limits of an episode's steps (--max-episode-steps)": {choice.max_episode_steps for choice in choices},
    }
    differing = [name for name, values in kinds.items() if len(values) > 1]
    if differing:
        raise JaxdtError(f"the runs have different {' and '.join(differing)}; give that to compare them.")


def _is_a_function(env: Any) -> bool:
    """Whether it makes an environment of keyword arguments, and has not been given its own already."""
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    return callable(env) and not (isinstance(env, gymnasium.Env | EnvSpec) or is_jax_environment(env))


def _count(value: Any, name: str) -> int | None:
    found = None if value is None else whole(value, name)
    if found is not None and found < 1:
        raise JaxdtError(f"{name} must be at least 1; got {found}.")
    return found


def filmed(choice: EnvironmentChoice) -> EnvironmentChoice:
    """What is filmed of what is played in; raises JaxdtError where nothing can be."""
    if isinstance(choice.env, str) and choice.env == CUSTOM:
        raise JaxdtError(must_be_given_again(CUSTOM, None) or "")
    if is_jax_environment(choice.env):
        raise JaxdtError("videos are rendered by Gymnasium; give its environment id.")
    return dataclasses.replace(choice, env=gymnasium_id(choice.env)) if isinstance(choice.env, str) else choice
