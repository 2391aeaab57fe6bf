"""Gymnasium environments, made quietly and checked. Loads gymnasium and mujoco when used, never jax."""

import logging
import os
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdt.errors import JaxdtError, one_line
from jaxdt.types import Box, Discrete


if TYPE_CHECKING:
    import gymnasium


MJX = "mjx:"
"""Before a Gymnasium id: that task on the device, with MuJoCo's physics in JAX."""


def make_simulator(env_id: str, *, render: bool = False) -> "gymnasium.Env":
    """A Gymnasium environment with a vector observation, and a vector or one whole number as action.

    Raises JaxdtError for an unknown environment or one whose spaces we do not support.
    """
    import gymnasium

    if env_id.startswith(MJX):
        raise JaxdtError(f"{env_id} is for evaluation only; a simulator is made of {gymnasium_id(env_id)}.")
    _quieten_mujoco()
    if render:
        _choose_renderer()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            simulator = gymnasium.make(
                env_id,
                render_mode="rgb_array" if render else None,
                disable_env_checker=True,  # it costs a tenth of a MuJoCo step
            )
    except Exception as error:  # an environment's constructor raises what its authors liked
        backend = os.environ.get("MUJOCO_GL")
        fix = f"; MUJOCO_GL is {backend!r}, is that renderer installed?" if backend and "mujoco" in str(error) else ""
        raise JaxdtError(
            f"environment {env_id!r} cannot be made: {one_line(error)} "
            f"(give a Gymnasium id such as HalfCheetah-v5{fix})."
        ) from error
    _check_spaces(env_id, simulator)
    if render:
        _follow_the_body(simulator)
    return simulator


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


def episode_limit(simulator: "gymnasium.Env") -> int:
    """Environment steps after which an episode is cut off; 1000 where the environment names none."""
    return getattr(simulator.spec, "max_episode_steps", None) or 1000


def gymnasium_id(env_id: str) -> str:
    """What Gymnasium calls it, without `mjx:`: where scores are looked up, and what others know."""
    return env_id.removeprefix(MJX)


def is_plain_env_id(env_id: str) -> bool:
    """Whether an id names a registered environment only, and no module to import (`module:Name-v0`); `mjx:` is none.

    What a file says must pass this; what a user types need not.
    """
    return re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", gymnasium_id(env_id)) is not None


def checked_env_id(value: Any, where: str) -> str:
    """The environment id that a file gives; raises JaxdtError, which begins with `where`, for one that is not plain."""
    if not isinstance(value, str) or not is_plain_env_id(value):
        raise JaxdtError(f"{where}: env_id must be a Gymnasium id such as HalfCheetah-v5; got {value!r:.80}.")
    return value


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
    if not isinstance(observation, spaces.Box) or len(observation.shape) != 1:
        raise JaxdtError(
            f"environment {env_id!r} must have a vector of observations; got {observation} "
            "(gymnasium.wrappers.FlattenObservation makes one)."
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
