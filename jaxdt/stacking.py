"""Several models in one program, stacked along a new first axis, and rows of a batch in blocks."""

import functools
import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxdt.types import Policy


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


@functools.partial(jax.jit, static_argnums=1)
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
