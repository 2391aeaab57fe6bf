"""Grey pictures made smaller by the rules of OpenCV and Pillow, as two matrix products."""

from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Num, UInt8
from scipy import sparse


Resize = Literal["area", "bilinear", "antialiased"]
"""- `area`: OpenCV's INTER_AREA, which ALE itself and Dopamine use: each pixel is the mean of what it covers.
- `bilinear`: OpenCV's INTER_LINEAR, which the original evaluates with: between the two nearest rows and columns.
- `antialiased`: Pillow's BILINEAR, exactly: a triangle as wide as the picture is made smaller, across before down."""
RESIZES = get_args(Resize)

_BITS = 22
"""Pillow's weights are whole numbers of 2**-22; a sum of them and bytes fits 32 bits."""


def resize(pictures: UInt8[np.ndarray, "n h w"], size: tuple[int, int], rule: Resize) -> UInt8[np.ndarray, "n y x"]:
    """Pictures of `size` rows and columns, which must be no more than they have."""
    (n, rows, columns), (y, x) = pictures.shape, size
    down, across = _weights(rows, y, rule), _weights(columns, x, rule)
    # Sparse products run in this thread; BLAS's threads wait for each other longer than such small ones take.
    narrow = across @ pictures.transpose(2, 0, 1).reshape(columns, -1).astype(across.dtype)
    if rule == "antialiased":
        narrow = _from_fixed_point(narrow)
    # Pillow 13 begins with the rows where there are 240 or more; ten games have 250, most 210.
    small = down @ narrow.reshape(x, n, rows).transpose(2, 1, 0).reshape(rows, -1)
    small = _from_fixed_point(small) if rule == "antialiased" else np.rint(small)
    return small.astype(np.uint8).reshape(y, n, x).transpose(1, 0, 2)


def _from_fixed_point(sums: Int[np.ndarray, "a b"]) -> Int[np.ndarray, "a b"]:
    return (sums + (1 << (_BITS - 1))) >> _BITS


@lru_cache
def _weights(old: int, new: int, rule: Resize) -> Any:
    """A sparse matrix: how much of each old row or column is in each new one."""
    if not 0 < new <= old:
        raise ValueError(f"pictures can be made smaller only; got {old} rows or columns for {new}.")
    scale = old / new
    source, center = np.arange(old), (np.arange(new)[:, None] + 0.5) * scale  # a pixel reaches from i to i + 1
    weights: Num[np.ndarray, "new old"]
    if rule == "area":
        covered = np.minimum(source + 1, center + scale / 2) - np.maximum(source, center - scale / 2)
        weights = np.maximum(covered, 0) / scale
    elif rule == "bilinear":
        weights = np.maximum(1 - np.abs(source - np.clip(center - 0.5, 0, old - 1)), 0)
    else:
        return sparse.csr_matrix(_triangles(source, center, scale))
    return sparse.csr_matrix(weights.astype(np.float32))


def _triangles(
    source: Int[np.ndarray, " old"], center: Float[np.ndarray, "new 1"], scale: float
) -> Int[np.ndarray, "new old"]:
    weights = np.maximum(1 - np.abs((source - center + 0.5) * (1 / scale)), 0)
    total = np.cumsum(weights, axis=1)[:, -1:]  # one after the other, as Pillow adds them, not in NumPy's pairs
    return np.floor(weights / total * (1 << _BITS) + 0.5).astype(np.int32)
