"""The queue of whole episodes that online fine-tuning trains on."""

import numpy as np
import pytest

from jaxdt import EpisodeStore
from jaxdt.data.replay import best_episodes, with_newer
from tests.conftest import make_store


def episodes(*returns, length=2, env_id=None):
    """Each earns its return in its last step; observations tell them apart."""
    n = length * len(returns)
    rewards = np.zeros(n, np.float32)
    rewards[length - 1 :: length] = returns
    observations = np.repeat(returns, length)[:, None].astype(np.float32)
    ends = length * np.arange(1, len(returns) + 1)
    return EpisodeStore.from_arrays(observations, np.zeros((n, 1)), rewards, episode_ends=ends, env_id=env_id)


def seen(store):
    """What observations and rewards say of each episode."""
    assert store.observations[store.offsets[:-1], 0].tolist() == store.returns.tolist()
    return store.returns.tolist()


def test_it_begins_with_the_best_of_the_data_the_best_last():
    data = episodes(3, -1, 5, 4, 0, env_id="CartPole-v1")
    assert seen(best_episodes(data, 3)) == [3, 4, 5]
    assert seen(best_episodes(data, 9)) == [-1, 0, 3, 4, 5]
    assert best_episodes(data, 3).env_id is None


def test_equal_returns_keep_the_order_of_the_data_and_lengths_may_differ():
    data = make_store(lengths=(3, 1, 4))
    best = best_episodes(data, 2)
    for e, of in enumerate(np.argsort(data.returns)[-2:]):
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            ours = getattr(best, name)[best.offsets[e] : best.offsets[e + 1]]
            np.testing.assert_array_equal(ours, getattr(data, name)[data.offsets[of] : data.offsets[of + 1]])
    assert seen(best_episodes(episodes(1, 1, 1), 2)) == [1, 1]


@pytest.mark.parametrize(
    ("newer", "kept"),
    [
        ([[9]], [1, 2, 3, 9]),  # there is room
        ([[8, 9]], [2, 3, 8, 9]),
        ([[7], [8, 9]], [3, 7, 8, 9]),
        ([[5, 6, 7, 8, 9]], [6, 7, 8, 9]),
        ([[4, 5], [6, 7, 8], [9]], [6, 7, 8, 9]),
        ([], [1, 2, 3]),
    ],
)
def test_new_episodes_push_out_the_oldest(newer, kept):
    stores = [episodes(*returns, env_id="CartPole-v0") for returns in newer]
    assert seen(with_newer(episodes(1, 2, 3), *stores, capacity=4)) == kept


def test_pushing_one_by_one_and_all_at_once_is_the_same():
    replay, rounds = best_episodes(make_store(), 4), [make_store(seed=seed) for seed in (1, 2, 3)]
    one_by_one = replay
    for each in rounds:
        one_by_one = with_newer(one_by_one, each, capacity=4)
    together = with_newer(replay, *rounds, capacity=4)
    assert one_by_one.fingerprint == together.fingerprint
    assert together.num_episodes == 4
