"""What all samplers draw by: batch `i` of a stream depends on its seed and `i` alone, and many are drawn at once."""

import numpy as np

from jaxdt.errors import JaxdtError


BLOCK = 64
"""Batches that are drawn at once; other numbers draw other batches."""

ALL = slice(None)
"""Of the rows of a batch; one of several processes draws for all of them and gathers its own."""


def check_stream(batch_size: int, seed: int) -> None:
    """Raises JaxdtError for numbers that no stream of batches can have."""
    if batch_size < 1:
        raise JaxdtError(f"batch_size must be at least 1; got {batch_size}.")
    if not 0 <= seed < 2**64:
        raise JaxdtError(f"seed must be at least 0 and below 2**64; got {seed}.")


def uniform_numbers(seed: int, block: int, batch_size: int, below: int, share: slice = ALL) -> np.ndarray:
    """Whole numbers from 0 to `below` - 1 for all batches of a block, (batches, b), or of a share of each."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed, block], np.uint64)))
    return (random.random((BLOCK, batch_size))[:, share] * below).astype(np.int64)
