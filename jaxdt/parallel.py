"""One program for several seeds, stacked along a new first axis, and for several devices; nothing else picks those."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array, Float, PyTree

from jaxdt.errors import JaxdtError
from jaxdt.types import Policy


_AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The devices that train, and what each has: its share of every batch and the whole state, or seeds of its own.

    Windows, dropout and losses are the same, but for rounding, whatever the layout.
    """

    devices: tuple[Any, ...]
    """Of JAX, the first of which also evaluates."""
    seeds: int = 1
    """All that train in one program."""

    @property
    def splits_seeds(self) -> bool:
        """Whether each device has whole seeds of its own, so that none waits for another."""
        return len(self.devices) > 1 and self.seeds % len(self.devices) == 0

    @property
    def state(self) -> Sharding:
        """Of states, keys and metrics."""
        return self._sharding(_AXIS) if self.splits_seeds else self._sharding()

    @property
    def batches(self) -> Sharding:
        """Of what one call of several updates takes: (updates, b, ...), of several seeds (seeds, updates, b, ...)."""
        if self.splits_seeds:
            return self._sharding(_AXIS)
        return self._sharding(*[None] * (1 if self.seeds == 1 else 2), _AXIS)

    def over_seeds(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """`over_seeds(function)`, each device over its own; of one seed the function itself."""
        if self.seeds == 1:
            return function
        function = over_seeds(function)
        if not self.splits_seeds:
            return function
        share = PartitionSpec(_AXIS)
        return jax.shard_map(function, mesh=self._mesh, in_specs=share, out_specs=share, check_vma=False)

    def on_first(self, tree: PyTree[Array]) -> PyTree[Array]:
        """A state, or a part of one, on the first device alone."""
        return tree if len(self.devices) == 1 else jax.device_put(tree, self.devices[0])

    def describe(self, batch_size: int) -> str:
        """What each device has, for people."""
        count = len(self.devices)
        share = f"{self.seeds // count} of {self.seeds} seeds"
        if not self.splits_seeds:
            share = f"{batch_size // count} of the {batch_size} windows of a batch"
        return f"trains on {count} devices, each with {share}"

    @property
    def _mesh(self) -> Mesh:
        return Mesh(list(self.devices), (_AXIS,), axis_types=(AxisType.Auto,))

    def _sharding(self, *axes: str | None) -> Sharding:
        if len(self.devices) == 1:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self._mesh, PartitionSpec(*axes))


def choose_layout(batch_size: int, *, seeds: int = 1, devices: int | None = None) -> Layout:
    """For a run, or for the runs of several seeds in one program.

    `devices`: how many; None: of a CPU one, of accelerators as many as the batch or the seeds can be divided by.
    Raises JaxdtError for more than are there, and for a number that divides neither.
    """
    there = jax.local_devices()
    wanted = devices or _number_by_default()
    if wanted > len(there):
        more = ", or set JAX_NUM_CPU_DEVICES" if jax.default_backend() == "cpu" else ""
        raise JaxdtError(
            f"devices must be at most {len(there)}, as many as jax finds on this machine; got {wanted}; lower "
            f"devices= (--devices){more}."
        )
    count = max(n for n in range(1, wanted + 1) if batch_size % n == 0 or seeds % n == 0)
    if count < wanted and devices is not None:
        raise JaxdtError(
            f"batch_size, or the number of seeds, must be a multiple of devices; got batch_size={batch_size}, {seeds} "
            f"seed{'s' * (seeds > 1)} and devices={devices}; give devices={count} (--devices {count}), or "
            "another batch_size= (--batch-size)."
        )
    if count < wanted:
        warnings.warn(
            f"{wanted - count} of {wanted} devices will not train: a batch of {batch_size} can be divided by {count} "
            f"at most; a batch_size= (--batch-size) that is a multiple of {wanted} uses all.",
            stacklevel=2,
        )
    return Layout(tuple(there[:count]), seeds)


def _number_by_default() -> int:
    # The devices that XLA can make of a CPU share its cores, which one alone uses all.
    return 1 if jax.default_backend() == "cpu" else len(jax.local_devices())


def over_seeds(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`function` of each seed's share of every argument, all of which are stacked; so are the results."""
    if _one_after_the_other():
        return lambda *arguments: jax.lax.map(lambda shares: function(*shares), arguments)
    return jax.vmap(function)


def _one_after_the_other() -> bool:
    # On a CPU vmap was seen to cost five small models 7 x a single run, and this 4.9 x.
    return jax.default_backend() == "cpu"


def stacked(trees: Sequence[Any], stack: Callable[..., Any] | None = None) -> Any:
    """One tree of all seeds; of one seed alone its own tree, without the new axis."""
    if len(trees) == 1:
        return trees[0]
    return _stack(trees) if stack is None else jax.tree.map(lambda *leaves: stack(leaves), *trees)


@jax.jit  # else each shape among the leaves is stacked by a program of its own
def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstacked(tree: Any, count: int) -> list[Any]:
    """The trees that `stacked` was given."""
    return [tree] if count == 1 else _split(tree, count)


@partial(jax.jit, static_argnums=1)
def _split(tree: Any, count: int) -> list[Any]:
    return [jax.tree.map(itemgetter(i), tree) for i in range(count)]


def policy_of_seeds(policy: Policy, seeds: int) -> Policy:
    """One policy of the models of several seeds, whose params are stacked; each acts in its share of the batch.

    The first seed's share comes first, and all are as large.
    """

    def shares(rows: Array) -> Array:
        return rows.reshape(seeds, -1, *rows.shape[1:])

    def start(targets: Float[Array, " b"]) -> PyTree:
        return jax.vmap(policy.start)(shares(targets))

    def act(params: PyTree, memory: PyTree, observation: Array, reward: Array, keys: Array | None):
        memory, actions = over_seeds(policy.act)(
            params, memory, shares(observation), shares(reward), None if keys is None else shares(keys)
        )
        return memory, actions.reshape(-1, *actions.shape[2:])

    return Policy(start, act)


def in_cpu_blocks(function: Callable[..., PyTree], most: int, *rows: PyTree[Array]) -> PyTree:
    """`function(*rows)`, which treats rows alike; on a CPU in equal blocks of at most `most`, one after the other.

    The last row fills the last block. Where the number of rows is not known yet, which is so in a program that is
    exported for any, it is one block.
    """
    batch = jax.tree.leaves(rows)[0].shape[0]
    known = isinstance(batch, int)
    count = math.ceil(batch / most) if known and jax.default_backend() == "cpu" else 1
    if count == 1:
        return function(*rows)
    size = math.ceil(batch / count)

    def blocks(leaf: Array) -> Array:
        padding = [(0, count * size - batch)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, padding, mode="edge").reshape(count, size, *leaf.shape[1:])

    results = jax.lax.map(lambda block: function(*block), jax.tree.map(blocks, rows))
    return jax.tree.map(lambda leaf: leaf.reshape(count * size, *leaf.shape[2:])[:batch], results)
