import json
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from jaxdt import load_episodes
from jaxdt.data.formats.pictures import grey_pictures
from tests.test_loading import array_header, good_arrays, refusal, write_npz, write_zip


@pytest.fixture
def screens() -> np.ndarray:
    """Five, more than a block's worth of them would be slow."""
    return np.random.default_rng(0).integers(0, 256, (5, 210, 160, 3), dtype=np.uint8)


def by_pillow(screen: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(screen).convert("L").resize((84, 84), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("limit", [1e9, 0])
def test_colour_screens_become_grey_pictures(tmp_path, monkeypatch, screens, limit):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    many = np.tile(screens, (30, 1, 1, 1))  # more than a block
    rows = {"actions": np.zeros((150, 1), np.float32), "rewards": np.arange(150.0), "episode_ends": np.array([60, 150])}
    path = write_npz(tmp_path / "a.npz", observations=many, terminations=None, truncations=None, env_id=None, **rows)
    with pytest.warns(UserWarning, match=r"kept as grey ones of 84 x 84, made as Pillow's convert\('L'\) and resize"):
        store = load_episodes(path, map_above=limit)
    assert store.observations.dtype == np.uint8
    np.testing.assert_array_equal(store.observations, np.tile([by_pillow(each) for each in screens], (30, 1, 1)))
    assert (store.mapped_in is None) == (limit > 0)


def test_resizing_is_antialiased():
    fine = np.zeros((1, 210, 160, 3), np.uint8)
    fine[:, ::2] = 255
    assert (np.abs(grey_pictures(fine)[0].astype(int) - 127) < 30).all()


def test_what_the_pictures_take_decides_where_they_lie(tmp_path, monkeypatch, screens):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_npz(tmp_path / "a.npz", observations=screens)
    with pytest.warns(UserWarning, match="grey"):
        assert load_episodes(path, map_above=6 * 84 * 84 / 2**30).mapped_in is None


def test_other_pictures_stay_as_they_are(tmp_path, screens):
    for pictures in (screens[:, :84, :84, 0], screens.transpose(0, 2, 1, 3), screens.astype(np.int16)):
        store = load_episodes(write_npz(tmp_path / "a.npz", observations=pictures))
        np.testing.assert_array_equal(store.observations, pictures)


def test_fewer_screens_than_promised_are_refused(tmp_path, screens):
    content = array_header("|u1", (5, 210, 160, 3)) + screens[:4].tobytes()
    path = write_zip(tmp_path / "a.npz", observations=content)
    with pytest.warns(UserWarning, match="grey"):
        assert "cannot be read as an .npz file" in refusal(path)


def test_endless_screens_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.npz", observations=array_header("|u1", (10**6, 210, 160, 3)))
    assert "far more than a file of" in refusal(path)


def test_grey_pictures_are_pillows_to_the_last_bit_and_need_no_pillow(monkeypatch):
    ramp = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(ramp, ramp, ramp), -1).reshape(-1, 3)
    screens = np.resize(colours, (5, 210, 160, 3))
    screens[-1] = 255
    wanted = [by_pillow(screen) for screen in screens]
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    np.testing.assert_array_equal(grey_pictures(screens), wanted)


@pytest.mark.parametrize(
    ("env_id", "own", "kwargs"),
    [
        ("ALE/Pong-v5", None, {"resize": "antialiased"}),
        ("PongNoFrameskip-v4", {"frameskip": 3}, {"resize": "antialiased", "frameskip": 3}),
        ("ALE/Pong-v5", {"resize": "area"}, {"resize": "area"}),
        ("CarRacing-v3", {"continuous": False}, {"continuous": False}),
        ("CarRacing-v3", None, None),
        (None, None, None),
    ],
)
def test_a_game_is_played_with_the_resizing_that_its_screens_had(tmp_path, screens, env_id, own, kwargs):
    known = {"env_id": env_id and np.array(env_id), "env_kwargs": own and np.array(json.dumps(own))}
    with pytest.warns(UserWarning, match="grey"):
        assert load_episodes(write_npz(tmp_path / "a.npz", observations=screens, **known)).env_kwargs == kwargs
    seen = grey_pictures(screens)
    stored = load_episodes(write_npz(tmp_path / "b.npz", observations=seen, **known))
    assert stored.env_kwargs == own


def test_files_in_hdf5_that_are_no_pictures_of_observations_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, values in good_arrays().items():
            if name in ("actions", "rewards", "terminations", "truncations"):
                file[name] = values
        file.create_dataset("observations", (5,), h5py.vlen_dtype(np.uint8))
    assert "cannot be read as an HDF5 file: its strings are missing; copy or make it again" in refusal(
        tmp_path / "a.hdf5"
    )
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["num_episodes"] = 1
        file.create_dataset("observations_0", (5,), h5py.vlen_dtype(np.uint8))
    assert "observations_0 must be numbers; got dtype object of byte strings, such as JPEG files (save" in refusal(
        tmp_path / "b.hdf5"
    )
