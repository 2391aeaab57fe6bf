import contextlib
import os
import subprocess
import sys

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from jaxdt import JaxdtError, simulator
from jaxdt.choice import EnvironmentChoice
from jaxdt.simulator import action_space, are_plain_kwargs, episode_limit, identity, make_simulator, with_version
from jaxdt.types import Discrete


vector = spaces.Box(-np.inf, np.inf, (3,), np.float64)
"""An observation as we want it."""

unit = spaces.Box(-1, 1, (2,), np.float32)
"""An action as we want it."""


class Still(gymnasium.Env):
    """Has these spaces and nothing else."""

    def __init__(self, observation_space, action_space):
        self.observation_space = observation_space
        self.action_space = action_space


@pytest.fixture
def registered(monkeypatch):
    """Makes an environment of these spaces known to Gymnasium for one test."""
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))

    def register(observation_space, action_space) -> str:
        gymnasium.register("Still-v0", entry_point=lambda **_: Still(observation_space, action_space))
        return "Still-v0"

    return register


def test_vectors_of_observations_and_continuous_actions_are_taken(registered):
    env = make_simulator(registered(vector, unit))
    assert (env.observation_space, env.action_space) == (vector, unit)


def test_discrete_actions_are_taken_with_the_number_that_they_start_at(registered):
    assert action_space(make_simulator(registered(vector, spaces.Discrete(3, start=-1)))) == Discrete(3, -1)
    assert action_space(make_simulator("CartPole-v1")) == Discrete(2)


@pytest.mark.parametrize(
    "action", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4)], ids=lambda x: type(x).__name__
)
def test_several_discrete_actions_a_step_are_refused_with_the_way_out(registered, action):
    with pytest.raises(JaxdtError) as caught:
        make_simulator(registered(vector, action))
    assert str(caught.value) == (
        f"environment 'Still-v0' has several discrete actions a step ({action}); make them one Discrete of all "
        "their combinations with a gymnasium.ActionWrapper."
    )


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (vector, spaces.Box(-1, 1, (2, 2)), "must have a vector of continuous actions or Discrete; got Box"),
        (vector, spaces.Dict(arm=unit), "must have a vector of continuous actions or Discrete; got Dict"),
        (spaces.Tuple([spaces.Box(0, 255, (4, 4, 1), np.uint8)]), unit, "must have a vector of obs.*; got Tuple"),
        (spaces.Dict(arm=vector, n=spaces.Discrete(3)), unit, "must have a vector of observations, .*; got Dict"),
        (spaces.Discrete(5), unit, r"has discrete observations \(Discrete.5.\); gymnasium.wrappers.FlattenObservation"),
    ],
)
def test_other_spaces_are_refused(registered, observation, action, message):
    with pytest.raises(JaxdtError, match=f"^environment 'Still-v0' {message}"):
        make_simulator(registered(observation, action))


@pytest.mark.parametrize(
    "env_id",
    ["Nowhere-v0", "nowhere/Hopper-v5", "HalfCheetah-v99", "HalfCheetah-v2", "no_module:Env-v0", ":-v0", "a b"],
)
def test_an_unknown_environment_is_named_in_one_sentence(env_id):
    with pytest.raises(JaxdtError, match=f"^environment '{env_id}' cannot be made: ") as caught:
        make_simulator(env_id)
    assert "give a Gymnasium id such as HalfCheetah-v5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bounds_of_the_action_space_are_its_own(registered):
    env = make_simulator(registered(vector, spaces.Box(np.array([-2, 0]), np.array([2, 0.5]), dtype=np.float64)))
    low, high = action_space(env)
    assert (low.tolist(), high.tolist()) == ([-2, 0], [2, 0.5])
    assert low.dtype == high.dtype == np.float32


def test_an_unbounded_action_counts_as_one_in_minus_1_to_1(registered):
    low, high = action_space(make_simulator(registered(vector, spaces.Box(-np.inf, np.inf, (2,)))))
    assert (low.tolist(), high.tolist()) == ([-1, -1], [1, 1])


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v4"])
def test_mujoco_environments_are_made_quietly(tmp_path, env_id):
    program = f"""
from jaxdt.simulator import make_simulator
for _ in range(2):
    env = make_simulator("{env_id}")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())  # no MUJOCO_LOG.TXT


def make_unstable() -> gymnasium.Env:
    """An environment whose next physics step has something to complain about."""
    env = make_simulator("InvertedPendulum-v5")
    env.reset(seed=0)
    env.unwrapped.data.qpos[:] = np.nan
    return env


def test_other_messages_of_mujoco_become_warnings():
    env = make_unstable().unwrapped
    with pytest.warns(RuntimeWarning, match=r"^MuJoCo: Nan, Inf or huge value in QPOS"):
        mujoco.mj_step(env.model, env.data)


def test_mujocos_messages_do_not_abort_where_warnings_are_errors():
    program = """
import mujoco, numpy as np
from jaxdt.simulator import make_simulator
env = make_simulator("InvertedPendulum-v5").unwrapped
env.data.qpos[:] = np.nan
mujoco.mj_step(env.model, env.data)
print("went on")
"""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert "MuJoCo: Nan, Inf or huge value in QPOS" in done.stderr


def test_a_users_own_handler_of_mujocos_messages_is_left_alone():
    before, heard = mujoco.get_mju_user_warning(), []
    mujoco.set_mju_user_warning(heard.append)
    try:
        env = make_unstable().unwrapped
        mujoco.mj_step(env.model, env.data)
    finally:
        mujoco.set_mju_user_warning(before)
    assert any("QPOS" in str(message) for message in heard)


@pytest.mark.parametrize(
    ("environ", "found", "chosen"),
    [
        ({}, "libEGL.so.1", "egl"),
        ({}, None, "osmesa"),
        ({"MUJOCO_GL": "glfw"}, "libEGL.so.1", "glfw"),
        ({"DISPLAY": ":0"}, "libEGL.so.1", None),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "libEGL.so.1", None),
    ],
)
def test_a_machine_without_a_display_renders_without_one(monkeypatch, environ, found, chosen):
    monkeypatch.setattr(os, "environ", dict(environ))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: found)
    simulator._choose_renderer()
    assert os.environ.get("MUJOCO_GL") == chosen


class Plain(gymnasium.Env):
    """Its constructor takes what it uses and nothing else."""

    observation_space = vector
    action_space = unit

    def __init__(self, scale=1.0):
        self.scale = scale


@pytest.fixture
def plain(registered) -> str:
    gymnasium.register("Plain-v2", Plain)
    gymnasium.register("Plain-v10", Plain, max_episode_steps=7)
    return "Plain-v10"


def test_a_constructor_is_given_nothing_that_was_not_asked_for(plain):
    assert make_simulator(plain).unwrapped.scale == 1
    assert make_simulator(EnvironmentChoice(env=plain, kwargs={"scale": 3})).unwrapped.scale == 3
    given = r"; it was given env_kwargs={'x': 3}, and --env-kwargs '{}' gives none\.$"
    with pytest.raises(
        JaxdtError, match=r"^environment 'Plain-v10' cannot be made: .*unexpected keyword argument 'x'" + given
    ):
        make_simulator(EnvironmentChoice(env=plain, kwargs={"x": 3}))
    with pytest.raises(JaxdtError, match=r"'x'; it was given env_kwargs=\{'x': 3\}, and env_kwargs=\{\} gives"):
        make_simulator(EnvironmentChoice(env=Plain, kwargs={"x": 3}))
    with pytest.raises(JaxdtError, match=r"'render_mode' \(it cannot be rendered; leave the video out\)\.$"):
        make_simulator(plain, render=True)


def test_a_way_to_render_is_no_keyword_argument(plain):
    for env in (plain, gymnasium.spec(plain), Plain):
        with pytest.raises(JaxdtError, match=r"^env_kwargs has render_mode='human', .* leave it out, and film with"):
            make_simulator(EnvironmentChoice(env=env, kwargs={"render_mode": "human"}))


def test_a_spec_an_object_and_a_function_are_made_into_new_objects(plain):
    spec, made = gymnasium.spec(plain), gymnasium.make(plain, scale=5, max_episode_steps=3)
    for environment, scale, limit in [(spec, 1, 7), (made, 5, 3), (lambda: Plain(4), 4, None), (Plain, 1, None)]:
        new = make_simulator(environment)
        assert (new.unwrapped.scale, episode_limit(new)) == (scale, limit)
        assert new.unwrapped is not made.unwrapped
    assert episode_limit(make_simulator(EnvironmentChoice(env=made, max_episode_steps=9))) == 9
    assert episode_limit(make_simulator(lambda: TimeLimit(Plain(), 11))) == 11


def test_an_object_that_cannot_be_made_again_is_played_itself_one_by_one(plain):
    for mine in (Plain(6), gymnasium.Wrapper(gymnasium.make(plain))):
        mine.close = lambda: pytest.fail("it is the user's")
        taken = make_simulator(EnvironmentChoice(env=mine, parallel=1))
        taken.close()
        assert taken.unwrapped is mine.unwrapped
    with pytest.raises(
        JaxdtError, match=r"^environment Plain cannot be made anew .* or play the one .*environments=1\.$"
    ):
        make_simulator(Plain(6))


@pytest.mark.parametrize(("what", "says"), [(3, r"got builtins\.int"), (lambda: 3, r"it returned builtins\.int")])
def test_what_is_no_environment_is_named(what, says):
    with pytest.raises(JaxdtError, match=says):
        make_simulator(what)


def test_an_id_without_a_version_means_the_newest(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "module", sys)  # as if it had registered Plain
    wanted = {
        "Plain": "Plain-v10",
        "Plain-v2": "Plain-v2",
        "Ant": "Ant-v5",
        "mjx:Hopper": "mjx:Hopper-v5",
        "Nowhere": "Nowhere",
        "module:Plain": "module:Plain-v10",
        "nowhere_x:Plain-v2": "nowhere_x:Plain-v2",
        "none": "none",
    }
    assert {name: with_version(name) for name in wanted} == wanted


@pytest.mark.parametrize("env_id", ["Plain", "Plain-v10", "module:Plain", "module:Plain-v10", "mjx:Plain"])
def test_however_an_id_is_written_it_is_one_environment_and_nothing_is_imported(plain, monkeypatch, env_id):
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(name))
    assert identity(env_id) == plain


def test_a_module_in_the_current_directory_is_found_as_python_dash_m_finds_it(plain, tmp_path, monkeypatch):
    (tmp_path / "envs_of_mine_x.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    before = list(sys.path)
    assert make_simulator(f"envs_of_mine_x:{plain}").unwrapped.scale == 1
    assert sys.path == before


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2, 3)),
        spaces.Box(-1, 1, ()),
        spaces.Dict(b=spaces.Box(-1, 1, (1, 2)), a=vector, inner=spaces.Dict(z=unit)),
        spaces.Tuple([vector, spaces.Box(0, 1, (2, 2, 2))]),
    ],
)
def test_boxes_are_flattened_in_gymnasiums_order(registered, space):
    name = registered(space, unit)
    said = contextlib.nullcontext()
    if isinstance(space, spaces.Dict):  # as dicts in data are not read
        said = pytest.warns(UserWarning, match="parts in another order than that of their names: Dict")
    with said:
        simulator = make_simulator(name)
    observation = space.sample()
    simulator.unwrapped.reset = lambda **_: (observation, {})
    assert np.array_equal(simulator.reset()[0], spaces.flatten(space, observation))
    assert simulator.observation_space.shape == (spaces.flatdim(space),)


@pytest.mark.parametrize(
    ("kwargs", "plain"),
    [
        ({"include_x": False, "range": [0.2, 1.0], "name": "half-cheetah 2", "none": None, "deep": {"a": 1}}, True),
        ({"xml_file": "/tmp/evil.xml"}, False),
        ({"entry_point": "os:system"}, False),
        ({"list": [{"deep": "os.path"}]}, False),
        ({"../key": 1}, False),
    ],
)
def test_keyword_arguments_of_a_file_name_neither_path_nor_module(kwargs, plain):
    assert are_plain_kwargs(kwargs) == plain
