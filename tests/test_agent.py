import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.checkpoint import CheckpointWriter
from jaxdt.config import TrainConfig
from jaxdt.errors import JaxdtError
from jaxdt.models import build_model
from jaxdt.run.directory import RunDirectory, RunRecord, write_record
from jaxdt.run.evaluate import Player
from tests.conftest import tiny_model
from tests.toys import DRIFT_INTERFACE, Drift


CONFIG = tiny_model(max_episode_length=10)


def make_agent(delayed=False) -> jaxdt.Agent:
    params = jax.tree.map(lambda leaf: leaf * 3, jax.jit(build_model(CONFIG)[0])(jax.random.key(0)))
    return jaxdt.Agent(CONFIG, params, dataclasses.replace(DRIFT_INTERFACE, delayed_reward=delayed))


@pytest.mark.parametrize("delayed", [False, True])
def test_agent_repeats_what_a_rollout_did_on_the_same_inputs(delayed):
    agent = make_agent(delayed)
    player = Player(CONFIG, agent.apply, agent.interface, Drift(), record=True)
    targets = [5.0, -20.0]
    played = player.play(agent.params, targets, episodes=1, seed=4)
    for i, target in enumerate(targets):
        agent.reset(target_return=target)
        for t in range(int(played.lengths[i])):
            reward = float(played.trajectory.rewards[t - 1, i]) if t else 0.0
            action = agent.act(np.asarray(played.trajectory.observations[t, i]), reward)
            np.testing.assert_allclose(action, played.trajectory.actions[t, i], atol=1e-5)


def test_the_reward_before_the_first_step_is_not_used():
    agent, observation = make_agent(), np.ones(3)
    agent.reset(target_return=3.0)
    first = agent.act(observation)
    agent.reset(target_return=3.0)
    np.testing.assert_array_equal(agent.act(observation, reward=100.0), first)
    assert not np.array_equal(agent.act(observation, reward=100.0), agent_after(first, observation, 0.0))


def agent_after(first, observation, reward):
    agent = make_agent()
    agent.reset(target_return=3.0)
    np.testing.assert_array_equal(agent.act(observation), first)
    return agent.act(observation, reward)


def test_reset_forgets_the_episode_before():
    agent = make_agent()
    agent.reset(target_return=3.0)
    first = agent.act(np.ones(3))
    agent.act(np.zeros(3), 1.0)
    agent.reset(target_return=3.0)
    np.testing.assert_array_equal(agent.act(np.ones(3)), first)


def test_config_and_params_fit_build_model():
    agent = make_agent()
    _, apply = build_model(agent.config)
    window = jaxdt.Window(
        np.zeros((1, 4, 3), np.float32),
        np.zeros((1, 4, 2), np.float32),
        np.zeros((1, 4), np.float32),
        np.zeros((1, 4), np.int32),
        np.ones((1, 4), bool),
    )
    assert jax.jit(apply)(agent.params, window).shape == (1, 4, 2)


def test_acting_before_reset_says_what_to_call():
    with pytest.raises(JaxdtError, match=r"agent\.reset\(target_return"):
        make_agent().act(np.zeros(3))


@pytest.mark.parametrize(
    ("observation", "reward", "says"),
    [
        (np.zeros(4), 0.0, r"shape \(3,\); got \(4,\)"),
        (np.full(3, np.nan), 0.0, "finite"),
        (np.zeros(3), np.inf, "finite"),
    ],
)
def test_observations_that_do_not_fit_are_refused(observation, reward, says):
    agent = make_agent()
    agent.reset(target_return=1.0)
    with pytest.raises(JaxdtError, match=says):
        agent.act(observation, reward)


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(JaxdtError, match=r"holds no run: config\.json is missing"):
        jaxdt.Agent.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"config": {"steps": "many"}}', '{"config": {}}'])
def test_a_damaged_config_is_one_clear_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(JaxdtError, match=r"config\.json is damaged"):
        jaxdt.Agent.load(tmp_path)


def test_a_cached_agent_does_as_the_cached_rollout_and_nearly_as_the_exact_one():
    params, interface = make_agent().params, DRIFT_INTERFACE
    agent = jaxdt.Agent(CONFIG, params, interface, context="cached")
    played = [
        Player(CONFIG, agent.apply, interface, Drift(), context=context, record=True).play(params, [5.0], 2, seed=4)
        for context in ("cached", "exact")
    ]
    for i in range(2):
        agent.reset(target_return=5.0)
        for t in range(int(played[0].lengths[i])):
            reward = float(played[0].trajectory.rewards[t - 1, i]) if t else 0.0
            action = agent.act(np.asarray(played[0].trajectory.observations[t, i]), reward)
            np.testing.assert_allclose(action, played[0].trajectory.actions[t, i], atol=1e-5)
    cached, exact = (np.asarray(one.trajectory.actions) for one in played)
    np.testing.assert_allclose(cached[: CONFIG.context_length], exact[: CONFIG.context_length], atol=1e-5)
    assert not np.allclose(cached, exact, atol=1e-5)
    assert jaxdt.evaluate(agent, Drift(), [5.0], 2, seed=4)[0].returns == pytest.approx(np.asarray(played[0].returns))


@pytest.mark.parametrize(
    ("part", "name", "value", "says"),
    [
        ("interface", "state_mean", [0.0, float("nan"), 0.0], "state_mean has numbers that are not finite float32"),
        ("interface", "state_std", [1.0, 10**400, 1.0], "too large"),
        ("interface", "state_std", [1.0, 0.0, 1.0], "state_std must be above 0"),
        ("interface", "state_std", [[1.0, 1.0, 1.0]], "state_std"),
        ("interface", "action_low", [None, -1.0], "action_low has numbers that are not finite float32"),
        ("interface", "action_high", [[1.0, 1.0]], "action_high"),
        ("interface", "action_high", [1.0, -5.0], "action_high must not be below action_low"),
        ("interface", "return_scale", float("inf"), "return_scale must be above 0 and finite"),
        ("model", "width", 2**40, "width must be at most 16777216"),
        ("model", "context_length", 10**9, "context_length must be at most 4096"),
        ("model", "layer_norm_epsilon", 10**400, "too large"),
    ],
)
def test_a_run_that_cannot_be_acted_with_is_refused_before_its_model_is_built(tmp_path, part, name, value, says):
    agent = make_agent()
    record = RunRecord(config=TrainConfig(model=agent.config), interface=agent.interface, data={}, made_with={})
    write_record(RunDirectory(tmp_path), record)
    document = json.loads((tmp_path / "config.json").read_text())
    (document["config"]["model"] if part == "model" else document["interface"])[name] = value
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(JaxdtError, match=says):
        jaxdt.Agent.load(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    agent = make_agent()
    record = RunRecord(config=TrainConfig(model=agent.config), interface=agent.interface, data={}, made_with={})
    write_record(RunDirectory(tmp_path), record)
    writer = CheckpointWriter(RunDirectory(tmp_path).checkpoints)
    writer.save(0, params=jax.tree.map(lambda leaf: leaf * np.float32("inf"), agent.params), metadata={}, score=None)
    with pytest.raises(JaxdtError, match="has weights that are not finite; use another"):
        jaxdt.Agent.load(tmp_path)


def test_an_action_that_is_not_finite_is_refused():
    agent = make_agent()
    agent.params = jax.tree.map(lambda leaf: leaf * np.float32("nan"), agent.params)
    agent.reset(target_return=1.0)
    with pytest.raises(JaxdtError, match="the action is not finite: the weights overflow at this observation"):
        agent.act(np.ones(3))
