import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxdt import EpisodeStore, JaxdtError, Window, WindowSampler
from tests.conftest import make_store


few = settings(max_examples=40, deadline=None, derandomize=True)
many_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=6)
contexts = st.integers(1, 9)
batches = st.integers(1, 8)
seeds = st.integers(0, 2**32)


def rows_of(store: EpisodeStore, window: Window) -> np.ndarray:
    """The store's row of every step (b, t), read back from the first observation component; -1 where padded."""
    mean, std = store.statistics
    return np.where(window.mask, np.rint(window.states[..., 0] * std[0] + mean[0]), -1).astype(int)


def first_rows(store: EpisodeStore, window: Window) -> np.ndarray:
    """The row that each window starts at."""
    return rows_of(store, window)[np.arange(len(window.mask)), np.argmax(window.mask, axis=1)]


@few
@given(lengths=many_lengths, context=contexts, batch=batches, seed=seeds)
def test_windows_never_cross_an_episode(lengths, context, batch, seed):
    store = make_store(lengths)
    for window in itertools.islice(WindowSampler(store, context, batch, seed), 3):
        for rows, mask in zip(rows_of(store, window), window.mask, strict=True):
            real = rows[mask]
            assert np.array_equal(real, np.arange(real[0], real[0] + len(real)))
            first, last = np.searchsorted(store.offsets, [real[0], real[-1]], side="right")
            assert first == last


@few
@given(lengths=many_lengths, context=contexts, seed=seeds)
def test_windows_start_at_every_step_and_reach_every_last_one(lengths, context, seed):
    store = make_store(lengths)
    starts, seen = set(), set()
    # Missing one of at most 72 steps in 2,400 draws has a chance below 1e-12.
    for window in itertools.islice(WindowSampler(store, context, 60, seed), 40):
        starts.update(first_rows(store, window).tolist())
        seen.update(rows_of(store, window)[:, -1].tolist())
    assert starts == set(range(store.num_steps))
    assert set((store.offsets[1:] - 1).tolist()) <= seen


@few
@given(lengths=many_lengths, context=contexts, batch=batches, seed=seeds)
def test_windows_are_as_long_as_the_episode_allows(lengths, context, batch, seed):
    store = make_store(lengths)
    window = next(WindowSampler(store, context, batch, seed))
    first = first_rows(store, window)
    left = store.offsets[np.searchsorted(store.offsets, first, side="right")] - first
    assert np.array_equal(window.mask.sum(axis=1), np.minimum(left, context))


@few
@given(lengths=many_lengths, context=contexts, batch=batches, seed=seeds)
def test_padding_is_on_the_left_and_zero(lengths, context, batch, seed):
    window = next(WindowSampler(make_store(lengths), context, batch, seed))
    assert np.array_equal(window.mask, np.sort(window.mask, axis=1))
    assert window.mask[:, -1].all()
    for name in ("states", "actions", "returns_to_go", "timesteps"):
        assert not getattr(window, name)[~window.mask].any(), name


@few
@given(lengths=many_lengths, context=contexts, batch=batches, seed=seeds, most=st.integers(1, 14))
def test_timesteps_count_from_the_episodes_start_and_stay_below_the_most(lengths, context, batch, seed, most):
    store = make_store(lengths)
    window = next(WindowSampler(store, context, batch, seed, max_episode_length=most))
    rows = rows_of(store, window)[window.mask]
    start = store.offsets[np.searchsorted(store.offsets, rows, side="right") - 1]
    assert np.array_equal(window.timesteps[window.mask], np.minimum(rows - start, most - 1))


@few
@given(lengths=many_lengths, context=contexts, batch=batches, seed=seeds)
def test_every_real_step_carries_its_own_row(lengths, context, batch, seed):
    store = make_store(lengths)
    window = next(WindowSampler(store, context, batch, seed, return_scale=10.0))
    rows, (mean, std) = rows_of(store, window)[window.mask], store.statistics
    assert np.allclose(window.states[window.mask], (store.observations[rows] - mean) / std, rtol=1e-5, atol=1e-6)
    assert np.array_equal(window.actions[window.mask], store.actions[rows])
    assert np.allclose(window.returns_to_go[window.mask], store.returns_to_go[rows] / 10, rtol=1e-5, atol=1e-6)


@few
@given(lengths=many_lengths, context=contexts, batch=batches, seed=seeds, discrete=st.sampled_from([None, 3]))
def test_windows_have_the_promised_shapes_and_dtypes(lengths, context, batch, seed, discrete):
    store = make_store(lengths, state_dim=3, action_dim=2, discrete=discrete)
    window = next(WindowSampler(store, context, batch, seed))
    assert {name: (array.shape, array.dtype.name) for name, array in window._asdict().items()} == {
        "states": ((batch, context, 3), "float32"),
        "actions": ((batch, context, 2), "float32") if discrete is None else ((batch, context), "int32"),
        "returns_to_go": ((batch, context), "float32"),
        "timesteps": ((batch, context), "int32"),
        "mask": ((batch, context), "bool"),
    }


@few
@given(seed=seeds, index=st.integers(0, 10**9), steps=st.integers(0, 3))
def test_a_batch_depends_on_seed_and_position_alone(seed, index, steps):
    store = make_store()
    expected = WindowSampler(store, 4, 5, seed).batch(index + steps)
    sampler = WindowSampler(store, 4, 5, seed)
    next(sampler)
    sampler.position = index
    for _ in range(steps):
        next(sampler)
    window = next(sampler)
    assert sampler.position == index + steps + 1
    for ours, theirs in zip(window, expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_the_stream_is_batches_0_1_2_whatever_was_asked_before():
    sampler, backwards = WindowSampler(make_store(), 4, 5, seed=7), WindowSampler(make_store(), 4, 5, seed=7)
    stream = list(itertools.islice(sampler, 200))
    for i in reversed(range(200)):
        assert np.array_equal(stream[i].states, backwards.batch(i).states)
    assert (sampler.position, backwards.position) == (200, 0)


def test_other_seeds_and_positions_give_other_batches():
    store = make_store()
    drawn = {
        tuple(rows_of(store, window).ravel())
        for seed in range(5)
        for window in itertools.islice(WindowSampler(store, 4, 16, seed), 200)
    }
    assert len(drawn) == 1000


def test_a_batch_is_the_callers_to_change():
    sampler = WindowSampler(make_store(), 4, 64)
    before, changed = sampler.batch(0), sampler.batch(0)
    for array in changed:
        array[:] = 1
    for ours, theirs in zip(sampler.batch(0), before, strict=True):
        assert np.array_equal(ours, theirs)


def test_episodes_are_drawn_in_proportion_to_their_length_and_steps_uniformly():
    store = make_store((1, 4, 15, 30))
    sampler = WindowSampler(store, 5, 500, seed=3)
    counts = sum(np.bincount(first_rows(store, sampler.batch(i)), minlength=50) for i in range(40))
    # 20,000 draws: 400 a step with a standard deviation of 20.
    assert np.all(np.abs(counts - 400) < 5 * 20)
    chi_square = np.sum((counts - 400) ** 2 / 400)
    assert chi_square < 49 + 4 * np.sqrt(2 * 49)
    shares = np.add.reduceat(counts, store.offsets[:-1]) / 20_000
    assert np.allclose(shares, store.lengths / 50, atol=0.015)


def test_returns_to_go_and_states_of_a_case_worked_by_hand():
    store = EpisodeStore.from_arrays(
        observations=[[0.0, 5.0], [2.0, 5.0], [2.0, 5.0], [4.0, 5.0]],
        actions=[[0.1], [0.2], [0.3], [0.4]],
        rewards=[1.0, -2.0, 4.0, 10.0],
        episode_ends=[3, 4],
    )
    # Mean 2 and 5, standard deviation sqrt(2) and 0, each + 1e-6.
    low, high = -2 / (np.sqrt(2) + 1e-6), 2 / (np.sqrt(2) + 1e-6)
    expected = {
        0: ([[low, 0], [0, 0], [0, 0]], [0.1, 0.2, 0.3], [1.5, 1.0, 2.0], [0, 1, 2], [True, True, True]),
        1: ([[0, 0], [0, 0], [0, 0]], [0, 0.2, 0.3], [0, 1.0, 2.0], [0, 1, 2], [False, True, True]),
        2: ([[0, 0], [0, 0], [0, 0]], [0, 0, 0.3], [0, 0, 2.0], [0, 0, 2], [False, False, True]),
        3: ([[0, 0], [0, 0], [high, 0]], [0, 0, 0.4], [0, 0, 5.0], [0, 0, 0], [False, False, True]),
    }
    window = next(WindowSampler(store, 3, 64, return_scale=2.0))
    newest = np.rint(window.actions[:, -1, 0] * 10).astype(int)
    length = window.mask.sum(axis=1)
    start = np.where(newest == 4, 3, 3 - length)
    assert set(start) == {0, 1, 2, 3}
    for i, first in enumerate(start):
        states, actions, returns_to_go, timesteps, mask = expected[int(first)]
        assert np.allclose(window.states[i], states, rtol=1e-6)
        assert np.allclose(window.actions[i, :, 0], actions)
        assert np.allclose(window.returns_to_go[i], returns_to_go)
        # Steps 1 and 2 of the first episode keep their place in it, however short the window.
        assert window.timesteps[i].tolist() == [t if real else 0 for t, real in zip(timesteps, mask, strict=True)]
        assert window.mask[i].tolist() == mask


def test_states_are_divided_by_the_standard_deviation_plus_its_epsilon():
    constant_but_once = np.zeros((4, 1), np.float32)
    constant_but_once[3] = 1e-6
    store = EpisodeStore.from_arrays(constant_but_once, np.zeros((4, 1)), np.zeros(4), episode_ends=[4])
    window = next(WindowSampler(store, 1, 64))
    # Mean 2.5e-7, standard deviation sqrt(3) * 2.5e-7: without + 1e-6 the largest state would be sqrt(3).
    assert window.states.max() == pytest.approx(7.5e-7 / (np.sqrt(3) * 2.5e-7 + 1e-6), rel=1e-4)


def test_states_keep_the_statistics_of_the_data_before_a_filter():
    store = make_store((5, 5, 5))
    best = store.best(0.4)
    mean, std = store.statistics
    window = next(WindowSampler(best, 1, 64))
    expected = (best.observations - mean) / std
    assert {round(float(x), 3) for x in window.states[:, 0, 0]} == {round(float(x), 3) for x in expected[:, 0]}


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_observations_may_be_images(dtype):
    frames = np.arange(9 * 16).reshape(9, 4, 4, 1).astype(dtype)
    store = EpisodeStore.from_arrays(frames, np.zeros((9, 2)), np.zeros(9), episode_ends=[4, 9])
    assert store.observations.dtype == dtype
    window = next(WindowSampler(store, 3, 32))
    assert window.states.shape == (32, 3, 4, 4, 1)
    assert window.states.dtype == np.float32
    mean, std = store.statistics
    frame = window.states[0, -1] * std + mean
    assert np.rint(frame).astype(dtype).tolist() in frames.tolist()
    assert not window.states[~window.mask].any()


def test_a_timestep_beyond_the_embeddings_shares_the_last_one():
    store = make_store((1005,))
    sampler = WindowSampler(store, 20, 64)
    assert max(sampler.batch(i).timesteps.max() for i in range(20)) == 999


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"context_length": 0}, "context_length"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_episode_length": 0}, "max_episode_length"),
        ({"seed": -1}, "seed"),
        ({"return_scale": 0.0}, "return_scale"),
        ({"return_scale": -1000.0}, "return_scale"),
        ({"return_scale": float("inf")}, "return_scale"),
        ({"return_scale": float("nan")}, "return_scale"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, field):
    (value,) = arguments.values()
    with pytest.raises(JaxdtError, match=rf"^{field} must be .*got {value}\.$"):
        WindowSampler(make_store(), **arguments)


def test_sampling_loads_no_jax_and_no_simulator():
    program = """
import sys
import jaxdt, jaxdt.data
import numpy as np
store = jaxdt.EpisodeStore.from_arrays(np.zeros((5, 3)), np.zeros((5, 2)), np.zeros(5), episode_ends=[5])
assert next(jaxdt.WindowSampler(store, 4, 2)).states.shape == (2, 4, 3)
heavy = {"jax", "jaxlib", "flax", "optax", "orbax", "datasets", "matplotlib", "gymnasium", "mujoco"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


@pytest.mark.parametrize(
    ("windows", "batch", "kept"), [(3, 2, [2, 1]), (4, 2, [2, 2]), (2, 5, [2]), (7, 3, [3, 3, 1]), (1, 1, [1])]
)
def test_a_pass_is_one_window_an_episode_and_its_last_batch_is_filled_with_padding(store, windows, batch, kept):
    plain = WindowSampler(store, 4, batch)
    sampler = WindowSampler(store, 4, batch, windows_per_pass=windows)
    for i, count in enumerate(50 * kept):
        window, whole = next(sampler), plain.batch(i)
        assert window.mask.any(axis=1).tolist() == [True] * count + [False] * (batch - count)
        for ours, theirs in zip(window, whole, strict=True):
            assert np.array_equal(ours[:count], theirs[:count])
            assert not ours[count:].any()


def test_a_pass_of_no_windows_is_refused(store):
    with pytest.raises(JaxdtError, match="windows_per_pass must be at least 1; got 0"):
        WindowSampler(store, windows_per_pass=0)
