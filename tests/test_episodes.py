import dataclasses
import tracemalloc

import numpy as np
import pytest

from jaxdt import EpisodeStore, JaxdtError, load_episodes
from jaxdt.data.joining import concatenate
from jaxdt.data.replay import best_episodes
from jaxdt.data.statistics import statistics_of
from jaxdt.data.storage import MEMORY
from jaxdt.types import Box, Discrete, Spec
from tests.conftest import make_store


def small_arrays(**changes) -> dict:
    """Six steps in episodes of 2, 1 and 3."""
    arrays = {
        "observations": np.arange(12.0).reshape(6, 2),
        "actions": np.linspace(-0.5, 0.5, 6)[:, None],
        "rewards": np.array([1.0, 2.0, -5.0, 0.5, 0.25, 4.0]),
        "episode_ends": np.array([2, 3, 6]),
    }
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


def store_of_returns(lengths, returns) -> EpisodeStore:
    """Episodes of these lengths and returns; each observation and action is its episode's number."""
    number = np.repeat(np.arange(len(lengths)), lengths)[:, None]
    rewards = np.repeat(np.divide(returns, lengths), lengths)
    return EpisodeStore.from_arrays(number, number / 10, rewards, episode_ends=np.cumsum(lengths))


def episodes_kept(store: EpisodeStore) -> list[int]:
    return store.observations[store.offsets[:-1], 0].tolist()


def test_episodes_are_kept_end_to_end_with_their_offsets():
    store = EpisodeStore.from_arrays(**small_arrays(), env_id="Hopper-v4")
    assert (store.num_episodes, store.num_steps, store.state_dim, store.action_dim) == (3, 6, 2, 1)
    assert store.offsets.tolist() == [0, 2, 3, 6]
    assert store.lengths.tolist() == [2, 1, 3]
    assert store.env_id == "Hopper-v4"
    assert store.observations.tolist() == small_arrays()["observations"].tolist()


def test_returns_are_undiscounted_sums():
    assert EpisodeStore.from_arrays(**small_arrays()).returns.tolist() == [3.0, -5.0, 4.75]


def test_returns_to_go_restart_at_every_episode():
    store = EpisodeStore.from_arrays(**small_arrays())
    assert store.returns_to_go.tolist() == [3.0, 2.0, -5.0, 4.75, 4.25, 4.0]
    assert store.returns_to_go.dtype == np.float32


def test_returns_to_go_of_a_million_steps_keep_their_precision():
    rewards = np.full(1_000_000, 0.1, np.float32)
    store = EpisodeStore.from_arrays(np.zeros((1_000_000, 1)), np.zeros((1_000_000, 1)), rewards, episode_ends=[10**6])
    # Summed in float32 the first would be off by hundreds.
    assert store.returns_to_go[[0, -1]] == pytest.approx([100_000, 0.1], rel=1e-6)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(np.float64, np.float32), (np.float16, np.float32), (np.dtype(">f4"), np.float32), (np.int32, np.int32)],
)
def test_float_observations_become_float32_and_whole_ones_stay(given, kept):
    store = EpisodeStore.from_arrays(**small_arrays(observations=np.arange(12).reshape(6, 2).astype(given)))
    assert store.observations.dtype == kept
    assert store.observations.tolist() == np.arange(12).reshape(6, 2).tolist()


def test_actions_and_rewards_become_float32():
    with pytest.warns(UserWarning, match="actions are whole numbers, 1 a step, and are taken as continuous vectors"):
        store = EpisodeStore.from_arrays(**small_arrays(actions=np.ones((6, 1), int), rewards=[1] * 6))
    assert (store.actions.dtype, store.rewards.dtype) == (np.float32, np.float32)


def test_without_ends_episodes_end_at_a_termination_or_truncation():
    store = EpisodeStore.from_arrays(
        **small_arrays(episode_ends=None), terminations=[0, 1, 0, 0, 0, 0], truncations=[0, 0, 1, 0, 0, 1]
    )
    assert store.offsets.tolist() == [0, 2, 3, 6]
    assert store.terminations.tolist() == [False, True, False, False, False, False]
    assert store.truncations.tolist() == [False, False, True, False, False, True]


def test_given_ends_decide_whatever_the_flags_say():
    store = EpisodeStore.from_arrays(**small_arrays(episode_ends=[6]), terminations=[0, 1, 0, 0, 0, 0])
    assert store.offsets.tolist() == [0, 6]


def test_an_episode_that_ends_without_a_flag_was_cut_off():
    flags = np.array([False, True, False, False, False, False])
    unflagged = np.zeros(6, bool)
    store = EpisodeStore.from_arrays(**small_arrays(), terminations=flags, truncations=unflagged)
    assert store.truncations.tolist() == [False, False, True, False, False, True]
    assert not unflagged.any()


def test_an_unfinished_episode_at_the_end_is_dropped_with_a_warning():
    with pytest.warns(UserWarning, match=r"^the log: the last 3 steps belong to an unfinished episode and are dropped"):
        store = EpisodeStore.from_arrays(
            **small_arrays(episode_ends=None), truncations=[0, 1, 1, 0, 0, 0], source="the log"
        )
    assert store.offsets.tolist() == [0, 2, 3]
    assert len(store.observations) == len(store.actions) == len(store.rewards) == len(store.truncations) == 3


def test_what_is_dropped_may_be_damaged():
    rewards = [1.0, 2.0, 3.0, np.nan, np.nan, np.nan]
    with pytest.warns(UserWarning, match="unfinished"):
        store = EpisodeStore.from_arrays(
            **small_arrays(episode_ends=None, rewards=rewards),
            terminations=[0, 0, 1, 0, 0, 0],
            truncations=[0, 0, 0, 0, 0, 0],
        )
    assert store.returns.tolist() == [6.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.zeros(5)}, "rewards has 5 steps but observations has 6"),
        ({"actions": np.zeros((7, 1))}, "actions has 7 steps but observations has 6"),
        ({"terminations": np.zeros(5, bool)}, "terminations has 5 steps but observations has 6"),
        ({"truncations": np.zeros(8, bool)}, "truncations has 8 steps but observations has 6"),
        ({"observations": np.zeros((0, 2))}, "observations is empty"),
        ({"observations": np.zeros(6)}, r"observations must have shape \(steps, size\); got \(6,\)"),
        ({"observations": np.full((6, 2), "a")}, "observations must be numbers; got dtype <U1"),
        ({"observations": np.full((6, 2), None)}, "observations must be numbers; got dtype object"),
        ({"observations": [[1, 2], [3]]}, "observations must be one array; got rows of different sizes"),
        ({"actions": np.zeros((6, 1), complex)}, "actions must be numbers; got dtype complex128"),
        ({"actions": np.zeros((6, 1), bool)}, "actions must be numbers; got dtype bool"),
        (
            {"actions": np.zeros(6)},
            r"actions of shape \(6,\) must be whole numbers; got dtype float64 "
            r"\(give continuous actions the shape \(steps, size\), discrete ones an integer dtype\)\.$",
        ),
        ({"actions": np.zeros(6, bool)}, r"actions of shape \(6,\) must be whole numbers; got dtype bool"),
        (
            {"actions": np.zeros((6, 1, 1))},
            r"actions must have shape \(steps, size\), or \(steps,\) where they are d",
        ),
        ({"actions": np.full(6, 2**31)}, r"discrete actions must fit int32; got 2147483648 \(number them from 0 on\)"),
        ({"actions": np.full(6, -(2**31) - 1)}, "discrete actions must fit int32; got -2147483649"),
        ({"actions": np.full(6, 2**63, np.uint64)}, "discrete actions must fit int32; got 9223372036854775808"),
        ({"actions": np.zeros(5, int)}, "actions has 5 steps but observations has 6"),
        ({"actions": np.zeros(0, int)}, "actions is empty"),
        ({"rewards": np.zeros((6, 2))}, r"rewards must have shape \(steps,\), one number a step; got \(6, 2\)"),
        ({"rewards": np.zeros(6, "datetime64[s]")}, "rewards must be numbers; got dtype datetime64"),
        ({"terminations": [0, 1, 2, 0, 0, 0]}, "terminations must be true or false at every step"),
        ({"truncations": np.full(6, np.nan)}, "truncations must be true or false at every step"),
        ({"episode_ends": [2, 2, 6]}, r"episode 1 is empty; episode_ends must rise"),
        ({"episode_ends": [0, 6]}, r"episode 0 is empty; episode_ends must rise"),
        ({"episode_ends": [2, 5]}, "the last of episode_ends must be the number of steps, 6; got 5"),
        ({"episode_ends": [2, 9]}, "the last of episode_ends must be the number of steps, 6; got 9"),
        ({"episode_ends": []}, "episode_ends must be one or more whole numbers"),
        ({"episode_ends": [2.0, 6.0]}, "episode_ends must be one or more whole numbers"),
        ({"episode_ends": None}, "no episode ends; give episode_ends, or terminations and truncations"),
    ],
)
def test_arrays_that_are_no_dataset_are_refused_in_one_sentence(changes, message):
    with pytest.raises(JaxdtError, match=f"^my log: .*{message}") as caught:
        EpisodeStore.from_arrays(**small_arrays(**changes), source="my log")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("field", ["observations", "actions", "rewards"])
def test_a_number_that_is_not_finite_is_refused_with_its_place(field, bad):
    values = np.asarray(small_arrays()[field], np.float64).copy()
    values[4, ...] = bad
    with pytest.raises(JaxdtError, match=rf"^the arrays: {field} of episode 2, step 1, is not a finite float32; "):
        EpisodeStore.from_arrays(**small_arrays(**{field: values}))


def test_infinities_that_cancel_are_refused_too():
    rewards = [np.inf, -np.inf, 0, 0, 0, 0]
    with pytest.raises(JaxdtError, match="rewards of episode 0, step 0"):
        EpisodeStore.from_arrays(**small_arrays(rewards=rewards))


def test_statistics_are_over_all_steps():
    store = EpisodeStore.from_arrays(**small_arrays(observations=[[0, 7], [0, 7], [3, 7], [3, 7], [6, 7], [6, 7]]))
    assert store.statistics.mean.tolist() == [3.0, 7.0]
    assert store.statistics.std == pytest.approx([np.sqrt(6) + 1e-6, 1e-6])
    assert store.statistics.std.dtype == store.statistics.mean.dtype == np.float32


def test_statistics_of_far_away_observations_keep_their_precision():
    observations = np.tile([[1e6 - 1], [1e6 + 1]], (50_000, 1))
    store = EpisodeStore.from_arrays(observations, observations, observations[:, 0], episode_ends=[100_000])
    assert store.statistics.mean[0] == 1e6
    assert store.statistics.std[0] == pytest.approx(1.0, rel=1e-5)


def test_statistics_of_pictures_take_little_memory():
    pictures = np.zeros((9600, 84, 84), np.uint8)
    pictures[::2] = 3
    tracemalloc.start()
    try:
        mean, std = statistics_of(pictures)
        assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    finally:
        tracemalloc.stop()
    assert (mean == 1.5).all()
    assert std == pytest.approx(1.5 + 1e-6)


def test_statistics_of_floats_are_those_of_chunks_of_64_mib():
    values = np.random.default_rng(0).normal(size=(300, 2**16)).astype(np.float32)
    total = np.zeros(2**16)
    for start in (0, 256):
        total += values[start : start + 256].astype(np.float64).sum(axis=0)
    np.testing.assert_array_equal(statistics_of(values).mean, (total / 300).astype(np.float32))


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.best(0.4),
        lambda store: store.with_delayed_rewards(),
        lambda store: store.with_actions_of(Box(np.full(2, -2.0), np.full(2, 2.0))),
        lambda store: store.best(0.4).with_delayed_rewards().best(0.5),
        lambda store: store.best(0.4).with_actions_of(Box(np.full(2, -2.0), np.full(2, 2.0))),
    ],
    ids=["best", "delayed", "rescaled", "all of them", "best then rescaled"],
)
def test_statistics_are_taken_before_any_filter(change):
    store, twin = make_store((5, 4, 6)), make_store((5, 4, 6))
    # The twin's statistics have not been asked for when it is filtered.
    for ours, theirs in zip(change(twin).statistics, store.statistics, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("lengths", "returns", "fraction", "kept"),
    [
        ([10, 10, 10, 10], [3, 1, 4, 2], 0.5, [0, 2]),
        ([10, 10, 10, 10], [3, 1, 4, 2], 0.49, [2]),
        ([10, 10, 10, 10], [3, 1, 4, 2], 1.0, [0, 1, 2, 3]),
        # Exactly full counts as fitting.
        ([10, 20, 10], [2, 1, 3], 0.5, [0, 2]),
        # The next best does not fit, so the shorter one after it is not tried.
        ([4, 30, 5, 1], [1, 3, 4, 2], 0.3, [2]),
        # The best alone is too long and taken all the same.
        ([1, 30, 1], [1, 3, 2], 0.1, [1]),
        ([1, 30, 1], [1, 3, 2], 1e-9, [1]),
        # By return, not by return a step.
        ([10, 1], [5, 4], 0.9, [0]),
        ([2, 2, 2], [-5, -1, -3], 0.7, [1, 2]),
    ],
)
def test_the_best_episodes_end_at_the_first_that_does_not_fit(lengths, returns, fraction, kept):
    assert episodes_kept(store_of_returns(lengths, returns).best(fraction)) == kept


@pytest.mark.parametrize(
    ("lengths", "returns", "fraction", "kept"),
    [
        # Rounded down.
        ([1, 1, 1, 1], [3, 1, 4, 2], 0.74, [0, 2]),
        # At least one, however long.
        ([1, 30, 1], [1, 3, 2], 0.1, [1]),
        ([10, 10], [1, 2], 1.0, [0, 1]),
    ],
)
def test_the_best_episodes_by_number_are_that_share_of_them(lengths, returns, fraction, kept):
    assert episodes_kept(store_of_returns(lengths, returns).best(fraction, of="episodes")) == kept


def test_the_two_rules_keep_different_episodes_of_the_same_data():
    """Half of 24 steps are 12, into which the best episode's 4 fit and not the next one's 16; of 4 episodes 2."""
    store = store_of_returns([2, 16, 2, 4], [1, 3, 2, 4])
    assert episodes_kept(store.best(0.5)) == episodes_kept(store.best(0.5, of="steps")) == [3]
    assert episodes_kept(store.best(0.5, of="episodes")) == [1, 3]


def test_the_best_episodes_are_whole_and_in_their_old_order():
    store = store_of_returns([2, 3, 4], [5, 1, 9])
    best = store.best(0.7)
    rows = [0, 1, 5, 6, 7, 8]
    assert best.offsets.tolist() == [0, 2, 6]
    for field in ("observations", "actions", "rewards", "terminations", "truncations"):
        assert np.array_equal(getattr(best, field), getattr(store, field)[rows]), field
    assert best.returns == pytest.approx([5, 9])


def test_a_share_of_the_episodes_is_held_out_whole_and_always_the_same():
    store = make_store(lengths=[3, 5, 2, 4, 6])
    rest, held_out = store.split(0.4)
    assert (rest.num_episodes, held_out.num_episodes) == (3, 2)
    assert sorted([*rest.returns, *held_out.returns]) == sorted(store.returns)
    np.testing.assert_allclose(rest.statistics.mean, rest.observations.mean(axis=0), rtol=1e-5)  # its own
    assert store.split(0.4)[1].fingerprint == held_out.fingerprint
    assert store.split(0.01)[1].num_episodes == store.split(0.99)[0].num_episodes == 1


def test_a_store_is_a_sequence_of_its_episodes():
    store = make_store(lengths=[3, 5, 2], env_id="Hopper-v5")
    assert len(store) == 3
    assert [len(episode["rewards"]) for episode in store] == [3, 5, 2]
    np.testing.assert_array_equal(store[-1]["observations"], store.observations[8:])
    with pytest.raises(IndexError):
        store[3]
    assert EpisodeStore.from_episodes(store, env_id="Hopper-v5").fingerprint == store.fingerprint
    assert store[1:].fingerprint == EpisodeStore.from_episodes([store[1], store[2]]).fingerprint
    np.testing.assert_allclose(store[1:].statistics.mean, store.observations[3:].mean(axis=0), rtol=1e-5)
    with pytest.raises(JaxdtError, match="one or more in their order; got slice"):
        store[::-1]


def test_a_store_is_one_line_for_people():
    text = repr(make_store(lengths=[3, 5], env_id="Hopper-v5"))
    assert text.startswith("EpisodeStore(2 episodes, 8 steps, observations (3,), actions (2,), return ")
    assert text.endswith(", Hopper-v5)")


def test_the_only_episode_cannot_be_held_out():
    with pytest.raises(JaxdtError, match="validation_fraction holds whole episodes out and the data have one"):
        make_store(lengths=[3]).split(0.5)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_a_best_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(JaxdtError, match=f"best_fraction must be above 0 and at most 1; got {fraction}"):
        make_store().best(fraction)


def test_delayed_rewards_move_to_the_last_step():
    delayed = EpisodeStore.from_arrays(**small_arrays()).with_delayed_rewards()
    assert delayed.rewards.tolist() == [0, 3, -5, 0, 0, 4.75]
    assert delayed.returns.tolist() == [3, -5, 4.75]
    assert delayed.returns_to_go.tolist() == [3, 3, -5, 4.75, 4.75, 4.75]


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.with_delayed_rewards(),
        lambda store: store.with_actions_of(Box(np.array([-1.0]), np.array([2.0]))),
        lambda store: store.best(0.5),
    ],
    ids=["delayed", "rescaled", "best"],
)
def test_changes_leave_the_store_as_it_was(change):
    store = EpisodeStore.from_arrays(**small_arrays())
    change(store)
    for field in ("observations", "actions", "rewards"):
        assert np.array_equal(getattr(store, field), small_arrays()[field].astype(np.float32)), field
    assert store.offsets.tolist() == [0, 2, 3, 6]


def test_actions_are_rescaled_affinely():
    actions = [[-2, 0], [2, 10], [0, 5], [1, 7.5], [-1, 2.5], [0, 0]]
    store = EpisodeStore.from_arrays(**small_arrays(actions=actions))
    rescaled = store.with_actions_of(Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0])))
    assert np.allclose(rescaled.actions, [[-1, -1], [1, 1], [0, 0], [0.5, 0.5], [-0.5, -0.5], [0, -1]])
    assert rescaled.actions.dtype == np.float32


def test_the_unit_space_is_left_alone():
    store = make_store()
    rescaled = store.with_actions_of(Box(-np.ones(2, np.float32), np.ones(2, np.float32)))
    assert np.allclose(rescaled.actions, store.actions, rtol=1e-5, atol=1e-6)


def test_actions_outside_the_space_are_refused_with_the_count_and_the_way_out():
    store = EpisodeStore.from_arrays(**small_arrays(actions=[[0], [1], [-1.5], [0.5], [3], [1]]))
    with pytest.raises(
        JaxdtError,
        match=r"^2 of 6 actions lie outside the action space \[-1, 1\] "
        r"\(first: -1\.5, episode 1\); rescale them, or clip them with clip_actions=True \(--clip-actions\)\.$",
    ):
        store.with_actions_of(Box(np.array([-1.0]), np.array([1.0])))
    with pytest.raises(
        JaxdtError, match=r"^1 of 6 .*, or say normalized_actions=True \(.*\) where they are in \[-1, 1\] already\.$"
    ):
        store.with_actions_of(Box(np.array([-2.0]), np.array([2.0])))


def test_data_say_the_bounds_of_actions_that_pass_1():
    actions = np.array([[0, 0.5], [1, 0], [-1.5, 0], [0.5, -0.25], [3, 0], [1, 0]], np.float32)
    store = EpisodeStore.from_arrays(**small_arrays(actions=actions))
    space = store.spec.action
    assert (space.low.tolist(), space.high.tolist()) == ([-1.5, -1.0], [3.0, 1.0])
    mapped = store.with_actions_of(space)
    np.testing.assert_allclose(mapped.actions[:, 0], (actions[:, 0] - 0.75) / 2.25, rtol=1e-6)
    np.testing.assert_allclose(mapped.actions[:, 1], actions[:, 1], rtol=1e-6)


def test_actions_that_models_take_are_not_mapped_again():
    store = EpisodeStore.from_arrays(**small_arrays(actions=[[0], [1], [-1.5], [0.5], [3], [1]]))
    mapped = store.with_actions_of(store.spec.action)
    for same in (mapped, mapped[:1], mapped.best(0.5), *mapped.split(0.5)):
        assert same.with_actions_of(store.spec.action) is same
    with pytest.raises(JaxdtError, match=r"discrete, 0 \.\.\. 2"):
        mapped.with_actions_of(Discrete(3))
    beyond = dataclasses.replace(store, as_models_take_them=True)
    with pytest.raises(JaxdtError, match="2 of 6 actions lie outside"):
        beyond.with_actions_of(store.spec.action)
    assert beyond.with_actions_of(store.spec.action, clip=True).actions.ravel().tolist() == [0, 1, -1, 0.5, 1, 1]
    buttons = EpisodeStore.from_arrays(**small_arrays(actions=np.array([3, 5, 4, 3, 3, 4]))).with_actions_of(
        Discrete(3, 3)
    )
    assert buttons.with_actions_of(Discrete(3, 3)) is buttons
    with pytest.raises(JaxdtError, match=r"1 of 6 actions are not of the environment's, 0 \.\.\. 1 "):
        buttons.with_actions_of(Discrete(2))
    with pytest.raises(JaxdtError, match="must all have the environment's actions, or all with_actions_of's"):
        concatenate([store, mapped], ["a", "b"], MEMORY)
    assert concatenate([mapped, mapped], ["a", "b"], MEMORY).as_models_take_them
    assert best_episodes(mapped, 1).as_models_take_them


def test_terminations_alone_do_not_say_where_episodes_were_cut_off():
    arrays = small_arrays(episode_ends=None)
    with pytest.raises(JaxdtError, match=r"terminations alone do not say .*; add truncations .*, or give episode_ends"):
        EpisodeStore.from_arrays(**arrays, terminations=[0, 1, 0, 0, 0, 0])
    with pytest.warns(UserWarning, match=r"the longest after 4 steps; if some were cut off before, add them, or give"):
        store = EpisodeStore.from_arrays(**arrays, terminations=[0, 1, 0, 0, 0, 1])
    assert store.offsets.tolist() == [0, 2, 6]


def test_actions_outside_the_space_are_clipped_if_asked():
    store = EpisodeStore.from_arrays(**small_arrays(actions=[[0], [4], [-5], [0.5], [-2], [1]]))
    clipped = store.with_actions_of(Box(np.array([-2.0]), np.array([2.0])), clip=True)
    assert clipped.actions[:, 0].tolist() == [0, 1, -1, 0.25, -1, 0.5]


def test_actions_outside_by_rounding_only_are_taken():
    store = EpisodeStore.from_arrays(**small_arrays(actions=np.full((6, 1), 1 + 1e-6)))
    assert store.with_actions_of(Box(np.array([-1.0]), np.array([1.0]))).actions.max() == 1.0


def test_discrete_actions_are_counted_from_0():
    store = EpisodeStore.from_arrays(**small_arrays(actions=np.array([3, 5, 4, 3, 3, 4], np.uint8)))
    assert store.is_discrete
    assert (store.actions.dtype, store.actions.tolist()) == (np.int32, [3, 5, 4, 3, 3, 4])
    counted = store.with_actions_of(Discrete(4, 3))
    assert (counted.actions.dtype, counted.actions.tolist()) == (np.int32, [0, 2, 1, 0, 0, 1])
    assert counted.fingerprint != store.fingerprint
    again = EpisodeStore.from_arrays(**small_arrays(actions=[0, 2, 1, 0, 0, 1])).with_actions_of(Discrete(3))
    assert again.fingerprint == counted.fingerprint


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("space", "count", "first"), [(Discrete(4, -1), 2, "3, episode 2"), (Discrete(9), 3, "-1, ep")]
)
def test_discrete_actions_that_the_environment_lacks_are_refused_and_never_clipped(space, count, first, clip):
    store = EpisodeStore.from_arrays(**small_arrays(actions=[-1, 0, -1, 3, -1, 3]))
    with pytest.raises(JaxdtError) as caught:
        store.with_actions_of(space, clip=clip)
    allowed = f"{space.start} ... {space.start + space.n - 1}"
    assert str(caught.value).startswith(f"{count} of 6 actions are not of the environment's, {allowed} (first: {first}")
    assert str(caught.value).endswith("number them so, or choose the environment that the data were recorded in.")


def test_actions_of_the_other_kind_than_the_environments_are_refused():
    unit = Box(-np.ones(2, np.float32), np.ones(2, np.float32))
    with pytest.raises(JaxdtError, match=r"are discrete but the environment's are vectors of 2 numbers; choose"):
        make_store(discrete=3).with_actions_of(unit)
    with pytest.raises(JaxdtError, match=r"are vectors of 2 numbers but the environment's are discrete, 1 \.\.\. 3; c"):
        make_store().with_actions_of(Discrete(3, 1))
    with pytest.raises(JaxdtError, match="the data's actions are discrete and have no size"):
        _ = make_store(discrete=3).action_dim


def test_the_spec_says_what_the_data_fix():
    unit = Box(-np.ones(2, np.float32), np.ones(2, np.float32))
    assert make_store(state_dim=5).spec == Spec(observation_shape=(5,), action=unit)
    frames = EpisodeStore.from_arrays(**small_arrays(observations=np.zeros((6, 4, 4, 1), np.uint8), actions=[2] * 6))
    assert frames.spec == Spec(observation_shape=(4, 4, 1), observation_dtype="uint8", action=Discrete(3))
    below = EpisodeStore.from_arrays(**small_arrays(actions=[-1, 0, 0, 3, 0, 0]))
    assert below.spec.action == Discrete(5, -1)


def test_filters_keep_discrete_actions_as_they_are():
    store = EpisodeStore.from_arrays(**small_arrays(actions=[3, 5, 4, 3, 3, 4]))
    assert store.with_delayed_rewards().actions is store.actions
    best = store.best(0.9)
    assert (best.actions.dtype, best.actions.tolist()) == (np.int32, [3, 5, 3, 3, 4])


@pytest.mark.parametrize("field", ["observations", "actions", "rewards", "terminations", "truncations"])
def test_the_fingerprint_changes_with_every_array(field):
    changed = EpisodeStore.from_arrays(**small_arrays())
    values = getattr(changed, field)
    values[3] = ~values[3] if values.dtype == bool else values[3] + 0.5
    assert changed.fingerprint != EpisodeStore.from_arrays(**small_arrays()).fingerprint


def test_the_fingerprint_changes_with_the_ends_and_the_shape():
    store = EpisodeStore.from_arrays(**small_arrays())
    everywhere = {"truncations": np.ones(6, bool)}
    fingerprints = {
        store.fingerprint,
        EpisodeStore.from_arrays(**small_arrays(), **everywhere).fingerprint,
        EpisodeStore.from_arrays(**small_arrays(episode_ends=[1, 3, 6]), **everywhere).fingerprint,
        EpisodeStore.from_arrays(**small_arrays(observations=np.arange(12.0).reshape(6, 2, 1))).fingerprint,
        EpisodeStore.from_arrays(**small_arrays(observations=np.arange(12).reshape(6, 2))).fingerprint,
    }
    assert len(fingerprints) == 5


def test_the_fingerprint_of_equal_data_is_equal():
    lists = {name: values.tolist() for name, values in small_arrays().items()}
    fortran = small_arrays(observations=np.asfortranarray(small_arrays()["observations"]))
    fingerprint = EpisodeStore.from_arrays(**small_arrays()).fingerprint
    assert EpisodeStore.from_arrays(**lists).fingerprint == fingerprint
    assert EpisodeStore.from_arrays(**fortran, env_id="Hopper-v5", source="elsewhere").fingerprint == fingerprint


@pytest.mark.parametrize("env_id", [None, "HalfCheetah-v5", "mujoco/Hopper-v4"])
@pytest.mark.parametrize("observations", [np.arange(12.0).reshape(6, 2), np.zeros((6, 4, 4, 1), np.uint8)])
def test_a_saved_store_loads_as_it_was(tmp_path, env_id, observations):
    arrays = small_arrays(observations=observations)
    store = EpisodeStore.from_arrays(**arrays, terminations=[0, 1, 0, 0, 0, 0], env_id=env_id)
    store.save(tmp_path / "made" / "on the way" / "episodes.npz")
    loaded = load_episodes(tmp_path / "made" / "on the way" / "episodes.npz")
    assert loaded.fingerprint == store.fingerprint
    assert loaded.env_id == env_id
    assert loaded.observations.dtype == store.observations.dtype
    assert np.array_equal(loaded.observations, store.observations)


def test_saving_replaces_an_older_file(tmp_path):
    path = tmp_path / "episodes.npz"
    make_store((4,)).save(path)
    make_store((5,)).save(path)
    assert load_episodes(path).lengths.tolist() == [5]
    assert [child.name for child in tmp_path.iterdir()] == ["episodes.npz"]


def test_specs_joined_by_plus_are_one_store(tmp_path):
    first, second = make_store((3, 2), seed=1, env_id="Hopper-v5"), make_store((4,), seed=2)
    first.save(tmp_path / "a.npz")
    second.save(tmp_path / "b.npz")
    joined = load_episodes(f"{tmp_path / 'a.npz'}+{tmp_path / 'b.npz'}")
    assert joined.lengths.tolist() == [3, 2, 4]
    assert joined.env_id == "Hopper-v5"
    for field in ("observations", "actions", "rewards", "terminations", "truncations"):
        expected = np.concatenate([getattr(first, field), getattr(second, field)])
        assert np.array_equal(getattr(joined, field), expected), field
    assert joined.returns == pytest.approx([*first.returns, *second.returns])
    assert np.allclose(joined.statistics.mean, np.concatenate([first.observations, second.observations]).mean(axis=0))


def test_a_spec_may_name_a_file_more_than_once(tmp_path):
    make_store((3,)).save(tmp_path / "a.npz")
    path = str(tmp_path / "a.npz")
    assert load_episodes(f"{path}+{path}+{path}").lengths.tolist() == [3, 3, 3]


def test_joined_datasets_of_environments_made_in_other_ways_are_refused(tmp_path):
    for name, kwargs in (("a", {"g": 2}), ("b", {"g": 1})):
        dataclasses.replace(make_store(env_id="Hopper-v5"), env_kwargs=kwargs).save(tmp_path / f"{name}.npz")
    with pytest.raises(
        JaxdtError, match=r"of one environment; got the env_kwargs {'g': 2}, {'g': 1} from .*a.npz, .*b"
    ):
        load_episodes(f"{tmp_path / 'a.npz'}+{tmp_path / 'b.npz'}")


def test_joined_datasets_have_the_arguments_that_some_say_and_the_longest_limit():
    stores = [
        dataclasses.replace(make_store(env_id="Hopper-v5"), env_kwargs=kwargs)
        for kwargs in ({"g": 2, "max_episode_steps": 50}, None, {"g": 2, "max_episode_steps": 70})
    ]
    joined = concatenate(stores, ["a", "b", "c"], MEMORY)
    assert joined.env_kwargs == {"g": 2, "max_episode_steps": 70}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"state_dim": 5}, r"agree on the size of observations; .*a\.npz has \(3,\), .*b\.npz has \(5,\)"),
        ({"action_dim": 4}, r"agree on the size of actions; .*a\.npz has \(2,\), .*b\.npz has \(4,\)"),
        (
            {"discrete": 3},
            r"agree on the kind of actions; those of .*a\.npz are continuous, those of .*b\.npz disc",
        ),
        ({"env_id": "Walker2d-v5"}, "must be of one environment; got Hopper-v5, Walker2d-v5 from .*a.npz, .*b.npz"),
    ],
)
def test_joined_datasets_that_disagree_are_refused(tmp_path, other, message):
    make_store(env_id="Hopper-v5").save(tmp_path / "a.npz")
    make_store(**other).save(tmp_path / "b.npz")
    with pytest.raises(JaxdtError, match=f"^datasets joined by .*{message}"):
        load_episodes(f"{tmp_path / 'a.npz'}+{tmp_path / 'b.npz'}")


def test_actions_of_another_size_than_the_spaces_are_refused():
    space = Box(-np.ones(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(JaxdtError, match="the data's actions are vectors of 2 numbers but the environment's of 3"):
        make_store(action_dim=2).with_actions_of(space)
