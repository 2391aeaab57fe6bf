"""One program for several seeds: what belongs to each is stacked along a new first axis."""

from collections.abc import Callable, Sequence
from functools import partial
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


def stacked(trees: Sequence[Any], stack: Callable[..., Any] = jnp.stack) -> Any:
    """One tree of all seeds; of one seed alone its own tree, without the new axis."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: stack(leaves), *trees)


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
