"""Edges of bins that numbers are made tokens by, one set a column, fitted with NumPy only."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxdt.errors import JaxdtError


Binning = Literal["quantile", "uniform"]
"""Which bins a column gets: as many rows in each, or all as wide."""


def fit_edges(
    columns: Iterable[Float[np.ndarray, " n"]], bins: int, binning: Binning
) -> Float[np.ndarray, "edges columns"]:
    """`bins` + 1 edges of each column, rising, float32; the outer ones are its least and its greatest number.

    - quantile: every p-th of the sorted numbers and the greatest, p = ceil(n / bins) (the Trajectory Transformer's
      rule). Where n is too small for that rule to give as many edges, those at the ranks floor(i n / bins) and the
      greatest. Numbers that are there more often than that make bins of no width, which nothing falls into; a column
      of one number has no other bins, and its last one stands for that number.
    - uniform: evenly spaced.

    Raises JaxdtError where there are no rows.
    """
    return np.stack([_edges(np.asarray(column), bins, binning) for column in columns], axis=1)


def rounding(
    columns: Iterable[Float[np.ndarray, " n"]], edges: Float[np.ndarray, "edges columns"]
) -> Float[np.ndarray, " columns"]:
    """How far each column's numbers are from the middles of their bins: root mean square, in standard deviations."""
    lost = []
    for column, its in zip(columns, edges.T, strict=True):
        number = np.clip(np.searchsorted(its, column, side="right") - 1, 0, len(its) - 2)
        error = np.asarray(column, np.float64) - (its[number] + its[number + 1]) / 2
        lost.append(np.sqrt(np.mean(np.square(error))) / max(float(np.std(column, dtype=np.float64)), 1e-12))
    return np.array(lost)


def _edges(column: Float[np.ndarray, " n"], bins: int, binning: Binning) -> Float[np.ndarray, " edges"]:
    if not len(column):
        raise JaxdtError("bins are fitted on one or more rows; got none.")
    if binning == "uniform":
        return np.linspace(column.min(), column.max(), bins + 1).astype(np.float32)
    ordered, rows = np.sort(column), len(column)
    ranks = np.arange(0, rows, -(-rows // bins))
    if len(ranks) != bins:
        ranks = np.arange(bins) * rows // bins
    return np.append(ordered[ranks], ordered[-1]).astype(np.float32)
