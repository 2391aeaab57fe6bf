"""What somebody asks for when asking for an environment, and making Gymnasium's of it. Loads gymnasium when used."""

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxtyping import Num

from jaxdt.errors import JaxdtError, one_line
from jaxdt.games import game_of


if TYPE_CHECKING:
    import gymnasium


DEFAULT_LIMIT = 1000
"""Steps after which an episode is cut off where neither the environment nor anybody else names a limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentChoice:
    """What episodes are played in, as it was asked for."""

    env: Any
    """A Gymnasium id, `mjx:` and one, an EnvSpec, a gymnasium.Env, a function that makes one, or a JaxEnvironment."""
    kwargs: Mapping[str, Any] | None = None
    """What its constructor is given beside."""
    max_episode_steps: int | None = None
    """Steps after which an episode is cut off; None: the environment's own limit."""
    default_limit: int = DEFAULT_LIMIT
    """The same where the environment has none."""
    parallel: int | None = None
    """Episodes that are played at once, each in a simulator; None: all."""

    @property
    def made_with(self) -> dict[str, Any]:
        """As files remember it: the keyword arguments, and the limit among them where one was asked for."""
        limit = self.max_episode_steps
        return {**(self.kwargs or {}), **({} if limit is None else {"max_episode_steps": limit})}

    @classmethod
    def of_file(cls, env: str | None, made_with: Mapping[str, Any] | None) -> "EnvironmentChoice":
        """The way back, of what was checked; a limit of -1 is none."""
        kwargs = dict(made_with or {})
        limit = kwargs.pop("max_episode_steps", None)
        limited = type(limit) is int and limit > 0
        return cls(env=env, kwargs=kwargs or None, max_episode_steps=limit if limited else None)

    @property
    def name(self) -> str:
        """For people."""
        if isinstance(self.env, str):
            return self.env
        spec = getattr(self.env, "spec", self.env)  # an Env's own, or an EnvSpec
        named = getattr(spec, "id", None) or getattr(self.env, "__name__", None)
        return named or type(getattr(self.env, "unwrapped", self.env)).__name__


@runtime_checkable
class JaxEnvironment(Protocol):
    """What a user writes: one episode, in pure JAX.

    Beside what is below it has `spec`, a `jaxdt.Spec`; or, where observations and actions are vectors and actions
    lie in [-1, 1], their lengths `state_dim` and `action_dim`.
    """

    max_episode_steps: int

    def reset(self, key: Any) -> tuple[Any, Num[Any, "*s"]]:
        """`(state, observation)`, of a key of `jax.random`."""
        ...

    def step(self, state: Any, action: Num[Any, "*a"]) -> tuple[Any, ...]:
        """`(state, observation, reward, terminated, truncated)`, or without `truncated`."""
        ...


def is_jax_environment(environment: Any) -> bool:
    """Whether an object is one, and none of Gymnasium's, whose methods have the same names."""
    if isinstance(environment, str | type) or hasattr(environment, "observation_space"):
        return False
    return isinstance(environment, JaxEnvironment)


def as_choice(environment: Any) -> EnvironmentChoice:
    """An EnvironmentChoice itself, or the one of its `env` alone."""
    return environment if isinstance(environment, EnvironmentChoice) else EnvironmentChoice(env=environment)


def make(choice: EnvironmentChoice, *, render: bool = False) -> "gymnasium.Env":
    """What was asked for, as its makers make it; a game's id makes our AtariGame.

    Raises what the makers raise, and JaxdtError for what is no environment.
    """
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    env, kwargs = choice.env, dict(choice.kwargs or {})
    if "render_mode" in kwargs:
        raise JaxdtError(
            f"env_kwargs has render_mode={kwargs['render_mode']!r:.80}, which films alone have; leave it out, and film "
            "with --video (video=True)."
        )
    if isinstance(env, gymnasium.Env):
        if choice.parallel == 1:
            return _borrowed(env)
        env = _spec_of(env)
    if isinstance(env, EnvSpec):
        env = dataclasses.replace(env, kwargs={name: v for name, v in env.kwargs.items() if name != "render_mode"})
        if (game := registered_game(env)) is not None:
            env, kwargs = game[0], {**game[1], **kwargs}
    if isinstance(env, str) and game_of(env) is not None:
        from jaxdt.atari import make_game

        return make_game(env, kwargs, choice.max_episode_steps, render=render)
    if isinstance(env, str | EnvSpec):
        limit = {} if choice.max_episode_steps is None else {"max_episode_steps": choice.max_episode_steps}
        shown = {"render_mode": "rgb_array"} if render else {}  # not every constructor takes one
        # The checker costs a tenth of a MuJoCo step.
        return gymnasium.make(env, **{"disable_env_checker": True, **kwargs, **limit, **shown})
    if not callable(env):
        raise JaxdtError(_not_an_environment(env))
    if render and "render_mode" in inspect.signature(env).parameters:
        kwargs["render_mode"] = "rgb_array"
    made = env(**kwargs)
    if not isinstance(made, gymnasium.Env):
        fix = "; give one in pure JAX as the object itself" if isinstance(made, JaxEnvironment) else ""
        raise JaxdtError(f"{choice.name} must return a gymnasium.Env; it returned {_described(made)}{fix}.")
    return made


def registered_game(spec: Any) -> tuple[str, dict[str, Any]] | None:
    """By which id and keyword arguments a game's object is played; None for what is no game or has wrappers."""
    if game_of(getattr(spec, "id", "")) is None:
        return None
    from jaxdt.atari import made_as_registered

    return made_as_registered(spec)


def _spec_of(env: "gymnasium.Env") -> Any:
    """From which it can be made again, as often as there are episodes."""
    spec = env.spec
    if spec is None or any(wrapper.kwargs is None for wrapper in spec.additional_wrappers or ()):
        raise JaxdtError(
            f"environment {EnvironmentChoice(env=env).name} cannot be made anew for each episode (gymnasium.make did "
            "not make it, or a wrapper does not record its arguments); give a function that makes one, or play the one "
            "there is with parallel_environments=1."
        )
    return spec


def _borrowed(env: "gymnasium.Env") -> "gymnasium.Env":
    import gymnasium

    class Borrowed(gymnasium.Wrapper):
        """A user's own, which stays open."""

        def close(self) -> None:
            pass

    return Borrowed(env)


def _not_an_environment(env: Any) -> str:
    why = ""
    if callable(getattr(env, "reset", None)) and callable(getattr(env, "step", None)):
        if not hasattr(env, "max_episode_steps"):
            why = " (a JaxEnvironment has max_episode_steps, after how many steps an episode is cut off)"
        elif hasattr(env, "observation_space"):
            why = " (a JaxEnvironment has no observation_space, by which Gymnasium's are told; say its spec)"
    return (
        "env must be a Gymnasium id, an EnvSpec, a gymnasium.Env, a function that makes one, or a JaxEnvironment; got "
        f"{_described(env)}{why}."
    )


def _described(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def no_time_limit(name: str, cut_off: int, episodes: int, steps: int) -> str:
    """A warning."""
    return (
        f"{name} has no time limit of its own, and {cut_off} of {episodes} episodes were cut off after {steps} steps; "
        "choose how many with --max-episode-steps (max_episode_steps=)."
    )


def why_not_made(choice: EnvironmentChoice, error: BaseException) -> str:
    """The end of a sentence: what `make` raised, and the fix."""
    reason = re.sub(r" was raised from the environment creator for .*", "", one_line(error, 600)).rstrip(".")
    if not isinstance(error, Exception):
        reason = f"its constructor raised {type(error).__name__} ({reason})"
    backend = os.environ.get("MUJOCO_GL")
    fix = f"; MUJOCO_GL is {backend!r}, is that renderer installed?" if backend and "mujoco" in str(error) else ""
    if "render_mode" in reason:
        return f"{reason} (it cannot be rendered; leave the video out{fix})"
    from gymnasium.error import Error

    if choice.kwargs:
        none = "--env-kwargs '{}'" if isinstance(choice.env, str) else "env_kwargs={}"
        reason = f"{reason}; it was given env_kwargs={dict(choice.kwargs)!r:.300}, and {none} gives none"
    if not (isinstance(choice.env, str) and isinstance(error, Error | ImportError | ValueError)):
        return f"{reason}{fix}"
    return (
        f"{reason} (give a Gymnasium id such as HalfCheetah-v5, module:Name-v0 where a module of yours registers it, "
        f"or none to train without one{fix})"
    )


@contextmanager
def importing_from_here(env: Any) -> Iterator[None]:
    """A module that an id names may lie in the current directory, where `python -m` finds it and a command does not."""
    here = os.getcwd() if isinstance(env, str) and ":" in env else None
    if here is None or here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        with suppress(ValueError):  # what was imported may have changed it
            sys.path.remove(here)
