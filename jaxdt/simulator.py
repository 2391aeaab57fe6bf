"""Gymnasium environments, made quietly and checked. Loads gymnasium, mujoco and ale_py when used, never jax."""

import importlib
import json
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from jaxdt.choice import as_choice, importing_from_here, make, why_not_made
from jaxdt.errors import JaxdtError
from jaxdt.games import GAMES, game_of
from jaxdt.types import Box, Discrete, Spec


if TYPE_CHECKING:
    import gymnasium


MJX = "mjx:"
"""Before a Gymnasium id: that task on the device, with MuJoCo's physics in JAX."""


def make_simulator(environment: Any, *, render: bool = False) -> "gymnasium.Env":
    """A Gymnasium environment with a vector or picture as observation, and a vector or one whole number as action.

    A picture is a Box of bytes or of truth values, of 2 or 3 dimensions; the observation of an Atari game's id is a
    single grey frame (see `jaxdt.atari.AtariGame`).
    `environment`: an EnvironmentChoice, or its `env`. An object of an environment is made anew from its spec, unless
    episodes are played one by one. Boxes of other shapes, and Dict and Tuple of Boxes, are flattened in the order of
    `gymnasium.spaces.flatten`. Raises JaxdtError for what cannot be made, or has spaces that we do not support.
    """
    choice = as_choice(environment)
    if isinstance(choice.env, str) and choice.env.startswith(MJX):
        raise JaxdtError(f"{choice.env} is for evaluation only; a simulator is made of {gymnasium_id(choice.env)}.")
    _quieten_mujoco()
    if render:
        _choose_renderer()
    importlib.import_module("gymnasium")  # which sets filters of its own for warnings, and must not after ours
    try:
        with warnings.catch_warnings(), importing_from_here(choice.env):
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", ".*(Using the latest versioned environment|render_mode)")
            simulator = make(choice, render=render)
    except JaxdtError:
        raise
    except (Exception, SystemExit) as error:  # an environment's constructor raises what its authors liked
        raise JaxdtError(f"environment {choice.name!r} cannot be made: {why_not_made(choice, error)}.") from error
    simulator = _with_a_vector(simulator)
    _check_spaces(choice.name, simulator)
    if render:
        _follow_the_body(simulator)
    return simulator


def _with_a_vector(simulator: "gymnasium.Env") -> "gymnasium.Env":
    from gymnasium import spaces
    from gymnasium.wrappers import FlattenObservation

    def is_of_boxes(space: Any) -> bool:
        if isinstance(space, spaces.Dict | spaces.Tuple):
            parts = space.values() if isinstance(space, spaces.Dict) else space
            return bool(len(space)) and all(map(is_of_boxes, parts))
        return isinstance(space, spaces.Box) and not (len(space.shape) == 3 and space.dtype == np.uint8)  # no pictures

    space = simulator.observation_space
    is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1
    if is_vector or _is_picture(space) or not is_of_boxes(space):
        return simulator
    if not _is_by_name(space):
        warnings.warn(
            f"the environment's observations have parts in another order than that of their names: {space!s:.200}. "
            "They become a vector in its order, and the parts of dicts in data do by name: give data as vectors in its "
            "order, or make its Dict of one dict, whose names it sorts.",
            stacklevel=5,
        )
    return FlattenObservation(simulator)


def _is_by_name(space: Any) -> bool:
    """As the parts of data are that are dicts."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return list(space) == sorted(space) and all(map(_is_by_name, space.values()))
    return all(map(_is_by_name, space)) if isinstance(space, spaces.Tuple) else True


def _is_picture(space: Any) -> bool:
    from gymnasium import spaces

    return isinstance(space, spaces.Box) and space.dtype in (np.uint8, np.bool_) and len(space.shape) in (2, 3)


def _follow_the_body(simulator: "gymnasium.Env") -> None:
    """Looks through the model's `track` camera where it has one; Gymnasium's own stays behind at the start."""
    renderer: Any = getattr(simulator.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        import mujoco  # type: ignore[import-untyped]

        camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")  # type: ignore[attr-defined]
        if camera >= 0:
            renderer.camera_id = camera


def action_space(simulator: "gymnasium.Env") -> Box | Discrete:
    """The actions that it takes; where unbounded, [-1, 1], or two wide from the bound there is."""
    from gymnasium import spaces

    space: Any = simulator.action_space
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    low = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 2, -1))
    return Box(low, np.where(np.isfinite(high), high, low + 2))


def spec_of(simulator: "gymnasium.Env") -> Spec:
    """What it fixes: pictures are bytes, all other observations are float32 vectors."""
    space: Any = simulator.observation_space
    dtype = "uint8" if _is_picture(space) else "float32"
    return Spec(observation_shape=space.shape, observation_dtype=dtype, action=action_space(simulator))


def episode_limit(simulator: "gymnasium.Env") -> int | None:
    """Environment steps after which an episode is cut off; None where the environment names none."""
    from gymnasium.wrappers import TimeLimit

    wrapper: Any = simulator
    while wrapper is not None:  # also in environments that gymnasium.make has not made
        if isinstance(wrapper, TimeLimit):
            return wrapper._max_episode_steps
        wrapper = getattr(wrapper, "env", None)
    return getattr(simulator.spec, "max_episode_steps", None)


def gymnasium_id(env_id: str) -> str:
    """What Gymnasium calls it, without `mjx:`: where scores are looked up, and what others know."""
    return env_id.removeprefix(MJX)


def with_version(env_id: str) -> str:
    """The newest version of a registered id without one; any other id as it is.

    Of `module:Name`, which only a user may say, the module is imported, as making the environment does.
    """
    module, _, name = gymnasium_id(env_id).rpartition(":")
    if re.search(r"-v\d+$", name):
        return env_id
    from gymnasium.envs.registration import find_highest_version, registry

    if module:
        with importing_from_here(env_id), suppress(Exception, SystemExit):  # making it says what is wrong
            importlib.import_module(module)
    namespace, _, last = name.rpartition("/")
    newest = None if name in registry else find_highest_version(namespace or None, last)
    if newest is None and (name in GAMES or game_of(name) is not None):  # which ale_py registers when it is loaded
        newest = 5 if namespace else 4
    return env_id if newest is None else f"{env_id}-v{newest}"


def is_registered(env_id: str) -> bool:
    """Whether Gymnasium knows the id, once the module that it names has been imported."""
    from gymnasium.envs.registration import registry

    return registered_id(env_id) in registry


def registered_id(env_id: str) -> str:
    """Without the module that registers it and without `mjx:`: what may stand in a file."""
    return env_id.rpartition(":")[2]


def identity(env_id: str) -> str:
    """The same for every way to write an environment's id, `mjx:` or not; imports nothing that an id names.

    Of an Atari game there is one environment, whatever its id.
    """
    versioned = with_version(registered_id(env_id))
    game = game_of(versioned)
    return versioned if game is None else f"ALE/{game}-v5"


def is_plain_env_id(env_id: Any) -> TypeGuard[str]:
    """Whether a value names a registered environment only, and no module to import (`module:Name-v0`); `mjx:` is none.

    What a file says must pass this; what a user types need not.
    """
    return isinstance(env_id, str) and re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", gymnasium_id(env_id)) is not None


def are_plain_kwargs(kwargs: Any) -> bool:
    """Whether keyword arguments are numbers, words and lists of such, and name neither a path nor a module within one.

    What a file says must pass this; what a user types need not.
    """
    if isinstance(kwargs, dict):
        return all(map(are_plain_kwargs, [*kwargs, *kwargs.values()]))
    if isinstance(kwargs, list):
        return all(map(are_plain_kwargs, kwargs))
    return re.fullmatch(r"[\w -]*", kwargs) is not None if isinstance(kwargs, str) else True


def flags_of(env: str, kwargs: Mapping[str, Any] | None) -> str:
    """What to type to be given that environment."""
    given = f" --env-kwargs {shlex.quote(json.dumps(dict(kwargs)))}" if kwargs else ""
    return f"--env {shlex.quote(env)}{given}"


def checked_env_id(value: Any, where: str) -> str:
    """The environment id that a file gives; raises JaxdtError, which begins with `where`, for one that is not plain."""
    if not is_plain_env_id(value):
        raise JaxdtError(f"{where}: env_id must be a Gymnasium id such as HalfCheetah-v5; got {value!r:.80}.")
    return value


def checked_env_kwargs(text: str, env_id: str | None, where: str) -> dict[str, Any] | None:
    """The keyword arguments that a file gives as JSON; None, with a warning, where they are not plain.

    Raises JaxdtError, which begins with `where`, for what is no JSON object.
    """
    try:
        kwargs = json.loads(text)
    except (ValueError, RecursionError):
        kwargs = None
    if not isinstance(kwargs, dict):
        raise JaxdtError(f"{where}: env_kwargs must be a JSON object such as {{}}; got {text!r:.80}.")
    if are_plain_kwargs(kwargs) and not kwargs.keys() & _NOT_OF_A_FILE and _is_limit(kwargs.get("max_episode_steps")):
        return kwargs or None
    warnings.warn(
        f"{where} was recorded with keyword arguments that a file may not give (a path to open, how it is shown, an "
        f"endless episode); to evaluate in the same, give {flags_of(env_id or 'ID', kwargs)} if you trust it.",
        stacklevel=4,
    )
    return None


_NOT_OF_A_FILE = {"id", "render_mode", "disable_env_checker", "vectorization_mode"}
"""Of `gymnasium.make` itself; how an environment is shown is not what was recorded."""


def _is_limit(steps: Any) -> bool:
    return steps is None or (type(steps) is int and (steps == -1 or 1 <= steps < 2**24))


def _check_spaces(env_id: str, simulator: "gymnasium.Env") -> None:
    from gymnasium import spaces

    action, observation = simulator.action_space, simulator.observation_space
    if isinstance(action, spaces.MultiDiscrete | spaces.MultiBinary):
        raise JaxdtError(
            f"environment {env_id!r} has several discrete actions a step ({action}); make them one Discrete of all "
            "their combinations with a gymnasium.ActionWrapper."
        )
    if not isinstance(action, spaces.Discrete) and not (isinstance(action, spaces.Box) and len(action.shape) == 1):
        raise JaxdtError(f"environment {env_id!r} must have a vector of continuous actions or Discrete; got {action}.")
    if _is_picture(observation):
        return
    if isinstance(observation, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise JaxdtError(
            f"environment {env_id!r} has discrete observations ({observation}); gymnasium.wrappers.FlattenObservation "
            "makes one vector of them, a 1 among 0s: register it so wrapped, or give a function that makes it (env=), "
            "and record the data so."
        )
    if not isinstance(observation, spaces.Box) or len(observation.shape) != 1:
        raise JaxdtError(
            f"environment {env_id!r} must have a vector of observations, Boxes that gymnasium.spaces.flatten makes one "
            f"of, or one picture, a Box of uint8 or bool of 2 or 3 dimensions; got {observation}."
        )


def _quieten_mujoco() -> None:
    """Drops MuJoCo's `settotalmass` deprecation, and with it MUJOCO_LOG.TXT; passes every other message on."""
    try:
        import mujoco  # type: ignore[import-untyped]
    except Exception:  # absent, or MUJOCO_GL names a renderer that is; making the environment says which
        return
    if mujoco.get_mju_user_warning() is None:  # type: ignore[attr-defined]
        mujoco.set_mju_user_warning(_pass_warning_on)  # type: ignore[attr-defined]


def _pass_warning_on(message: Any) -> None:
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    if "settotalmass" in text:
        return
    try:
        warnings.warn(f"MuJoCo: {text}", RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        # Where warnings are errors: an exception out of MuJoCo's callback would abort the process.
        logging.getLogger("jaxdt").warning("MuJoCo: %s", text)


def _choose_renderer() -> None:
    """On a machine without a display, renders through EGL unless MUJOCO_GL says otherwise."""
    headless = sys.platform == "linux" and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY")
    if headless and "MUJOCO_GL" not in os.environ:
        from ctypes.util import find_library

        os.environ["MUJOCO_GL"] = "egl" if find_library("EGL") else "osmesa"


def usable_cores() -> int:
    """What a container or taskset leaves to this process, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
