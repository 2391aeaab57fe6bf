"""Environments as the rollout sees them: pure functions over a batch of episodes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxdt.errors import SimulationError, one_line
from jaxdt.simulator import episode_limit, make_simulator


@runtime_checkable
class Environment(Protocol):
    """A batch of episodes. `done` = terminated or truncated; what follows `done` is ignored."""

    max_episode_steps: int
    state_dim: int
    action_dim: int

    def reset(self, seeds: Int[Array, " b"]) -> tuple[PyTree, Float[Array, "b s"]]:
        """`(state, observation)`; episode `i` depends on `seeds[i]` alone."""
        ...

    def step(
        self, state: PyTree, action: Float[Array, "b a"]
    ) -> tuple[PyTree, Float[Array, "b s"], Float[Array, " b"], Bool[Array, " b"]]:
        """`(state, observation, reward, done)`."""
        ...


@runtime_checkable
class JaxEnvironment(Protocol):
    """What a user writes: one episode, in pure JAX."""

    max_episode_steps: int
    state_dim: int
    action_dim: int

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, Float[Array, " s"]]: ...

    def step(
        self, state: PyTree, action: Float[Array, " a"]
    ) -> tuple[PyTree, Float[Array, " s"], Float[Array, ""], Bool[Array, ""]]: ...


class VectorizedEnvironment:
    """A JaxEnvironment over a batch; seed `i` becomes `jax.random.key(i)`.

    What the environment raises while it is traced leaves as SimulationError.
    """

    def __init__(self, environment: JaxEnvironment):
        self._name = type(environment).__name__
        self.max_episode_steps = environment.max_episode_steps
        self.state_dim = environment.state_dim
        self.action_dim = environment.action_dim
        self._reset = jax.vmap(lambda seed: environment.reset(jax.random.key(seed)))
        self._step = jax.vmap(environment.step)

    def reset(self, seeds: Int[Array, " b"]) -> tuple[PyTree, Float[Array, "b s"]]:
        with self._named():
            return self._reset(seeds)

    def step(
        self, state: PyTree, action: Float[Array, "b a"]
    ) -> tuple[PyTree, Float[Array, "b s"], Float[Array, " b"], Bool[Array, " b"]]:
        with self._named():
            return self._step(state, action)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a user's code raises what it likes
            raise SimulationError(f"{self._name} raised {type(error).__name__}: {one_line(error, 300)}") from error


class GymnasiumEnvironment:
    """Gymnasium simulators behind an ordered host callback.

    An ordered callback cannot be vmapped, so the batch lives inside it. The simulators' state stays on the
    host. A callback must not raise into JAX: the first failure is kept, every episode ends at that step, and
    `raise_failure` reports it when the rollout has returned.
    """

    def __init__(self, env_id: str, on_step: Callable[[int], None] = lambda step: None):
        """`on_step(step)` is called on the host after every environment step of the batch."""
        self._env_id = env_id
        self._simulators: list[Any] = [make_simulator(env_id)]
        first = self._simulators[0]
        self.state_dim = first.observation_space.shape[0]
        self.action_dim = first.action_space.shape[0]
        self.max_episode_steps = episode_limit(first)
        self.on_step = on_step
        self._done = np.zeros(0, bool)
        self._step_count = 0
        self._failure: tuple[int, int, str] | None = None

    def reset(self, seeds: Int[Array, " b"]) -> tuple[PyTree, Float[Array, "b s"]]:
        observation = jax.ShapeDtypeStruct((seeds.shape[0], self.state_dim), jnp.float32)
        return (), io_callback(self._reset_on_host, observation, seeds, ordered=True)

    def step(
        self, state: PyTree, action: Float[Array, "b a"]
    ) -> tuple[PyTree, Float[Array, "b s"], Float[Array, " b"], Bool[Array, " b"]]:
        b = action.shape[0]
        shapes = (
            jax.ShapeDtypeStruct((b, self.state_dim), jnp.float32),
            jax.ShapeDtypeStruct((b,), jnp.float32),
            jax.ShapeDtypeStruct((b,), bool),
        )
        return state, *io_callback(self._step_on_host, shapes, action, ordered=True)

    def raise_failure(self, name_episode: Callable[[int], str]) -> None:
        """Raises SimulationError if an episode failed; `name_episode(i)` names the batch's episode `i`."""
        if self._failure is not None:
            index, step, reason = self._failure
            raise SimulationError(f"{self._env_id}, {name_episode(index)}, step {step}: {reason}.")

    def close(self) -> None:
        """The next reset makes new simulators."""
        while self._simulators:
            self._simulators.pop().close()

    def _reset_on_host(self, seeds: Any) -> np.ndarray:
        seeds = np.asarray(seeds)
        observations = np.zeros((len(seeds), self.state_dim), np.float32)
        self._failure, self._step_count = None, 0
        self._done = np.zeros(len(seeds), bool)
        for i, seed in enumerate(seeds):
            try:
                if i == len(self._simulators):
                    self._simulators.append(make_simulator(self._env_id))
                observation = self._simulators[i].reset(seed=int(seed))[0]
                if np.shape(observation) != observations[i].shape:
                    raise ValueError(f"its observation has shape {np.shape(observation)}, not ({self.state_dim},)")
                observations[i] = observation
                if not np.isfinite(observations[i]).all():
                    self._fail(i, "the environment's first observation is not finite")
            except Exception as error:  # anything a simulator does must stay out of JAX
                self._fail(i, f"the environment raised {type(error).__name__}: {error}")
        return observations

    def _step_on_host(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        actions = np.asarray(actions)
        observations = np.zeros((len(actions), self.state_dim), np.float32)
        rewards = np.zeros(len(actions), np.float32)
        played = np.flatnonzero(~self._done)
        # Each check of the whole batch at once: NumPy is slow at few numbers.
        unusable = ~np.isfinite(actions[played]).all(axis=1)
        if unusable.any():
            self._fail(int(played[unusable.argmax()]), "the policy's action is not finite")
        else:
            self._step_each(played.tolist(), actions, observations, rewards)
        bad = ~(np.isfinite(observations).all(axis=1) & np.isfinite(rewards))
        if bad.any():
            observations[bad], rewards[bad] = 0, 0
            self._fail(int(bad.argmax()), "the environment's observation or reward is not finite")
        self._step_count += 1
        with contextlib.suppress(Exception):  # a display that is gone must not stop the episodes
            self.on_step(self._step_count)
        return observations, rewards, self._done.copy()

    def _step_each(
        self, indices: list[int], actions: np.ndarray, observations: np.ndarray, rewards: np.ndarray
    ) -> None:
        """Until one raises."""
        for i in indices:
            try:
                observation, reward, terminated, truncated, _ = self._simulators[i].step(actions[i])
                with np.errstate(over="ignore"):
                    observations[i], rewards[i] = observation, reward
                self._done[i] = terminated or truncated
            except Exception as error:  # anything a simulator does must stay out of JAX
                self._fail(i, f"the environment raised {type(error).__name__}: {error}")
                return

    def _fail(self, index: int, reason: str) -> None:
        if self._failure is None:
            self._failure = (index, self._step_count, reason)
        self._done[:] = True
