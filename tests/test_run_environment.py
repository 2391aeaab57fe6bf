"""What a run remembers of its environment, what must be given again, and what is doubted before training."""

import contextlib
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import RescaleAction

import jaxdt
from jaxdt import JaxdtError
from jaxdt.choice import EnvironmentChoice
from jaxdt.cli import run as command
from jaxdt.config import HUGGINGFACE
from jaxdt.data.collecting import collect_episodes
from jaxdt.data.demo import DEMOS
from jaxdt.run.beforehand import check_beforehand
from jaxdt.run.directory import RunDirectory, RunRecord, read_record
from jaxdt.run.doubts import doubt_length_of_episodes, doubt_targets, doubt_terminations, doubt_units_of_actions
from jaxdt.run.environment import check_alike, chosen, how_to_go_on, must_be_given_again, remembered
from jaxdt.run.evaluate import video_paths
from jaxdt.run.prepare import _environment_name, _with_arguments_of_data, prepare_run
from jaxdt.run.resume import agree_with_record
from jaxdt.run.train import _simulators_at_once
from jaxdt.types import Box, Spec
from tests.conftest import make_store, tiny_algorithm
from tests.runs import CONFIG, STORE
from tests.toys import DRIFT_SPEC, Drift


@pytest.mark.parametrize(
    ("env", "name", "kwargs"),
    [
        ("Pendulum", "Pendulum-v1", None),
        (lambda: gymnasium.spec("Pendulum-v1"), "Pendulum-v1", None),
        (lambda: gymnasium.make("Pendulum-v1", g=9.81), "Pendulum-v1", {"g": 9.81}),
        (lambda: gymnasium.make("Pendulum-v1", render_mode="rgb_array"), "Pendulum-v1", None),
        (lambda: gymnasium.make("Pendulum-v1", max_episode_steps=30), "Pendulum-v1", {"max_episode_steps": 30}),
        (lambda: gymnasium.make("Pendulum-v1", max_episode_steps=-1), "Pendulum-v1", {"max_episode_steps": -1}),
        (lambda: gymnasium.make("Pendulum-v1", g=np.float32(9)), "Pendulum-v1", {"g": 9.0}),
        (lambda: gymnasium.make("Pendulum-v1", g=np.float32([9])), "custom", None),
        (lambda: gymnasium.make("Pendulum-v1", g=float("inf")), "custom", None),
        (lambda: RescaleAction(gymnasium.make("Pendulum-v1"), -1, 1), "custom", None),
        (lambda: gymnasium.make("Pendulum-v1").unwrapped, "Pendulum-v1", {"max_episode_steps": -1}),
        (Drift, "custom", None),
        (lambda: Drift, "custom", None),
    ],
)
def test_an_environment_is_remembered_by_what_makes_it_again_or_said_to_be_needed(env, name, kwargs):
    given = env if isinstance(env, str) else env()
    config, played_in = remembered(jaxdt.TrainConfig(), given)
    assert (config.env, config.env_kwargs) == (name, kwargs)
    assert (played_in is given) == (name == "custom")
    if not isinstance(given, str):
        one_by_one, played_in = remembered(jaxdt.TrainConfig(parallel_environments=1), given)
        assert (one_by_one.env, played_in) == (name, given)


@pytest.mark.parametrize(
    ("recorded", "given", "expected"),
    [
        ({"g": 9.5, "max_episode_steps": 50}, {}, ({"g": 9.5}, 50)),
        ({"g": 9.5, "max_episode_steps": 50}, {"env": "Pendulum"}, ({"g": 9.5}, 50)),
        ({"g": 9.5, "max_episode_steps": 50}, {"env_kwargs": {}, "max_episode_steps": 20}, ({}, 20)),
        ({"g": 9.5}, {"env": "CartPole-v1"}, (None, None)),
        ({"g": "../a", "max_episode_steps": -1}, {}, (None, None)),
    ],
)
def test_an_environment_is_made_as_that_of_the_data_unless_other_arguments_are_given(recorded, given, expected):
    store = dataclasses.replace(make_store(env_id="Pendulum-v1"), env_kwargs=recorded)
    config = dataclasses.replace(jaxdt.TrainConfig(env="Pendulum-v1"), **given)
    config = _with_arguments_of_data(config, store)
    assert (config.env_kwargs, config.max_episode_steps) == expected


def test_arguments_that_replace_others_of_the_data_are_said_with_both():
    store = dataclasses.replace(make_store(env_id="Pendulum-v1"), env_kwargs={"g": 9.5})
    config = jaxdt.TrainConfig(env="Pendulum-v1", env_kwargs={"screen": 3})
    with pytest.warns(
        UserWarning, match=r"replace the data's; --env Pendulum-v1 --env-kwargs '{\"g\": 9.5, \"screen\": 3}'"
    ):
        assert _with_arguments_of_data(config, store).env_kwargs == {"screen": 3}


class Wide(Drift):
    state_dim = 6

    def reset(self, key):
        return super().reset(key)[0], jnp.zeros(6)

    def step(self, state, action):
        state, _, *rest = super().step(state, action)
        return state, jnp.zeros(6), *rest


def test_observations_of_any_shape_are_flattened_as_their_environments():
    store = make_store(state_dim=6)
    shaped = dataclasses.replace(store, observations=store.observations.reshape(-1, 2, 3), env_id=None)
    prepared = prepare_run(CONFIG, shaped, Wide(), None)
    np.testing.assert_array_equal(prepared.store.observations, store.observations)
    assert prepared.record.spec.constants["state_mean"].shape == (6,)
    assert prepared.record.data["fingerprint"] == shaped.fingerprint


def test_keyword_arguments_are_kept_as_json_gives_them_back():
    given = {"range": (1, 2), "end": np.int64(7), "deep": [{"at": np.arange(2)}], "on": np.True_}
    kept = jaxdt.TrainConfig(env_kwargs=given).env_kwargs
    assert kept == {"range": [1, 2], "end": 7, "deep": [{"at": [0, 1]}], "on": True}
    assert json.dumps(kept)
    for bad in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises(JaxdtError, match=r"^env_kwargs must be a dict of JSON values; got .*a function that makes"):
            jaxdt.TrainConfig(env_kwargs=bad)


OWN = EnvironmentChoice(env="Ant-v5", kwargs={"x": 1}, max_episode_steps=9, default_limit=2000, parallel=1)


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({}, {}),
        ({"env": "Ant"}, {}),
        ({"env": "mine:Ant-v5"}, {"env": "mine:Ant-v5"}),
        ({"max_episode_steps": np.int64(6), "parallel": 2.0}, {"max_episode_steps": 6, "parallel": 2}),
        ({"env": "Hopper"}, {"env": "Hopper-v5", "kwargs": None, "max_episode_steps": None}),
        ({"kwargs": {}, "parallel": 3}, {"kwargs": {}, "parallel": 3}),
        ({"env": "Hopper-v4", "max_episode_steps": 5}, {"env": "Hopper-v4", "kwargs": None, "max_episode_steps": 5}),
    ],
)
def test_what_a_run_says_holds_until_something_else_is_given(given, changed):
    found = chosen(OWN, None, **given)
    assert found == dataclasses.replace(OWN, **changed)
    assert {type(found.max_episode_steps), type(found.parallel)} <= {int, type(None)}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"env": "mine:Ant-v5"}, None),
        ({"env": "mjx:Ant-v5"}, r"different environments \(--env\);"),
        ({"env": "Ant-v4", "kwargs": None}, r"environments \(--env\) and keyword arguments \(--env-kwargs\); give"),
        ({"max_episode_steps": None}, r"different limits of an episode's steps \(--max-episode-steps\); give"),
    ],
)
def test_runs_are_evaluated_together_where_they_are_played_in_the_same(changed, says):
    choices = [OWN, dataclasses.replace(OWN, **changed)]
    with pytest.raises(JaxdtError, match=says) if says else contextlib.nullcontext():
        check_alike(choices)


@pytest.mark.parametrize("bad", ["6", 6.5, True, 0, np.int64(-1)])
def test_a_count_that_is_none_is_refused_in_a_sentence(bad):
    for argument, name in (("max_episode_steps", "max_episode_steps"), ("parallel", "parallel_environments")):
        with pytest.raises(JaxdtError, match=rf"^{name} must be (a whole number|at least 1); got "):
            chosen(OWN, None, **{argument: bad})
    with pytest.raises(JaxdtError, match=r"^max_episode_steps must be (a whole number|at least 1); got "):
        collect_episodes("Pendulum-v1", [], max_episode_steps=bad)


def test_the_keyword_arguments_of_an_own_environment_are_for_functions_only():
    own = dataclasses.replace(OWN, env="custom")
    made = gymnasium.make("Pendulum-v1")
    for env, kwargs in [(Drift(), None), (made, None), (made.spec, None), (gymnasium.Env, {"x": 1}), (Drift, {"x": 1})]:
        assert chosen(own, "given again", env) == dataclasses.replace(own, env=env, kwargs=kwargs)
        assert chosen(own, "given again", env, {"y": 2}).kwargs == {"y": 2}


@pytest.mark.parametrize(
    ("env", "kwargs", "says"),
    [
        ("none", None, "the run names no environment; give one with --env"),
        ("custom", None, r"in an environment of your own; give it again, from Python, with env=\.$"),
        ("mine:Env-v0", {"a": 1}, r"no module to import; repeat --env mine:Env-v0 --env-kwargs '\{\"a\": 1\}' if you"),
        (
            "Ant-v5",
            {"f": "/x"},
            r"no path to open; repeat --env Ant-v5 --env-kwargs '\{\"f\": \"/x\"\}' if you trust it",
        ),
    ],
)
def test_what_a_file_may_not_say_must_be_given_again(env, kwargs, says):
    own, missing = EnvironmentChoice(env=env, kwargs=kwargs), must_be_given_again(env, kwargs)
    with pytest.raises(JaxdtError, match=says):
        chosen(own, missing)
    if kwargs == {"f": "/x"}:
        with pytest.raises(JaxdtError, match="no path to open"):
            chosen(own, missing, env)
    assert chosen(own, missing, env, kwargs or {}) == dataclasses.replace(own, kwargs=kwargs or {})


@pytest.mark.parametrize(
    ("own", "given"), [("Ant-v5", "mine:Ant-v5"), ("mine:Ant-v5", "Ant-v5"), ("mjx:Ant-v5", "Ant-v5")]
)
def test_a_run_goes_on_in_its_environment_however_its_id_is_written(finished, own, given):
    record = read_record(RunDirectory(finished))
    config = dataclasses.replace(record.config, env=own, env_kwargs={"x": 1})
    record = dataclasses.replace(record, config=config)
    asked = dataclasses.replace(config, env=given)
    if own.startswith("mjx:"):
        with pytest.raises(JaxdtError, match="env='mjx:Ant-v5' and cannot go on with 'Ant-v5'"):
            agree_with_record(asked, record)
    else:
        assert agree_with_record(asked, record) == asked


@pytest.fixture
def hostile(finished, tmp_path, monkeypatch):
    """A run directory whose file names a module that must not be imported, and a path that must not be opened."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (tmp_path / "evil_module_x.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**values):
        document = json.loads((out / "config.json").read_text())
        document["config"].update(values)
        (out / "config.json").write_text(json.dumps(document))
        return out

    return write


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"env": "evil_module_x:Env-v0"}, "a file may name no module to import; repeat --env evil_module_x:Env-v0"),
        pytest.param(
            {"env": "Ant-v5", "env_kwargs": {"xml_file": "/e.xml"}},
            "a file may name no path to open; repeat --env Ant-v5",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_no_command_imports_or_opens_what_a_run_directory_names(hostile, capsys, values, says):
    out = hostile(**values)
    for arguments in (["evaluate", str(out)], ["train", "--resume", "--out", str(out), "--steps", "14"]):
        assert command(arguments) == 2
        assert says in capsys.readouterr().err
    assert command(["evaluate", str(out), "--video"]) == 2
    with pytest.raises(JaxdtError, match=says):
        jaxdt.train(CONFIG, STORE, out=out, resume=True)
    with pytest.raises(JaxdtError, match=says):
        jaxdt.evaluate(out)
    assert jaxdt.Agent.load(out).env_id is None
    assert "evil_module_x" not in sys.modules


@pytest.mark.slow
def test_runs_of_other_keyword_arguments_are_not_evaluated_together(hostile, tmp_path, capsys):
    shutil.copytree(hostile(env="Pendulum-v1", env_kwargs={"g": 1.0}), tmp_path / "other")
    runs = [str(hostile(env="Pendulum-v1", env_kwargs={"g": 2.0})), str(tmp_path / "other")]
    assert command(["evaluate", *runs]) == 2
    assert "the runs have different keyword arguments (--env-kwargs); give that" in capsys.readouterr().err
    assert command(["evaluate", *runs, "--env-kwargs", "{}"]) == 2  # Pendulum's actions are not the run's
    assert "different keyword arguments" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recorded", "env", "warned"),
    [
        ("Pendulum-v0", "Pendulum-v1", True),
        ("Pendulum", "Pendulum-v1", False),
        ("mine:Pendulum-v1", "Pendulum-v1", False),
        ("Hopper-v5", "mjx:Hopper-v5", False),
    ],
)
def test_data_of_another_version_are_warned_of(recorded, env, warned):
    config, store = jaxdt.TrainConfig(env=env), make_store(env_id=recorded)
    says = f"recorded in {recorded}, evaluation is in {env}"
    with pytest.warns(UserWarning, match=says) if warned else contextlib.nullcontext():
        assert _environment_name(config, store, None) == env


def test_a_store_that_names_a_module_can_be_saved_and_loaded(tmp_path):
    from jaxdt.data.writing import writer_for

    store = make_store(env_id="mine:Env-v0")
    for ending in ("npz", "parquet", "hdf5"):
        path = tmp_path / f"episodes.{ending}"
        writer_for(path)(store, path)
        assert jaxdt.load_episodes(str(path)).env_id == "Env-v0"


class Played:
    name, max_episode_steps = "Long-v0", 90


@pytest.mark.parametrize(
    ("lengths", "environment", "says"),
    [
        ((50, 8), None, None),
        (
            (60, 20),
            None,
            r"50 steps .* those of the data have up to 60 \(12\.5% of all .* max_episode_length=60 \(--max-",
        ),
        (
            (50, 8),
            Played,
            r"50 steps of an episode apart, and those of Long-v0 may have 90; max_episode_length=90 ",
        ),
        ((60, 20), Played, r"up to 60 \(12\.5% of all steps lie beyond\) and those of Long-v0 may have 90; "),
    ],
)
def test_steps_that_a_model_cannot_tell_apart_are_said_once(recwarn, lengths, environment, says):
    config = jaxdt.TrainConfig(algorithm=tiny_algorithm())
    if says is None:
        return doubt_length_of_episodes(config, make_store(lengths), environment)
    with pytest.warns(UserWarning, match=says):
        doubt_length_of_episodes(config, make_store(lengths), environment)


def test_a_presets_target_out_of_the_datas_reach_is_doubted_and_a_given_one_is_not():
    store = make_store()  # returns of a few
    config = dataclasses.replace(HUGGINGFACE, env="none")
    with pytest.warns(
        UserWarning, match=r"the data's returns go from .* the preset asks for 12000; targets='auto' \(--targets auto"
    ):
        doubt_targets(config, config, store)
    given = dataclasses.replace(config, targets=(9000.0,))
    doubt_targets(given, given, store)
    near = dataclasses.replace(config, targets=(float(store.returns.max()),))
    doubt_targets(near, dataclasses.replace(near, targets=None), store)


@pytest.mark.parametrize(
    ("largest", "bound", "doubted"), [(1.0, 2.0, True), (1.0, 1.0, False), (0.9, 2.0, False), (1.5, 2.0, False)]
)
def test_actions_that_look_as_if_they_had_been_rescaled_are_doubted(largest, bound, doubted):
    store = make_store()
    actions = store.actions * largest / np.abs(store.actions).max()
    store = jaxdt.EpisodeStore.from_arrays(store.observations, actions, store.rewards, episode_ends=store.offsets[1:])
    spec = Spec(observation_shape=(3,), action=Box(np.full(2, -bound, np.float32), np.full(2, bound, np.float32)))
    config = jaxdt.TrainConfig(algorithm=tiny_algorithm())
    if doubted:
        with pytest.warns(
            UserWarning, match=r"no recorded action passes 1, .* go to 2; .* say normalized_actions=True"
        ):
            doubt_units_of_actions(config, store, spec)
    else:
        doubt_units_of_actions(config, store, spec)
    doubt_units_of_actions(dataclasses.replace(config, normalized_actions=True), store, spec)


@pytest.mark.parametrize(
    ("command", "env", "kwargs", "data", "says"),
    [
        ("train", "Hopper-v5", None, "a.npz", "jaxdt train --resume --out runs/one"),
        ("train", "none", None, "demo", "jaxdt train --resume --out runs/one"),
        ("finetune", "mine:Mine-v0", None, "a.npz", "jaxdt finetune --resume --out runs/one --env mine:Mine-v0"),
        ("train", "Hopper-v5", {"xml_file": "/a.xml"}, "a.npz", "jaxdt train --resume --out runs/one --env Hopper-v5 "),
        ("train", "custom", None, "a.npz", "jaxdt.train(..., env=..., out='runs/one', resume=True)"),
        ("train", "none", None, None, "jaxdt.train(..., store=..., out='runs/one', resume=True)"),
        ("train", "mine:Mine-v0", None, None, "jaxdt.train(..., store=..., env=..., out='runs/one', resume=True)"),
    ],
)
def test_how_a_run_goes_on_says_what_must_be_given_again(command, env, kwargs, data, says):
    config = dataclasses.replace(CONFIG, env=env, env_kwargs=kwargs)
    record = RunRecord(config=config, spec=DRIFT_SPEC, data={"spec": data}, made_with={})
    assert how_to_go_on(command, Path("runs/one"), record)[: len(says)] == says
    own = dataclasses.replace(config, algorithm=dataclasses.replace(config.algorithm, network=lambda model: model))
    assert "config=..." in how_to_go_on(command, Path("runs/one"), dataclasses.replace(record, config=own))


@pytest.mark.parametrize(
    ("env", "changes", "many"),
    [
        ("Pendulum-v1", {}, 2 * 2 * 60),
        ("Pendulum-v1", {"parallel_environments": 7}, 0),
        ("none", {}, 0),
    ],
)
def test_how_many_simulators_an_evaluation_makes_is_known_beforehand(env, changes, many):
    store = make_store(action_dim=1)
    store.actions[:] = np.clip(store.actions, -1, 1)
    config = dataclasses.replace(CONFIG, env=env, targets=(1.0, 2.0), eval_episodes=60, max_episode_steps=9, **changes)
    assert _simulators_at_once(prepare_run(config, store, None, None), 2) == many
    assert _simulators_at_once(prepare_run(config, make_store(), Drift(), None), 2) == 0


def test_logs_of_a_robot_whose_actions_pass_1_are_trained_on_between_their_own_bounds():
    store = make_store(action_dim=1)
    store.actions[:] = np.linspace(-0.5, 1.5, store.num_steps)[:, None]
    config = dataclasses.replace(CONFIG, env="none", targets="auto", validation_fraction=0.3)
    with pytest.warns(UserWarning, match=r"numbers 0 pass -1 or 1: the data's lowest .* bounds, -0\.5 to 1\.5 of"):
        prepared = prepare_run(config, store, None, None)
    action = prepared.record.spec.action  # of all episodes, those that are held out too
    assert (action.low.tolist(), action.high.tolist()) == ([-0.5], [1.5])
    both = np.concatenate([prepared.store.actions, prepared.held_out.actions])
    assert (both.min(), both.max()) == (-1, 1)
    with pytest.raises(JaxdtError, match=r"outside the action space \[-1, 1\] .*\(--clip-actions\)\.$"):
        prepare_run(dataclasses.replace(config, normalized_actions=True), store, None, None)


@pytest.mark.parametrize(
    ("lengths", "rewards_at", "terminated", "doubted"),
    [
        ((5, 5, 5), "all", False, False),
        ((5, 5, 5), "last", False, True),
        ((5, 5, 5), "last", True, False),
        ((5, 3, 5), "all", False, True),
        ((5, 3, 5), "all", True, False),
    ],
)
def test_ends_that_a_method_of_values_would_not_see_are_doubted(recwarn, lengths, rewards_at, terminated, doubted):
    ends = np.cumsum(lengths)
    rewards = np.ones(ends[-1]) if rewards_at == "all" else np.isin(np.arange(ends[-1]), ends - 1)
    actions, flags = np.zeros((ends[-1], 1)), np.isin(np.arange(ends[-1]), ends[:1] - 1)
    store = jaxdt.EpisodeStore.from_arrays(
        actions, actions, rewards.astype(float), terminations=flags if terminated else None, episode_ends=ends
    )
    for name in ("huggingface", "trajectory-transformer"):
        doubt_terminations(jaxdt.preset(name), store)
    assert not recwarn.list
    doubt_terminations(jaxdt.preset("iql"), store)
    said = [str(warning.message) for warning in recwarn.list]
    assert len(said) == doubted
    if doubted:
        share = "100.0%" if rewards_at == "last" else "23.1%"
        assert (
            f"iql learns nothing of an end, and leaves out the last step of each, with {share} of all reward" in said[0]
        )
    recwarn.clear()


@pytest.mark.parametrize("normalized", [True, False])
def test_actions_in_minus_1_to_1_are_taken_as_they_are_where_that_is_said(normalized):
    store = make_store(action_dim=1)
    config = jaxdt.TrainConfig(
        env="Pendulum-v1", normalized_actions=normalized, algorithm=tiny_algorithm(max_episode_length=200)
    )
    prepared = prepare_run(config, store, None, None)
    prepared.environment.close()
    np.testing.assert_allclose(prepared.store.actions, store.actions * (1 if normalized else 0.5), atol=1e-6)
    assert prepared.record.spec.action.high.tolist() == [2]


def test_a_run_that_goes_on_plays_in_what_is_given_and_keeps_how_it_was_written():
    store = make_store(action_dim=1)
    config = jaxdt.TrainConfig(env="Pendulum-v1", algorithm=tiny_algorithm(max_episode_length=200))
    begun = prepare_run(config, store, None, None)
    asked = dataclasses.replace(begun.record.config, env="sys:Pendulum-v1")
    resumed = prepare_run(asked, store, None, None, begun.record)
    assert (resumed.choice.env, resumed.record.config.env) == ("sys:Pendulum-v1", "Pendulum-v1")
    for prepared in (begun, resumed):
        prepared.environment.close()


def test_targets_must_fit_float32_and_be_there(finished):
    for bad in ((1e39,), (float("nan"),)):
        with pytest.raises(JaxdtError, match="finite"):
            jaxdt.TrainConfig(targets=bad)
        with pytest.raises(JaxdtError, match="targets must be finite, in float32 too"):
            jaxdt.evaluate(finished, Drift(), targets=bad)
        with pytest.raises(JaxdtError, match="target_return must be a finite number"):
            jaxdt.Agent.load(finished).reset(bad[0])
    with pytest.raises(JaxdtError, match="targets must be one or more returns; got none"):
        jaxdt.evaluate(finished, Drift(), targets=())


def test_films_of_targets_that_are_nearly_equal_have_names_of_their_own(tmp_path):
    names = [path.name for path in video_paths(tmp_path, [0.1, 0.1 + 1e-15, 3.0, 3.0])]
    assert names == ["target-0.1.mp4", "target-0.100000000000001.mp4", "target-3.mp4", "target-3.mp4"]
    assert len(set(names[:2])) == 2


def test_an_action_of_an_agent_may_be_changed_in_place(finished):
    agent = jaxdt.Agent.load(finished)
    agent.reset(1.0)
    action = agent.act(np.zeros(3))
    action += 1.0


def test_another_task_than_the_demo_is_refused_before_its_episodes_are_collected():
    demo = DEMOS["cartpole"]
    config = dataclasses.replace(CONFIG, dataset="cartpole")
    for env in (None, "CartPole-v0", "CartPole-v1"):
        check_beforehand(dataclasses.replace(config, env=env), None, seeds=1, demo=demo)
    refused = "episodes of CartPole-v1 are collected, and Pendulum-v1 is another task; give episodes of that one"
    with pytest.raises(JaxdtError, match=refused):
        check_beforehand(dataclasses.replace(config, env="Pendulum-v1"), None, seeds=1, demo=demo)


class NeedsSize(CartPoleEnv):
    def __init__(self, size, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.size = size


def test_an_environment_that_needs_what_the_data_say_is_not_refused_before_they_are_loaded():
    gymnasium.register("Needs-v0", NeedsSize)
    try:
        config = dataclasses.replace(CONFIG, env="Needs-v0")
        check_beforehand(config, None, seeds=1)
        check_beforehand(dataclasses.replace(config, env_kwargs={"size": 3}), None, seeds=1)
        with pytest.raises(JaxdtError, match="unexpected keyword argument 'sise'"):
            check_beforehand(dataclasses.replace(config, env_kwargs={"sise": 3}), None, seeds=1)
        check_beforehand(dataclasses.replace(config, env_kwargs={"sise": 3}), None, seeds=None)  # a run that goes on
    finally:
        del gymnasium.registry["Needs-v0"]
