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
from jaxdt.errors import JaxdtError, SimulationError, one_line
from jaxdt.stacking import in_cpu_blocks
from jaxdt.types import Box, Spec


class VectorizedEnvironment:
    """A JaxEnvironment over a batch; seed `i` becomes `jax.random.key(i)`.

    What the environment raises while it is traced leaves as SimulationError.

    - `name`: default: of its class. `cpu_block`: most episodes that a CPU steps at once; None: all.
    """

    on_device = True

    def __init__(
        self,
        environment: JaxEnvironment,
        *,
        name: str | None = None,
        env_id: str | None = None,
        cpu_block: int | None = None,
    ):
        self._environment = environment
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

    def check(self) -> None:
        """Raises JaxdtError where reset or step return what nothing can be played with; they are traced, not run."""
        with self._named():
            key, action = jax.random.key(0), jax.ShapeDtypeStruct(self.spec.action_shape, self.spec.action_dtype)
            begun = jax.eval_shape(lambda key: self._environment.reset(key), key)
            if not _is_tuple_of(begun, 2):
                raise JaxdtError(f"{self.name}: reset must return (state, observation); it returned {_counted(begun)}.")
            done = jax.eval_shape(lambda state, action: self._environment.step(state, action), begun[0], action)
        if not _is_tuple_of(done, 4, 5):
            raise JaxdtError(f"{self.name}: step must return {_FIVE}; it returned {_counted(done)}.")
        shape = self.spec.observation_shape
        named = (("observation", shape), ("reward", ()), ("terminated", ()), ("truncated", ()))
        returned = [("reset", "(state, observation)", ("observation", shape), begun[1])]
        returned += [("step", _FIVE, each, value) for each, value in zip(named, done[1:], strict=False)]
        for function, wanted, (name, shape), value in returned:
            if getattr(value, "shape", None) != shape:
                raise JaxdtError(
                    f"{self.name}: {function} must return {wanted}; {name} has shape {getattr(value, 'shape', '?')}, "
                    f"and should have {shape}."
                )
        if (differs := _difference(begun[0], done[0])) is not None:
            raise JaxdtError(f"{self.name}: step must return a state like the one that reset returns; {differs}.")

    def raise_failure(self, name_episode: Callable[[int], str]) -> None:
        """Pure functions fail while they are traced, or in numbers, which the rollout checks."""

    def close(self) -> None:
        """It holds nothing."""

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except JaxdtError:
            raise
        except Exception as error:  # a user's code raises what it likes
            raise SimulationError(f"{self.name} raised {type(error).__name__}: {one_line(error, 300)}") from error


_FIVE = "(state, observation, reward (), terminated ()) or these and truncated ()"


def _is_tuple_of(returned: Any, *counts: int) -> bool:
    return isinstance(returned, tuple | list) and len(returned) in counts


def _counted(returned: Any) -> str:
    return f"{len(returned)} values" if isinstance(returned, tuple | list) else f"one {type(returned).__name__}"


def _difference(begun: PyTree, done: PyTree) -> str | None:
    """In words; a number of Python's takes whatever type it becomes."""
    if jax.tree.structure(begun) != jax.tree.structure(done):
        return f"its structure becomes {jax.tree.structure(done)!s:.200}, from {jax.tree.structure(begun)!s:.200}"
    for (path, first), later in zip(jax.tree_util.tree_leaves_with_path(begun), jax.tree.leaves(done), strict=True):
        if first.shape != later.shape or (first.dtype != later.dtype and not first.weak_type):
            name = jax.tree_util.keystr(path) or "it"
            return f"{name} becomes {later.dtype}{list(later.shape)}, from {first.dtype}{list(first.shape)}"
    return None


def _all_five(state, observation, reward, terminated, truncated=False):
    flags = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
    return state, observation, jnp.asarray(reward, jnp.float32), flags[0], flags[1]


def _spec_of(environment: Any) -> Spec:
    spec = getattr(environment, "spec", None)
    if spec is not None:
        return spec
    sizes = [getattr(environment, name, None) for name in ("state_dim", "action_dim")]
    if None in sizes:
        raise JaxdtError(
            f"{type(environment).__name__} must have a spec (jaxdt.Spec), or state_dim and action_dim where actions "
            f"are vectors in [-1, 1]; got {sizes[0]} and {sizes[1]} for these."
        )
    ones = np.ones(environment.action_dim, np.float32)
    return Spec(observation_shape=(environment.state_dim,), action=Box(-ones, ones))
