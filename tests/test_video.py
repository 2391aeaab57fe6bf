import errno
import warnings

import gymnasium
import numpy as np
import pytest

from jaxdt.errors import JaxdtError, WriteError
from jaxdt.evaluation.video import render_episode, try_filming
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


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # imageio's
def test_discrete_actions_become_a_film_too(tmp_path):
    import imageio.v3 as imageio

    path = tmp_path / "target-1.mp4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # starting ffmpeg forks
        warnings.simplefilter("ignore", UserWarning)  # pygame's import looks resources up in an old way
        warnings.simplefilter("ignore", DeprecationWarning)
        render_episode(path, "CartPole-v1", 0, np.array([0, 1, 1, 0], np.int32))
        assert len(imageio.imread(path)) == 4


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


def test_an_encoder_that_stops_is_told_with_the_name_of_the_film(tmp_path, monkeypatch):
    class Stopped:
        def __init__(self, path, **options):
            self.path = path

        def __enter__(self):
            self.path.write_text("half")
            return self

        def __exit__(self, *error):
            pass

        def append_data(self, frame):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe\n\nFFMPEG COMMAND: ...")

    monkeypatch.setattr("jaxdt.evaluation.video._load_writer", lambda: Stopped)
    monkeypatch.setattr("jaxdt.evaluation.video._frame", lambda simulator: None)
    monkeypatch.setattr("jaxdt.evaluation.video.make_simulator", lambda name, render: make_simulator(name))
    with pytest.raises(WriteError, match=r"film\.mp4 cannot be written: .*Broken pipe"):
        render_episode(tmp_path / "film.mp4", "HalfCheetah-v5", 0, np.zeros((1, 6), np.float32))
    assert not list(tmp_path.iterdir())


class Blind(gymnasium.Env):
    """Cannot be rendered, for a reason of its own."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None, shows=None):
        self.render_mode, self.shows = render_mode, shows

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def render(self):
        if self.shows is None:
            raise NotImplementedError
        return self.shows


@pytest.mark.parametrize(
    ("shows", "says"),
    [
        (None, r"its render raised NotImplementedError; leave the video out\.$"),
        ("text", r"its render returned str, not a picture \(its render_mode is 'rgb_array'"),
    ],
)
def test_an_environment_that_cannot_be_rendered_is_not_blamed_on_the_machine(shows, says):
    with pytest.raises(JaxdtError, match=f"^this environment cannot be rendered: {says}"):
        try_filming(lambda render_mode=None: Blind(render_mode, shows))
    try_filming(lambda render_mode=None: Blind(render_mode, np.zeros((4, 4, 3), np.uint8)))
