"""Discrete actions from training to acting: one run that all of these tests read."""

import dataclasses
import shutil

import numpy as np
import pytest

import jaxdt
from jaxdt.config import OptimizerConfig, TrainConfig
from jaxdt.errors import JaxdtError
from jaxdt.loggers import read_lines
from jaxdt.run.directory import RunDirectory, read_record
from tests.conftest import tiny_algorithm
from tests.test_seeds import mapping  # noqa: F401  (a fixture)
from tests.toys import Buttons, button_episodes


pytestmark = pytest.mark.usefixtures("quick_plots")
STORE = button_episodes()
CONFIG = TrainConfig(
    steps=300,
    batch_size=32,
    targets=(-8.0, 0.0, 8.0),
    eval_every=300,
    eval_episodes=2,
    save_every=150,
    log_every=100,
    algorithm=tiny_algorithm(return_scale=8.0, optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=20)),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_plots):
    """It must be trained: that the return asked for is reached is what it shows."""
    return jaxdt.train(CONFIG, STORE, out=tmp_path_factory.mktemp("discrete") / "run", env=Buttons())


def test_the_return_asked_for_chooses_the_action(trained):
    lines = read_lines(trained / "evaluations.jsonl")
    assert [line["return_mean"] for line in lines] == [-8.0, 0.0, 8.0]
    losses = [line["loss"] for line in read_lines(trained / "metrics.jsonl")]
    assert losses[0] > 0.3 > 0.1 > losses[-1]  # from about ln 3, in nats
    assert read_record(RunDirectory(trained)).spec.action == jaxdt.Discrete(3, start=5)


def test_an_agent_gives_the_environments_own_numbers(trained):
    agent = jaxdt.Agent.load(trained)
    for target, button in ((8.0, 7), (0.0, 6), (-8.0, 5)):
        agent.reset(target_return=target)
        action = agent.act(np.array([1.0, 1.0]))
        assert (action, action.dtype.kind, action.shape) == (button, "i", ())
        assert agent.act(np.array([1.0, 0.0]), float(button - 6)) == button


@pytest.mark.slow
def test_cached_acting_reaches_the_same_returns(trained):
    results = jaxdt.evaluate(trained, Buttons(), episodes=2, context="cached")
    assert [result.return_mean for result in results] == [-8.0, 0.0, 8.0]


def test_actions_are_drawn_from_a_seed_and_the_temperature_tells_how_freely(trained):
    free = jaxdt.Agent.load(trained, sampling="sample", temperature=1e6)

    def returns(agent, seed=0):
        [result] = jaxdt.evaluate(agent, Buttons(), [8.0], 40, seed=seed)
        return result.returns.tolist()

    assert returns(free.acting_with(temperature=1e-3)) == [8.0] * 40  # as the likeliest action
    wild = returns(free)
    assert abs(np.mean(wild)) < 2  # uniform over the three buttons, whose mean is 0
    assert len(set(wild)) > 3
    assert returns(free) == wild != returns(free, seed=1)


def test_a_temperature_that_changes_nothing_is_refused_where_it_is_asked_for(trained):
    with pytest.raises(
        JaxdtError, match=r"temperature=0.5 changes nothing with sampling='greedy'; leave it out, or add sampling="
    ):
        jaxdt.evaluate(trained, Buttons(), [8.0], 1, temperature=0.5)
    drawing = jaxdt.Agent.load(trained, sampling="sample", temperature=0.5)
    assert drawing.acting_with(sampling="greedy").config.sampling == "greedy"  # whose own temperature stays unused


@pytest.mark.slow
def test_an_episode_draws_the_same_whoever_is_beside_it(trained):
    options = {"sampling": "sample", "temperature": 1e6}
    together = jaxdt.evaluate(trained, Buttons(), [0.0, 8.0], 3, seed=4, **options)
    [alone] = jaxdt.evaluate(trained, Buttons(), [8.0], 1, seed=5, **options)
    assert together[1].returns[1] == alone.returns[0]
    agent, score = jaxdt.Agent.load(trained, **options), 0.0
    agent.reset(8.0, seed=5)
    observation, reward = np.array([1.0, 1.0]), 0.0
    for _ in range(8):
        reward = float(agent.act(observation, reward) - 6)
        score, observation = score + reward, np.array([1.0, 0.0])
    assert score == alone.returns[0]


def test_an_agent_draws_from_the_seed_it_is_reset_with(trained):
    agent = jaxdt.Agent.load(trained, sampling="sample", temperature=1e6)

    def actions(seed):
        agent.reset(target_return=8.0, seed=seed)
        return [int(agent.act(np.array([1.0, 0.0]))) for _ in range(12)]

    assert actions(3) == actions(3) != actions(4)
    assert set(actions(3)) <= {5, 6, 7}


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_weights(trained, tmp_path):
    part = shutil.copytree(trained, tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / "300")
    jaxdt.train(CONFIG, STORE, out=part, env=Buttons(), resume=True)
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in read_lines(part / "metrics.jsonl")] == [
            line[name] for line in read_lines(trained / "metrics.jsonl")
        ]


def test_it_is_exported_as_one_hot_vectors_and_logits_and_comes_back(trained, tmp_path):
    exported = jaxdt.to_huggingface(trained, tmp_path / "exported")
    card = (exported / "README.md").read_text()
    assert "one of 3, numbered from 5 in the environment; one-hot vectors enter the model" in card
    agent = jaxdt.from_huggingface(exported)
    assert agent.spec.action == jaxdt.Discrete(3, start=5)
    results = jaxdt.evaluate(agent, Buttons(), [-8.0, 0.0, 8.0], 1)
    assert [result.return_mean for result in results] == [-8.0, 0.0, 8.0]


DRAWING = dataclasses.replace(
    CONFIG,
    steps=10,
    eval_every=10,
    save_every=10,
    log_every=10,
    algorithm=dataclasses.replace(CONFIG.algorithm, sampling="sample"),
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, quick_plots):
    """A run of its own for each of two seeds."""
    path = tmp_path_factory.mktemp("alone")
    for seed in (0, 1):
        jaxdt.train(dataclasses.replace(DRAWING, seed=seed), STORE, out=path / f"seed-{seed}", env=Buttons())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["lax.map", "vmap"], indirect=True)
def test_several_seeds_draw_as_each_would_alone(alone, mapping, tmp_path):  # noqa: F811
    out = jaxdt.train(DRAWING, STORE, seeds=(0, 1), out=tmp_path / "seeds", env=Buttons())
    for seed in (0, 1):
        both = [read_lines(path / f"seed-{seed}" / "evaluations.jsonl") for path in (out, alone)]
        assert [line["returns"] for line in both[0]] == [line["returns"] for line in both[1]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"actions": STORE.actions + 1},
            r"actions are not of the environment's, 5 ... 7 \(first: 8, episode \d+\); number them so, or",
        ),
        (
            {"actions": np.zeros((STORE.num_steps, 1), np.float32)},
            "vectors of 1 numbers, those of Buttons whole numbers",
        ),
    ],
)
def test_actions_that_the_environment_does_not_take_are_refused(tmp_path, change, says):
    with pytest.raises(JaxdtError, match=says):
        jaxdt.train(CONFIG, dataclasses.replace(STORE, **change), out=tmp_path / "run", env=Buttons())
    assert not (tmp_path / "run").exists()


def test_weights_of_other_buttons_are_not_tuned_in_this_environment(trained, tmp_path):
    class MoreButtons(Buttons):
        spec = jaxdt.Spec(observation_shape=(2,), action=jaxdt.Discrete(4, start=5))

    config = dataclasses.replace(CONFIG, init=str(trained), steps=1)
    with pytest.raises(JaxdtError, match=r"of MoreButtons are whole numbers from 5 to 8, those of the weights .* to 7"):
        jaxdt.train(config, STORE, out=tmp_path / "run", env=MoreButtons())


def test_discrete_data_do_not_fit_a_continuous_environment(tmp_path):
    from tests.toys import Dial

    with pytest.raises(JaxdtError, match="data are whole numbers from 0 to 7, those of Dial vectors of 1 numbers"):
        jaxdt.train(CONFIG, STORE, out=tmp_path / "run", env=Dial())


def test_sampling_is_for_discrete_actions_only(tmp_path):
    from tests.toys import Dial, dial_episodes

    algorithm = dataclasses.replace(CONFIG.algorithm, sampling="sample")
    with pytest.raises(JaxdtError, match="sampling='sample' is for discrete actions"):
        jaxdt.train(dataclasses.replace(CONFIG, algorithm=algorithm), dial_episodes(), out=tmp_path / "run", env=Dial())
