"""What is measured on episodes that are not trained on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxdt.algorithms import make_algorithm
from jaxdt.run.prepare import Prepared
from jaxdt.stacking import over_seeds, unstacked


BATCHES = 4
"""As large as those trained on, and always the same ones, so that measurements differ by the weights alone."""


class Validation:
    """Of the held-out episodes of a run, or of the runs of several seeds; without any it measures nothing."""

    def __init__(self, prepared: Prepared):
        record, self._layout = prepared.record, prepared.layout
        self._batches: Any = None
        if prepared.held_out is None:
            return
        algorithm = make_algorithm(record.config.algorithm, record.spec)
        sampler = algorithm.sampler(prepared.held_out, batch_size=record.config.batch_size, seed=0)
        self._batches = jax.tree.map(lambda *leaves: np.stack(leaves), *map(sampler.batch, range(BATCHES)))

        def mean_over_batches(params: PyTree[Array], batches: PyTree[Array]) -> dict[str, Array]:
            return jax.tree.map(jnp.mean, jax.lax.map(lambda batch: algorithm.validate(params, batch), batches))

        def each_seeds(params: PyTree[Array], batches: PyTree[Array]) -> dict[str, Array]:
            if self._layout.seeds == 1:
                return mean_over_batches(params, batches)
            return over_seeds(lambda params: mean_over_batches(params, batches))(params)

        self._measure = jax.jit(each_seeds)

    def __call__(self, params: PyTree[Array]) -> list[dict[str, float]]:
        """Of each run the numbers by name, `validation_action_error` among them; none where nothing is held out."""
        seeds = self._layout.seeds
        if self._batches is None:
            return [{}] * seeds
        measured = jax.device_get(self._measure(self._layout.on_first(params), self._batches))
        return [
            {f"validation_{name}": float(value) for name, value in each.items()} for each in unstacked(measured, seeds)
        ]
