import numpy as np
import pytest

from jaxdt.data.d4rl import ENVIRONMENTS, d4rl_env_id, normalized_score, paper_targets, reference_name


@pytest.mark.parametrize(
    ("env_id", "random", "expert"),
    [
        ("HalfCheetah-v5", -280.178953, 12135.0),
        ("Hopper-v5", -20.272305, 3234.3),
        ("Walker2d-v4", 1.629008, 4592.3),
        ("Ant-v5", -325.6, 3879.7),
        ("AdroitHandPen-v1", 96.262799, 3076.8331),
        ("AdroitHandDoor-v1", -56.512833, 2880.5693),
        ("AdroitHandHammer-v1", -274.856578, 12794.1348),
        ("AdroitHandRelocate-v1", -6.425911, 4233.8778),
    ],
)
def test_a_random_policy_scores_0_and_an_expert_100(env_id, random, expert):
    scores = normalized_score(env_id, np.array([random, expert, (random + expert) / 2]))
    assert scores == pytest.approx([0, 100, 50], abs=1e-9)


def test_scores_worked_by_hand():
    # (1000 + 20.272305) / 3254.572305 and (6000 + 280.178953) / 12415.178953
    assert normalized_score("Hopper-v4", np.array([1000.0])) == pytest.approx([31.348890], rel=1e-6)
    assert normalized_score("HalfCheetah-v4", np.array([6000.0])) == pytest.approx([50.584683], rel=1e-6)


def test_scores_beyond_the_references_are_kept():
    assert normalized_score("Hopper-v5", np.array([4000.0]))[0] > 100
    assert normalized_score("Hopper-v5", np.array([-100.0]))[0] < 0


@pytest.mark.parametrize("name", ["HalfCheetah", "Hopper", "Walker2d", "Ant"])
def test_scores_are_the_same_for_every_version(name):
    returns = np.array([123.0, 4567.0])
    first = normalized_score(f"{name}-v2", returns)
    for version in ("v3", "v4", "v5", "v12"):
        assert np.array_equal(normalized_score(f"{name}-{version}", returns), first)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Humanoid-v5", "Reacher-v5", "HopperBig-v5", "mine/Hopper-v5", None])
def test_environments_that_d4rl_does_not_know_have_no_score(env_id):
    assert normalized_score(env_id, np.array([1.0])) is None
    assert reference_name(env_id) is None


def test_the_reference_is_named_as_d4rl_names_it():
    assert reference_name("HalfCheetah-v5") == "halfcheetah"
    assert reference_name("AdroitHandPen-v1") == "pen"
    assert all(name == name.lower() for name in ENVIRONMENTS)


def test_the_papers_targets_are_lowest_first():
    names = ("HalfCheetah-v5", "Hopper-v4", "Walker2d-v2", "Ant-v5", "CartPole-v1")
    assert [paper_targets(name) for name in names] == [(6000, 12000), (1800, 3600), (2500, 5000), None, None]


def test_a_dataset_of_d4rl_names_its_environment_where_the_observations_fit():
    assert d4rl_env_id("walker2d-medium-replay-v2", 17) == "Walker2d-v4"
    assert d4rl_env_id("ant-random-v2", 27) == "Ant-v4"
    for name, size in (("hopper-medium-v2", 17), ("hopper-best-v2", 11), ("hopper-medium-v1", 11), (None, 11)):
        assert d4rl_env_id(name, size) is None
