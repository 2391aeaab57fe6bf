import resource
import signal

import h5py
import numpy as np
import pytest

import jaxdt
from jaxdt.data import loading
from jaxdt.data.writing import WRITERS, convert, write_episodes
from jaxdt.errors import JaxdtError, WriteError
from tests.conftest import make_store


KINDS = sorted(WRITERS)


def mixed_store(env_id: str | None = "HalfCheetah-v5", discrete: int | None = None) -> jaxdt.EpisodeStore:
    """Episodes that end in a fall, at the time limit, and in both at once."""
    store = make_store((3, 7, 12), discrete=discrete)
    terminations, truncations = np.zeros(22, bool), np.zeros(22, bool)
    terminations[[2, 21]] = truncations[[9, 21]] = True
    return jaxdt.EpisodeStore.from_arrays(
        store.observations,
        store.actions,
        store.rewards,
        terminations,
        truncations,
        episode_ends=[3, 10, 22],
        env_id=env_id,
        env_kwargs=None if env_id is None else {"g": 9.5, "max_episode_steps": 50},
    )


def refusal(spec, out) -> str:
    """The one sentence with which a conversion is refused."""
    with pytest.raises(jaxdt.JaxdtError) as caught:
        convert(spec, out)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("env_id", "discrete"), [("HalfCheetah-v5", None), (None, None), ("CartPole-v1", 5)])
@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_every_kind_becomes_every_kind_and_says_the_same(tmp_path, first, second, env_id, discrete):
    store = mixed_store(env_id, discrete)
    write_episodes(store, tmp_path / f"a{first}")
    written = convert(tmp_path / f"a{first}", tmp_path / f"b{second}")
    assert written.fingerprint == store.fingerprint
    read = jaxdt.load_episodes(tmp_path / f"b{second}")
    assert read.fingerprint == store.fingerprint
    assert (read.env_id, read.env_kwargs) == (env_id, store.env_kwargs)
    assert read.is_discrete == (discrete is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_stay_whole_numbers(tmp_path, kind):
    store = make_store()
    whole = jaxdt.EpisodeStore.from_arrays(
        store.observations.astype(np.int16), store.actions, store.rewards, episode_ends=store.offsets[1:]
    )
    write_episodes(whole, tmp_path / f"a{kind}")
    assert jaxdt.load_episodes(tmp_path / f"a{kind}").fingerprint == whole.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_several_datasets_become_one_file(tmp_path, kind):
    for name, lengths in (("a", (3, 4)), ("b", (5,))):
        make_store(lengths).save(tmp_path / f"{name}.npz")
    convert(f"{tmp_path / 'a.npz'}+{tmp_path / 'b.npz'}", tmp_path / f"c{kind}")
    assert jaxdt.load_episodes(tmp_path / f"c{kind}").lengths.tolist() == [3, 4, 5]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_hugging_faces_own_reader_understands_our_parquet(tmp_path):
    import datasets

    store = mixed_store()
    write_episodes(store, tmp_path / "a.parquet")
    rows = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "a.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    number, flag = datasets.Value("float32"), datasets.Value("bool")
    assert rows.features == {
        "observations": datasets.List(datasets.List(number)),
        "actions": datasets.List(datasets.List(number)),
        "rewards": datasets.List(number),
        "dones": datasets.List(flag),
        "terminations": datasets.List(flag),
        "truncations": datasets.List(flag),
    }
    assert len(rows) == 3
    np.testing.assert_array_equal(np.float32(rows[1]["observations"]), store.observations[3:10])
    assert [row["dones"][-1] for row in rows] == [True, False, True]
    assert [sum(row["dones"]) for row in rows] == [1, 0, 1]


def test_d4rls_layout_is_what_hdf5_holds(tmp_path):
    store = mixed_store()
    write_episodes(store, tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert set(file) == {"observations", "actions", "rewards", "terminals", "timeouts"}
        assert file["observations"].compression == "gzip"
        assert file["observations"].fletcher32  # a flipped bit is noticed
        assert np.flatnonzero(file["terminals"]).tolist() == [2, 21]
        assert np.flatnonzero(file["timeouts"]).tolist() == [9, 21]
        assert file.attrs["env_id"] == b"HalfCheetah-v5"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("shape", [(3, 2), (4, 3, 2)])
def test_pictures_keep_their_shape_and_numbers_in_every_format(tmp_path, dtype, shape):
    observations = np.arange(5 * np.prod(shape)).astype(dtype).reshape(5, *shape)
    store = jaxdt.EpisodeStore.from_arrays(observations, np.arange(5), np.zeros(5), episode_ends=[2, 5])
    for name in ("a.npz", "a.hdf5", "a.parquet"):
        write_episodes(store, tmp_path / name)
        loaded = jaxdt.load_episodes(tmp_path / name)
        assert loaded.observations.dtype == dtype
        assert loaded.fingerprint == store.fingerprint


def test_observations_of_four_dimensions_are_no_lists_of_parquet(tmp_path):
    observations = np.zeros((4, 3, 2, 2, 1), np.float32)
    store = jaxdt.EpisodeStore.from_arrays(observations, np.zeros((4, 1)), np.zeros(4), episode_ends=[4])
    with pytest.raises(jaxdt.JaxdtError, match=r"observations of shape \(3, 2, 2, 1\) are more than lists of lists"):
        write_episodes(store, tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()


def test_a_flag_in_the_middle_of_an_episode_goes_into_parquet_but_not_into_hdf5(tmp_path):
    store = make_store()
    flags = np.arange(22) == 5
    early = jaxdt.EpisodeStore.from_arrays(
        store.observations, store.actions, store.rewards, flags, episode_ends=store.offsets[1:]
    )
    write_episodes(early, tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="terminations is true before the last step of an episode, which is"):
        assert jaxdt.load_episodes(tmp_path / "a.parquet").fingerprint == early.fingerprint
    with pytest.raises(jaxdt.JaxdtError, match="episode 1 has a termination or truncation at step 2, before its last"):
        write_episodes(early, tmp_path / "a.hdf5")
    assert not (tmp_path / "a.hdf5").exists()


@pytest.mark.parametrize("name", ["a", "a.npy", "a.pkl", "a.npz.bak", ".hdf5"])
def test_an_unknown_ending_is_refused_before_loading(tmp_path, monkeypatch, name):
    monkeypatch.setattr(loading, "_find", None)
    message = refusal("demo", tmp_path / name)
    assert message == f"episodes are written as .npz, .parquet, .hdf5, .h5, .hdf; got {str(tmp_path / name)!r}."


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_exists_is_refused_before_loading_and_left(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(loading, "_find", None)
    path = tmp_path / f"a{kind}"
    path.write_text("mine")
    assert refusal("demo", path) == f"{str(path)!r} exists already; give another path, or delete it first."
    assert path.read_text() == "mine"
    path.unlink()
    path.symlink_to("nowhere")
    assert "exists already" in refusal("demo", path)


def test_a_dataset_that_cannot_be_loaded_writes_nothing(tmp_path):
    assert "does not exist" in refusal("nowhere.npz", tmp_path / "a.parquet")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def a_full_disk():
    """No file may grow beyond 20 kB."""
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_full_leaves_nothing(tmp_path, kind, a_full_disk):
    with pytest.raises(WriteError, match=rf"a{kind} cannot be written: the file would be larger than this process may"):
        write_episodes(make_store((2000,), state_dim=50), tmp_path / f"a{kind}")
    assert not list(tmp_path.iterdir())


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_store().save(tmp_path / "a.npz")
    convert("~/a.npz", "~/b.hdf5")
    assert (tmp_path / "b.hdf5").is_file()


def test_frames_are_read_back_although_they_are_compressed_to_little(tmp_path, monkeypatch):
    """As DQN-replay's are; numbers that are no pictures may not take so much more than their file."""
    monkeypatch.setattr("jaxdt.data.formats.limits.SMALL", 2**16)
    steps = 2000
    frames = np.tile(np.arange(steps, dtype=np.uint8)[:, None, None], (1, 20, 20))
    rest = np.arange(steps) % 2, np.zeros(steps)
    pictures = jaxdt.EpisodeStore.from_arrays(frames, *rest, episode_ends=[steps])
    path = tmp_path / "pictures.npz"
    write_episodes(pictures, path)
    assert path.stat().st_size * 20 < frames.nbytes
    np.testing.assert_array_equal(jaxdt.load_episodes(path).observations, frames)
    path = tmp_path / "flat.npz"
    flat = dict(zip(("observations", "actions", "rewards"), (frames.reshape(steps, -1), *rest), strict=True))
    np.savez_compressed(path, **flat, episode_ends=[steps])
    with pytest.raises(JaxdtError, match="far more than a file of"):
        jaxdt.load_episodes(path)


def test_pictures_may_take_256_times_their_file_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdt.data.formats.limits.SMALL", 2**16)
    blank = np.zeros((2000, 60, 60), np.uint8)  # a thousandth of them remains
    path = tmp_path / "a.npz"
    rest = {"actions": np.arange(2000) % 2, "rewards": np.zeros(2000), "episode_ends": [2000]}
    np.savez_compressed(path, observations=blank, **rest)
    assert path.stat().st_size * 256 < blank.nbytes
    with pytest.raises(JaxdtError, match=r"would take 7 MiB or more, far more than a file of 0\.0 MiB holds"):
        jaxdt.load_episodes(path)


def test_a_small_file_of_pictures_that_were_never_written_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("observations", (60_000, 84, 84), "u1", chunks=(100, 84, 84), compression="gzip")
        file["actions"], file["rewards"], file["dones"] = np.zeros((60_000, 1)), np.zeros(60_000), np.ones(60_000)
    with pytest.raises(JaxdtError, match=r"observations would take 0\.4 GiB, far more than a file of 1\.. MiB holds"):
        jaxdt.load_episodes(tmp_path / "a.hdf5")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("shape", [(32,), (84, 84), (200, 200, 3)], ids=["numbers", "pictures", "large pictures"])
def test_what_is_compressed_to_nothing_is_written_so_that_it_can_be_read(tmp_path, monkeypatch, kind, shape):
    """One-hot numbers and dark screens: a file of a few KiB is not believed to hold them."""
    monkeypatch.setattr("jaxdt.data.formats.limits.SMALL", 2**16)
    steps = 1000 if len(shape) < 3 else 100
    seen = np.zeros((steps, *shape), np.uint8 if len(shape) > 1 else np.float32)
    rest = np.zeros((steps, 2), np.float32), np.zeros(steps, np.float32)
    store = jaxdt.EpisodeStore.from_arrays(seen, *rest, episode_ends=np.arange(50, steps + 1, 50))
    write_episodes(store, tmp_path / f"a{kind}")
    for map_above in (1.0, 0.0):
        read = jaxdt.load_episodes(tmp_path / f"a{kind}", map_above=map_above)
        np.testing.assert_array_equal(read.observations, seen)


def test_more_picture_files_than_32_bits_count_are_written_too(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdt.data.formats.parquet._MOST_BYTES", 500)
    seen = np.random.default_rng(0).integers(0, 255, (12, 8, 8), np.uint8)
    store = jaxdt.EpisodeStore.from_arrays(seen, np.arange(12) % 3, np.ones(12), episode_ends=[5, 12])
    write_episodes(store, tmp_path / "a.parquet")
    np.testing.assert_array_equal(jaxdt.load_episodes(tmp_path / "a.parquet").observations, seen)
