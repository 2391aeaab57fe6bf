"""A Trajectory Transformer is a run like others, and its plans find what the data's best do."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdt
from jaxdt.algorithms import make_algorithm
from jaxdt.config import OptimizerConfig, TrainConfig, TrajectoryTransformerConfig
from jaxdt.loggers import read_lines
from jaxdt.plots import Expectations
from jaxdt.run.plans import plan_errors
from tests.conftest import make_store
from tests.toys import Dial, Drift, dial_episodes


pytestmark = pytest.mark.usefixtures("quick_plots")
STORE = dial_episodes()  # levels from -0.9 to 0.9 alike: their mean is 0
SMALL = TrajectoryTransformerConfig(
    bins=8,
    transitions=3,
    context_transitions=2,
    horizon=2,
    beam_width=4,
    action_nucleus=1.0,
    width=16,
    num_layers=1,
    num_heads=2,
    dropout=0.0,
    discount=0.5,
    token_schedule=True,
    optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=0.1, decay_biases=False, max_grad_norm=1.0),
)
CONFIG = TrainConfig(
    algorithm=SMALL, steps=60, batch_size=32, eval_every=60, eval_episodes=3, save_every=30, log_every=30
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return jaxdt.train(CONFIG, STORE, out=tmp_path_factory.mktemp("trajectory") / "run", env=Dial())


@pytest.mark.slow
def test_plans_find_better_actions_than_the_datas_mean(run):
    [line] = read_lines(run / "evaluations.jsonl")
    assert line["target"] is None
    assert line["return_mean"] > 4.0


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_weights_and_rate(run, tmp_path):
    part = shutil.copytree(run, tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / "60")
    jaxdt.train(dataclasses.replace(CONFIG, eval_episodes=3), STORE, out=part, env=Dial(), resume=True)
    jax.tree.map(np.testing.assert_array_equal, jaxdt.Agent.load(part).params, jaxdt.Agent.load(run).params)
    rates = [[line["learning_rate"] for line in read_lines(path / "metrics.jsonl")] for path in (part, run)]
    assert rates[0] == rates[1]
    assert min(rates[0]) > 0


@pytest.mark.slow
def test_an_episode_is_the_same_alone_and_beside_others(run):
    """And by an Agent, step by step, which draws the same."""
    agent = jaxdt.Agent.load(run)
    together = jaxdt.evaluate(agent, Dial(), episodes=3, seed=5)[0].returns
    assert len(set(together)) > 1  # they draw their own
    agent.reset(seed=6)
    actions, reward = [], 0.0
    for _ in range(Dial.max_episode_steps):
        actions.append(agent.act(np.array([1.0, 0.0]), reward))
        reward = float(actions[-1][0])
    assert float(np.sum(actions)) == pytest.approx(together[1], abs=1e-4)


@pytest.mark.slow
def test_the_action_error_is_that_of_the_likeliest_action_behind_what_was_recorded(run):
    """Where the last numbers of an action are predicted well, and rows behind an end do not count."""
    agent = jaxdt.Agent.load(run)
    algorithm = make_algorithm(agent.config, agent.spec)
    batch = algorithm.sampler(STORE, batch_size=8, seed=0).batch(0)
    measured = jax.jit(algorithm.validate)(agent.params, batch)
    loss = jax.jit(algorithm.update.loss)(agent.params, batch, None)
    assert float(measured["loss"]) == pytest.approx(float(loss), rel=1e-5)
    hidden = batch._replace(rows=jnp.where(batch.real[..., None], batch.rows, 99.0))
    assert float(jax.jit(algorithm.validate)(agent.params, hidden)["action_error"]) == float(measured["action_error"])
    assert 0 < measured["action_error"] < 0.9 / 2 + 0.1  # the mean level would be as far away


class TurningDial(Dial):
    """What is seen changes, which no plan can know."""

    def reset(self, key):
        return jnp.zeros(()), jnp.array([1.0, 0.0])

    def step(self, state, action):
        return state + 0.5, jnp.stack([jnp.ones(()), state + 0.5]), action[0], jnp.zeros((), bool)


@pytest.mark.slow
def test_what_plans_expect_is_drawn_beside_what_happened(run, tmp_path):
    picture, agent = tmp_path / "plan.png", jaxdt.Agent.load(run)
    [plain], [drawn] = (
        jaxdt.evaluate(agent, TurningDial(), episodes=3, seed=5, plot_plan=path) for path in (None, picture)
    )
    np.testing.assert_array_equal(drawn.returns, plain.returns)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    errors = json.loads(picture.with_suffix(".json").read_text())
    assert errors["steps_ahead"] == [0, 1]
    moved = 0.5 / np.std(0.5 * np.arange(8))
    np.testing.assert_allclose(errors["unchanged"], [0, moved], rtol=1e-6)
    assert errors["expected"][1] > errors["unchanged"][1]


def test_errors_of_plans_are_in_standard_deviations_by_steps_ahead():
    """One number moves by 2 a step and stands still in another episode, the other never changes."""
    moving, still = np.array([[0.0, 7], [2, 7], [4, 7]]), np.array([[2.0, 7], [2, 7]])
    plans = np.full((3, 2, 2), np.nan)
    plans[0], plans[2, 0] = [[0, 7], [5, 7]], [4, 7]  # it expects 5 where 2 happens
    played = [Expectations(moving, plans), Expectations(still, np.stack([still, still]))]
    played[1].expected[1, 1] = np.nan
    std = np.concatenate([moving, still])[:, 0].std()
    errors = plan_errors(played)
    np.testing.assert_allclose(errors.expected, [0, 3 / std / 2])
    np.testing.assert_allclose(errors.unchanged, [0, 2 / std / 2])


@pytest.mark.slow
def test_plans_are_drawn_of_a_policy_that_plans_alone_and_as_a_figure(finished, run, tmp_path):
    with pytest.raises(jaxdt.JaxdtError, match=r"must be a file that ends in .*; got 'plan'"):
        jaxdt.evaluate(run, Dial(), plot_plan="plan")
    with pytest.raises(jaxdt.JaxdtError, match="makes no plans; leave plot_plan"):
        jaxdt.evaluate(finished, Drift(), plot_plan=tmp_path / "plan.png")


@pytest.mark.slow
def test_of_discrete_actions_only_those_that_there_are_are_planned():
    """Of 20 tokens; what is remembered is what was done."""
    store = make_store(lengths=(9, 9), state_dim=2, discrete=3)
    config = dataclasses.replace(SMALL, bins=20, token_schedule=False).for_data(None).for_steps(10)
    spec = jaxdt.make_spec(config, store)
    algorithm = make_algorithm(config, spec)
    params = jax.jit(algorithm.init)(jax.random.key(0)).params
    keys, observation = jax.random.split(jax.random.key(1), 16), jnp.zeros((16, 2))
    memory, actions = jax.jit(algorithm.policy.act)(
        params, algorithm.policy.start(jnp.zeros(16)), observation, jnp.zeros(16), keys
    )
    assert set(np.unique(actions)) <= {0, 1, 2}
    np.testing.assert_array_equal(memory.plan[:, 0, -3], actions)


def test_weights_of_another_run_are_trained_on_along_one_cosine():
    """The authors' schedule counts the windows of the data that a run began with."""
    trained = SMALL.for_data("hopper-medium-v2")
    assert trained.token_schedule
    again = TrajectoryTransformerConfig(horizon=2, context_transitions=2).trained_on_from(trained)
    assert again.token_schedule is False
    assert SMALL.trained_on_from(trained).token_schedule is False  # which the command copies from the run
