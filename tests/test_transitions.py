"""Transitions are drawn from all steps whose next state is known, and from no others."""

import numpy as np
import pytest

import jaxdt
from jaxdt.data.transitions import TransitionSampler
from jaxdt.errors import JaxdtError


def make_store(terminated=(True, False, False, True), lengths=(3, 4, 1, 2)) -> jaxdt.EpisodeStore:
    """Row `i` observes `i`, acts `i / 100` and earns `10 i`."""
    rows, ends = np.arange(sum(lengths)), np.cumsum(lengths)
    terminations, truncations = np.zeros((2, len(rows)), bool)
    terminations[ends - 1], truncations[ends - 1] = terminated, ~np.array(terminated)
    return jaxdt.EpisodeStore.from_arrays(
        rows[:, None].astype(np.float32), rows[:, None] / 100, 10.0 * rows, terminations, truncations
    )


def test_every_transition_is_drawn_as_often_and_a_cut_episodes_last_step_never():
    sampler = TransitionSampler(make_store(), batch_size=1000, seed=3)
    batches = [next(sampler) for _ in range(70)]
    assert sampler.position == 70
    rows = np.concatenate([batch.observations[:, 0] for batch in batches]).astype(int)
    drawn, counts = np.unique(rows, return_counts=True)
    assert drawn.tolist() == [0, 1, 2, 3, 4, 5, 8, 9]  # 6 and 7 end episodes that were cut off
    assert np.abs(counts / len(rows) - 1 / 8).max() < 0.01
    for batch in batches:
        row = batch.observations[:, 0]
        np.testing.assert_allclose(batch.actions[:, 0], row / 100, rtol=1e-6)
        np.testing.assert_array_equal(batch.rewards, 10 * row)
        np.testing.assert_array_equal(batch.terminations, np.isin(row, (2, 9)))
        goes_on = ~batch.terminations
        np.testing.assert_array_equal(batch.next_observations[goes_on, 0], row[goes_on] + 1)
        assert batch.next_actions is None


def test_next_actions_are_those_of_the_next_row_where_they_are_asked_for():
    plain, asked = (
        TransitionSampler(make_store(), batch_size=50, next_actions=each).batch(3) for each in (False, True)
    )
    goes_on = ~asked.terminations
    assert 0 < goes_on.sum() < 50
    np.testing.assert_allclose(asked.next_actions[goes_on], asked.actions[goes_on] + 0.01, rtol=1e-5)
    for mine, theirs in zip(asked._replace(next_actions=None)[:-1], plain[:-1], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_batch_depends_on_seed_and_number_alone():
    store = make_store()
    first, other = (TransitionSampler(store, batch_size=5, seed=1) for _ in range(2))
    batches = [next(first) for _ in range(130)]
    for index in (129, 0, 64, 63):
        for mine, theirs in zip(other.batch(index), batches[index], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    rows = [np.concatenate([TransitionSampler(store, batch_size=50, seed=s).batch(0).rewards]) for s in (1, 2)]
    assert (rows[0] != rows[1]).any()


def test_mapped_stores_are_drawn_from(tmp_path):
    store = make_store()
    store.save(tmp_path / "data.npz")
    mapped = jaxdt.load_episodes(str(tmp_path / "data.npz"), map_above=0.0)
    assert mapped.mapped_in is not None
    for mine, theirs in zip(TransitionSampler(mapped).batch(7), TransitionSampler(store).batch(7), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"windows_per_pass": 5}, "passes count windows, and this method draws single steps; give steps instead"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(JaxdtError, match=message):
        TransitionSampler(make_store(), **arguments)


def test_episodes_without_transitions_are_refused():
    with pytest.raises(JaxdtError, match="they hold no transitions"):
        TransitionSampler(make_store(terminated=(False, False), lengths=(1, 1)))
