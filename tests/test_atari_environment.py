"""Atari games: what is seen, what actions do, and that many side by side are as each alone."""

import dataclasses
import re
import sys
from pathlib import Path

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from jaxdt.choice import EnvironmentChoice
from jaxdt.cli.report import dataset_report, evaluation_table, runs_table
from jaxdt.config import PRESETS
from jaxdt.data import EpisodeStore, episodes, load_episodes, statistics
from jaxdt.data.atari_scores import SCORES
from jaxdt.data.collecting import Behaviour, collect_episodes
from jaxdt.data.d4rl import normalized_score, paper_targets, reference_name, score_name
from jaxdt.errors import JaxdtError, SimulationError
from jaxdt.evaluation.environments import GymnasiumEnvironment, make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.evaluation.rollout import make_rollout
from jaxdt.evaluation.video import _with_text
from jaxdt.games import GAMES, game_of
from jaxdt.interop import card
from jaxdt.pools.simulators import SimulatorPool
from jaxdt.resizing import resize
from jaxdt.run import comparison, comparison_files
from jaxdt.run.environment import remembered
from jaxdt.run.exploration import check_explores
from jaxdt.run.prepare import _environment_name, _with_arguments_of_data
from jaxdt.simulator import episode_limit, identity, make_simulator, with_version
from jaxdt.types import Discrete, Evaluation, Policy, Spec


ale_py = pytest.importorskip("ale_py")

from jaxdt.atari import AtariGame, _vector_env, seeds_for_ale  # noqa: E402, loads gymnasium
from jaxdt.pools.atari import AtariPool  # noqa: E402


SIZE = (84, 84)


def game(env_id="ALE/Pong-v5", **kwargs):
    made = make_simulator(EnvironmentChoice(env=env_id, kwargs=kwargs or None))
    assert type(made) is AtariGame
    return made


@pytest.fixture(scope="module")
def screens():
    """Of Breakout, some seconds apart, and pictures that no game shows."""
    played = game("ALE/Breakout-v5").emulators(1)
    played.reset(seed=np.array([0]))
    seen = [played.step(np.array([t % 4], np.int32))[0][0, 0] for t in range(60)][::10]
    drawn = np.random.default_rng(0)
    noise = drawn.integers(0, 256, (3, 210, 160)).astype(np.uint8)
    return np.concatenate([seen, noise, 255 * (drawn.random((2, 210, 160)) > 0.9).astype(np.uint8)])


def test_every_registered_id_of_ale_names_its_game():
    registered = [spec for spec in gymnasium.registry.values() if spec.entry_point == "ale_py.env:AtariEnv"]
    assert len(registered) > 300
    games = {spec.name for spec in registered if spec.namespace == "ALE"}
    assert games == GAMES
    for spec in registered:
        found = game_of(spec.id)
        assert found is not None
        assert gymnasium.spec(f"ALE/{found}-v5").kwargs["game"] == spec.kwargs["game"]


@pytest.mark.parametrize("other", ["Hopper-v4", "CartPole-v0", "Pong-v1", "my:Pong-v4", "mjx:Pong-v4", "Pongs-v4"])
def test_other_ids_name_no_game(other):
    assert game_of(other) is None


def test_all_ways_to_write_a_game_are_the_same_environment():
    names = [
        "ALE/Pong-v5",
        "ALE/Pong",
        "PongNoFrameskip-v4",
        "PongNoFrameskip",
        "Pong-v0",
        "Pong",
        "ale_py:ALE/Pong-v5",
    ]
    assert {identity(name) for name in names} == {"ALE/Pong-v5"}
    assert identity("ALE/Breakout-v5") != "ALE/Pong-v5"
    assert (with_version("ALE/Pong"), with_version("PongNoFrameskip")) == ("ALE/Pong-v5", "PongNoFrameskip-v4")


def test_antialiased_is_pillows_bilinear_to_the_last_bit(screens):
    from PIL import Image

    wanted = [np.asarray(Image.fromarray(x).resize(SIZE, Image.Resampling.BILINEAR)) for x in screens]
    np.testing.assert_array_equal(resize(screens, SIZE, "antialiased"), wanted)


def test_area_is_what_ale_makes_itself():
    ours = game("ALE/Breakout-v5")
    theirs = ale_py.vector_env.AtariVectorEnv("breakout", 1, stack_num=1, reward_clipping=False, use_fire_reset=False)
    differences = [ours.reset(seed=4)[0].astype(int) - theirs.reset(seed=np.array([4]))[0][0, 0]]
    for t in range(100):
        action = t % 3
        differences.append(ours.step(action)[0].astype(int) - theirs.step(np.array([action], np.int32))[0][0, 0])
    apart = np.abs(differences)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-4


def test_bilinear_lies_between_the_two_nearest_rows_and_columns(screens):
    def between(values, count):
        centers = (np.arange(count) + 0.5) * len(values) / count - 0.5
        return np.interp(centers, np.arange(len(values)), values)

    narrow = np.apply_along_axis(between, 1, screens[-3].astype(float), 84)
    wanted = np.apply_along_axis(between, 0, narrow, 84)
    np.testing.assert_allclose(resize(screens[-3:-2], SIZE, "bilinear")[0], wanted, atol=0.501)


def test_the_rules_differ_and_are_chosen_by_name(screens):
    seen = {rule: game("ALE/Breakout-v5", resize=rule).seen(screens[:1, None]) for rule in ("area", "bilinear")}
    assert (seen["area"] != seen["bilinear"]).any()
    np.testing.assert_array_equal(seen["bilinear"][0], resize(screens[:1], SIZE, "bilinear")[0])


def test_a_screen_of_250_rows_is_seen_from_its_own_size():
    made = game("ALE/Klax-v5")
    assert made.emulators(1).reset(seed=np.array([0]))[0].shape == (1, 1, 250, 160)
    assert made.reset(seed=0)[0].shape == SIZE


def test_a_games_spec_and_limit():
    environment = make_environment("PongNoFrameskip-v4")
    spec = environment.spec
    assert (spec.observation_shape, spec.observation_dtype, spec.action) == (SIZE, "uint8", Discrete(6))
    assert (environment.max_episode_steps, environment.env_id) == (27_000, "PongNoFrameskip-v4")
    assert game(full_action_space=True).action_space.n == 18
    assert episode_limit(game(frameskip=3, max_num_frames_per_episode=100)) == 34
    assert episode_limit(make_simulator(EnvironmentChoice(env="ALE/Pong-v5", max_episode_steps=7))) == 7
    assert episode_limit(game(max_episode_steps=9, frameskip=2)) == 9


def test_an_episode_is_cut_off_after_its_frames():
    made = game(max_num_frames_per_episode=10)  # three steps of four
    made.reset(seed=0)
    assert [made.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def rewards_until_the_end(env_id, most, **kwargs):
    made, rewards = game(env_id, **kwargs), []
    made.reset(seed=1)
    for t in range(most):
        _, reward, terminated, *_ = made.step(t % made.num_actions)
        rewards.append(reward)
        if terminated:
            break
    return rewards


def test_an_episode_ends_with_a_life_where_asked_to():
    ended = [len(rewards_until_the_end("ALE/Breakout-v5", 300, episodic_life=one)) for one in (True, False)]
    assert 1 < ended[0] < ended[1] < 300


def test_rewards_are_the_games_own_unless_clipped():
    own, clipped = (rewards_until_the_end("ALE/Qbert-v5", 100, reward_clipping=clip) for clip in (False, True))
    assert max(own) == 25.0
    assert clipped == np.sign(own).tolist()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"framskip": 2}, "takes the keyword arguments resize, frameskip, .*; got framskip=2 (leave it out)"),
        ({"frameskip": 0}, "frameskip of the game ALE/Pong-v5 must be a whole number from 1 to 1000; got 0"),
        ({"frameskip": True}, "frameskip .* must be a whole number .*; got True"),
        ({"resize": "nearest"}, "resize .* must be one of area, bilinear, antialiased; got 'nearest'"),
        ({"repeat_action_probability": 1.5}, "repeat_action_probability .* must be from 0 to 1; got 1.5"),
        ({"episodic_life": 1}, "episodic_life .* must be true or false; got 1"),
        ({"mode": 1}, "takes the keyword arguments .*; got mode=1"),
    ],
)
def test_keyword_arguments_that_a_game_does_not_take_are_named(kwargs, message):
    with pytest.raises(JaxdtError, match=message.replace("(", r"\(").replace(")", r"\)")):
        game(**kwargs)


@pytest.mark.parametrize("limit", [5_000_000, 0, "a", 2.5, True])
def test_a_limit_that_a_game_cannot_have_is_called_what_it_was_called(limit):
    said = "max_episode_steps of the game ALE/Pong-v5, of 4 frames each, must be a whole number from 1 to 4194304; got "
    said += f"{limit!r}."
    with pytest.raises(JaxdtError, match=re.escape(said)):
        game(max_episode_steps=limit)
    if type(limit) is int and limit > 0:
        with pytest.raises(JaxdtError, match=re.escape(said)):
            make_simulator(EnvironmentChoice(env="ALE/Pong-v5", max_episode_steps=limit))


def test_an_unknown_game_is_named_and_a_missing_ale_py_too(monkeypatch):
    with pytest.raises(JaxdtError, match=r"environment 'ALE/Pongg-v5' cannot be made: .*Pongg"):
        make_simulator("ALE/Pongg-v5")
    monkeypatch.setitem(sys.modules, "ale_py", None)
    _vector_env.cache_clear()  # as in a process that has played no game
    with pytest.raises(
        JaxdtError, match=re.escape("Atari games need ale-py 0.12 or newer; pip install 'jaxdt[atari]'")
    ):
        make_simulator("Pong-v4")


@pytest.mark.parametrize("action", [6, -1, 1.0, np.array([0])])
def test_an_action_that_there_is_not_is_refused_where_ale_would_hang(action):
    made = game()
    made.reset(seed=0)
    with pytest.raises(JaxdtError, match="an action of Pong must be a whole number from 0 to 5; got"):
        made.step(action)
    assert made.step(np.array(5))[0].shape == SIZE


STICKY = {"repeat_action_probability": 0.25}


@pytest.mark.parametrize(
    ("given", "name", "kwargs", "limit"),
    [
        (
            lambda: gymnasium.make("ALE/Pong-v5", repeat_action_probability=0.25, max_episode_steps=100),
            "ALE/Pong-v5",
            {**STICKY, "max_episode_steps": 100},
            100,
        ),
        (lambda: gymnasium.make("ALE/Pong-v5", frameskip=2), "ALE/Pong-v5", {**STICKY, "frameskip": 2}, 54_000),
        (lambda: gymnasium.make("ALE/Pong-v5", repeat_action_probability=0.0), "ALE/Pong-v5", None, 27_000),
        (lambda: gymnasium.make("PongNoFrameskip-v4"), "PongNoFrameskip-v4", None, 27_000),
        (lambda: gymnasium.make("ALE/Pong-v5", render_mode="rgb_array"), "ALE/Pong-v5", STICKY, 27_000),
        (lambda: gymnasium.spec("ALE/Pong-v5"), "ALE/Pong-v5", STICKY, 27_000),
        (lambda: game("PongNoFrameskip", resize="bilinear"), "PongNoFrameskip-v4", {"resize": "bilinear"}, 27_000),
        (
            lambda: gymnasium.make(game(frameskip=3).spec, max_episode_steps=9),
            "ALE/Pong-v5",
            {"frameskip": 3, "max_episode_steps": 9},
            9,
        ),
    ],
)
def test_an_object_of_a_game_is_played_and_remembered_with_all_that_it_was_given(given, name, kwargs, limit):
    env = given()
    played = make_simulator(EnvironmentChoice(env=env))
    config, itself = remembered(PRESETS["bc"], env)
    assert (config.env, config.env_kwargs, itself) == (name, kwargs, None)
    again = make_simulator(EnvironmentChoice(env=config.env, kwargs=config.env_kwargs))
    assert isinstance(played, AtariGame)
    assert isinstance(again, AtariGame)
    assert played.settings == again.settings
    assert episode_limit(played) == limit


def test_ales_own_object_that_is_played_itself_must_be_given_again():
    """Its pictures are in colour, and those of its id are not."""
    one_by_one = dataclasses.replace(PRESETS["bc"], parallel_environments=1)
    env = gymnasium.make("ALE/Pong-v5")
    assert make_simulator(EnvironmentChoice(env=env, parallel=1)).observation_space.shape == (210, 160, 3)
    config, itself = remembered(one_by_one, env)
    assert (config.env, itself) == ("custom", env)
    ours = game()
    config, itself = remembered(one_by_one, ours)
    assert (config.env, itself) == ("ALE/Pong-v5", ours)


PLAYED = [
    pytest.param("ALE/Pong-v5", {}, marks=pytest.mark.slow),
    pytest.param("ALE/Breakout-v5", {}, marks=pytest.mark.slow),
    (
        "ALE/Breakout-v5",
        {"repeat_action_probability": 0.25, "resize": "antialiased", "max_num_frames_per_episode": 300},
    ),
]


@pytest.mark.parametrize(("env_id", "kwargs"), PLAYED)
def test_games_side_by_side_are_each_as_alone(env_id, kwargs):
    alone = game(env_id, **kwargs)
    pool, seeds, most = AtariPool(alone), np.array([5, 0, 2**31 + 7]), 200
    actions = np.random.default_rng(0).integers(0, alone.num_actions, (most, 3)).astype(np.int32)
    observations = np.zeros((3, *SIZE), np.uint8)
    rewards, ended = np.zeros(3, np.float32), np.zeros((2, 3), bool)
    pool.reset(np.array([1, 1, 1]), observations)  # another batch before makes no difference
    pool.step(np.arange(3), actions[0], observations, rewards, ended)
    pool.reset(seeds, observations)
    ended[:] = False
    steps = [(observations.copy(), rewards, ended)]
    for t in range(most):
        alive = np.flatnonzero(~ended.any(axis=0))
        pool.step(alive, actions[t], observations, rewards, ended)
        steps.append((observations.copy(), rewards.copy(), ended.copy()))
    for i, seed in enumerate(seeds):
        np.testing.assert_array_equal(alone.reset(seed=int(seed))[0], steps[0][0][i])
        for t in range(most):
            observation, reward, *flags, _ = alone.step(actions[t, i])
            np.testing.assert_array_equal(observation, steps[t + 1][0][i])
            assert (reward, flags) == (steps[t + 1][1][i], steps[t + 1][2][:, i].tolist())
            if any(flags):
                break
        assert any(flags) == ("Breakout" in env_id)


def test_every_seed_of_an_episode_is_one_of_ales():
    assert seeds_for_ale(np.array([0, 2**31 - 1, 2**31 + 7])).tolist() == [0, 2**31 - 1, 7]
    assert seeds_for_ale(np.array([2**31 - 1], np.int32)).tolist() == [2**31 - 1]


def test_emulators_are_kept_for_as_many_episodes_and_made_anew_for_others():
    pool, observations = AtariPool(game()), np.zeros((2, *SIZE), np.uint8)
    pool.reset(np.arange(2), observations)
    first, before = pool._emulators, observations.copy()
    pool.step(np.arange(2), np.ones(2, np.int32), observations, np.zeros(2, np.float32), np.zeros((2, 2), bool))
    pool.close()  # as an evaluation does at its end
    pool.reset(np.arange(2), observations)
    assert pool._emulators is first
    np.testing.assert_array_equal(observations, before)
    pool.reset(np.arange(1), observations[:1])
    assert pool._emulators.num_envs == 1


def test_a_wrong_action_ends_the_batch_with_its_episode_and_step():
    environment = make_environment("ALE/Pong-v5")
    assert isinstance(environment, GymnasiumEnvironment)
    assert isinstance(environment._pool, AtariPool)
    environment.reset(jnp.arange(2))
    environment.step((), jnp.zeros(2, jnp.int32))
    *_, terminated, _ = environment.step((), jnp.array([0, 6]))
    assert terminated.all()
    with pytest.raises(SimulationError, match="ALE/Pong-v5, episode 1, step 1: the policy's action is not finite"):
        environment.raise_failure(lambda i: f"episode {i}")


class Camera(gymnasium.Env):
    """Sees one picture, of the step's number."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape=(3, 4, 2), returned=np.uint8):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.returned = returned

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 200
        return self._picture(), {}

    def step(self, action):
        self.count += 1
        return self._picture(), 1.0, self.count == 203, False, {}

    def _picture(self):
        return np.full(self.observation_space.shape, self.count, self.returned)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2)])
def test_any_environments_pictures_stay_bytes(shape):
    environment = make_environment(lambda: Camera(shape))
    assert (environment.spec.observation_shape, environment.spec.observation_dtype) == (shape, "uint8")
    assert isinstance(environment._pool, SimulatorPool)
    _, first = environment.reset(jnp.arange(2))
    _, then, *_ = environment.step((), jnp.zeros(2, jnp.int32))
    assert (first.dtype, first.shape, int(first.min()), int(then.max())) == (jnp.uint8, (2, *shape), 200, 201)


def test_pictures_of_another_type_than_their_space_says_are_refused():
    with pytest.raises(JaxdtError, match="its pictures must be uint8 as its space says; got float32"):
        make_environment(lambda: Camera(returned=np.float32))


def idle(spec, action=0):
    """A policy that always does the same."""
    return Policy(lambda targets: (), lambda params, memory, seen, reward, keys: (memory, jnp.full(len(seen), action)))


def test_recording_keeps_actions_and_rewards_and_no_pictures():
    environment = make_environment(EnvironmentChoice(env="ALE/Pong-v5", max_episode_steps=6))
    played = make_rollout(idle(environment.spec, 2), environment, record=True)(None, jnp.arange(2), jnp.zeros(2))
    assert played.trajectory.observations is None
    assert (played.trajectory.actions.shape, played.trajectory.rewards.shape) == ((6, 2), (6, 2))
    assert (played.trajectory.actions == 2).all()
    assert played.lengths.tolist() == [6, 6]


def test_a_policy_beyond_the_last_action_is_named_and_nothing_hangs():
    environment = make_environment(EnvironmentChoice(env="ALE/Pong-v5", max_episode_steps=6))
    evaluator = Evaluator(idle(environment.spec, 6), environment)
    with pytest.raises(SimulationError, match="ALE/Pong-v5, target 1, episode 0, step 0: the policy's action is not"):
        evaluator.run_episodes(None, [1.0], 1, 0)


def test_what_needs_recorded_pictures_is_refused():
    spec = Spec(observation_shape=SIZE, observation_dtype="uint8", action=Discrete(6))
    with pytest.raises(
        JaxdtError, match=r"the policy of runs/a sees pictures, .*: jaxdt train PRESET --init runs/a --dataset FILE\."
    ):
        check_explores(PRESETS["online-dt"].algorithm, spec, "runs/a")


def test_a_film_shows_the_screen_in_colour_as_it_was_played():
    made = make_simulator(EnvironmentChoice(env="ALE/Breakout-v5"), render=True)
    made.reset(seed=3)
    for action in (1, 2, 2, 2):
        seen, *_ = made.step(action)
    assert made.metadata["render_fps"] == 15
    shown = made.render()
    assert (shown.shape, shown.dtype) == ((210, 160, 3), np.uint8)
    assert (shown[..., 0] != shown[..., 2]).any()
    grey = np.rint(shown @ [0.299, 0.587, 0.114]).astype(np.uint8)
    assert np.abs(resize(grey[None], SIZE, "area")[0].astype(int) - seen).max() <= 2


def test_captions_fit_above_a_screen():
    picture = np.zeros((210, 160, 3), np.uint8)
    captioned = _with_text(picture, "target 90   return 123   step 27000")
    assert captioned.shape == (420, 320, 3)
    assert captioned[:, :-4].max() > 0
    assert captioned[:, -4:].max() == 0


def test_scores_are_normalised_to_a_gamer_whatever_the_id():
    returns = np.array([1.7, 30.5, 16.1])
    for env_id in ("ALE/Breakout-v5", "BreakoutNoFrameskip-v4", "Breakout-v0"):
        np.testing.assert_allclose(normalized_score(env_id, returns), [0, 100, 50])
        assert (reference_name(env_id), paper_targets(env_id)) == ("Breakout", (90.0,))
    assert score_name("Breakout") == "gamer-normalised score"
    assert (score_name("hopper"), score_name(None)) == ("D4RL score", "D4RL score")
    assert normalized_score("ALE/Tetris-v5", returns) is None


def test_tables_call_a_games_score_by_its_name():
    results = {env_id: evaluation(env_id) for env_id in ("ALE/Pong-v5", "Hopper-v5")}
    assert "gamer-normalised score (Pong)" in evaluation_table("run", [results["ALE/Pong-v5"]])
    assert "D4RL score (hopper)" in evaluation_table("run", [results["Hopper-v5"]])
    assert "gamer-normalised score" in runs_table([[results["ALE/Pong-v5"]]] * 2)
    assert "| gamer-normalised score |" in card._results([results["ALE/Pong-v5"].to_json()])
    assert "gamer_normalized_score" in card._header("a", "ALE/Pong-v5", [results["ALE/Pong-v5"].to_json()], [], None)


def evaluation(env_id):
    returns, reference = np.array([1.0, 3.0]), reference_name(env_id)
    return Evaluation(
        target=20.0,
        returns=returns,
        lengths=np.array([5, 6]),
        normalized=normalized_score(env_id, returns),
        reference=reference,
    )


@pytest.mark.parametrize(
    ("references", "aggregated", "column"),
    [
        (("Pong", "Qbert"), "gamer-normalised score", "gamer_normalised_score"),
        (("hopper", "walker2d"), "D4RL score", "d4rl_score"),
        (("hopper", "Pong"), "normalised score", "normalised_score"),
    ],
)
def test_comparisons_call_scores_by_the_name_of_all(references, aggregated, column):
    scores = tuple(score(task) for task in references)
    compared = comparison._compare(("a",), tuple(map(task_of, references)), scores, False, [])
    assert compared.aggregated == aggregated
    assert comparison_files.table_of_runs(compared).splitlines()[0].endswith(f",{column}")


def score(reference):
    ones = np.ones(2)
    return comparison.Score(
        method="a",
        task=reference,
        seeds=(0, 1),
        runs=(Path("0"), Path("1")),
        returns=ones,
        normalized=ones,
        score_name=score_name(reference),
        targets=(1.0, 1.0),
        steps=(2, 2),
        episodes=(3, 3),
        curve_steps=np.array([2]),
        curve=np.ones((2, 1)),
    )


def task_of(reference):
    return comparison.Task(name=reference, data="data", data_return_mean=1.0, data_return_max=2.0, conflicts=())


def test_runs_in_two_ids_of_a_game_are_compared_as_one_task():
    assert comparison._without_version("PongNoFrameskip-v4") == comparison._without_version("ALE/Pong-v5") == "ALE/Pong"
    assert comparison._without_version("Hopper-v4") == "Hopper"


def test_the_table_of_scores_is_of_the_57_games():
    assert len(SCORES) == 57
    assert set(SCORES) <= GAMES
    assert SCORES["Qbert"] == (163.9, 13455.0, (2500.0,))
    assert SCORES["Pong"] == (-20.7, 14.6, (20.0,))
    assert SCORES["Seaquest"] == (68.4, 42054.7, (1450.0,))
    assert all(random < human for random, human, _ in SCORES.values())
    assert {name for name, scores in SCORES.items() if scores.paper_targets} == {
        "Breakout",
        "Qbert",
        "Pong",
        "Seaquest",
    }


def test_collected_pictures_stay_bytes_and_say_how_they_were_seen():
    kwargs = {"resize": "antialiased", "frameskip": 3}
    data = collect_episodes(
        "ALE/Pong-v5", [Behaviour(lambda seen, rng: 3, 2)], seed=4, env_kwargs=kwargs, max_episode_steps=5
    )
    assert (data.observations.shape, data.observations.dtype) == ((10, *SIZE), np.uint8)
    assert (data.env_id, data.env_kwargs) == ("ALE/Pong-v5", {**kwargs, "max_episode_steps": 5})
    made = game(**kwargs)
    np.testing.assert_array_equal(made.reset(seed=5)[0], data[1]["observations"][0])
    np.testing.assert_array_equal(made.step(3)[0], data[1]["observations"][1])
    config = _with_arguments_of_data(dataclasses.replace(PRESETS["bc"], env="PongNoFrameskip-v4"), data)
    assert (config.env_kwargs, config.max_episode_steps) == (kwargs, 5)


def test_recorded_in_one_id_and_played_in_another_is_no_mismatch(recwarn):
    data = pictures(env_id="PongNoFrameskip-v4")
    assert _environment_name(dataclasses.replace(PRESETS["bc"], env="ALE/Pong-v5"), data, None) == "ALE/Pong-v5"
    assert not recwarn.list
    with pytest.warns(UserWarning, match="recorded in PongNoFrameskip-v4, evaluation is in ALE/Breakout-v5"):
        _environment_name(dataclasses.replace(PRESETS["bc"], env="ALE/Breakout-v5"), data, None)


def pictures(**kwargs):
    seen = np.random.default_rng(0).integers(0, 256, (6, *SIZE)).astype(np.uint8)
    return EpisodeStore.from_arrays(seen, np.arange(6), np.arange(6.0), episode_ends=[2, 6], **kwargs)


def test_statistics_of_pictures_are_not_computed_until_asked_for(monkeypatch, tmp_path):
    pictures().save(tmp_path / "data.npz")
    asked = []

    def statistics_of(values):
        asked.append(len(values))
        return statistics.statistics_of(values)

    monkeypatch.setattr(episodes, "statistics_of", statistics_of)
    data = load_episodes(tmp_path / "data.npz")
    assert data.observations.dtype == np.uint8
    filtered = [data.best(0.5), data.with_delayed_rewards(), *data.split(0.5)]
    assert [part.num_episodes for part in filtered] == [1, 2, 1, 1]
    assert (len(data.constant_observations), "[84, 84] uint8" in dataset_report("data", data)) == (0, True)
    assert asked == []
    assert data.statistics.mean.shape == SIZE
    assert asked == [6]


def test_an_id_of_somebody_elses_environment_is_no_game():
    gymnasium.register("Tetris-v0", "gymnasium.envs.classic_control:CartPoleEnv")
    try:
        assert game_of("Tetris-v0") is None
        assert identity("Tetris-v0") == "Tetris-v0"
    finally:
        del gymnasium.registry["Tetris-v0"]
    assert game_of("Tetris-v0") == "Tetris"


def test_clipped_returns_have_no_score():
    assert normalized_score("ALE/Pong-v5", np.array([14.6]))[0] == pytest.approx(100)
    assert normalized_score("ALE/Pong-v5", np.array([14.6]), {"resize": "area"}) is not None
    assert normalized_score("ALE/Pong-v5", np.array([14.6]), {"reward_clipping": True}) is None
