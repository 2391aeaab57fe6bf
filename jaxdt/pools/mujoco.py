"""MuJoCo simulations stepped on all cores, where that is proved to give Gymnasium's own numbers. Loads no jax."""

import copy
import inspect
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdt.pools.mujoco_tasks import TASKS, MujocoTask, Physics
from jaxdt.pools.simulators import EpisodeError
from jaxdt.simulator import usable_cores


_PROOF_STEPS = 40
"""Of random actions; Hopper and Walker2d fall before."""

_LEAST_HALF = 8
"""Fewest simulations of a half that is worth a thread: two of eight made a quarter more steps a second than sixteen
where the policy reads whole windows, and as many from kept keys and values."""

_TASKS_BY_CLASS = {task.entry_point: task for task in TASKS.values()}


class MujocoPool:
    """Simulations of one model on the thread pool of `mujoco.batch`, by the rules of a task.

    - `simulator`: Gymnasium's, unwrapped, whose model it is; it is not stepped.
    - `limit`: environment steps after which an episode is truncated.
    """

    together = True

    def __init__(self, task: MujocoTask, simulator: Any, limit: int, threads: int | None = None):
        self._task, self._model, self._dt, self._limit = task, simulator.model, simulator.dt, limit
        self._threads = threads or usable_cores()
        self._batch: Any = None
        self._qpos: Any = None  # (b, q), and below (b, v) and (b, a): the simulations' own, written and read in place
        self._qvel: Any = None
        self._ctrl: Any = None
        self._derived: dict[str, np.ndarray] = {}  # the task's, of all simulations (b, ...)
        self._data: Any = None  # where a simulation is looked at
        self._steps = 0

    def reset(self, seeds: Int[np.ndarray, " b"], observations: Float[np.ndarray, "b *s"]) -> None:
        try:
            self._reset(seeds, observations)
        except Exception as error:
            raise _blamed(error, 0) from error

    def _reset(self, seeds: np.ndarray, observations: np.ndarray) -> None:
        from gymnasium.utils.seeding import np_random
        from mujoco import mjtStage  # type: ignore[import-untyped]
        from mujoco.batch import Batch  # type: ignore[import-untyped]

        if self._batch is None or self._batch.nsim != len(seeds):
            threads, whole = min(self._threads, len(seeds)), bool(self._task.derived)
            self._batch = batch = Batch(self._model, len(seeds), threads, persistent=whole)
            self._qpos, self._qvel, self._ctrl = batch.bind("qpos"), batch.bind("qvel"), batch.bind("ctrl")
        # As Gymnasium does it, whose forward may leave the solver a guess (that of MuJoCo 4.0 leaves none).
        self._batch.reset(stage=mjtStage.mjSTAGE_NONE.value)
        for i, seed in enumerate(seeds):
            qpos, qvel = self._task.reset_noise(np_random(int(seed))[0], self._model.nq, self._model.nv)
            self._qpos[i] += qpos
            self._qvel[i] += qvel
        self._batch.forward()
        self._steps = 0
        if self._task.derived:
            data = self._batch.get_data(0)
            shapes = {name: getattr(data, name).shape for name in self._task.derived}
            self._derived = {name: np.zeros((len(seeds), *shape)) for name, shape in shapes.items()}
        everyone = np.arange(len(seeds))
        self._derive(everyone)
        observations[:] = self._task.observation(np, self._physics(everyone))

    def step(
        self,
        alive: Int[np.ndarray, " alive"],
        actions: Float[np.ndarray, "b a"],
        observations: Float[np.ndarray, "b *s"],
        rewards: Float[np.ndarray, " b"],
        ended: Bool[np.ndarray, "2 b"],
    ) -> None:
        self._steps += 1
        try:
            before, actions = self._physics(alive), actions[alive]
            self._ctrl[alive] = actions
            self._batch.step(alive, nstep=self._task.frame_skip)
            self._derive(alive, forces=True)
            after = self._physics(alive)
            with np.errstate(over="ignore", invalid="ignore"):  # who asks looks for what is not finite
                observations[alive] = self._task.observation(np, after)
                rewards[alive] = self._task.reward(np, before, after, actions, self._dt)
            ended[0, alive] = self._task.terminated(np, after)
            ended[1, alive] = self._steps >= self._limit
        except Exception as error:
            raise _blamed(error, next(iter(alive.tolist()), 0)) from error

    def _physics(self, ids: Int[np.ndarray, " ids"]) -> Physics:
        derived = {name: values[ids] for name, values in self._derived.items()}
        return Physics(self._qpos[ids], self._qvel[ids], derived, self._model.body_mass)

    def _derive(self, ids: Int[np.ndarray, " ids"], *, forces: bool = False) -> None:
        """Fills `_derived`, one simulation after the other; `forces`: those of contacts are computed before."""
        if not self._derived:
            return
        import mujoco  # type: ignore[import-untyped]

        if self._data is None:
            self._data = mujoco.MjData(self._model)  # type: ignore[attr-defined]
        for i in ids.tolist():
            self._batch.get_data(i, self._data)
            if forces:
                mujoco.mj_rnePostConstraint(self._model, self._data)  # type: ignore[attr-defined]
            for name, values in self._derived.items():
                values[i] = getattr(self._data, name)

    def another(self, episodes: int) -> "MujocoPool | None":
        if episodes < _LEAST_HALF:
            return None
        other = copy.copy(self)
        other.close()  # its simulations are its own
        return other

    def close(self) -> None:
        self._batch = self._qpos = self._qvel = self._ctrl = self._data = None
        self._derived = {}


def _blamed(error: Exception, episode: int) -> EpisodeError:
    """On the first simulation that MuJoCo names; `episode` where it names none."""
    ids = getattr(error, "ids", [])
    return EpisodeError(int(ids[0]) if len(ids) else episode, error)


def proved_pool(simulator: Any) -> MujocoPool | None:
    """MuJoCo's threads where one of them repeats this simulator's numbers bit for bit.

    None where anything differs, or keeps it from being tried: an older mujoco, callbacks in Python, ...
    """
    task = _task_of(simulator)
    if task is None:
        return None
    try:
        if not _has_the_settings_of(task, simulator.unwrapped):
            return None
        pool = MujocoPool(task, simulator.unwrapped, simulator.spec.max_episode_steps)
        same = _plays_alike(simulator, pool)
        pool.close()
    except Exception:
        return None
    return pool if same else None


def _task_of(simulator: Any) -> MujocoTask | None:
    """Of exactly Gymnasium's own class, in no other wrappers than it makes itself and cut at one time limit."""
    from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

    wrappers, inner = [], simulator
    while inner is not simulator.unwrapped:
        wrappers.append(type(inner))
        inner = inner.env
    if [kind for kind in wrappers if kind not in (OrderEnforcing, PassiveEnvChecker)] != [TimeLimit]:
        return None
    return _TASKS_BY_CLASS.get(f"{type(inner).__module__}:{type(inner).__qualname__}")


def _has_the_settings_of(task: MujocoTask, simulator: Any) -> bool:
    """Whether what the simulator keeps of its arguments is the task's, or where it names none their default.

    A few steps would not tell: a robot need not come near the ends of what is healthy.
    """
    if simulator.fullpath != str(task.model_path):
        return False
    for name, parameter in inspect.signature(type(simulator).__init__).parameters.items():
        wanted = getattr(task, name, parameter.default)
        if getattr(simulator, f"_{name}", getattr(simulator, name, wanted)) != wanted:
            return False
    return True


def _plays_alike(simulator: Any, pool: MujocoPool) -> bool:
    """Whether a reset and steps of random actions give the very same bits, until the episode ends."""
    space = simulator.action_space
    actions = np.random.default_rng(0).uniform(space.low, space.high, (_PROOF_STEPS, *space.shape)).astype(np.float32)
    observations = np.zeros((1, *simulator.observation_space.shape))
    rewards, ended, alive = np.zeros(1), np.zeros((2, 1), bool), np.arange(1)
    wanted = simulator.reset(seed=0)[0]
    pool.reset(np.zeros(1, int), observations)
    if observations[0].tobytes() != wanted.tobytes():
        return False
    for action in actions:
        observation, *others, _ = simulator.step(action)
        pool.step(alive, action[None], observations, rewards, ended)
        if observations[0].tobytes() != observation.tobytes() or others != [rewards[0], *ended[:, 0]]:
            return False
        if ended.any():
            break
    return True
