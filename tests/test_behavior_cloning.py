"""Behaviour cloning: a second algorithm in the same house, whose policy is asked for no return."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.checkpoint import checkpoint_steps, find_checkpoint
from jaxdt.cli import run as command
from jaxdt.config import BEHAVIOR_CLONING, BehaviorCloningConfig, OptimizerConfig, TrainConfig
from jaxdt.errors import JaxdtError
from jaxdt.loggers import read_lines
from tests.children import pendulum_episodes
from tests.toys import Buttons, Dial, button_episodes, dial_episodes


# In this order: the plots of the trained run are drawn.
pytestmark = pytest.mark.usefixtures("trained", "quick_plots")
CONFIG = TrainConfig(
    steps=200,
    batch_size=32,
    eval_every=100,
    eval_episodes=3,
    save_every=100,
    log_every=100,
    algorithm=BehaviorCloningConfig(
        context_length=3,
        width=16,
        num_layers=2,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=10, max_grad_norm=None),
    ),
)
STORE = dial_episodes().best(0.5)  # whose mean is not that of untrained weights, 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """It must be trained: what it reaches is the mean of its data."""
    return jaxdt.train(CONFIG, STORE, out=tmp_path_factory.mktemp("bc") / "run", env=Dial())


def test_it_reaches_the_mean_of_its_data_and_is_evaluated_without_a_target(trained):
    lines = read_lines(trained / "evaluations.jsonl")
    assert [(line["step"], line["target"]) for line in lines] == [(100, None), (200, None)]
    assert lines[-1]["return_mean"] == pytest.approx(STORE.returns.mean(), abs=0.6)
    for name in ("loss.png", "returns.png"):
        assert (trained / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_the_best_episodes_are_cloned_where_asked_for(tmp_path):
    config = dataclasses.replace(CONFIG, best_fraction=0.1)
    out = jaxdt.train(config, STORE, out=tmp_path / "best", env=Dial())
    best = np.sort(STORE.returns)[-3:].mean()
    assert read_lines(out / "evaluations.jsonl")[-1]["return_mean"] == pytest.approx(best, abs=0.8)


def test_the_best_checkpoint_is_of_the_highest_return(trained):
    means = {line["step"]: line["return_mean"] for line in read_lines(trained / "evaluations.jsonl")}
    assert find_checkpoint(trained / "checkpoints", "best") == max(means, key=lambda step: means[step])


def test_it_acts_as_the_rollout_did_and_takes_no_target(trained):
    agent = jaxdt.Agent.load(trained)
    agent.reset()
    observation = np.array([1.0, 0.0])
    actions = [agent.act(observation, 0.1) for _ in range(Dial.max_episode_steps)]
    [result] = jaxdt.evaluate(trained, Dial(), episodes=1)
    assert result.target is None
    assert float(np.sum(actions)) == pytest.approx(result.return_mean, abs=1e-4)
    with pytest.raises(JaxdtError, match=r"behavior-cloning is asked for no return; leave target_return=3.0 out"):
        agent.reset(target_return=3.0)
    with pytest.raises(JaxdtError, match=r"is asked for no return; leave the targets \[3.0\] out"):
        jaxdt.evaluate(trained, Dial(), [3.0])
    with pytest.raises(JaxdtError, match="behavior-cloning has no acting option context; it has sampling, temp"):
        jaxdt.evaluate(trained, Dial(), context="cached")


def test_it_goes_on_to_the_same_weights(trained, tmp_path):
    part = shutil.copytree(trained, tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / "200")
    jaxdt.train(CONFIG, STORE, out=part, env=Dial(), resume=True)
    jax.tree.map(np.testing.assert_array_equal, jaxdt.Agent.load(part).params, jaxdt.Agent.load(trained).params)
    with pytest.raises(JaxdtError, match="started with behavior-cloning and cannot go on with decision-transformer"):
        jaxdt.train(
            dataclasses.replace(CONFIG, algorithm=jaxdt.DecisionTransformerConfig()),
            STORE,
            out=part,
            env=Dial(),
            resume=True,
        )


@pytest.mark.slow
def test_it_is_fine_tuned_from_a_run(trained, tmp_path):
    config = dataclasses.replace(CONFIG, init=str(trained), steps=1, log_every=1)
    out = jaxdt.train(config, STORE, out=tmp_path / "tuned", env=Dial())
    for before, after in zip(
        jax.tree.leaves(jaxdt.Agent.load(trained).params), jax.tree.leaves(jaxdt.Agent.load(out).params), strict=True
    ):
        np.testing.assert_allclose(after, before, atol=4e-3)  # Adam's first step is at most the learning rate


def test_what_is_not_of_the_shape_may_be_chosen_anew_when_fine_tuning(trained):
    trained_config = CONFIG.algorithm
    given = BehaviorCloningConfig(dropout=0.0, optimizer=OptimizerConfig(learning_rate=1e-3))
    tuned = given.trained_on_from(trained_config)
    assert (tuned.width, tuned.context_length, tuned.dropout) == (16, 3, 0.0)
    assert tuned.optimizer == given.optimizer
    with pytest.raises(JaxdtError, match="the weights have width=16 and cannot be used with 32"):
        BehaviorCloningConfig(context_length=3, num_layers=2, width=32).trained_on_from(trained_config)


def test_only_decision_transformers_are_written_for_transformers(trained, tmp_path):
    with pytest.raises(JaxdtError, match="only Decision Transformers can be written for transformers; this run is of"):
        jaxdt.to_huggingface(trained, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.slow
def test_discrete_actions_are_cloned_too(tmp_path):
    buttons = button_episodes()
    often = dataclasses.replace(buttons, actions=np.where(buttons.actions == 5, 7, buttons.actions))
    config = dataclasses.replace(CONFIG, steps=100)
    out = jaxdt.train(config, often, out=tmp_path / "run", env=Buttons())
    assert read_lines(out / "evaluations.jsonl")[-1]["return_mean"] == 8.0  # button 7 is pressed most


def test_the_preset_is_the_originals():
    algorithm = BEHAVIOR_CLONING.algorithm
    assert (algorithm.context_length, algorithm.width, algorithm.num_layers, algorithm.dropout) == (20, 128, 3, 0.1)
    assert algorithm.optimizer == OptimizerConfig(max_grad_norm=None)  # its trainer for BC clips no gradients
    assert (BEHAVIOR_CLONING.batch_size, BEHAVIOR_CLONING.steps) == (64, 100_000)


def test_the_command_trains_seeds_describes_and_evaluates(tmp_path, capsys):
    pendulum_episodes(tmp_path / "data.npz")
    out = tmp_path / "out"
    flags = "--seeds 0 1 --width 16 --num-layers 1 --context-length 2 --batch-size 8 --steps 4 --warmup-steps 2"
    flags += " --eval-every 2 --eval-episodes 2 --save-every 2 --log-every 2 --tensorboard"
    assert command(["train", "bc", "--dataset", str(tmp_path / "data.npz"), "--out", str(out), *flags.split()]) == 0
    printed = capsys.readouterr()
    assert "achieved return over 2 seeds: " in printed.err
    assert "behaviour cloning, width 16, 1 layers, context 2" in printed.out
    summary = json.loads((out / "summary.json").read_text())
    assert [(line["step"], line["target"]) for line in summary["evaluations"]] == [(2, None), (4, None)]
    assert checkpoint_steps(out / "seed-1" / "checkpoints")[-1] == 4
    runs = [str(out / "seed-0"), str(out / "seed-1")]
    assert command(["evaluate", *runs, "--episodes", "2", "--seed", "1000"]) == 0
    assert "2 episodes\n" in capsys.readouterr().out
    assert command(["info", runs[0]]) == 0
    assert command(["train", "bc", "--dataset", str(tmp_path / "data.npz"), "--targets", "3"]) == 2
    assert "is asked for no return; leave targets out" in capsys.readouterr().err
