"""What a notebook shows of a result, and what a prompt does."""

import re

import numpy as np
import pytest

import jaxdt
from jaxdt.run.comparison import Score, Task
from jaxdt.types import Evaluations
from tests.conftest import make_store
from tests.toys import DRIFT_SPEC


def cells(shown):
    html = shown._repr_html_()
    assert html.startswith("<table>\n<tr>")
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in html.splitlines() if row.startswith("<tr>")]


def evaluation(target, normalized=None):
    returns = np.array([1.0, 3.0])
    return jaxdt.Evaluation(target=target, returns=returns, lengths=np.array([10, 20]), normalized=normalized)


def test_evaluations_are_a_list_that_is_shown_with_a_row_a_target():
    shown = Evaluations([evaluation(5.0, np.array([50.0, 70.0])), evaluation(2.5, np.array([1.0, 2.0]))])
    assert cells(shown) == [
        ["target", "return", "score", "episodes", "mean length"],
        ["5", "2.0 ± 1.0", "60.0", "2", "15.0"],
        ["2.5", "2.0 ± 1.0", "1.5", "2", "15.0"],
    ]
    assert shown == list(shown)
    assert cells(Evaluations([evaluation(None)]))[0] == ["return", "episodes", "mean length"]


@pytest.mark.parametrize(("discrete", "actions"), [(None, "(2,)"), (4, "4 discrete")])
def test_a_store_is_shown_with_what_it_holds(discrete, actions):
    rows = dict(cells(make_store(env_id="<Hopper>-v5", discrete=discrete)))
    assert rows | {"return": ""} == {
        "episodes": "3",
        "steps": "22",
        "observations": "(3,) float32",
        "actions": actions,
        "return": "",
        "length": "7.33333, from 3 to 12",
        "environment": "&lt;Hopper&gt;-v5",
    }


def comparison():
    score = Score(
        method="bc", task="Hopper-v5", seeds=(0, 1), runs=(), returns=np.array([1.0, 2.0]), normalized=None,
        score_name="", targets=(5.0, 5.0), steps=(10, 10), episodes=(2, 2), curve_steps=np.array([10]),
        curve=np.ones((2, 1)),
    )  # fmt: skip
    task = Task(name="Hopper-v5", data="a<b", data_return_mean=1.0, data_return_max=2.0, conflicts=())
    return jaxdt.Comparison(
        methods=("bc",), tasks=(task,), scores=(score,), best=False, aggregates={}, aggregated="return",
        improvements=(), notes=("x < y",),
    )  # fmt: skip


def test_a_comparison_is_shown_with_a_row_a_method():
    assert cells(comparison())[0][:4] == ["method", "seeds", "updates", "Hopper-v5"]
    assert cells(comparison())[1][:3] == ["bc", "2", "10"]
    assert comparison()._repr_html_().endswith("<p>x &lt; y</p>")


def test_reprs_are_one_line():
    assert repr(comparison()) == "Comparison(bc on Hopper-v5; 2 runs)"
    assert repr(DRIFT_SPEC) == (
        "Spec(observations (3,) float32, actions (2,) in [-3, 5], state_mean (3,), state_std (3,))"
    )
    discrete = jaxdt.Spec(observation_shape=(4,), action=jaxdt.Discrete(3, 1), delayed_reward=True)
    assert repr(discrete) == "Spec(observations (4,) float32, 3 discrete actions from 1, delayed reward)"
