"""Gymnasium's environments on the host, behind JAX's ordered callback."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Float, Int, Num, PyTree

from jaxdt.errors import SimulationError
from jaxdt.evaluation.environments.pools import EpisodeError, Pool, SimulatorPool
from jaxdt.simulator import action_space, episode_limit, make_simulator
from jaxdt.types import Discrete, Spec


class GymnasiumEnvironment:
    """A pool of simulators behind an ordered host callback.

    An ordered callback cannot be vmapped, so the batch lives inside it. The simulators' state stays on the
    host. A callback must not raise into JAX: the first failure is kept, every episode ends at that step, and
    `raise_failure` reports it when the rollout has returned.
    """

    def __init__(self, env_id: str, make_pool: Callable[[str, Any], Pool] = SimulatorPool):
        """`make_pool(env_id, simulator)`: what is stepped, of one simulator that was made to look at."""
        self.name = env_id
        self.env_id: str | None = env_id
        first: Any = make_simulator(env_id)
        self.spec = Spec(observation_shape=first.observation_space.shape, action=action_space(first))
        self.max_episode_steps = episode_limit(first)
        self.on_step: Callable[[int], None] = lambda step: None
        self._pool = make_pool(env_id, first)
        self._ended = np.zeros((2, 0), bool)  # terminated and truncated, of each episode
        self._step_count = 0
        self._failure: tuple[int, int, str] | None = None

    def reset(self, seeds: Int[Array, " b"]) -> tuple[PyTree, Float[Array, "b *s"]]:
        return (), io_callback(self._reset_on_host, self._observations(len(seeds)), seeds, ordered=True)

    def step(
        self, state: PyTree, action: Num[Array, "b *a"]
    ) -> tuple[PyTree, Float[Array, "b *s"], Float[Array, " b"], Bool[Array, " b"], Bool[Array, " b"]]:
        batch = len(action)
        flags = jax.ShapeDtypeStruct((batch,), bool)
        shapes = (self._observations(batch), jax.ShapeDtypeStruct((batch,), jnp.float32), flags, flags)
        return state, *io_callback(self._step_on_host, shapes, action, ordered=True)

    def _observations(self, batch: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *self.spec.observation_shape), jnp.float32)

    def raise_failure(self, name_episode: Callable[[int], str]) -> None:
        """Raises SimulationError if an episode failed; `name_episode(i)` names the batch's episode `i`."""
        if self._failure is not None:
            index, step, reason = self._failure
            raise SimulationError(f"{self.name}, {name_episode(index)}, step {step}: {reason}.")

    def close(self) -> None:
        """The next reset makes new simulators."""
        self._pool.close()

    def _reset_on_host(self, seeds: Any) -> np.ndarray:
        seeds = np.asarray(seeds)
        observations = np.zeros((len(seeds), *self.spec.observation_shape), np.float32)
        self._failure, self._step_count = None, 0
        self._ended = np.zeros((2, len(seeds)), bool)
        try:
            self._pool.reset(seeds, observations)
        except EpisodeError as error:
            self._fail(error.episode, str(error))
        bad = ~_rows_are_finite(observations)
        if bad.any():
            self._fail(int(bad.argmax()), "the environment's first observation is not finite")
        return observations

    def _step_on_host(self, actions: Any) -> tuple[Any, ...]:
        actions = np.asarray(actions)
        observations = np.zeros((len(actions), *self.spec.observation_shape), np.float32)
        rewards = np.zeros(len(actions), np.float32)
        alive = np.flatnonzero(~self._ended.any(axis=0))
        # Each check of the whole batch at once: NumPy is slow at few numbers.
        unusable = self._unusable(actions[alive])
        if unusable.any():
            self._fail(int(alive[unusable.argmax()]), "the policy's action is not finite")
        else:
            try:
                self._pool.step(alive, actions, observations, rewards, self._ended)
            except EpisodeError as error:
                self._fail(error.episode, str(error))
        bad = ~(_rows_are_finite(observations) & np.isfinite(rewards))
        if bad.any():
            observations[bad], rewards[bad] = 0, 0
            self._fail(int(bad.argmax()), "the environment's observation or reward is not finite")
        self._step_count = min(self._step_count + 1, self.max_episode_steps)
        with contextlib.suppress(Exception):  # a display that is gone must not stop the episodes
            self.on_step(self._step_count)
        ended: Any = self._ended.copy()
        return observations, rewards, ended[0], ended[1]

    def _unusable(self, actions: np.ndarray) -> Bool[np.ndarray, " b"]:
        """A discrete policy whose logits are not finite gives a number below the first."""
        space = self.spec.action
        unusable: Any = actions < space.start if isinstance(space, Discrete) else ~np.isfinite(actions).all(axis=1)
        return unusable

    def _fail(self, index: int, reason: str) -> None:
        if self._failure is None:
            self._failure = (index, self._step_count, reason)
        self._ended[0] = True


def _rows_are_finite(observations: Float[np.ndarray, "b *s"]) -> Bool[np.ndarray, " b"]:
    finite: Any = np.isfinite(observations.reshape(len(observations), -1)).all(axis=1)
    return finite
