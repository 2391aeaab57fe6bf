"""Bins, values and windows of the Trajectory Transformer, beside the original's own numbers."""

import dataclasses
import warnings

import numpy as np
import pytest

import jaxdt
from jaxdt.algorithms.trajectory_transformer import edges_of, measure
from jaxdt.data.discretization import fit_edges, rounding
from jaxdt.data.trajectories import TrajectorySampler, penalized_rewards, values_of
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


def make_store(lengths=(3, 5, 1, 6), terminated=(True, False, True, False)) -> jaxdt.EpisodeStore:
    """Row `i` observes `i`, acts `i / 100` and earns `10 i`."""
    rows, ends = np.arange(sum(lengths)), np.cumsum(lengths)
    terminations = np.zeros(len(rows), bool)
    terminations[ends - 1] = terminated
    return jaxdt.EpisodeStore.from_arrays(
        rows[:, None].astype(np.float32), rows[:, None] / 100, 10.0 * rows, terminations, episode_ends=ends
    )


def test_values_are_those_of_what_follows_and_a_true_end_is_penalized():
    store = make_store()
    rewards = penalized_rewards(store, -100.0)
    assert rewards[:9].tolist() == [0, 10, -100, 30, 40, 50, 60, 70, -100]  # rows 2 and 8 are true ends, 7 is none
    assert (penalized_rewards(store, None) == store.rewards).all()
    values = values_of(rewards, store.offsets, 0.5)
    np.testing.assert_allclose(values[:3], [10 - 50, -100, 0])
    np.testing.assert_allclose(values[3:8], [40 + 25 + 15 + 8.75, 50 + 30 + 17.5, 60 + 35, 70, 0])
    assert values[8] == 0


def test_every_step_but_the_last_is_a_start_and_what_lies_behind_an_end_is_marked():
    store = make_store()
    sampler = TrajectorySampler(store, transitions=4, penalty=-1.0, discount=0.5, batch_size=1000, seed=2)
    batch = sampler.batch(5)
    starts, counts = np.unique(batch.rows[:, 0, 0].astype(int), return_counts=True)
    assert starts.tolist() == [0, 1, 3, 4, 5, 6, 9, 10, 11, 12, 13]
    assert counts.min() > 60
    values = values_of(penalized_rewards(store, -1.0), store.offsets, 0.5)
    for start, left, age in ((1, 2, 1), (4, 4, 1), (13, 2, 4)):
        i = int(np.flatnonzero(batch.rows[:, 0, 0] == start)[0])
        assert batch.real[i].tolist() == [step < left for step in range(4)]
        assert batch.counted[i].tolist() == [age + step < 6 for step in range(4)]  # the longest has 6 steps
        row = np.arange(start, start + left)
        rewards = np.where(row == 2, -1, 10 * row)
        expected = np.stack([row, row / 100, rewards, values[row]], axis=1)
        np.testing.assert_allclose(batch.rows[i, :left], expected, rtol=1e-6)


def test_a_batch_depends_on_seed_and_number_alone():
    first, other = (TrajectorySampler(make_store(), transitions=3, batch_size=5, seed=1) for _ in range(2))
    batches = [next(first) for _ in range(70)]
    for index in (69, 0, 64, 63):
        for mine, theirs in zip(other.batch(index), batches[index], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_frames_and_discrete_actions_are_rows_too():
    ends = [2, 4]
    store = jaxdt.EpisodeStore.from_arrays(np.arange(24).reshape(4, 2, 3), [1, 0, 2, 1], np.ones(4), episode_ends=ends)
    batch = TrajectorySampler(store, transitions=2, batch_size=8).batch(0)
    assert batch.rows.shape == (8, 2, 9)
    assert set(batch.rows[:, 0, 6]) == {1, 2}


def test_what_cannot_be_drawn_from_is_refused():
    with pytest.raises(JaxdtError, match="two steps"):
        TrajectorySampler(make_store((1, 1), (True, False)))
    with pytest.raises(JaxdtError, match="give steps"):
        TrajectorySampler(make_store(), windows_per_pass=3)


def test_rounding_is_measured_in_standard_deviations():
    column = np.array([0.0, 1.0, 2.0, 3.0, 10.0])
    edges = np.array([[0.0, 4.0, 10.0]], np.float32).T  # middles 2 and 7
    expected = np.sqrt(np.mean(np.square([2, 1, 0, 1, 3]))) / column.std()
    np.testing.assert_allclose(rounding([column], edges), [expected])
    np.testing.assert_allclose(rounding([np.zeros(4)], np.zeros((3, 1), np.float32)), [0.0])


def test_bins_that_leave_out_much_of_an_observation_are_said():
    """Wide tails: the outermost of bins of as many steps each are most of the range."""
    config = jaxdt.TrajectoryTransformerConfig(bins=50)
    heavy = np.random.default_rng(0).normal(size=(2000, 2)) ** [[1, 3]]
    arrays = {"actions": np.zeros((2000, 1)), "rewards": np.arange(2000.0)}
    store = jaxdt.EpisodeStore.from_arrays(heavy, **arrays, episode_ends=[1000, 2000])
    with pytest.warns(
        UserWarning, match=r"round observation 1 off by 0\.\d\d of its .*: binning='uniform' \(--binning u"
    ):
        measure(config, store)
    with warnings.catch_warnings(action="error"):
        measure(dataclasses.replace(config, binning="uniform"), store)
        edges_of(config, store)  # of weights that are there already
        measure(config, jaxdt.EpisodeStore.from_arrays(heavy[:, :1], **arrays, episode_ends=[1000, 2000]))
