import contextlib
import errno
import warnings

import gymnasium
import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.errors import JaxdtError, WriteError
from jaxdt.evaluation.video import Take, _caption, _dress, _with_text, render_episode, try_filming
from jaxdt.simulator import make_simulator
from jaxdt.types import Box, Spec
from tests.conftest import tiny_algorithm


SMALL = tiny_algorithm()
SPEC = Spec(
    observation_shape=(3,),
    action=Box(np.float32([-2]), np.float32([2])),
    constants={"state_mean": np.zeros(3, np.float32), "state_std": np.ones(3, np.float32)},
)
"""Of Pendulum-v1."""
STANDING = Take(0, np.zeros((1, 6), np.float32), np.zeros(1), target=None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # imageio's
def test_an_episode_becomes_a_film_or_the_machine_says_what_is_missing(tmp_path):
    path = tmp_path / "target-1.mp4"
    take = Take(0, np.zeros((5, 6), np.float32), np.ones(5), target=1.0)
    try:
        render_episode(path, "HalfCheetah-v5", take)
    except JaxdtError as error:
        assert "libegl1" in str(error)
        assert "libosmesa6" in str(error)
        assert list(tmp_path.iterdir()) == []
        return
    import imageio.v3 as imageio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # reading starts ffmpeg too
        frames = imageio.imread(path)
    assert len(frames) == 6  # before, between and after its five actions
    assert frames.std() > 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for options, count in (({"every": 2}, 3), ({"every": 2, "frames": 2}, 2), ({"every": 9}, 1)):
            render_episode(path, "HalfCheetah-v5", take, **options)
            assert len(imageio.imread(path)) == count
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # imageio's
def test_discrete_actions_become_a_film_too(tmp_path):
    import imageio.v3 as imageio

    path = tmp_path / "target-1.mp4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # starting ffmpeg forks
        warnings.simplefilter("ignore", UserWarning)  # pygame's import looks resources up in an old way
        warnings.simplefilter("ignore", DeprecationWarning)
        render_episode(path, "CartPole-v1", Take(0, np.array([0, 1, 1, 0], np.int32), np.ones(4), None))
        assert len(imageio.imread(path)) == 5


@pytest.mark.parametrize(
    ("target", "text"), [(6000.0, "target 6000.0   return 1.5   step 2"), (None, "return 1.5   step 2")]
)
def test_target_and_return_so_far_are_in_the_picture(target, text):
    assert _caption(target, np.array([0.0, 1.0, 1.5, 12.0]), 2) == text
    plain = np.full((100, 300, 3), 128, np.uint8)
    written = _with_text(plain, text)
    assert (written[:20] != 128).any()
    assert (written[50:] == 128).all()


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5"])
def test_a_film_has_floor_wherever_the_body_runs_and_the_same_episode(name):
    plain, dressed = make_simulator(name), make_simulator(name)
    _dress(dressed)
    for simulator in (plain, dressed):
        simulator.reset(seed=0)
        simulator.action_space.seed(0)
    for _ in range(50):
        stepped = [simulator.step(simulator.action_space.sample()) for simulator in (plain, dressed)]
        np.testing.assert_array_equal(stepped[0][0], stepped[1][0])
    sizes = [simulator.unwrapped.model.geom("floor").size[:2] for simulator in (plain, dressed)]
    assert sizes[0].max() <= 40
    assert sizes[1].min() >= 2000


def test_an_environment_of_ones_own_looks_as_before_when_it_was_filmed():
    simulator = make_simulator("HalfCheetah-v5")
    model = simulator.unwrapped.model
    before = model.geom_size.copy(), model.mat_texrepeat.copy(), model.vis.quality.shadowsize
    _dress(simulator)()
    np.testing.assert_array_equal(model.geom_size, before[0])
    np.testing.assert_array_equal(model.mat_texrepeat, before[1])
    assert model.vis.quality.shadowsize == before[2]


def test_each_targets_first_episode_is_filmed(tmp_path, monkeypatch):
    """Two targets, two episodes each, of which the second begins elsewhere."""
    films = []
    monkeypatch.setattr("jaxdt.run.evaluate.render_episode", lambda path, choice, take, **_: films.append((path, take)))
    monkeypatch.setattr("jaxdt.run.evaluate.try_filming", lambda choice: None)
    agent = jaxdt.Agent(SMALL, jax.jit(jaxdt.make_algorithm(SMALL, SPEC).init)(jax.random.key(0)).params, SPEC)
    options = {"max_episode_steps": 5, "videos": tmp_path}
    first, second = jaxdt.evaluate(agent, "Pendulum-v1", targets=[-1.0, -900.0], episodes=2, seed=7, **options)
    assert [path.name for path, _ in films] == ["target--1.mp4", "target--900.mp4"]
    for (_, take), evaluation in zip(films, (first, second), strict=True):
        assert (take.seed, take.target) == (7, evaluation.target)
        assert take.rewards.sum() == pytest.approx(evaluation.returns[0], rel=1e-6)
        assert take.actions.shape == (5, 1)
    with pytest.raises(JaxdtError, match="video_every must be at least 1; got 0"):
        jaxdt.evaluate(agent, "Pendulum-v1", targets=[-1.0], videos=tmp_path, video_every=0)


def test_without_the_encoder_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(JaxdtError, match=r"jaxdt\[video\]"):
        render_episode(tmp_path / "film.mp4", "HalfCheetah-v5", STANDING)


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
    monkeypatch.setattr("jaxdt.evaluation.video._frame", lambda simulator: np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr("jaxdt.evaluation.video.make_simulator", lambda name, render: make_simulator(name))
    with pytest.raises(WriteError, match=r"film\.mp4 cannot be written: .*Broken pipe"):
        render_episode(tmp_path / "film.mp4", "HalfCheetah-v5", STANDING)
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


class Doors(gymnasium.Env):
    """Looks its actions up, as Gymnasium's tutorial does, and takes none that its space does not contain."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, space, render_mode=None):
        self.action_space, self.render_mode, self.done = space, render_mode, []

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.done.append({0: "left", 1: "right"}[action] if isinstance(action, int) else action.item())
        return np.zeros(1, np.float32), 1.0, False, False, {}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


class Film(contextlib.AbstractContextManager):
    def __init__(self, path, **options):
        path.write_bytes(b"")

    def __exit__(self, *_):
        return None

    def append_data(self, picture):
        pass


@pytest.mark.parametrize(
    ("space", "actions", "done"),
    [
        (gymnasium.spaces.Discrete(2), np.array([1, 0], np.int32), ["right", "left"]),
        (gymnasium.spaces.Box(0.0, 0.1, (1,), np.float64), np.float32([[0.1], [0.0]]), [0.1, 0.0]),
    ],
    ids=["discrete", "box"],
)
def test_a_film_gives_actions_as_an_evaluation_does(tmp_path, monkeypatch, space, actions, done):
    monkeypatch.setattr("jaxdt.evaluation.video._load_writer", lambda: Film)
    played = Doors(space, "rgb_array")
    render_episode(tmp_path / "film.mp4", lambda render_mode=None: played, Take(0, actions, np.ones(2), None))
    assert played.done == done


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
