"""Two halves of a batch of episodes that take turns: while one is simulated, the policy acts in the other."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxdt.evaluation.rollout import Episodes, Rollout
from jaxdt.simulator import usable_cores
from jaxdt.types import HostEnvironment


Half = Int[np.ndarray, " _"]
"""Numbers of the episodes that are played in it."""


def halves_of(count: int, models: int) -> list[Half] | None:
    """The episodes of either half, as many of each model, whose episodes are side by side.

    Every other one, so that each half has its share of targets at which episodes end early. None where it would gain
    nothing: a GPU plays one program after the other, and so does a single core.
    """
    if jax.default_backend() != "cpu" or usable_cores() < 2 or count < 2 * models:
        return None
    by_model = np.arange(count).reshape(models, -1)
    return [by_model[:, half::2].reshape(-1) for half in (0, 1)]


class InTurns:
    """A rollout of two halves of a batch, each in an environment and a thread of its own.

    What a `with` sets of JAX in the caller's thread holds for the first half alone.
    """

    def __init__(self, environments: Sequence[HostEnvironment], rollouts: Sequence[Rollout]):
        """`environments`: the one that the episodes are of, and what its `another` gave; a rollout of each."""
        self.environments, self._rollouts = environments, rollouts

    def __call__(
        self, params: PyTree, seeds: Int[np.ndarray, " b"], targets: Float[np.ndarray, " b"], halves: Sequence[Half]
    ) -> Episodes:
        """As a Rollout. What fails in one half ends the other."""

        def play(part: int) -> Episodes:
            rows = halves[part]
            try:
                played = self._rollouts[part](params, *jax.device_put((seeds[rows], targets[rows])))
                jax.block_until_ready(played)
            except BaseException:
                self.stop()
                raise
            if self.environments[part].failed_at is not None:
                self.stop()
            return played

        for each in self.environments:
            each.stopped = False
        with ThreadPoolExecutor(1) as thread:
            second = thread.submit(play, 1)
            try:
                parts = [play(0), second.result()]
            except BaseException:  # such as Ctrl-C while only the second half still plays
                self.stop()
                raise
        order = np.argsort(np.concatenate(halves))
        return jax.tree.map(lambda leaf: jnp.take(leaf, order, axis=min(1, leaf.ndim - 1)), joined(parts))

    def stop(self) -> None:
        """Ends what is still played at its next step."""
        for each in self.environments:
            each.stopped = True


def joined(parts: Sequence[Episodes]) -> Episodes:
    """Batches that were played by themselves as one."""

    def episodes(*arrays: Array) -> Array:
        return jnp.concatenate(arrays, axis=min(1, arrays[0].ndim - 1))  # steps come before episodes, where recorded

    return jax.tree.map(episodes, *parts)
