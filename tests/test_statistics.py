"""Values worked out by hand from the definitions of Agarwal et al. 2021."""

import numpy as np
import pytest

from jaxdt.statistics import bootstrap_interval, interquartile_mean, mean, probability_of_improvement


def scores(*tasks):
    return [np.array(task, np.float64) for task in tasks]


def test_interquartile_mean_is_that_of_the_middle_half_of_all_runs():
    assert interquartile_mean(scores([8.0, 1.0, 100.0, 3.0], [4.0, -50.0, 5.0, 6.0])) == (3 + 4 + 5 + 6) / 4
    assert interquartile_mean(scores([1.0, 2.0, 6.0])) == 3.0  # a quarter of three is none


def test_probability_of_improvement_counts_pairs_and_halves_ties():
    ours, theirs = scores([1.0, 3.0], [5.0, 6.0]), scores([2.0, 3.0], [1.0, 0.0])
    assert probability_of_improvement(ours, theirs) == ((0 + 0 + 1 + 0.5) / 4 + 1) / 2
    assert probability_of_improvement(theirs, ours) == 1 - 0.6875


def test_interval_lies_between_the_percentiles_of_the_drawn_means():
    # Of five runs, the number of fours drawn is binomial (5, 1/5): at most 2 with 94.2 %, at most 3 with 99.3 %.
    assert bootstrap_interval(mean, scores([0.0, 0.0, 4.0, 0.0, 0.0])) == (0.0, pytest.approx(3 * 4 / 5))
    assert bootstrap_interval(mean, scores([0.0, 0.0, 4.0, 0.0, 0.0]), confidence=0.8)[1] == pytest.approx(2 * 4 / 5)


def test_runs_are_drawn_within_their_task():
    assert bootstrap_interval(mean, scores([0.0] * 3, [10.0] * 3)) == (5.0, 5.0)


def test_both_methods_are_drawn_anew():
    ours, theirs = scores([1.0, 2.0, 3.0]), scores([0.0, 2.0, 2.5])
    low, high = bootstrap_interval(probability_of_improvement, ours, theirs)
    assert 0 <= low < probability_of_improvement(ours, theirs) < high <= 1
    assert bootstrap_interval(probability_of_improvement, ours, theirs, seed=0) == (low, high)


def test_two_runs_have_no_interval():
    assert bootstrap_interval(mean, scores([1.0, 2.0, 3.0], [1.0, 2.0])) is None
