import dataclasses
import functools
import json
import pickle
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.checkpoint import CheckpointWriter
from jaxdt.config import TrainConfig
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.environments import make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.models import build_model
from jaxdt.run.directory import RunDirectory, RunRecord, write_record
from jaxdt.types import spec_from_json
from tests.conftest import tiny_model
from tests.toys import DRIFT_SPEC, Drift


CONFIG = tiny_model(num_layers=2, max_episode_length=10)  # of one block, cached acting would be exact
ALGORITHM = jaxdt.DecisionTransformerConfig(return_scale=4.0, model=CONFIG)


@functools.cache
def make_params():
    return jax.tree.map(lambda leaf: leaf * 3, jax.jit(build_model(CONFIG)[0])(jax.random.key(0)))


IMPORTED = {"imported_from": "elsewhere"}


def make_agent(delayed=False) -> jaxdt.Agent:
    return jaxdt.Agent(ALGORITHM, make_params(), dataclasses.replace(DRIFT_SPEC, delayed_reward=delayed))


@pytest.mark.parametrize("delayed", [False, True])
def test_agent_repeats_what_a_rollout_did_on_the_same_inputs(delayed):
    agent = make_agent(delayed)
    evaluator = Evaluator(agent.policy, make_environment(Drift()), record=True)
    targets = [5.0, -20.0]
    played = evaluator.run_episodes(agent.params, targets, episodes=1, seed=4)
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
    _, apply = build_model(agent.config.model)
    window = jaxdt.Window(
        np.zeros((1, 4, 3), np.float32),
        np.zeros((1, 4, 2), np.float32),
        np.zeros((1, 4), np.float32),
        np.zeros((1, 4), np.int32),
        np.ones((1, 4), bool),
    )
    assert jax.jit(apply)(agent.params, window).shape == (1, 4, 2)


@pytest.mark.parametrize("context", ["exact", "cached"])
def test_several_episodes_are_each_as_alone_whenever_they_begin(context):
    together, rng = make_agent().acting_with(context=context), np.random.default_rng(0)
    observations = rng.normal(size=(7, 2, 3))
    rewards = rng.normal(size=(7, 2))
    together.reset([3.0, -5.0])
    begins = np.zeros((7, 2), bool)
    begins[0] = begins[4, 1] = True
    acted = [together.act(*newest, begins=begin) for *newest, begin in zip(observations, rewards, begins, strict=True)]
    assert acted[0].shape == (2, 2)
    for i, target in enumerate((3.0, -5.0)):
        alone = make_agent().acting_with(context=context)
        for t in range(7):
            if begins[t, i]:
                alone.reset(target)
            action = alone.act(observations[t, i], rewards[t, i])
            np.testing.assert_allclose(acted[t][i], action, atol=1e-5)


@pytest.mark.parametrize(("seed", "episodes"), [(2**31, 1), (-1, 1), (2**31 - 1, 2)])
def test_seeds_are_those_that_an_evaluation_may_have(seed, episodes):
    with pytest.raises(JaxdtError, match=f"seed must be at least 0 and seed \\+ episodes at most .*; got {seed}"):
        make_agent().reset(1.0, seed=seed, episodes=episodes)


def test_of_several_episodes_each_draws_by_a_seed_of_its_own():
    agent = make_agent()
    agent.reset(1.0, episodes=3, seed=5)
    agent.act(np.zeros((3, 3)), 0.0)
    agent.act(np.zeros((3, 3)), [0.0, 1.0, 2.0], begins=np.array([True, False, True]))
    assert agent._seeds.tolist() == [8, 6, 9]
    assert agent._steps.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (lambda agent: agent.reset([1.0, 2.0], episodes=3), "one for each of 3 episodes; got 2"),
        (lambda agent: agent.reset(1.0, episodes=0), "episodes must be at least 1 and below 2"),
        (lambda agent: agent.act(np.ones(3)), r"shape \(2, 3\); got \(3,\)"),
        (lambda agent: agent.act(np.ones((2, 3)), [1.0, 2.0, 3.0]), "one finite number an episode, of 2; got"),
        (lambda agent: agent.act(np.ones((2, 3)), begins=[1, 0]), "begins must be a boolean for each of several"),
    ],
)
def test_what_does_not_fit_several_episodes_is_a_sentence(misuse, says):
    agent = make_agent()
    agent.reset(1.0, episodes=2)
    with pytest.raises(JaxdtError, match=says):
        misuse(agent)


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


@pytest.mark.parametrize("text", ["{", "[]", '{"config": {"steps": "many"}}', '{"config": {}}', '{"format": 2}'])
def test_a_damaged_config_is_one_clear_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(JaxdtError, match=r"config\.json is damaged"):
        jaxdt.Agent.load(tmp_path)


def test_a_cached_agent_does_as_the_cached_rollout_and_nearly_as_the_exact_one():
    agents = [make_agent().acting_with(context=context) for context in ("cached", "exact")]
    played = [
        Evaluator(each.policy, make_environment(Drift()), record=True).run_episodes(each.params, [5.0], 2, seed=4)
        for each in agents
    ]
    agent = agents[0]
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
        (
            "constants",
            "state_mean",
            [0.0, float("nan"), 0.0],
            "the constant state_mean must be one or more finite",
        ),
        ("constants", "state_std", [1.0, 10**400, 1.0], "the constant state_std must be numbers"),
        ("constants", "state_std", [1.0, 0.0, 1.0], "state_std must be above 0"),
        ("constants", "state_std", [[1.0, 1.0, 1.0]], "state_std has shape"),
        ("constants", "state_mean", [], "the constant state_mean must be one or more finite"),
        ("action", "low", [None, -1.0], "the actions' low must be one or more finite numbers"),
        ("action", "high", [[1.0, 1.0]], "low and high must be two lists as long"),
        ("action", "high", [1.0, -5.0], "the actions' high must not be below low"),
        ("action", "n", 3, "action must have low and high, or n and start"),
        ("spec", "action", {"n": 0, "start": 0}, "discrete actions must be at least one and below"),
        ("spec", "observation_shape", [4], "state_mean has shape"),
        ("spec", "observation_shape", [-3], "observation_shape must be one or more sizes above 0"),
        ("spec", "observation_dtype", "object", "observation_dtype must be of numbers; got object"),
        ("spec", "constants", {}, "constants has no state_mean"),
        ("spec", "delayed_reward", 1, "delayed_reward must be true or false"),
        ("algorithm", "name", "sorcery", "config.algorithm is 'sorcery', which this version does not know"),
        ("algorithm", "spells", 3, "unknown field 'spells'; it was written by another version"),
        ("algorithm", "temperature", 0, "temperature must be above 0 and finite"),
        ("algorithm", "return_scale", float("inf"), "return_scale must be above 0 and finite"),
        ("model", "width", 2**40, "width must be at most 16777216"),
        ("model", "context_length", 10**9, "context_length must be at most 4096"),
        ("model", "layer_norm_epsilon", 10**400, "too large"),
    ],
)
def test_a_run_that_cannot_be_acted_with_is_refused_before_its_model_is_built(tmp_path, part, name, value, says):
    agent = make_agent()
    record = RunRecord(config=TrainConfig(algorithm=agent.config), spec=agent.spec, data=IMPORTED, made_with={})
    write_record(RunDirectory(tmp_path), record)
    document = json.loads((tmp_path / "config.json").read_text())
    spec, algorithm = document["spec"], document["config"]["algorithm"]
    parts = {"spec": spec, "action": spec["action"], "constants": spec["constants"], "algorithm": algorithm}
    {**parts, "model": algorithm["model"]}[part][name] = value
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(JaxdtError, match=says):
        jaxdt.Agent.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "as_read"),
    [
        ({"action": jaxdt.Discrete(np.int64(70_000))}, {"action": jaxdt.Discrete(70_000)}),
        ({"observation_dtype": ">i4"}, {"observation_dtype": "int32"}),
        ({"observation_dtype": "float16"}, {"observation_dtype": "float16"}),
        ({"action": jaxdt.Box([-1.0], [1])}, {"action": jaxdt.Box(-np.ones(1, np.float32), np.ones(1, np.float32))}),
    ],
)
def test_a_spec_that_a_user_writes_is_brought_to_the_one_that_is_read_back(change, as_read):
    plain = {"observation_shape": (2,), "action": jaxdt.Discrete(3), "constants": {"edges": [1, 2.5]}}
    spec = jaxdt.Spec(**{**plain, **change})
    assert spec == jaxdt.Spec(**{**plain, **as_read}) == spec_from_json(json.loads(json.dumps(spec.to_json())))
    assert hash(spec) == hash(jaxdt.Spec(**{**plain, **as_read}))
    assert spec != jaxdt.Spec(**{**plain, **as_read, "constants": {"edges": [1, 2]}})


def test_a_wrong_option_is_not_called_damage(tmp_path):
    agent = make_agent()
    record = RunRecord(config=TrainConfig(algorithm=agent.config), spec=agent.spec, data=IMPORTED, made_with={})
    write_record(RunDirectory(tmp_path), record)
    CheckpointWriter(RunDirectory(tmp_path).checkpoints).save(0, params=agent.params, metadata={}, score=None)
    with pytest.raises(JaxdtError, match=r"^sampling='sample' is for discrete actions"):
        jaxdt.Agent.load(tmp_path, sampling="sample")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    agent = make_agent()
    record = RunRecord(config=TrainConfig(algorithm=agent.config), spec=agent.spec, data=IMPORTED, made_with={})
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


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (lambda agent: agent.reset("high"), "target_return must be a number; got 'high'"),
        (
            lambda agent: agent.act({"a": 1}),
            r"the observation must be an array of numbers of shape \(3,\); got {'a': 1}",
        ),
        (lambda agent: agent.act([1, 2, "x"]), r"the observation must be an array of numbers of shape \(3,\); got"),
        (lambda agent: agent.act(np.ones(3), "much"), "reward must be a number; got 'much'"),
        (lambda agent: jaxdt.evaluate(agent, Drift(), targets="auto"), "targets must be a number; got 'auto'"),
        (lambda agent: jaxdt.train(TrainConfig(), [], seeds="x"), "seeds must be a number; got 'x'"),
    ],
)
def test_what_is_no_number_is_a_sentence(misuse, says):
    agent = make_agent()
    agent.reset(np.array([5.0]), seed=np.int64(3))
    with pytest.raises(JaxdtError, match=says):
        misuse(agent)


@pytest.mark.parametrize("targets", [5, np.float32(5), [5], np.array([5])])
def test_one_target_may_be_given_alone_and_as_any_number(targets):
    from jaxdt.run.evaluate import _checked_targets

    assert _checked_targets(make_agent(), targets, 1, 0) == (5.0,)


def test_act_is_not_traced_and_says_what_may_be():
    agent = make_agent()
    agent.reset(3.0)
    for traced in (jax.jit(agent.act), jax.vmap(agent.act), lambda ones: jax.jit(agent.act)(np.ones(3), ones[0, 0])):
        with pytest.raises(
            JaxdtError, match=r"^act remembers the episode .* got a traced array \(use agent\.policy there"
        ):
            traced(np.ones((2, 3)))


def test_the_pure_policy_of_the_page_acts_as_the_agent_does(store):
    page = (Path(__file__).parent.parent / "scripts" / "usage.md").read_text(encoding="utf-8")
    [example] = re.findall(r"(?ms)^(policy = agent\.policy.*?)^$", page)
    agent = make_agent()
    names = {"jax": jax, "agent": agent, "store": store}
    exec(example, names)
    agent.reset([2000.0, 6000.0])
    np.testing.assert_allclose(names["actions"], agent.act(store.observations[:2]), rtol=1e-5, atol=1e-6)


def test_a_pickled_agent_acts_as_it_did_and_knows_what_it_knew():
    agent = jaxdt.Agent(ALGORITHM, make_params(), DRIFT_SPEC, env_id="CartPole-v1", targets=(5.0,))
    agent.reset(3.0)
    action = agent.act(np.ones(3))
    again = pickle.loads(pickle.dumps(agent))
    with pytest.raises(JaxdtError, match="no episode has begun"):
        again.act(np.ones(3))
    again.reset(3.0)
    np.testing.assert_array_equal(again.act(np.ones(3)), action)
    assert (repr(again), again.environment) == (repr(agent), agent.environment)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(again.params))
    unnamed = pickle.loads(pickle.dumps(make_agent()))
    assert unnamed.missing_environment == make_agent().missing_environment is not None


def test_an_agent_of_a_function_that_cannot_be_pickled_says_so():
    network = lambda model: build_model(model)  # noqa: E731
    agent = jaxdt.Agent(dataclasses.replace(ALGORITHM, network=network), make_params(), DRIFT_SPEC)
    with pytest.raises(JaxdtError, match=r"^an agent can be pickled if its network can; got <function"):
        pickle.dumps(agent)
