"""Gymnasium's environments on the host, behind JAX's ordered callback."""

import contextlib
import copy
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Float, Int, Num, PyTree

from jaxdt.choice import as_choice, no_time_limit
from jaxdt.errors import JaxdtError, SimulationError
from jaxdt.pools.simulators import EpisodeError, Pool, SimulatorPool
from jaxdt.simulator import episode_limit, make_simulator, spec_of
from jaxdt.stepping import playable, try_out
from jaxdt.types import Discrete


class GymnasiumEnvironment:
    """A pool of simulators behind an ordered host callback.

    An ordered callback cannot be vmapped, so the batch lives inside it. The simulators' state stays on the
    host. A callback must not raise into JAX: the first failure is kept, every episode ends at that step, and
    `raise_failure` reports it when the rollout has returned.
    """

    on_device = False

    def __init__(self, environment: Any, make_pool: Callable[[Any, Any], Pool] = SimulatorPool):
        """`environment`: an EnvironmentChoice, or its `env`.

        `make_pool(choice, simulator)`: what is stepped, of one simulator that was made to look at. In it a reset and a
        step are tried; raises JaxdtError with what is wrong.
        """
        choice = as_choice(environment)
        self.name = choice.name
        first: Any = make_simulator(choice)
        self.env_kwargs = choice.kwargs
        self.env_id: str | None = choice.env if isinstance(choice.env, str) else getattr(first.spec, "id", None)
        self.spec = spec_of(first)
        limit = choice.max_episode_steps or episode_limit(first)
        self.max_episode_steps, self._is_limited = limit or choice.default_limit, limit is not None
        self.on_step: Callable[[int], None] = lambda step: None
        self._actions: Any = first.action_space
        try:
            try_out(self.name, first, playable(self._middle()[None], self._actions)[0])
        except JaxdtError:
            first.close()
            raise
        self._pool = make_pool(choice, first)
        self._cut_off = 0
        self._ended = np.zeros((2, 0), bool)  # terminated and truncated, of each episode
        self._step_count = 0
        self._failure: tuple[int, int, str] | None = None
        self.stopped = False
        self._other: GymnasiumEnvironment | None = None

    def reset(self, seeds: Int[Array, " b"]) -> tuple[PyTree, Num[Array, "b *s"]]:
        return (), io_callback(self._reset_on_host, self._observations(len(seeds)), seeds, ordered=True)

    def step(
        self, state: PyTree, action: Num[Array, "b *a"]
    ) -> tuple[PyTree, Num[Array, "b *s"], Float[Array, " b"], Bool[Array, " b"], Bool[Array, " b"]]:
        batch = len(action)
        flags = jax.ShapeDtypeStruct((batch,), bool)
        shapes = (self._observations(batch), jax.ShapeDtypeStruct((batch,), jnp.float32), flags, flags)
        return state, *io_callback(self._step_on_host, shapes, action, ordered=True)

    def _observations(self, batch: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *self.spec.observation_shape), self.spec.observation_dtype)

    def raise_failure(self, name_episode: Callable[[int], str]) -> None:
        """Raises SimulationError if an episode failed; `name_episode(i)` names the batch's episode `i`.

        Warns, once, where episodes were cut off at a limit that nobody named.
        """
        if self._failure is not None:
            index, step, reason = self._failure
            raise SimulationError(f"{self.name}, {name_episode(index)}, step {step}: {reason}.")
        if self._cut_off and not self._is_limited:
            self._is_limited = True  # said once
            limit, episodes = self.max_episode_steps, self._ended.shape[1]
            warnings.warn(no_time_limit(self.name, self._cut_off, episodes, limit), stacklevel=3)

    def try_several(self) -> None:
        """Begins two episodes at once; raises JaxdtError where there can be only one, or a second reset fails."""
        self._reset_on_host(np.arange(2))
        if self._failure is not None:
            raise JaxdtError(f"environment {self.name!r} cannot be played: {self._failure[2]}.")

    @property
    def has_simulators_of_gymnasium(self) -> bool:
        """Whether each episode that is played at once has one of its own, of whatever size its authors made it."""
        return isinstance(self._pool, SimulatorPool)

    @property
    def succeeded(self) -> Bool[np.ndarray, " b"] | None:
        """Of each episode whether it was called a success; None where the simulators say no such thing."""
        return getattr(self._pool, "succeeded", None)

    @property
    def says_success(self) -> bool:
        """Whether the environment ever called an episode a success, or said that it was none."""
        return getattr(self._pool, "says_success", False)

    def another(self, episodes: int) -> "GymnasiumEnvironment | None":
        pool = self._pool.another(episodes)
        if pool is not None and self._other is None:
            self._other = copy.copy(self)
            self._other._pool, self._other.on_step, self._other._failure = pool, lambda step: None, None
            self._other._ended = np.zeros((2, 0), bool)
        return None if pool is None else self._other

    @property
    def failed_at(self) -> int | None:
        return None if self._failure is None else self._failure[1]

    def close(self) -> None:
        """The next reset may make new simulators."""
        self._pool.close()
        if self._other is not None:
            self._other.close()

    def _reset_on_host(self, seeds: Any) -> np.ndarray:
        seeds = np.asarray(seeds)
        observations = np.zeros((len(seeds), *self.spec.observation_shape), self.spec.observation_dtype)
        self._failure, self._step_count, self._cut_off = None, 0, 0
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
        actions = playable(np.asarray(actions), self._actions)
        observations = np.zeros((len(actions), *self.spec.observation_shape), self.spec.observation_dtype)
        rewards = np.zeros(len(actions), np.float32)
        self._ended[0] |= self.stopped
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
        if self._step_count < self.max_episode_steps:
            self._step_count += 1
            if self._step_count == self.max_episode_steps:
                self._cut_off = int((~self._ended.any(axis=0)).sum())
        with contextlib.suppress(Exception):  # a display that is gone must not stop the episodes
            self.on_step(self._step_count)
        ended: Any = self._ended.copy()
        return observations, rewards, ended[0], ended[1]

    def _middle(self) -> Num[np.ndarray, " *a"]:
        """Of the action space."""
        space = self.spec.action
        return np.asarray(space.start if isinstance(space, Discrete) else (space.low + space.high) / 2)

    def _unusable(self, actions: np.ndarray) -> Bool[np.ndarray, " b"]:
        """A discrete policy whose logits are not finite gives a number below the first.

        None beyond the last may pass either: ALE would wait for it for ever.
        """
        space = self.spec.action
        if isinstance(space, Discrete):
            return (actions < space.start) | (actions >= space.start + space.n)
        unusable: Any = ~np.isfinite(actions).all(axis=1)
        return unusable

    def _fail(self, index: int, reason: str) -> None:
        if self._failure is None:
            self._failure = (index, self._step_count, reason)
        self._ended[0] = True


def _rows_are_finite(observations: Num[np.ndarray, "b *s"]) -> Bool[np.ndarray, " b"]:
    if observations.dtype.kind != "f":
        return np.ones(len(observations), bool)
    finite: Any = np.isfinite(observations.reshape(len(observations), -1)).all(axis=1)
    return finite
