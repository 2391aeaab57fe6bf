"""What a Gymnasium environment's reset and step return, read strictly: the first as every later one."""

import contextlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Num, Shaped, UInt8

from jaxdt.errors import JaxdtError, one_line


class BadStep(Exception):
    """What an environment returned and should not have."""


def reset(simulator: Any, seed: int) -> Shaped[np.ndarray, "*s"]:
    """The first observation; raises BadStep for what Gymnasium does not allow, and whatever the environment raises."""
    try:
        returned = simulator.reset(seed=seed)
    except (TypeError, ValueError) as error:
        if "unexpected keyword argument" in str(error):
            raise BadStep(f"its reset must take seed and options as keywords ({one_line(error, 200)})") from error
        _not_so_many(error, 2, "its reset must return (observation, info)")
        raise
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
        raise BadStep(f"its reset must return (observation, info); it returned {_described(returned)}")
    return _observation(returned[0], simulator)


def step(simulator: Any, action: Any) -> tuple[Shaped[np.ndarray, "*s"], float, bool, bool, bool | None]:
    """`(observation, reward, terminated, truncated, success)`; raises as `reset` does.

    `success`: what `info` calls `success` or `is_success`, None where it says neither. A discrete action is given as a
    number of Python's own.
    """
    action = int(action) if isinstance(action, np.integer) else action
    rule = "its step must return (observation, reward, terminated, truncated, info)"
    try:
        returned = simulator.step(action)
    except ValueError as error:  # a wrapper takes apart what the environment returned
        _not_so_many(error, 5, rule)
        raise
    if not (isinstance(returned, tuple) and len(returned) == 5):
        raise BadStep(f"{rule}; it returned {_described(returned)}")
    observation, reward, terminated, truncated, info = returned
    flags = _flag(terminated, "terminated"), _flag(truncated, "truncated")
    return _observation(observation, simulator), _reward(reward), *flags, _success(info)


def playable(actions: Num[np.ndarray, "b *a"], space: Any) -> Num[np.ndarray, "b *a"]:
    """A copy that an environment may change in place, within its bounds, which rounding may have passed."""
    if space.dtype.kind != "f":
        return actions.copy()
    return np.clip(actions.astype(space.dtype), space.low, space.high)


def try_out(name: str, simulator: Any, action: Any) -> None:
    """Plays one reset and one step; raises JaxdtError with what is wrong."""
    at = "reset"
    try:
        observation = reset(simulator, 0)
        if np.isfinite(observation).all():
            at = "step"
            observation, reward, *_ = step(simulator, action)
        if not np.isfinite(observation).all() or (at == "step" and not np.isfinite(reward)):
            raise BadStep(f"its {at} returned numbers that are not finite")
    except BadStep as error:
        raise JaxdtError(f"environment {name!r} cannot be played: {error}.") from error
    except (Exception, SystemExit) as error:  # a simulator raises what its authors liked
        raise JaxdtError(
            f"environment {name!r} cannot be played: its {at} raised {type(error).__name__} "
            f"({one_line(error, 300).rstrip('.')})."
        ) from error


def _observation(observation: Any, simulator: Any) -> np.ndarray:
    array, shape = np.asarray(observation), simulator.observation_space.shape
    if array.shape != shape:
        raise BadStep(f"its observation must have the shape of its space, {shape}; got {array.shape}")
    if array.dtype.kind not in "biuf":
        raise BadStep(f"its observation must be numbers; got {observation!r:.60}")
    if array.ndim > 1 and array.dtype == np.bool_:
        return as_bytes(array)
    if array.ndim > 1 and array.dtype != np.uint8:  # all but pictures are vectors
        raise BadStep(f"its pictures must be uint8 as its space says; got {array.dtype}")
    return array


def as_bytes(picture: Bool[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s"]:
    """Of a picture whose channels say what is where, such as MinAtar's, 255 for there and 0 for not there."""
    return picture.astype(np.uint8) * np.uint8(255)


def _reward(reward: Any) -> float:
    """Arrays of one number are numbers too."""
    if isinstance(reward, float | int | np.number):
        return float(reward)
    array = np.asarray(reward)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise BadStep(f"its reward must be one number; got {reward!r:.60}")
    return float(array.reshape(()))


def _flag(flag: Any, name: str) -> bool:
    if isinstance(flag, bool | np.bool_):
        return bool(flag)
    array = np.asarray(flag)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise BadStep(f"its {name} must be true or false; got {flag!r:.60}")
    return bool(array.reshape(()))


def _success(info: Any) -> bool | None:
    """None for what is no answer either."""
    answers = []
    for name in ("success", "is_success") if isinstance(info, dict) else ():
        with contextlib.suppress(Exception):  # of a simulator's own types
            answer = float(np.asarray(info[name], np.float64).reshape(()))
            answers += [answer > 0] if np.isfinite(answer) else []
    return any(answers) if answers else None


def _not_so_many(error: Exception, count: int, rule: str) -> None:
    if f"values to unpack (expected {count}" in str(error):
        raise BadStep(f"{rule}; {one_line(error, 100)}") from error


def _described(returned: Any) -> str:
    if isinstance(returned, tuple):
        return f"{len(returned)} values"
    shape = f" of shape {returned.shape}" if isinstance(returned, np.ndarray) else ""
    return f"{type(returned).__name__}{shape}"
