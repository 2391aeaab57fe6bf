"""Weights of the Trajectory Transformer, by the names of its authors' code and of the hub's copies of it."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdt.config import TrajectoryTransformerConfig
from jaxdt.data.d4rl import ENVIRONMENTS, QUALITIES
from jaxdt.data.formats.npz import check_members
from jaxdt.errors import JaxdtError, one_line
from jaxdt.interop.mingpt import take_block, take_norm, without_buffers
from jaxdt.interop.names import put, take
from jaxdt.interop.tensors import Tensors


class ImportedTrajectory(NamedTuple):
    """Weights in our shape, which mean nothing without the edges of their bins."""

    config: TrajectoryTransformerConfig
    params: dict[str, Any]
    row: int
    """Numbers of a transition: observation, action, reward and value."""


def is_trajectory(tensors: Tensors) -> bool:
    return "tok_emb.weight" in tensors and "pos_emb" in tensors and "state_encoder.0.weight" not in tensors


def trajectory_from_tensors(tensors: Tensors, num_heads: int | None, source: str) -> ImportedTrajectory:
    """Sizes are those of the tensors; only `num_heads` they do not tell (default 4, which all published ones have).

    Raises JaxdtError naming a tensor that is missing, unknown, of another shape or not finite.
    """
    if any(".attention.in_proj" in name for name in tensors):
        raise JaxdtError(
            f"{source} was written by faster-trajectory-transformer, whose models have no token of an episode's end, "
            "and act, from its cache, on values that they were trained not to see; give weights of the original's code."
        )
    left = without_buffers(tensors)
    row, width, bins, places, layers = _sizes(left, source)
    params: dict[str, Any] = {}
    put(params, ("token_table",), take(left, "tok_emb.weight", (bins * row + 1, width), source))
    put(params, ("position_table",), take(left, "pos_emb", (1, places, width), source)[0])
    put(params, ("head", "kernel"), take(left, "head.weight", (row, bins + 1, width), source).transpose(0, 2, 1))
    take_norm(params, left, ("final_norm",), "ln_f", width, source)
    for i in range(layers):
        take_block(params, left, i, width, source)
    if left:
        raise JaxdtError(f"{source} has the unknown tensor {min(left)!r} ({len(left)} in all).")
    transitions = (places + 1) // row
    config = TrajectoryTransformerConfig(
        bins=bins,
        transitions=transitions,
        context_transitions=min(TrajectoryTransformerConfig.context_transitions, transitions),
        width=width,
        num_layers=layers,
        num_heads=4 if num_heads is None else num_heads,
    )
    return ImportedTrajectory(config, params, row)


def read_edges(path: Path) -> Float[np.ndarray, "edges row"]:
    """The array `edges` of an `.npz`: of each number of a transition the edges of its bins, rising.

    Raises JaxdtError naming the file and what is wrong.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            check_members(archive.zip, ("edges",), path)
            edges = archive["edges"]
            if edges.dtype.kind not in "iuf":
                raise ValueError(f"its numbers are {edges.dtype}")
            with np.errstate(over="ignore"):
                edges = edges.astype(np.float32)
    except JaxdtError:
        raise
    except Exception as error:  # damaged bytes make NumPy and zipfile raise a dozen kinds
        raise JaxdtError(f"{path} must be an .npz with an array edges: {one_line(error, 200)}.") from error
    if edges.ndim != 2 or len(edges) < 3 or not np.isfinite(edges).all() or (np.diff(edges, axis=0) < 0).any():
        raise JaxdtError(
            f"{path}: edges must be finite, (bins + 1, numbers of a transition) and rise along the first axis; got the "
            f"shape {edges.shape}."
        )
    return edges


def task_of(source: str) -> str | None:
    """D4RL's set that a name such as `CarlCochet/trajectory-transformer-hopper-medium-v2` says; None for others."""
    sets = "|".join(name for name, task in ENVIRONMENTS.items() if task.observation_size is not None)
    found = re.search(rf"(?:^|[/-])((?:{sets})-(?:{QUALITIES}))-v2(?![\w-])", source.replace("_", "-"))
    return found[1] if found else None


def _sizes(tensors: Tensors, source: str) -> tuple[int, int, int, int, int]:
    """Numbers of a transition, width, bins, places of tokens and layers."""
    head, positions = tensors.get("head.weight"), tensors["pos_emb"]
    if head is None or head.ndim != 3 or positions.ndim != 3:
        raise JaxdtError(f"{source} is no Trajectory Transformer: head.weight and pos_emb must have three dimensions.")
    row, classes, width = head.shape
    places = positions.shape[1]
    if row < 4 or classes < 3 or (places + 1) % row:
        raise JaxdtError(
            f"{source}: a window must be whole transitions but for its last token; pos_emb has {places} places and "
            f"head.weight {row} heads of {classes} tokens."
        )
    layers = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    return row, width, classes - 1, places, len(layers)
