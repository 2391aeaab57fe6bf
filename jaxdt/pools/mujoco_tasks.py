"""The rules of Gymnasium's MuJoCo tasks: numbers, and functions of the states of many episodes.

Functions take the array module `xp`, numpy or jax.numpy. In NumPy every result is Gymnasium's own to the last bit: same
operations, same order, same types (the action is float32, and so is what it costs; all else is float64).
"""

import dataclasses
import math
from collections.abc import Mapping
from math import inf
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float


Numbers = Any
"""Arrays of NumPy or of JAX, which is not loaded here."""


class Physics(NamedTuple):
    """What the rules read of many episodes, or of one."""

    qpos: Float[Numbers, "*b q"]
    qvel: Float[Numbers, "*b v"]
    derived: Mapping[str, Float[np.ndarray, "..."]] = MappingProxyType({})
    """Other arrays of MuJoCo's `MjData`, those that the task names. As in Gymnasium they are of the last physics step's
    beginning, and so are the forces of contacts."""
    body_mass: Float[np.ndarray, " body"] | None = None
    """The model's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MujocoTask:
    """One of Gymnasium's classes, as its default arguments make it; a field named like an argument is its value."""

    derived: ClassVar[tuple[str, ...]] = ()
    """What the rules read beside positions and velocities. A task that names any has rules for NumPy alone."""

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

    def observation(self, xp: ModuleType, physics: Physics) -> Float[Numbers, "*b s"]:
        """All but how far it has come."""
        qvel = xp.clip(physics.qvel, -self.velocity_limit, self.velocity_limit)
        return xp.concatenate([physics.qpos[..., 1:], qvel], axis=-1)

    def reward(
        self, xp: ModuleType, before: Physics, after: Physics, action: Float[Numbers, "*b a"], dt: float
    ) -> Float[Numbers, "*b"]:
        """Of one environment step; `dt`: its seconds, the model's timestep times `frame_skip`."""
        forward = (after.qpos[..., 0] - before.qpos[..., 0]) / dt
        ctrl_cost = self.ctrl_cost_weight * xp.sum(xp.square(action), axis=-1)
        if self.pays_fall:
            forward = forward + self.healthy_reward
        elif self.healthy_reward:
            forward = forward + ~self.terminated(xp, after) * self.healthy_reward
        return forward - ctrl_cost

    def terminated(self, xp: ModuleType, physics: Physics) -> Bool[Numbers, "*b"]:
        """Whether the episode ends in this state."""
        qpos, qvel = physics.qpos, physics.qvel
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AntTask(MujocoTask):
    """It also pays for the forces of its contacts, and sees them."""

    derived = ("xpos", "cfrc_ext")
    contact_cost_weight: float = 5e-4
    contact_force_range: tuple[float, float] = (-1.0, 1.0)
    main_body: int = 1

    def observation(self, xp: ModuleType, physics: Physics) -> Float[Numbers, "b s"]:
        forces = _rows(self._forces(xp, physics)[:, 1:])
        return xp.concatenate([physics.qpos[:, 2:], physics.qvel, forces], axis=-1)

    def reward(
        self, xp: ModuleType, before: Physics, after: Physics, action: Float[Numbers, "b a"], dt: float
    ) -> Float[Numbers, " b"]:
        forward = (after.derived["xpos"][:, self.main_body, 0] - before.derived["xpos"][:, self.main_body, 0]) / dt
        earned = forward + ~self.terminated(xp, after) * self.healthy_reward
        ctrl_cost = self.ctrl_cost_weight * xp.sum(xp.square(action), axis=-1)
        return earned - (
            ctrl_cost + self.contact_cost_weight * xp.sum(_rows(xp.square(self._forces(xp, after))), axis=-1)
        )

    def terminated(self, xp: ModuleType, physics: Physics) -> Bool[Numbers, " b"]:
        """Both ends of the heights are healthy."""
        low, high = self.healthy_z_range or (-inf, inf)
        finite = xp.isfinite(physics.qpos).all(axis=1) & xp.isfinite(physics.qvel).all(axis=1)
        return ~(finite & (low <= physics.qpos[:, 2]) & (physics.qpos[:, 2] <= high))

    def _forces(self, xp: ModuleType, physics: Physics) -> Float[Numbers, "b body 6"]:
        return xp.clip(physics.derived["cfrc_ext"], *self.contact_force_range)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _HumanoidTask(MujocoTask):
    """It also sees inertias, velocities and forces of its bodies, and is paid for its centre of mass's way."""

    derived = ("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "ctrl")
    contact_cost_weight: float = 5e-7
    contact_cost_range: tuple[float, float] = (-inf, 10.0)
    forward_reward_weight: float = 1.25

    def observation(self, xp: ModuleType, physics: Physics) -> Float[Numbers, "b s"]:
        derived = physics.derived
        seen = [_rows(derived[name][:, 1:]) for name in ("cinert", "cvel")]
        seen += [derived["qfrc_actuator"][:, 6:], _rows(derived["cfrc_ext"][:, 1:])]
        return xp.concatenate([physics.qpos[:, 2:], physics.qvel, *seen], axis=-1)

    def reward(
        self, xp: ModuleType, before: Physics, after: Physics, action: Float[Numbers, "b a"], dt: float
    ) -> Float[Numbers, " b"]:
        mass = after.body_mass
        assert mass is not None
        ends, starts = (xp.einsum("b,nbj->nj", mass, each.derived["xipos"]) / mass.sum() for each in (after, before))
        forward = self.forward_reward_weight * ((ends[:, 0] - starts[:, 0]) / dt)
        earned = forward + ~self.terminated(xp, after) * self.healthy_reward
        # Of what the simulator holds: nothing where MuJoCo began it anew.
        ctrl_cost = self.ctrl_cost_weight * xp.sum(xp.square(after.derived["ctrl"]), axis=-1)
        contact_cost = self.contact_cost_weight * xp.sum(_rows(xp.square(after.derived["cfrc_ext"])), axis=-1)
        return earned - (ctrl_cost + xp.clip(contact_cost, *self.contact_cost_range))

    def terminated(self, xp: ModuleType, physics: Physics) -> Bool[Numbers, " b"]:
        return ~_inside(physics.qpos[:, 2], self.healthy_z_range or (-inf, inf))


def _rows(values: Float[Numbers, "b *d"]) -> Float[Numbers, "b s"]:
    return values.reshape(len(values), math.prod(values.shape[1:]))  # of no episode too


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

_ANT = _AntTask(
    entry_point="gymnasium.envs.mujoco.ant_v5:AntEnv",
    xml_file="ant.xml",
    frame_skip=5,
    ctrl_cost_weight=0.5,
    reset_noise_scale=0.1,
    qvel_noise="normal",
    healthy_reward=1.0,
    healthy_z_range=(0.2, 1.0),
)
_HUMANOID = _HumanoidTask(
    entry_point="gymnasium.envs.mujoco.humanoid_v5:HumanoidEnv",
    xml_file="humanoid.xml",
    frame_skip=5,
    ctrl_cost_weight=0.1,
    reset_noise_scale=1e-2,
    healthy_reward=5.0,
    healthy_z_range=(1.0, 2.0),
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
    "Ant-v5": _ANT,
    "Humanoid-v5": _HUMANOID,
}
"""By Gymnasium's id."""
