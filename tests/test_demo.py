from importlib import resources

import numpy as np
import pytest

from jaxdt import JaxdtError, load_episodes
from jaxdt.data import demo
from jaxdt.data.collecting import Behaviour, collect_episodes
from tests.conftest import make_store


def test_the_shipped_policies_rise_from_random_to_expert():
    levels = demo.demo_levels()
    assert len(levels) >= 4
    assert list(levels.values()) == sorted(levels.values())
    assert (min(levels, key=levels.get), max(levels, key=levels.get)) == ("random", "expert")


def test_the_shipped_expert_is_an_expert():
    assert demo.demo_levels()["expert"] >= 4500


def test_the_shipped_policies_are_small():
    assert (resources.files("jaxdt.data") / "demo_policies.npz").stat().st_size < 50_000


def test_the_shipped_expert_earns_what_it_is_said_to():
    store = collect_episodes(demo.DEMO_ENV, [Behaviour(demo.demo_policy("expert"), 3)])
    # Two of three episodes; a rare one tumbles.
    assert np.median(store.returns) > 0.8 * demo.demo_levels()["expert"]


def test_the_random_policy_is_uniform():
    policy, rng = demo.demo_policy("random"), np.random.default_rng(0)
    actions = np.stack([policy(np.zeros(17), rng) for _ in range(2000)])
    assert actions.shape == (2000, 6)
    assert np.allclose(np.quantile(actions, [0.0, 0.25, 0.5, 0.75, 1.0]), [-1, -0.5, 0, 0.5, 1], atol=0.03)


def test_a_level_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(JaxdtError, match=r"^demo policy 'champion' does not exist; choose one of random, .*expert"):
        demo.demo_policy("champion")


def test_demo_episodes_are_of_every_level_with_every_noise(monkeypatch):
    asked, made = [], make_store()

    def note(env_id, behaviours, *, seed, progress):
        asked.append((env_id, behaviours, seed))
        return made

    monkeypatch.setattr(demo, "collect_episodes", note)
    monkeypatch.setattr(demo, "demo_policy", lambda level: level)
    assert load_episodes("demo") is made
    ((env_id, behaviours, seed),) = asked
    assert (env_id, seed) == ("HalfCheetah-v5", 0)
    assert sum(behaviour.episodes for behaviour in behaviours) == demo.num_demo_episodes()
    expected = {(level, noise) for level in demo.demo_levels() for noise in demo.RECIPE[level][1]}
    assert {(behaviour.policy, behaviour.noise) for behaviour in behaviours} == expected
