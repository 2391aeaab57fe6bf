import os
import subprocess
import sys

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

from jaxdt import JaxdtError, simulator
from jaxdt.simulator import action_space, make_simulator
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
        (spaces.Box(0, 255, (4, 4, 1), np.uint8), unit, "must have a vector of observations, .*; got Box"),
        (spaces.Dict(arm=vector, n=spaces.Discrete(3)), unit, "must have a vector of observations, .*; got Dict"),
        (spaces.Discrete(5), unit, "must have a vector of observations, .*; got Discrete"),
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
