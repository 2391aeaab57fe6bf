from importlib import resources

import numpy as np
import pytest

from jaxdt import JaxdtError, load_episodes
from jaxdt.data import demo, scripted
from jaxdt.data.collecting import Behaviour, collect_episodes
from jaxdt.types import Discrete
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
    store = collect_episodes("HalfCheetah-v5", [Behaviour(demo.shipped_policy("expert"), 3)])
    # Two of three episodes; a rare one tumbles.
    assert np.median(store.returns) > 0.8 * demo.demo_levels()["expert"]


def test_the_random_policy_is_uniform():
    policy, rng = demo.shipped_policy("random"), np.random.default_rng(0)
    actions = np.stack([policy(np.zeros(17), rng) for _ in range(2000)])
    assert actions.shape == (2000, 6)
    assert np.allclose(np.quantile(actions, [0.0, 0.25, 0.5, 0.75, 1.0]), [-1, -0.5, 0, 0.5, 1], atol=0.03)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "CartPole-v0", "Acrobot-v1"])
def test_a_level_that_does_not_exist_is_refused_with_those_that_do(env_id):
    with pytest.raises(JaxdtError, match=r"^demo policy 'champion' does not exist; choose one of random, .*expert"):
        demo.demo_behaviours(env_id, "champion", 1)


def test_an_environment_without_demo_policies_is_refused_with_those_that_have_some():
    with pytest.raises(
        JaxdtError, match=r"^the demo policies are for HalfCheetah, CartPole, Acrobot; got Hopper-v5 \("
    ):
        demo.demo_behaviours("Hopper-v5", "expert", 1)


def test_demo_episodes_are_of_the_levels_that_take_part_with_every_noise(monkeypatch):
    asked, made = [], make_store()

    def note(env_id, behaviours, *, seed, progress):
        asked.append((env_id, behaviours, seed))
        return made

    monkeypatch.setattr(demo, "collect_episodes", note)
    monkeypatch.setattr(demo, "shipped_policy", lambda level: level)
    assert load_episodes("demo") is made
    ((env_id, behaviours, seed),) = asked
    assert (env_id, seed) == ("HalfCheetah-v5", 0)
    assert sum(behaviour.episodes for behaviour in behaviours) == demo.num_demo_episodes()
    levels = demo.DEMOS["demo"].levels
    assert set(levels) == set(demo.demo_levels())
    expected = {(name, noise) for name, level in levels.items() if level.episodes for noise in level.noises}
    assert {(behaviour.policy, behaviour.noise) for behaviour in behaviours} == expected


def test_the_levels_that_take_part_are_far_apart():
    levels = demo.demo_levels()
    returns = [levels[name] for name, level in demo.DEMOS["demo"].levels.items() if level.episodes]
    # Levels that earn nearly the same cannot be told apart by their return-to-go.
    assert np.all(np.diff(returns) >= 0.2 * levels["expert"])


@pytest.mark.slow
def test_cartpoles_episodes_have_every_return_and_plenty_of_the_targets():
    store = load_episodes("cartpole")
    assert (store.env_id, store.spec.action, store.num_episodes) == (
        "CartPole-v1",
        Discrete(2),
        demo.num_demo_episodes("cartpole"),
    )
    assert np.histogram(store.returns, bins=[0, 20, 50, 100, 150, 200, 250, 300, 400, 500])[0].min() >= 10
    for low, high, least in ((30, 70, 40), (150, 250, 30), (500, 500, 35)):
        assert ((store.returns >= low) & (store.returns <= high)).sum() >= least


def test_demo_episodes_are_the_same_whenever_they_are_made(monkeypatch):
    cartpole = demo.DEMOS["cartpole"]
    few = {name: level._replace(episodes=2) for name, level in cartpole.levels.items()}
    monkeypatch.setitem(demo.DEMOS, "cartpole", cartpole._replace(levels=few))
    once, again, other = (demo.collect_demo_episodes("cartpole", seed=seed) for seed in (0, 0, 1))
    assert once.num_episodes == 2 * len(few)
    assert once.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.slow
def test_acrobots_episodes_reach_the_top_sooner_or_later():
    store = load_episodes("acrobot")
    assert (store.env_id, store.spec.action) == ("Acrobot-v1", Discrete(3))
    assert np.histogram(store.returns, bins=[-500, -400, -300, -200, -100, 0])[0].min() >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cartpole", "acrobot"])
def test_scripted_levels_rise_from_random_to_expert(name):
    env_id, levels = demo.DEMOS[name]
    returns = [collect_episodes(env_id, demo.demo_behaviours(env_id, level, 9)).returns.mean() for level in levels]
    assert list(levels) == list(demo.demo_levels())
    assert returns == sorted(returns)


def test_a_switched_policy_changes_at_its_step_and_a_partly_random_one_at_its_rate():
    policy = scripted.switched(lambda o, rng: "first", lambda o, rng: "then", 3)
    assert [policy(None, None) for _ in range(5)] == ["first"] * 3 + ["then"] * 2
    rng = np.random.default_rng(0)
    mixed = scripted.partly_random(lambda o, rng: 7, Discrete(2, 3), 0.25)
    actions = [mixed(None, rng) for _ in range(4000)]
    assert set(actions) == {3, 4, 7}
    assert actions.count(7) / 4000 == pytest.approx(0.75, abs=0.02)
    for count in (3, 10, 100):
        gaps = np.diff(sorted([10, 90, *(scripted.spread(10, 90, i) for i in range(count))]))
        assert gaps.max() < 3 * 80 / count
