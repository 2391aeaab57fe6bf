"""A run directory of an earlier version does all that it did: it loads, acts, evaluates, resumes and exports.

`golden/run-1` was written by the version that wrote format 1, and `golden/run-1.json` says what that version then did
with it; `run-2` is the first of format 2, with discrete actions. None is ever made anew.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxdt
from jaxdt.checkpoint import checkpoint_steps, find_checkpoint
from jaxdt.errors import JaxdtError
from jaxdt.loggers import read_evaluations, read_lines
from jaxdt.run.directory import RunDirectory, read_record
from tests.toys import Buttons, Counter, button_episodes


GOLDEN = Path(__file__).parent / "golden"
RUN = GOLDEN / "run-1"
EXPECTED = json.loads((GOLDEN / "run-1.json").read_text())
STORE = jaxdt.load_episodes(GOLDEN / "counter.npz")


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(RUN, tmp_path / "run-1")


@pytest.mark.parametrize(("context", "expected"), [("exact", "actions"), ("cached", "cached_actions")])
def test_it_acts_as_it_did(context, expected):
    agent = jaxdt.Agent.load(RUN, context=context)
    agent.reset(target_return=12.0)
    earned = np.concatenate([[0], STORE.rewards[:11]])
    actions = [agent.act(*step) for step in zip(STORE.observations[:12], earned, strict=True)]
    np.testing.assert_allclose(actions, EXPECTED[expected], atol=1e-6)


def test_it_is_evaluated_to_the_same_returns():
    expected = EXPECTED["evaluations"]
    targets = [evaluation["target"] for evaluation in expected]
    evaluations = jaxdt.evaluate(RUN, Counter(), targets=targets, episodes=4, seed=7)
    assert [evaluation.returns.tolist() for evaluation in evaluations] == [e["returns"] for e in expected]
    assert [evaluation.lengths.tolist() for evaluation in evaluations] == [e["lengths"] for e in expected]


def test_it_resumes_to_the_same_losses(copied):
    config = dataclasses.replace(read_record(RunDirectory(copied)).config, steps=450)
    jaxdt.train(config, STORE, out=copied, env=Counter(), resume=True)
    losses = {str(line["step"]): line["loss"] for line in read_lines(copied / "metrics.jsonl")}
    assert losses == {step: pytest.approx(loss, rel=1e-5) for step, loss in EXPECTED["losses"].items()}
    assert checkpoint_steps(copied / "checkpoints")[-1] == 450


def test_what_it_says_of_itself_is_understood():
    record = read_record(RunDirectory(RUN))
    assert (record.config.steps, record.config.batch_size, record.config.targets) == (400, 16, (-20.0, 0.0, 20.0))
    assert record.data["fingerprint"] == STORE.fingerprint
    assert checkpoint_steps(RUN / "checkpoints") == [200, 400]
    evaluations, failed = read_evaluations(RUN / "evaluations.jsonl")
    assert len(evaluations) == 6
    assert not failed
    assert find_checkpoint(RUN / "checkpoints", "best") == 400


def test_it_is_exported_and_read_back_as_the_same_policy(tmp_path):
    exported = jaxdt.from_huggingface(jaxdt.to_huggingface(RUN, tmp_path / "exported"))
    exported.reset(target_return=12.0)
    action = exported.act(STORE.observations[0])
    np.testing.assert_allclose(action, EXPECTED["actions"][0], atol=1e-6)
    assert exported.targets == (-20.0, 0.0, 20.0)


@pytest.mark.slow
def test_a_run_of_format_2_is_evaluated_and_resumes_as_it_did(tmp_path):
    run, expected = GOLDEN / "run-2", json.loads((GOLDEN / "run-2.json").read_text())
    assert json.loads((run / "config.json").read_text())["format"] == 2
    evaluations = jaxdt.evaluate(run, Buttons(), episodes=2)
    found = [{"target": each.target, "returns": each.returns.tolist()} for each in evaluations]
    assert found == expected["evaluations"]
    part = shutil.copytree(run, tmp_path / "run-2")
    config = dataclasses.replace(read_record(RunDirectory(part)).config, steps=400)
    jaxdt.train(config, button_episodes(), out=part, env=Buttons(), resume=True)
    losses = {str(line["step"]): line["loss"] for line in read_lines(part / "metrics.jsonl")}
    assert losses == {step: pytest.approx(loss, rel=1e-4) for step, loss in expected["losses"].items()}


@pytest.mark.parametrize("unknown", [0, 3, "1", None, True])
def test_a_format_that_is_not_known_is_refused(copied, unknown):
    path = copied / "config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "format": unknown}))
    with pytest.raises(JaxdtError, match=r"config.json: it is of format .*; read it with the version that wrote it"):
        jaxdt.Agent.load(copied)


def test_a_record_without_a_format_is_of_the_first(copied):
    path = copied / "config.json"
    document = json.loads(path.read_text())
    del document["format"]
    path.write_text(json.dumps(document))
    assert read_record(RunDirectory(copied)).config == read_record(RunDirectory(RUN)).config
