"""The rules of Gymnasium's MuJoCo tasks: numbers, and functions of many episodes' positions and velocities.

Functions take the array module `xp`, numpy or jax.numpy. In NumPy every result is Gymnasium's own to the last bit: same
operations, same order, same types (the action is float32, and so is what it costs; all else is float64).
"""

import dataclasses
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from jaxtyping import Array, Bool, Float


Numbers = np.ndarray | Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class MujocoTask:
    """One of Gymnasium's classes, as its default arguments make it; a field named like an argument is its value."""

    entry_point: str
    """The class, as Gymnasium's registry names it."""
    xml_file: str
    frame_skip: int
    """Physics steps of one environment step."""
    ctrl_cost_weight: float
    velocity_limit: float = inf
    """Observed velocities are clipped to it; the simulator's are not."""

    reset_noise_scale: float
    """Positions begin uniformly within this of the model's own; velocities as `qvel_noise` says."""
    qvel_noise: Literal["uniform", "normal"] = "uniform"
    """Velocities begin within the scale of 0, or have it as their standard deviation."""

    healthy_reward: float = 0.0
    healthy_z_range: tuple[float, float] | None = None
    """Of the height, both ends left out. An episode ends when it, or the angle or state, is outside; None: never."""
    healthy_angle_range: tuple[float, float] = (-inf, inf)
    healthy_state_range: tuple[float, float] | None = None
    """Of every position from the angle on and of every velocity."""
    pays_fall: bool = False
    """Whether the step that ends the episode is paid the healthy reward too, as -v4 does."""

    @property
    def model_path(self) -> Path:
        from gymnasium.envs import mujoco

        return Path(mujoco.__path__[0], "assets", self.xml_file)

    def observation(
        self, xp: ModuleType, qpos: Float[Numbers, "*b q"], qvel: Float[Numbers, "*b v"]
    ) -> Float[Numbers, "*b s"]:
        """All but how far it has come."""
        return xp.concatenate([qpos[..., 1:], xp.clip(qvel, -self.velocity_limit, self.velocity_limit)], axis=-1)

    def reward(
        self,
        xp: ModuleType,
        qpos_before: Float[Numbers, "*b q"],
        qpos: Float[Numbers, "*b q"],
        qvel: Float[Numbers, "*b v"],
        action: Float[Numbers, "*b a"],
        dt: float,
    ) -> Float[Numbers, "*b"]:
        """Of one environment step; `dt`: its seconds, the model's timestep times `frame_skip`."""
        forward = (qpos[..., 0] - qpos_before[..., 0]) / dt
        ctrl_cost = self.ctrl_cost_weight * xp.sum(xp.square(action), axis=-1)
        if self.pays_fall:
            forward = forward + self.healthy_reward
        elif self.healthy_reward:
            forward = forward + ~self.terminated(xp, qpos, qvel) * self.healthy_reward
        return forward - ctrl_cost

    def terminated(
        self, xp: ModuleType, qpos: Float[Numbers, "*b q"], qvel: Float[Numbers, "*b v"]
    ) -> Bool[Numbers, "*b"]:
        """Whether the episode ends in this state."""
        if self.healthy_z_range is None:
            return xp.zeros(qpos.shape[:-1], bool)
        healthy = _inside(qpos[..., 1], self.healthy_z_range) & _inside(qpos[..., 2], self.healthy_angle_range)
        if self.healthy_state_range is not None:
            healthy &= xp.all(_inside(qpos[..., 2:], self.healthy_state_range), axis=-1)
            healthy &= xp.all(_inside(qvel, self.healthy_state_range), axis=-1)
        return ~healthy

    def reset_noise(
        self, generator: np.random.Generator, nq: int, nv: int
    ) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " v"]]:
        """What a reset adds to the model's positions and velocities, drawn as Gymnasium draws it."""
        scale = self.reset_noise_scale
        qpos = generator.uniform(low=-scale, high=scale, size=nq)
        if self.qvel_noise == "normal":
            return qpos, scale * generator.standard_normal(nv)
        return qpos, generator.uniform(low=-scale, high=scale, size=nv)


def _inside(values: Numbers, bounds: tuple[float, float]) -> Numbers:
    """Not where a value is NaN."""
    return (bounds[0] < values) & (values < bounds[1])


_HALF_CHEETAH = MujocoTask(
    entry_point="gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv",
    xml_file="half_cheetah.xml",
    frame_skip=5,
    ctrl_cost_weight=0.1,
    reset_noise_scale=0.1,
    qvel_noise="normal",
)
_HOPPER = MujocoTask(
    entry_point="gymnasium.envs.mujoco.hopper_v5:HopperEnv",
    xml_file="hopper.xml",
    frame_skip=4,
    ctrl_cost_weight=1e-3,
    velocity_limit=10.0,
    reset_noise_scale=5e-3,
    healthy_reward=1.0,
    healthy_z_range=(0.7, inf),
    healthy_angle_range=(-0.2, 0.2),
    healthy_state_range=(-100.0, 100.0),
)
_WALKER = MujocoTask(
    entry_point="gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv",
    xml_file="walker2d_v5.xml",
    frame_skip=4,
    ctrl_cost_weight=1e-3,
    velocity_limit=10.0,
    reset_noise_scale=5e-3,
    healthy_reward=1.0,
    healthy_z_range=(0.8, 2.0),
    healthy_angle_range=(-1.0, 1.0),
)

TASKS = {
    "HalfCheetah-v5": _HALF_CHEETAH,
    "HalfCheetah-v4": dataclasses.replace(
        _HALF_CHEETAH, entry_point="gymnasium.envs.mujoco.half_cheetah_v4:HalfCheetahEnv"
    ),
    "Hopper-v5": _HOPPER,
    "Hopper-v4": dataclasses.replace(_HOPPER, entry_point="gymnasium.envs.mujoco.hopper_v4:HopperEnv", pays_fall=True),
    "Walker2d-v5": _WALKER,
    "Walker2d-v4": dataclasses.replace(
        _WALKER,
        entry_point="gymnasium.envs.mujoco.walker2d_v4:Walker2dEnv",
        xml_file="walker2d.xml",
        pays_fall=True,
    ),
}
"""By Gymnasium's id."""
