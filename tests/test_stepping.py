import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from jaxdt import JaxdtError
from jaxdt.stepping import BadStep, reset, step, try_out


class Scripted(gymnasium.Env):
    """Returns what it is given, or raises it."""

    observation_space = spaces.Box(-9, 9, (3,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, **given):
        self.first, self.later = (np.zeros(3), {}), (np.ones(3), 1.5, False, True, {})
        self.__dict__.update(given)

    def reset(self, *, seed=None, options=None):
        return self._given(self.first)

    def step(self, action):
        return self._given(self.later)

    def _given(self, value):
        if isinstance(value, BaseException):
            raise value
        return value


class Seedless(Scripted):
    def reset(self):
        return np.zeros(3), {}


def test_what_gymnasium_allows_is_read_as_it_is():
    assert reset(Scripted(), 0).tolist() == [0, 0, 0]
    observation, *others = step(Scripted(), None)
    assert observation.tolist() == [1, 1, 1]
    assert others == [1.5, False, True, None]


@pytest.mark.parametrize("reward", [np.array([2.5]), np.float32(2.5), np.array(2.5), [2.5], np.array([[2.5]])])
@pytest.mark.parametrize("flag", [True, np.True_, np.array([True]), 1, np.array([1.0])])
def test_numbers_and_flags_in_arrays_of_one_are_taken(reward, flag):
    assert step(Scripted(later=(np.ones(3), reward, flag, flag, {})), None)[1:] == (2.5, True, True, None)


@pytest.mark.parametrize("wrapped", [lambda env: env, OrderEnforcing, lambda env: TimeLimit(env, 5)])
@pytest.mark.parametrize(
    ("env", "says"),
    [
        (Seedless(), r"its reset must take seed and options as keywords \(Seedless.reset\(\) got an unexpected"),
        (
            Scripted(first=np.zeros(3)),
            r"its reset must return \(observation, info\); it returned ndarray of shape \(3,",
        ),
        (
            Scripted(first=np.zeros(2)),
            r"its reset must return \(observation, info\); it returned ndarray of shape \(2,",
        ),
        (Scripted(first=(np.zeros(2), {})), r"its observation must have the shape of its space, \(3,\); got \(2,\)"),
        (Scripted(first=(["a", "b", "c"], {})), "its observation must be numbers; got"),
        (Scripted(first=(np.array([0, np.nan, 0]), {})), "its reset returned numbers that are not finite"),
        (Scripted(first=OSError("no motor")), r"its reset raised OSError \(no motor\)"),
        (Scripted(later=(np.ones(3), 1.0, False, {})), r"its step must return \(observation, reward, terminated, .*4"),
        (Scripted(later=(np.ones(1), 1.0, False, False, {})), r"its observation must have the shape .* got \(1,\)"),
        (Scripted(later=(np.ones(3), None, False, False, {})), "its reward must be one number; got None"),
        (Scripted(later=(np.ones(3), np.ones(2), False, False, {})), "its reward must be one number; got array"),
        (Scripted(later=(np.ones(3), "1", False, False, {})), "its reward must be one number; got '1'"),
        (Scripted(later=(np.ones(3), np.inf, False, False, {})), "its step returned numbers that are not finite"),
        (Scripted(later=(np.ones(3), 0.0, None, False, {})), "its terminated must be true or false; got None"),
        (Scripted(later=(np.ones(3), 0.0, False, np.zeros(2), {})), "its truncated must be true or false; got array"),
        (Scripted(later=KeyError("joint")), r"its step raised KeyError \('joint'\)"),
        (Scripted(later=SystemExit(3)), r"its step raised SystemExit \(3\)"),
    ],
)
def test_what_is_wrong_with_an_environment_is_one_sentence(env, says, wrapped):
    with pytest.raises(JaxdtError, match=f"^environment 'Mine-v0' cannot be played: {says}") as caught:
        try_out("Mine-v0", wrapped(env), np.zeros(1))
    assert "\n" not in str(caught.value)


def test_every_later_step_is_read_as_strictly_as_the_first():
    env = Scripted()
    step(env, None)
    env.later = (np.ones((3, 1)), 0.0, False, False, {})
    with pytest.raises(BadStep, match="shape of its space"):
        step(env, None)


@pytest.mark.parametrize(
    ("info", "success"),
    [
        ({"success": np.array([True])}, True),
        ({"is_success": 0.0}, False),
        ({"success": None, "is_success": True}, True),
        ({"success": "yes"}, None),
        ({"success": [1, [2, 3]]}, None),
        ({"success": np.nan}, None),
        ({"success": False, "is_success": True}, True),
        (None, None),
    ],
)
def test_success_is_what_info_calls_it(info, success):
    assert step(Scripted(later=(np.ones(3), 0.0, False, False, info)), None)[-1] is success
