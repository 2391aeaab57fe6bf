"""Two halves of a batch of episodes that take turns: while one is simulated, the policy acts in the other."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxdt.evaluation.rollout import Episodes, Rollout
from jaxdt.types import Environment, HostEnvironment


Half = Int[np.ndarray, " half"]
"""Numbers of the episodes that are played in it."""


def halves_of(count: int, models: int) -> list[Half] | None:
    """The episodes of either half, as many of each model, whose episodes are side by side.

    None where they cannot be halved. Only a CPU gains by it: a GPU plays one program after the other.
    """
    if jax.default_backend() != "cpu" or count % (2 * models):
        return None
    by_model = np.arange(count).reshape(models, 2, -1)
    return [by_model[:, half].reshape(-1) for half in (0, 1)]


class InTurns:
    """A rollout of two halves of a batch, each in an environment and a thread of its own."""

    def __init__(self, environments: Sequence[HostEnvironment], make_rollout: Callable[[Environment], Rollout]):
        """`environments`: the one that the episodes are of, and what its `another` gave."""
        self.environments = environments
        self._rollouts = [make_rollout(each) for each in environments]

    def __call__(
        self, params: PyTree, seeds: Int[np.ndarray, " b"], targets: Float[np.ndarray, " b"], halves: Sequence[Half]
    ) -> Episodes:
        """As a Rollout. What fails in one half ends the other."""

        def play(part: int) -> Episodes:
            rows, failed = halves[part], True
            try:
                played = self._rollouts[part](params, *jax.device_put((seeds[rows], targets[rows])))
                jax.block_until_ready(played)
                failed = self.environments[part].failed_at is not None
            finally:
                self.environments[1 - part].stopped = failed
            return played

        try:
            with ThreadPoolExecutor(1) as thread:
                second = thread.submit(play, 1)
                parts = [play(0), second.result()]
        finally:
            for each in self.environments:
                each.stopped = False
        order = np.argsort(np.concatenate(halves))
        return jax.tree.map(lambda leaf: jnp.take(leaf, order, axis=min(1, leaf.ndim - 1)), joined(parts))


def joined(parts: Sequence[Episodes]) -> Episodes:
    """Batches that were played by themselves as one."""

    def episodes(*arrays: Array) -> Array:
        return jnp.concatenate(arrays, axis=min(1, arrays[0].ndim - 1))  # steps come before episodes, where recorded

    return jax.tree.map(episodes, *parts)
