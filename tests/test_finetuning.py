"""Online fine-tuning: explore, remember, update, and exactly so after every interruption."""

import dataclasses
import itertools
import json
import shutil
import time
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdt
from jaxdt import FinetuneConfig, JaxdtError
from jaxdt.algorithms import make_algorithm
from jaxdt.checkpoint import checkpoint_steps, find_checkpoint
from jaxdt.cli import run as command
from jaxdt.config import OnlineDTConfig, default_exploration_target
from jaxdt.errors import RunError, StoppedError
from jaxdt.evaluation.rollout import Episodes, Trajectory
from jaxdt.loggers import append_line, read_lines
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.exploration import Exploration, first_environment_seed, recorded, seed_of_batches
from jaxdt.run.finished import read_run
from jaxdt.run.seed_group import SeedGroup, read_summary
from tests.children import everything_saved
from tests.conftest import make_store, tiny_model
from tests.runs import weights_of, without_clock
from tests.toys import Buttons, Dial, Drift, button_episodes


pytestmark = [
    pytest.mark.usefixtures("quick_plots"),
    pytest.mark.filterwarnings("ignore:observations .* are constant"),
]
STORE = button_episodes()
OFFLINE = jaxdt.TrainConfig(
    steps=6,
    batch_size=8,
    devices=1,
    targets=(1.0, 4.0),
    eval_episodes=2,
    validation_fraction=0.1,
    algorithm=jaxdt.RvSConfig(
        width=8, num_layers=1, optimizer=jaxdt.OptimizerConfig(warmup_steps=20, schedule="linear")
    ),
)
ROUNDS, UPDATES = 5, 11  # one update a call, since 11 is a prime
ONLINE = FinetuneConfig(
    rounds=ROUNDS,
    updates_per_round=UPDATES,
    episodes_per_round=2,
    replay_capacity=7,
    learning_rate=1e-2,
    evaluate_every=2,
    save_every=3,
    seed=3,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_plots):
    return jaxdt.train(OFFLINE, STORE, out=tmp_path_factory.mktemp("trained") / "run", env=Buttons())


@pytest.fixture(scope="module")
def whole(trained):
    """The fine-tuning that nothing disturbs; tests only read it."""
    return jaxdt.finetune(trained, ONLINE, STORE, env=Buttons())


def is_as(out, whole):
    """Everything that is saved is the same to the bit."""
    ours, its = (everything_saved(path / "checkpoints") for path in (out, whole))
    jax.tree.map(np.testing.assert_array_equal, ours, its)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert without_clock(out / name) == without_clock(whole / name)
    replay, its = ({file.name: file.read_bytes() for file in (path / "replay").iterdir()} for path in (out, whole))
    assert replay == its
    assert find_checkpoint(out / "checkpoints", "best") == find_checkpoint(whole / "checkpoints", "best")


def online_dt(*, width=8, num_layers=1, **changes):
    """An Online Decision Transformer, whose actions are continuous and drawn from a distribution of each."""
    sizes = {"state_dim": None, "action_dim": None, "width": width, "num_layers": num_layers}
    model = tiny_model(timestep_embedding=False, **sizes)
    optimizer = jaxdt.OptimizerConfig(update_rule="lamb", learning_rate=1e-2, warmup_steps=10, weight_decay=1e-4)
    algorithm = OnlineDTConfig(return_scale=8.0, acting_context_length=2, model=model, optimizer=optimizer)
    return dataclasses.replace(OFFLINE, validation_fraction=0.0, algorithm=algorithm, **changes)


@pytest.mark.slow
def test_a_run_stopped_again_and_again_ends_as_what_it_would_have_been(tmp_path):
    store, config = make_store(), dataclasses.replace(ONLINE, rounds=3)
    trained = jaxdt.train(online_dt(steps=1), store, out=tmp_path / "run", env=Drift())
    whole, out = jaxdt.finetune(trained, config, store, env=Drift()), tmp_path / "stopped"
    for asked in (1, 15):
        calls = itertools.count(1)
        with pytest.raises(
            StoppedError, match=rf"rounds finished; go on with jaxdt\.finetune\(.*, out='{out}', resume=T"
        ):
            jaxdt.finetune(
                trained,
                config,
                store,
                out=out,
                env=Drift(),
                resume=True,
                stop=lambda calls=calls, asked=asked: 15 if next(calls) >= asked else None,
            )
    written = {path: path.stat().st_mtime_ns for path in (out / "replay").iterdir()}
    assert len(written) == 2  # the last stop was within the second round
    jaxdt.finetune(None, None, store, out=out, env=Drift(), resume=True)
    is_as(out, whole)
    assert {path: path.stat().st_mtime_ns for path in written} == written  # nothing is played again
    lines = read_lines(whole / "metrics.jsonl")
    assert len({line["temperature"] for line in lines}) == len({line["entropy"] for line in lines}) == 3
    actions = jaxdt.load_episodes(whole / "replay").actions
    assert len(np.unique(actions)) > 0.9 * actions.size  # each is drawn
    assert np.abs(actions).max() <= 1


def test_the_devices_of_training_bind_no_other_machine(trained, whole):
    assert read_record(RunDirectory(trained)).config.devices == 1
    assert read_record(RunDirectory(whole)).config.devices is None


def test_what_was_explored_is_what_the_metrics_say(whole):
    lines = read_lines(whole / "metrics.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines] == [6 + UPDATES * n for n in range(1, 6)]  # the count goes on
    steps, replay = 0, sorted(STORE.returns)[-7:]
    for number, line in enumerate(lines, start=1):
        explored = jaxdt.load_episodes(whole / "replay" / f"round-{number:06}.npz")
        assert explored.actions.min() >= 5  # as the environment counts them
        steps, replay = steps + explored.num_steps, [*replay, *explored.returns][-7:]
        assert line["environment_steps"] == steps == 16 * number
        assert line["exploration_return_mean"] == explored.returns.mean()
        assert line["replay_return_mean"] == np.mean(replay)
        assert line["failed_tries"] == 0
    assert len({line["validation_loss"] for line in lines}) == ROUNDS  # of the weights of each
    assert all(0 <= line["validation_action_error"] <= 1 for line in lines)
    training = jax.tree.leaves(everything_saved(whole / "checkpoints")["training"])
    assert {int(leaf) for leaf in training if leaf.dtype == np.int32} == {lines[-1]["step"]}  # the optimiser's, too
    assert lines[0]["learning_rate"] < lines[-1]["learning_rate"]  # the warm-up goes on; the run's own rate fell
    evaluations = read_lines(whole / "evaluations.jsonl")
    assert [(e["round"], e["environment_steps"], e["target"]) for e in evaluations] == [
        (n, 16 * n, target) for n in (0, 2, 4, 5) for target in (1.0, 4.0)
    ]
    assert checkpoint_steps(whole / "checkpoints")[-1] == lines[-1]["step"]


def test_episodes_of_a_rollout_end_where_and_as_they_ended():
    steps = np.arange(12, dtype=np.float32).reshape(4, 3)
    lengths, ended = np.array([2, 4, 1]), np.array([True, False, True])
    trajectory = Trajectory(steps[..., None], steps.astype(np.int32), steps)
    played, kwargs = Episodes(steps[0], lengths, 0 * lengths, ended, trajectory), {"max_episode_steps": 4}
    store = recorded(played, "CartPole-v1", "a round", env_kwargs=kwargs)
    assert (store.env_id, store.env_kwargs) == ("CartPole-v1", kwargs)
    assert recorded(played, "CartPole-v1", "a round", env_kwargs={"made": object()}).env_kwargs is None  # no JSON
    np.testing.assert_array_equal(store.rewards, [0, 3, 1, 4, 7, 10, 2])
    np.testing.assert_array_equal(store.actions, store.observations[:, 0])
    np.testing.assert_array_equal(store.offsets, [0, 2, 6, 7])
    np.testing.assert_array_equal(np.flatnonzero(store.terminations), [1, 6])
    np.testing.assert_array_equal(np.flatnonzero(store.truncations), [5])


def test_rounds_draw_anew_from_seeds_of_their_own(whole):
    files = [jaxdt.load_episodes(path) for path in sorted((whole / "replay").iterdir())]
    assert len({store.fingerprint for store in files}) == ROUNDS
    seeds = [first_environment_seed(0, number, tried, 5) for number in (1, 2) for tried in (0, 1)]
    assert len(set(seeds)) == 4
    assert len({seed_of_batches(seed, number) for seed in (0, 1) for number in (1, 2)}) == 4
    assert all(2**30 <= seed < 2**31 - 5 for seed in seeds)


def test_a_fine_tuned_run_is_a_run_like_any_other(trained, whole, tmp_path, capsys):
    record = read_record(RunDirectory(whole))
    assert record.finetuning.config == dataclasses.replace(ONLINE, exploration_target=8.0)
    assert record.finetuning.first_step == 6
    assert (
        jaxdt.evaluate(whole, Buttons(), episodes=2)[1].returns.tolist()
        == (read_lines(whole / "evaluations.jsonl")[-1]["returns"])
    )
    before, after = weights_of(trained), weights_of(whole)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
    assert command(["info", str(whole)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"fine-tuned from {trained}, 6 updates" in printed
    assert "environment steps 80" in printed
    with pytest.raises(JaxdtError, match="was fine-tuned; go on with jaxdt finetune --resume --out"):
        jaxdt.train(record.config, STORE, out=whole, env=Buttons(), resume=True)
    method = {name: value for name, value in read_run(whole).method.items() if name.startswith("finetuning.")}
    assert [name.split(".")[1] for name in method] == [
        "rounds",
        "episodes_per_round",
        "learning_rate",
        "replay_capacity",
        "updates_per_round",
    ]


@pytest.mark.slow
def test_more_rounds_are_the_rounds_that_more_would_have_been(trained, whole, tmp_path, capsys):
    fewer = dataclasses.replace(ONLINE, rounds=2)
    out = jaxdt.finetune(trained, fewer, STORE, out=tmp_path / "run", env=Buttons())
    assert command(["finetune", "--resume", "--out", str(out)]) == 0
    assert f"{out} is finished: 28 of 28 updates done; --resume with more --rounds goes on." in capsys.readouterr().err
    jaxdt.finetune(None, ONLINE, STORE, out=out, env=Buttons(), resume=True)
    is_as(out, whole)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"updates_per_round": 3}, "was started with updates_per_round=11 and cannot go on with 3"),
        ({"seed": 4}, "was started with seed=3 and cannot go on with 4"),
        ({"exploration_target": 2.0}, r"was started with exploration_target=8\.0 and cannot go on with 2\.0"),
        ({"rounds": 4}, "has 61 updates already; --rounds 4, to update 50, is fewer"),
    ],
)
def test_what_was_begun_goes_on_as_it_was(whole, changes, says):
    with pytest.raises(JaxdtError, match=says):
        jaxdt.finetune(None, dataclasses.replace(ONLINE, **changes), STORE, out=whole, env=Buttons(), resume=True)


def test_a_flag_disagrees_although_it_is_the_default(whole, capsys):
    assert command(["finetune", "--resume", "--out", str(whole), "--updates-per-round", "300"]) == 2
    assert "was started with updates_per_round=11 and cannot go on with 300" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"env": "CartPole-v1"}, "was started with env='custom' and cannot go on with 'CartPole-v1'"),
        ({"env": Buttons(), "env_kwargs": {"a": 1}}, "was started with env_kwargs=None and cannot go on with {'a': 1}"),
        ({"checkpoint": "best"}, "was started from the checkpoint latest and cannot go on from best"),
        ({"run": True}, r"was started from .*/run and cannot go on from .*/finished; name that one"),
    ],
)
def test_what_was_begun_goes_on_from_the_same_run_in_the_same_environment(whole, finished, given, says):
    run = finished if given.get("run") else None
    with pytest.raises(JaxdtError, match=says):
        jaxdt.finetune(run, None, STORE, out=whole, resume=True, **{k: v for k, v in given.items() if k != "run"})


@pytest.fixture
def begun(monkeypatch):
    """The configs of the fine-tunings that begin or go on, none of which plays or makes an update."""
    configs = []
    monkeypatch.setattr("jaxdt.run.finetune.explore_and_train", lambda group, prepared, *_: configs.append(prepared))
    monkeypatch.setattr("jaxdt.run.each_seed.plot_finetuning", lambda *_: None)
    return configs


def seeds_of(begun):
    return [prepared.record.finetuning.config.seed for prepared in begun]


def test_each_seed_begins_with_its_own(trained, begun, tmp_path):
    jaxdt.finetune(trained, None, STORE, seeds=(3, 5), out=tmp_path / "runs", env=Buttons())
    assert seeds_of(begun) == [prepared.record.config.seed for prepared in begun] == [3, 5]


@pytest.mark.parametrize("again", [None, FinetuneConfig(rounds=9)])
def test_seeds_that_had_not_begun_begin_as_the_others_did(trained, begun, monkeypatch, tmp_path, again):
    config, out = dataclasses.replace(ONLINE, seed=0), tmp_path / "runs"

    def stopped(group, *_):
        with pytest.raises(JaxdtError, match="is being trained by process"):  # by one of another place
            jaxdt.finetune(trained, config, STORE, out=out, env=Buttons(), resume=True)
        raise StoppedError("stopped", 15)

    with monkeypatch.context() as patch:
        patch.setattr("jaxdt.run.finetune.explore_and_train", stopped)
        with pytest.raises(StoppedError, match="seed 3 stopped"):
            jaxdt.finetune(trained, config, STORE, seeds=(3, 5), out=out, env=Buttons())
    assert not (out / "seed-5" / "config.json").exists()
    jaxdt.finetune(trained, again, STORE, out=out, env=Buttons(), resume=True)
    assert seeds_of(begun) == [3, 5]
    for prepared in begun:
        assert prepared.record.finetuning.config.updates_per_round == UPDATES
        assert prepared.record.finetuning.config.rounds == (ROUNDS if again is None else 9)


def test_no_seed_begins_where_one_is_refused(trained, finished, tmp_path):
    runs, out = tmp_path / "trained", tmp_path / "runs"
    for seed, run in ((3, trained), (5, finished)):
        shutil.copytree(run, runs / f"seed-{seed}")
    (runs / "summary.json").write_text('{"seeds": [3, 5], "evaluations": []}')
    with pytest.raises(JaxdtError, match="predicts one action and draws none"):
        jaxdt.finetune(runs, None, STORE, out=out, env=Buttons())
    with pytest.raises(JaxdtError, match="does not name the episodes"):
        jaxdt.finetune(trained, None, seeds=(3, 5), out=out, env=Buttons())
    assert not out.exists()


@pytest.mark.parametrize(("store", "name"), [(STORE, "episodes.npz"), (button_episodes(seed=1), None)])
def test_other_episodes_do_not_bear_the_name_of_the_runs_own(trained, begun, tmp_path, store, name):
    run = shutil.copytree(trained, tmp_path / "run")
    document = json.loads((run / "config.json").read_text())
    document["config"]["dataset"] = document["data"]["spec"] = "episodes.npz"
    (run / "config.json").write_text(json.dumps(document))
    jaxdt.finetune(run, ONLINE, store, env=Buttons())
    record = begun[0].record
    assert (record.config.dataset, record.data["spec"], record.data["fingerprint"]) == (name, name, store.fingerprint)


@pytest.mark.parametrize(("imported", "count"), [(False, 6), (True, 0)])
def test_the_optimiser_goes_on_but_begins_where_the_run_was_imported(trained, monkeypatch, tmp_path, imported, count):
    run = shutil.copytree(trained, tmp_path / "run")
    document = json.loads((run / "config.json").read_text())
    document["data"] = {"imported_from": "elsewhere", "spec": None} if imported else document["data"]
    (run / "config.json").write_text(json.dumps(document))
    begun = []

    def begin(group, prepared, start_from, *_):
        record = prepared.record
        begun.append(start_from(make_algorithm(record.config.algorithm, record.spec).init(jax.random.key(0))))

    monkeypatch.setattr("jaxdt.run.finetune.explore_and_train", begin)
    jaxdt.finetune(run, ONLINE, STORE, env=Buttons())
    assert int(begun[0].step) == 6
    counts = {int(leaf) for leaf in jax.tree.leaves(begun[0].opt_state) if leaf.dtype == np.int32}
    assert counts == {count}


def test_a_run_without_a_checkpoint_begins_again_from_the_run_that_is_named(trained, whole, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_bytes((whole / "config.json").read_bytes())
    with pytest.raises(JaxdtError, match=f"no checkpoint was saved yet; name the run .*: jaxdt finetune {trained}"):
        jaxdt.finetune(None, None, STORE, out=out, env=Buttons(), resume=True)


def test_what_does_not_fit_is_said_before_anything_is_written(trained, whole, tmp_path):
    out = tmp_path / "out"
    for arguments, says in (
        ((None, ONLINE, STORE), "holds no run to resume"),
        ((trained, ONLINE), "does not name the episodes that it was trained on"),
        ((tmp_path, ONLINE, STORE), "holds no run"),
    ):
        with pytest.raises(JaxdtError, match=says):
            jaxdt.finetune(*arguments, out=out, env=Buttons())
    with pytest.raises(JaxdtError, match="an environment of your own; give it again"):
        jaxdt.finetune(trained, ONLINE, STORE, out=out)
    assert not out.exists()
    with pytest.raises(JaxdtError, match="already holds a run; continue it with --resume"):
        jaxdt.finetune(trained, ONLINE, STORE, out=whole, env=Buttons())
    more = dataclasses.replace(ONLINE, rounds=9)
    with pytest.raises(JaxdtError, match="fingerprints differ"):
        jaxdt.finetune(None, more, button_episodes(seed=1), out=whole, env=Buttons(), resume=True)


def test_a_policy_that_draws_nothing_is_refused_with_those_that_do(finished):
    says = r"\(decision-transformer\) predicts one action and draws none, so it cannot explore; "
    with pytest.raises(JaxdtError, match=says):
        jaxdt.finetune(finished, ONLINE)


class Breaks(Buttons):
    """Whose reward is no number in the episodes of some rounds and tries."""

    def __init__(self, *begun):
        keys = [jax.random.key(first_environment_seed(ONLINE.seed, *each, 2) + 1) for each in begun]
        self.bad = jnp.stack([jax.random.key_data(key) for key in keys])

    def reset(self, key):
        is_bad = (self.bad == jax.random.key_data(key)[None]).all(axis=1).any()
        state, observation = super().reset(key)
        return (state, is_bad), observation

    def step(self, state, action):
        (state, observation, reward, *ends), is_bad = super().step(state[0], action), state[1]
        return (state, is_bad), observation, jnp.where(is_bad & (state == 3), jnp.nan, reward), *ends


def test_a_round_whose_environment_fails_is_recorded_and_played_again_from_other_seeds(trained, whole, tmp_path):
    out = tmp_path / "run"
    config = dataclasses.replace(ONLINE, rounds=2)
    with pytest.warns(UserWarning, match="exploring round 2 failed and is tried again: Breaks, target 8, episode 1"):
        jaxdt.finetune(trained, config, STORE, out=out, env=Breaks((2, 0)))
    assert [(f["step"], f["round"], f["try"]) for f in read_lines(out / "replay" / "failures.jsonl")] == [(17, 2, 0)]
    lines, undisturbed = (without_clock(path / "metrics.jsonl") for path in (out, whole))
    assert lines[0] == undisturbed[0]
    assert [line["failed_tries"] for line in lines] == [0, 1]
    rounds = [jaxdt.load_episodes(path) for path in sorted((out / "replay").glob("*.npz"))]
    assert jaxdt.load_episodes(out / "replay").num_steps == sum(store.num_steps for store in rounds)
    assert lines[1]["environment_steps"] == 32  # of what was kept
    names = [(path / "replay" / "round-000002.npz").read_bytes() for path in (out, whole)]
    assert names[0] != names[1]


@pytest.mark.slow
def test_an_environment_that_fails_again_and_again_ends_the_run_which_goes_on_later(trained, whole, tmp_path, capsys):
    out = tmp_path / "run"
    says = (
        "exploring round 2 failed 3 times in a row, the last time so: Breaks, target 8, episode 1, step 2: .*; all that"
    )
    with pytest.warns(UserWarning, match="is tried again"):
        with pytest.raises(RunError, match=says):
            jaxdt.finetune(trained, ONLINE, STORE, out=out, env=Breaks((2, 0), (2, 1), (2, 2)))
    assert checkpoint_steps(out / "checkpoints") == [6, 17]
    assert [line["round"] for line in read_lines(out / "metrics.jsonl")] == [1]
    assert command(["info", str(out)]) == 0
    assert "failed rounds 3 tries, the newest in round 2" in " ".join(capsys.readouterr().out.split())
    more, environment = dataclasses.replace(ONLINE, rounds=2), Breaks((2, 0), (2, 1), (2, 2))
    jaxdt.finetune(None, more, STORE, out=out, env=environment, resume=True)  # from seeds that were not tried yet
    assert [line["failed_tries"] for line in read_lines(out / "metrics.jsonl")] == [0, 3]


def test_half_a_line_of_failures_is_no_harm(trained, tmp_path):
    out = tmp_path / "run"
    config = dataclasses.replace(ONLINE, rounds=1)
    with pytest.raises(StoppedError):
        jaxdt.finetune(trained, config, STORE, out=out, env=Buttons(), stop=lambda: 15)
    (out / "replay" / "failures.jsonl").write_text('{"step": 6, "round": 1, "try": 0}\n{"step": 6, "rou')
    (out / "replay" / ".round-000001.npz.x1.tmp").write_text("half")
    jaxdt.finetune(None, None, STORE, out=out, env=Buttons(), resume=True)
    assert read_lines(out / "metrics.jsonl")[0]["failed_tries"] == 1
    assert not list((out / "replay").glob(".*.tmp"))


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("replay/failures.jsonl", {"step": 6, "try": 0}, "failures.jsonl is damaged: round of line 1 must be a whole"),
        (
            "replay/failures.jsonl",
            {"step": "6", "round": 1},
            "failures.jsonl is damaged: step of line 1 must be a whole",
        ),
        ("metrics.jsonl", {"step": 6, "loss": 1.0, "round": "one"}, "metrics.jsonl is damaged: round must be a number"),
    ],
)
def test_damaged_files_are_told(whole, tmp_path, capsys, name, line, says):
    out = shutil.copytree(whole, tmp_path / "run")
    (out / name).write_text(json.dumps(line) + "\n")
    assert command(["info", str(out)]) == 2
    assert says in capsys.readouterr().err
    if name != "metrics.jsonl":  # which is cut back to the checkpoint
        with pytest.raises(JaxdtError, match=says):
            jaxdt.finetune(None, dataclasses.replace(ONLINE, rounds=9), STORE, out=out, env=Buttons(), resume=True)


def test_a_run_begins_at_an_update_that_can_be(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    (out / "config.json").write_text((out / "config.json").read_text().replace('"first_step": 6', '"first_step": -1'))
    with pytest.raises(JaxdtError, match="is damaged: first_step must be at least 0; got -1"):
        read_record(RunDirectory(out))


def test_a_round_that_is_gone_is_missed(whole, trained, tmp_path):
    out = tmp_path / "run"
    jaxdt.finetune(trained, dataclasses.replace(ONLINE, rounds=2), STORE, out=out, env=Buttons())
    (out / "replay" / "round-000001.npz").unlink()
    with pytest.raises(JaxdtError, match=r"round-000001.npz is missing, and later rounds trained on it"):
        jaxdt.finetune(None, ONLINE, STORE, out=out, env=Buttons(), resume=True)


@pytest.mark.slow
def test_a_policy_that_is_asked_for_no_return_explores_too(tmp_path):
    algorithm = jaxdt.BehaviorCloningConfig(width=8, num_layers=1, context_length=2)
    offline = dataclasses.replace(OFFLINE, targets=None, steps=1, algorithm=algorithm)
    run = jaxdt.train(offline, STORE, out=tmp_path / "run", env=Buttons())
    for name, value in (("exploration_target", 1.0), ("targets", (1.0,))):
        with pytest.raises(JaxdtError, match=rf"is asked for no return; leave {name} \(got .*1\.0.*\) out"):
            jaxdt.finetune(run, dataclasses.replace(ONLINE, **{name: value}), STORE, env=Buttons())
    out = jaxdt.finetune(run, dataclasses.replace(ONLINE, rounds=1), STORE, env=Buttons())
    assert [line["target"] for line in read_lines(out / "evaluations.jsonl")] == [None, None]


@pytest.mark.filterwarnings("error")
def test_rounds_say_nothing_of_how_their_environment_is_made(tmp_path):
    exploration = Exploration(tmp_path, ONLINE, cast(Any, None), lambda store: store)
    made_with = {"xml_file": "./scene.xml"}  # which no file may give to who reads it
    dataclasses.replace(make_store(env_id="Ant-v5"), env_kwargs=made_with).save(exploration.path(1))
    assert exploration.replay_after(1, make_store())[1] == make_store().num_steps


def test_a_summary_sets_rounds_beside_each_other_wherever_seeds_began(tmp_path):
    """The best checkpoints of two runs are of different updates."""
    group = SeedGroup(tmp_path, (0, 1))
    for run, first in zip(group.runs, (300, 500), strict=True):
        run.path.mkdir()
        for number in (0, 10, 20):
            place = {"step": first + 20 * number, "round": number, "target": 1.0, "reference": None}
            score = {"return_mean": float(first + number), "normalized_mean": None}
            append_line(run.evaluations, {**place, **score})
    group.write_summary()
    summary = read_summary(tmp_path)["evaluations"]
    assert [(e["round"], e["step"], e["return_means"]) for e in summary] == [
        (0, 300, [300.0, 500.0]),
        (10, 500, [310.0, 510.0]),
        (20, 700, [320.0, 520.0]),
    ]


def test_without_an_environment_there_is_nothing_to_explore(trained, tmp_path):
    with pytest.raises(JaxdtError, match=r"env is none: it needs an environment; give env= \(--env\)"):
        jaxdt.finetune(trained, ONLINE, STORE, out=tmp_path / "run", env="none")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_each_seed_is_the_run_of_its_seed(trained, whole, tmp_path):
    out, config = tmp_path / "runs", dataclasses.replace(ONLINE, rounds=2, seed=0)
    calls, says = (
        itertools.count(1),
        rf"seed 5 stopped after .* all seeds with jaxdt\.finetune\(.*, out='{out}', resume",
    )
    with pytest.raises(StoppedError, match=says):
        jaxdt.finetune(
            trained,
            config,
            STORE,
            seeds=(3, 5),
            out=out,
            env=Buttons(),
            stop=lambda: 15 if next(calls) > 2 * UPDATES + 3 else None,
        )
    assert jaxdt.finetune(trained, None, STORE, out=out, env=Buttons(), resume=True) == out
    metrics = {seed: without_clock(out / f"seed-{seed}" / "metrics.jsonl") for seed in (3, 5)}
    assert metrics[3] == without_clock(whole / "metrics.jsonl")[:2]
    assert metrics[3] != metrics[5]
    summary = read_summary(out)
    assert [(e["step"], e["target"]) for e in summary["evaluations"]] == [(s, t) for s in (6, 28) for t in (1.0, 4.0)]
    assert (out / "plots" / "finetuning.png").is_file()
    with pytest.raises(JaxdtError, match="already holds the runs of the seeds 3 5; continue them with --resume"):
        jaxdt.finetune(trained, config, STORE, seeds=(3, 5), out=out, env=Buttons())
    with pytest.raises(JaxdtError, match="give seed or seeds, not both; got 3"):
        jaxdt.finetune(trained, ONLINE, STORE, seeds=(3, 5), out=out, env=Buttons(), resume=True)


@pytest.mark.parametrize(
    ("targets", "asked_for"),
    [((200.0, 500.0), 1000.0), ((-200.0,), 0.0), ((0.0, -3.0), 0.0), ((None,), None), ((), None)],
)
def test_exploration_asks_for_more_than_evaluation(targets, asked_for):
    assert default_exploration_target(targets) == asked_for


def random_turns(episodes=60, seed=0):
    """Episodes of Dial, which is turned at random in each step."""
    rng, steps = np.random.default_rng(seed), Dial.max_episode_steps
    actions = rng.uniform(-0.9, 0.9, size=(episodes * steps, 1))
    observations = np.tile([1.0, 0.0], (len(actions), 1)) + rng.normal(0, 0.01, (len(actions), 2))
    ends = steps * np.arange(1, episodes + 1)
    return jaxdt.EpisodeStore.from_arrays(observations, actions, actions[:, 0], episode_ends=ends)


@pytest.mark.slow
def test_what_is_reached_rises_online(tmp_path):
    began, store = time.monotonic(), random_turns()
    assert store.returns.max() < 4  # of 8 that can be reached
    offline = online_dt(width=16, num_layers=2, steps=100, batch_size=32, targets=(8.0,), eval_episodes=5)
    run = jaxdt.train(offline, store, out=tmp_path / "run", env=Dial())
    online = FinetuneConfig(
        rounds=40, updates_per_round=20, episodes_per_round=4, exploration_target=8.0, replay_capacity=60
    )
    out = jaxdt.finetune(run, online, store, env=Dial())
    returns = [line["return_mean"] for line in read_lines(out / "evaluations.jsonl")]
    explored = [line["exploration_return_mean"] for line in read_lines(out / "metrics.jsonl")]
    print(f"{time.monotonic() - began:.0f} s, evaluated {returns}, explored {np.round(explored, 1)}")
    assert returns[0] <= 4
    assert returns[-1] >= 5
    assert np.mean(explored[-10:]) > np.mean(explored[:10]) + 2
    assert time.monotonic() - began < 120
