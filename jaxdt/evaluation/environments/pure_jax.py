"""Environments written in pure JAX by a user: one episode each, played as a batch."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, PyTree

from jaxdt.choice import JaxEnvironment
from jaxdt.errors import SimulationError, one_line
from jaxdt.parallel import in_cpu_blocks
from jaxdt.types import Box, Spec


class VectorizedEnvironment:
    """A JaxEnvironment over a batch; seed `i` becomes `jax.random.key(i)`.

    What the environment raises while it is traced leaves as SimulationError.

    - `name`: default: of its class. `cpu_block`: most episodes that a CPU steps at once; None: all.
    """

    def __init__(
        self,
        environment: JaxEnvironment,
        *,
        name: str | None = None,
        env_id: str | None = None,
        cpu_block: int | None = None,
    ):
        self.name = name or type(environment).__name__
        self.env_id = env_id
        self.spec = _spec_of(environment)
        self.max_episode_steps = environment.max_episode_steps
        self.on_step: Callable[[int], None] = lambda step: None
        self._reset = jax.vmap(lambda seed: environment.reset(jax.random.key(seed)))
        step = jax.vmap(lambda state, action: _all_five(*environment.step(state, action)))
        self._step = step if cpu_block is None else partial(in_cpu_blocks, step, cpu_block)

    def reset(self, seeds: Int[Array, " b"]) -> tuple[PyTree, Num[Array, "b *s"]]:
        with self._named():
            return self._reset(seeds)

    def step(
        self, state: PyTree, action: Num[Array, "b *a"]
    ) -> tuple[PyTree, Num[Array, "b *s"], Float[Array, " b"], Bool[Array, " b"], Bool[Array, " b"]]:
        with self._named():
            return self._step(state, action)

    def raise_failure(self, name_episode: Callable[[int], str]) -> None:
        """Pure functions fail while they are traced, or in numbers, which the rollout checks."""

    def close(self) -> None:
        """It holds nothing."""

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a user's code raises what it likes
            raise SimulationError(f"{self.name} raised {type(error).__name__}: {one_line(error, 300)}") from error


def _all_five(state, observation, reward, terminated, truncated=False):
    flags = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
    return state, observation, jnp.asarray(reward, jnp.float32), flags[0], flags[1]


def _spec_of(environment: Any) -> Spec:
    spec = getattr(environment, "spec", None)
    if spec is not None:
        return spec
    ones = np.ones(environment.action_dim, np.float32)
    return Spec(observation_shape=(environment.state_dim,), action=Box(-ones, ones))
