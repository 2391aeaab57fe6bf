"""Gymnasium's MuJoCo tasks wholly on the device: MuJoCo's physics in JAX (MJX), with no host in the loop."""

import contextlib
import io
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from jaxdt.choice import DEFAULT_LIMIT
from jaxdt.errors import JaxdtError, one_line
from jaxdt.pools.mujoco_tasks import TASKS, Physics
from jaxdt.simulator import action_space, episode_limit, make_simulator
from jaxdt.types import Spec


_TASKS = {env_id: task for env_id, task in TASKS.items() if not task.derived}

CPU_BLOCK = 64
"""Most episodes that a CPU steps at once. The Cholesky factors of many more are shared out among XLA's threads, which
jaxlib 0.10 does from inside these threads: two at a time wait for each other for ever."""


class MjxState(NamedTuple):
    """All that a step depends on; the rest of `mjx.Data`, a hundred arrays, is computed from it in the step."""

    qpos: Float[Array, " q"]
    qvel: Float[Array, " v"]
    qacc_warmstart: Float[Array, " v"]
    """The last accelerations: where the solver begins."""


class MjxEnvironment:
    """One of Gymnasium's MuJoCo tasks as a JaxEnvironment: its model file, observation, reward and end of episode.

    Resets are drawn as widely as Gymnasium's, by jax.random: a seed begins another episode than there. Numbers are
    float32, or float64 where `jax_enable_x64` is on when it is made.

    - `iterations`, `ls_iterations`: at most so many of the constraint solver and of its line search a physics step.
      A batch goes on until its slowest episode has converged, which float32 never does to the model file's 1e-8; the
      file's own 100 and 50 give the same numbers 3.7 times as slowly. With 4 iterations one step of Walker2d in a
      thousand was wrong, by up to 0.03; from 6 on none was.
    """

    def __init__(self, env_id: str, *, iterations: int = 8, ls_iterations: int = 8):
        if env_id not in _TASKS:
            raise JaxdtError(f"mjx: plays {', '.join(sorted(_TASKS))}; got {env_id!r:.80}.")
        self._mjx = _import_mjx()
        self._task: Any = _TASKS[env_id]  # its functions return arrays of the module that they are given
        simulator: Any = make_simulator(env_id)
        self.spec = Spec(observation_shape=simulator.observation_space.shape, action=action_space(simulator))
        self.max_episode_steps = episode_limit(simulator) or DEFAULT_LIMIT
        model = simulator.unwrapped.model
        model.opt.iterations, model.opt.ls_iterations = iterations, ls_iterations
        self._dt = self._task.frame_skip * model.opt.timestep
        # Kept as NumPy's, so that they are constants of whichever device and mesh the rollout is compiled for.
        on_device = self._mjx.put_model(model, impl="jax"), self._mjx.make_data(model, impl="jax")
        self._model, self._data = jax.tree.map(np.asarray, on_device)
        simulator.close()

    def reset(self, key: PRNGKeyArray) -> tuple[MjxState, Float[Array, " s"]]:
        qpos_key, qvel_key = jax.random.split(key)
        scale, still = self._task.reset_noise_scale, jnp.asarray(self._data.qvel)
        noise = jax.random.uniform(qpos_key, self._data.qpos.shape, still.dtype, -scale, scale)
        if self._task.qvel_noise == "normal":
            qvel = scale * jax.random.normal(qvel_key, still.shape, still.dtype)
        else:
            qvel = jax.random.uniform(qvel_key, still.shape, still.dtype, -scale, scale)
        state = MjxState(self._data.qpos + noise, qvel, qacc_warmstart=still)
        return state, self._task.observation(jnp, Physics(state.qpos, state.qvel))

    def step(
        self, state: MjxState, action: Float[Array, " a"]
    ) -> tuple[MjxState, Float[Array, " s"], Float[Array, ""], Bool[Array, ""]]:
        """The time limit is the rollout's, so that nothing is truncated here."""
        task = self._task
        after, _ = jax.lax.scan(
            lambda state, _: (self._physics_step(state, action), None), state, length=task.frame_skip
        )
        began, ended = Physics(state.qpos, state.qvel), Physics(after.qpos, after.qvel)
        reward = task.reward(jnp, began, ended, action, self._dt)
        return after, task.observation(jnp, ended), reward, task.terminated(jnp, ended)

    def _physics_step(self, state: MjxState, action: Float[Array, " a"]) -> MjxState:
        model, data = _on_device(self._model), _on_device(self._data)
        with jax.numpy_rank_promotion("allow"):  # MJX's own code leaves ranks to NumPy's rules
            data = self._mjx.step(model, data.replace(ctrl=action.astype(data.ctrl.dtype), **state._asdict()))
        return MjxState(data.qpos, data.qvel, data.qacc_warmstart)


def _on_device(arrays: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, arrays)


def _import_mjx() -> Any:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where NVIDIA's Warp is not installed it says so, twice
            from mujoco import mjx  # type: ignore[attr-defined]
    except ImportError as error:
        raise JaxdtError(
            f"environments on the device need mujoco-mjx; pip install 'jaxdt[mjx]' ({one_line(error)})."
        ) from error
    return mjx
