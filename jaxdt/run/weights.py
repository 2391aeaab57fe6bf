"""Weights that must be those of a config and a spec: loading them, and naming what is wrong with others."""

import jax
import numpy as np
from jaxtyping import PyTree

from jaxdt.algorithms import make_algorithm
from jaxdt.checkpoint import load_checkpoint, stored_shapes
from jaxdt.config import AlgorithmConfig, flatten, functions_of
from jaxdt.errors import JaxdtError
from jaxdt.run.directory import RunDirectory
from jaxdt.types import Spec


def load_params(run: RunDirectory, step: int, config: AlgorithmConfig, spec: Spec) -> PyTree:
    """The weights of a checkpoint; raises JaxdtError where they do not fit the config or are not finite."""
    stored = stored_shapes(run.checkpoints, step, "params")
    layers = max((v for name, v in flatten(config).items() if name.endswith("num_layers")), default=0)
    own = any(functions_of(config).values())
    if layers > len(stored) and not own:  # building so many would take minutes
        raise JaxdtError(f"{run.config} is damaged: num_layers is {layers}; the checkpoint has {len(stored)} arrays.")
    try:
        algorithm = make_algorithm(config, spec)
    except JaxdtError as error:
        if own:
            raise
        raise JaxdtError(f"{run.config} is damaged: {error}") from error
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0)).params
    params = load_checkpoint(run.checkpoints, step, params=shapes)["params"]
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(params)):
        raise JaxdtError(f"checkpoint {run.checkpoints / str(step)} has weights that are not finite; use another.")
    return params


def wrong_weights(config: AlgorithmConfig, params: PyTree, spec: Spec) -> str | None:
    """The first array that is missing or of another shape, in words; None where none is, or nobody can say."""
    if any(functions_of(config).values()):
        return None
    try:
        algorithm = make_algorithm(config.for_data(None).for_steps(10**9), spec)
        wanted = _shapes_by_name(jax.eval_shape(algorithm.init, jax.random.key(0)).params)
    except JaxdtError:
        return None
    given = _shapes_by_name(params)
    for name, shape in wanted.items():
        if name not in given:
            return f"there is no {name} among {len(given)} arrays"
        if given[name] != shape:
            return f"{name} has shape {given[name]}, and should have {shape}"
    return None


def _shapes_by_name(params: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.shape(leaf) for path, leaf in leaves}
