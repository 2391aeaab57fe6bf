"""Bins, values and windows of the Trajectory Transformer, beside the original's own numbers."""

import numpy as np
import pytest

from jaxdt.data.discretization import fit_edges
from jaxdt.errors import JaxdtError
from tests.trajectory import GOLDEN


def test_quantile_edges_are_the_originals():
    edges = fit_edges(GOLDEN["data"].T, 10, "quantile")
    np.testing.assert_array_equal(edges, GOLDEN["thresholds"].astype(np.float32))


@pytest.mark.parametrize("rows", [1, 7, 10, 11, 19, 150, 9900, 9901])
def test_any_number_of_rows_gives_as_many_edges(rows):
    """The original's rule gives 76 of 101 for 150 rows, and then fails."""
    column = np.random.default_rng(rows).normal(size=rows).astype(np.float32)
    edges = fit_edges([column], 100, "quantile")[:, 0]
    assert edges.shape == (101,)
    assert (np.diff(edges) >= 0).all()
    assert edges[0] == column.min()
    assert edges[-1] == column.max()
    if rows >= 100:  # then none is there twice
        assert len(np.unique(edges)) >= 100


def test_uniform_edges_are_evenly_spaced_from_the_least_to_the_greatest():
    edges = fit_edges([np.array([3.0, -1.0, 0.0]), np.full(3, 2.0)], 4, "uniform")
    np.testing.assert_allclose(edges, np.stack([[-1, 0, 1, 2, 3], [2] * 5], axis=1))


def test_no_rows_are_refused():
    with pytest.raises(JaxdtError, match="one or more rows"):
        fit_edges([np.zeros(0)], 4, "quantile")
