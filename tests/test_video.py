import warnings

import numpy as np
import pytest

from jaxdt.errors import JaxdtError
from jaxdt.evaluation.video import render_episode
from jaxdt.simulator import make_simulator


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # imageio's
def test_an_episode_becomes_a_film_or_the_machine_says_what_is_missing(tmp_path):
    path = tmp_path / "target-1.mp4"
    actions = np.zeros((5, 6), np.float32)
    try:
        render_episode(path, "HalfCheetah-v5", 0, actions)
    except JaxdtError as error:
        assert "libegl1" in str(error)
        assert "libosmesa6" in str(error)
        assert list(tmp_path.iterdir()) == []
        return
    import imageio.v3 as imageio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # reading starts ffmpeg too
        frames = imageio.imread(path)
    assert len(frames) == 5
    assert frames.std() > 10
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_without_the_encoder_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(JaxdtError, match=r"jaxdt\[video\]"):
        render_episode(tmp_path / "film.mp4", "HalfCheetah-v5", 0, np.zeros((1, 6), np.float32))


def test_the_camera_follows_the_body():
    try:
        simulator = make_simulator("HalfCheetah-v5", render=True)
    except JaxdtError as error:
        assert "cannot be made" in str(error)
        return
    assert simulator.unwrapped.mujoco_renderer.camera_id == 0  # the model's `track` camera
    simulator.close()
