"""Runs from weights of others, runs as weights for others, and runs that start from runs."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

import jaxdt
from jaxdt import BehaviorCloningConfig, JaxdtError
from jaxdt.checkpoint import checkpoint_steps
from jaxdt.choice import EnvironmentChoice
from jaxdt.cli import run
from jaxdt.cli.report import run_report
from jaxdt.config import Finetuning
from jaxdt.loggers import read_lines
from jaxdt.models import build_model
from jaxdt.run.directory import RunDirectory, read_record, write_record
from jaxdt.run.importing import import_run
from jaxdt.types import Box, Spec
from tests.conftest import make_store, tiny_algorithm, tiny_model
from tests.hub_server import HubServer
from tests.runs import CONFIG, STORE, weights_of
from tests.toys import DRIFT_SPEC, Drift


pytestmark = pytest.mark.usefixtures("quick_plots")
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """Its export; tests only read it."""
    return jaxdt.to_huggingface(finished, tmp_path_factory.mktemp("export") / "model")


def refusal(call, *arguments, kind=JaxdtError, **options) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def constant(agent, name) -> np.ndarray:
    return agent.spec.constants[f"state_{name}"]


def same(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b))


# ---- import


def test_an_exported_run_comes_back_as_it_was(finished, exported):
    before, after = jaxdt.Agent.load(finished), jaxdt.from_huggingface(exported)
    assert same(before.params, after.params)
    ignored = {"mlp_width": 64}  # a number there, derived here
    assert {**vars(before.config.model), **ignored} == {**vars(after.config.model), **ignored}
    assert before.config.return_scale == after.config.return_scale
    assert before.spec == after.spec
    assert after.targets == before.targets


def test_an_exported_policy_says_how_its_environment_was_made(finished, tmp_path):
    agent = jaxdt.Agent.load(finished)
    made = EnvironmentChoice(env="Pendulum-v1", kwargs={"g": 9.0}, max_episode_steps=50)
    agent = jaxdt.Agent(agent.config, agent.params, agent.spec, env_id="Pendulum-v1", targets=[1.0], environment=made)
    out = jaxdt.to_huggingface(agent, tmp_path / "model")
    card, written = (out / "README.md").read_text(), "g=9.0, max_episode_steps=50"
    assert card.count(f'gymnasium.make("Pendulum-v1", {written})') == 2
    assert f"- Environment: Pendulum-v1, with {written}." in card
    assert jaxdt.from_huggingface(out).environment == made
    imported = jaxdt.Agent.load(import_run(out, tmp_path / "run"))
    assert (imported.environment.kwargs, imported.environment.max_episode_steps) == ({"g": 9.0}, 50)
    elsewhere = jaxdt.from_huggingface(out, env_id="Other-v0").environment
    assert (elsewhere.kwargs, elsewhere.max_episode_steps) == (None, None)
    odd = EnvironmentChoice(env="Pendulum-v1", kwargs={"g": np.float64, "break()": 1})
    agent = jaxdt.Agent(agent.config, agent.params, agent.spec, env_id="Pendulum-v1", targets=[1.0], environment=odd)
    known = json.loads((jaxdt.to_huggingface(agent, tmp_path / "odd") / "normalization.json").read_text())
    assert known["env_kwargs"] is None


def test_how_an_environment_is_made_is_checked_where_a_file_says_it(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "model")
    known = json.loads((copy / "normalization.json").read_text())
    for kwargs, says in (({"xml_file": "/etc/passwd"}, "a file may not give"), ([1], "must be a JSON object")):
        (copy / "normalization.json").write_text(json.dumps(known | {"env_id": "Ant-v5", "env_kwargs": kwargs}))
        if isinstance(kwargs, dict):
            with pytest.warns(UserWarning, match=says):
                assert jaxdt.from_huggingface(copy).environment.kwargs is None
        else:
            assert says in refusal(jaxdt.from_huggingface, copy)


@pytest.mark.slow
def test_an_imported_run_evaluates_as_the_one_it_came_from(finished, exported, tmp_path):
    out = import_run(exported, tmp_path / "imported")
    results = [jaxdt.evaluate(path, Drift(), [1.0, 5.0], episodes=3) for path in (finished, out)]
    assert [result.returns.tolist() for result in results[0]] == [result.returns.tolist() for result in results[1]]
    agent = jaxdt.Agent.load(out)
    agent.reset(2.0)
    assert agent.act(np.zeros(3)).shape == (2,)


def test_statistics_are_required_and_the_message_says_how_to_give_them(tmp_path):
    message = refusal(jaxdt.from_huggingface, GOLDEN / "bin")
    assert "the normalisation of" in message
    assert "--stats FILE.json (state_mean, state_std), or --stats DATASET" in message
    refusal(import_run, GOLDEN / "bin", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_statistics_come_from_arguments_a_file_or_a_dataset(tmp_path):
    mean, std = np.arange(5.0), np.arange(1.0, 6.0)
    agent = jaxdt.from_huggingface(GOLDEN / "bin", state_mean=mean, state_std=std, return_scale=10.0, context_length=6)
    assert (constant(agent, "mean").tolist(), constant(agent, "std").tolist()) == (mean.tolist(), std.tolist())
    assert (agent.config.return_scale, agent.config.model.context_length) == (10.0, 6)
    assert (agent.spec.action.low == -1).all()
    assert (agent.spec.action.high == 1).all()

    (tmp_path / "stats.json").write_text(json.dumps({"state_mean": mean.tolist(), "state_std": std.tolist()}))
    from_file = import_run(GOLDEN / "bin", tmp_path / "a", stats=str(tmp_path / "stats.json"), targets=[3.0])
    loaded = jaxdt.Agent.load(from_file)
    assert (constant(loaded, "std").tolist(), loaded.targets, loaded.config.return_scale) == (
        std.tolist(),
        (3.0,),
        1000.0,
    )

    store = make_store(state_dim=5, action_dim=3, env_id="Hopper-v5")
    store.save(tmp_path / "data.npz")
    loaded = jaxdt.Agent.load(import_run(GOLDEN / "bin", tmp_path / "b", stats=str(tmp_path / "data.npz")))
    assert np.array_equal(constant(loaded, "mean"), store.statistics.mean)
    assert loaded.env_id == "Hopper-v5"
    np.testing.assert_allclose(loaded.targets, np.quantile(store.returns, (0.2, 0.5, 0.8, 1.0)))


def hub_checkpoint(directory: Path, name: str, state_dim: int, action_dim: int) -> Path:
    """A directory named as one of Hugging Face's nine checkpoints, of their sizes but narrow."""
    config = tiny_model(state_dim=state_dim, action_dim=action_dim)
    shapes = jax.eval_shape(build_model(config)[0], jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), shapes)  # nobody asks what it predicts
    zeros, ones = np.zeros(state_dim, np.float32), np.ones(state_dim, np.float32)
    bounds = np.ones(action_dim, np.float32)
    constants = {"state_mean": zeros, "state_std": ones}
    spec = Spec(observation_shape=(state_dim,), action=Box(-bounds, bounds), constants=constants)
    agent = jaxdt.Agent(jaxdt.DecisionTransformerConfig(model=config), params, spec)
    path = jaxdt.to_huggingface(agent, directory / name)
    (path / "normalization.json").unlink()
    return path


@pytest.mark.parametrize(
    ("name", "sizes", "env_id", "targets", "first"),
    [
        ("hopper-medium", (11, 3), "Hopper-v4", (1800.0, 3600.0), 1.311279),
        ("halfcheetah-medium-replay", (17, 6), "HalfCheetah-v4", (6000.0, 12000.0), -0.128807),
        ("walker2d-expert", (17, 6), "Walker2d-v4", (2500.0, 5000.0), None),
        ("hopper-expert", (11, 3), "Hopper-v4", (1800.0, 3600.0), 1.3490015),
        ("halfcheetah-expert", (17, 6), "HalfCheetah-v4", (6000.0, 12000.0), -0.04489148),
    ],
)
def test_hugging_faces_checkpoints_are_known_by_name(tmp_path, name, sizes, env_id, targets, first):
    agent = jaxdt.from_huggingface(hub_checkpoint(tmp_path, f"decision-transformer-gym-{name}", *sizes))
    assert (agent.env_id, agent.targets, agent.config.return_scale) == (env_id, targets, 1000.0)
    assert (constant(agent, "std") > 0).all()
    assert first is None or constant(agent, "mean")[0] == pytest.approx(first, abs=1e-6)


def test_all_nine_are_in_the_table(tmp_path):
    for env, sizes in (("hopper", (11, 3)), ("halfcheetah", (17, 6)), ("walker2d", (17, 6))):
        directory = hub_checkpoint(tmp_path, f"model-{env}", *sizes)
        for kind in ("medium", "medium-replay", "expert"):
            path = directory.rename(tmp_path / f"decision-transformer-gym-{env}-{kind}")
            assert jaxdt.from_huggingface(path).spec.observation_shape == (sizes[0],)
            directory = path.rename(tmp_path / f"model-{env}")


def test_only_the_nine_themselves_are_known_on_the_hub():
    from jaxdt.interop.source import _known_of

    beside = Path("absent.json")
    assert _known_of("edbeeching/decision-transformer-gym-hopper-medium", beside).env_id == "Hopper-v4"
    assert _known_of("alice/decision-transformer-gym-hopper-medium", beside).state_mean is None


def test_a_copy_of_one_of_the_nine_is_known_from_inside_and_by_its_file(tmp_path, monkeypatch):
    path = hub_checkpoint(tmp_path, "decision-transformer-gym-hopper-medium", 11, 3)
    assert jaxdt.from_huggingface(path / "model.safetensors").env_id == "Hopper-v4"
    monkeypatch.chdir(path)
    assert jaxdt.from_huggingface(".").env_id == "Hopper-v4"


def test_known_statistics_of_another_size_are_refused(tmp_path):
    path = hub_checkpoint(tmp_path, "decision-transformer-gym-hopper-medium", 5, 3)
    assert "state_mean has 11 numbers, the model 5" in refusal(jaxdt.from_huggingface, path)


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ([1], "must be a JSON object"),
        ({}, "must hold state_mean and state_std"),
        ({"state_mean": [0.0] * 5}, "must hold state_mean and state_std"),
        ({"state_mean": [0.0] * 5, "state_std": [1, 2, 3, 4, 0]}, "state_std must be above 0 everywhere"),
        ({"state_mean": ["a"] * 5, "state_std": [1.0] * 5}, "state_mean must be numbers"),
        ({"state_mean": [[1.0], 2.0], "state_std": [1.0] * 5}, "state_mean must be numbers"),
        ({"state_mean": [1e99] * 5, "state_std": [1.0] * 5}, "state_mean must be one or more finite numbers"),
        ({"state_mean": [0.0] * 4, "state_std": [1.0] * 5}, "state_mean must be 5 finite numbers"),
        ({"state_mean": [0.0] * 5, "state_std": [1.0] * 5, "return_scale": -1}, "return_scale must be above 0"),
        ({"state_mean": [0.0] * 5, "state_std": [1.0] * 5, "env_id": "os:evil"}, "env_id must be a Gymnasium id"),
        ({"state_mean": [0.0] * 5, "state_std": [1.0] * 5, "context_length": 0}, "context_length must be a whole"),
        ({"state_mean": [0.0] * 5, "state_std": [1.0] * 5, "delayed_reward": 1}, "delayed_reward must be true or"),
        ({"state_mean": [0.0] * 5, "state_std": [1.0] * 5, "targets": "x"}, "targets must be numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_bad_file_of_statistics_is_refused_with_its_field(tmp_path, stats, message):
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(stats))
    assert message in refusal(import_run, GOLDEN / "bin", tmp_path / "run", stats=str(path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_scale": 0.0}, "return_scale must be above 0"),
        ({"return_scale": float("nan")}, "return_scale must be one or more finite numbers"),
        ({"state_mean": ["a"] * 5}, "state_mean must be numbers"),
        ({"state_std": [1.0] * 4}, "state_std must be 5 finite numbers"),
        ({"context_length": 0}, "context_length must be a whole number of 1 or more"),
        ({"targets": [float("inf")]}, "targets must be one or more finite numbers"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options, message):
    known = {"state_mean": np.zeros(5), "state_std": np.ones(5)}
    assert message in refusal(jaxdt.from_huggingface, GOLDEN / "bin", **{**known, **options})


def test_nested_statistics_are_those_of_a_vector():
    agent = jaxdt.from_huggingface(GOLDEN / "bin", state_mean=np.zeros((1, 5)), state_std=np.ones((1, 5)))
    agent.reset(1.0)
    assert agent.act(np.zeros(5)).shape == (3,)


def test_a_failed_import_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdt.checkpoint.CheckpointWriter.save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        import_run(GOLDEN / "bin", tmp_path / "run", stats=_stats(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["stats.json"]


def _stats(directory: Path, size: int = 5) -> str:
    path = directory / "stats.json"
    path.write_text(json.dumps({"state_mean": [0.5] * size, "state_std": [2.0] * size}))
    return str(path)


def test_import_does_not_write_into_a_directory_that_is_in_use(tmp_path):
    message = refusal(import_run, GOLDEN / "bin", tmp_path, stats=_stats(tmp_path))
    assert message == f"{tmp_path} is not empty; choose another output directory."


def test_the_command_imports_describes_and_will_not_resume(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--stats", _stats(tmp_path), "--targets", "10", "20", "--env", "none", "--num-heads", "2"]
    assert run(["import", str(GOLDEN / "original.pt"), str(out), *options, "--context-length", "8"]) == 0
    printed = capsys.readouterr()
    assert "left out, as never trained: predict_return.bias" in printed.err
    assert "imported from" in printed.out
    assert run(["info", str(out)]) == 0
    assert run(["export", str(out), str(tmp_path / "again")]) == 0
    record = read_record(RunDirectory(out))
    model = record.config.algorithm.model
    assert (record.config.targets, model.context_length, model.num_heads) == ((10.0, 20.0), 8, 2)
    assert run(["train", "--resume", "--out", str(out)]) == 2
    assert "was imported and has no training to resume; start a run from it with --init" in capsys.readouterr().err


# ---- export


def test_the_export_holds_what_others_need(finished, exported):
    names = {path.name for path in exported.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "normalization.json", "results.json"}
    config = json.loads((exported / "config.json").read_text())
    assert (config["state_dim"], config["act_dim"], config["hidden_size"], config["n_positions"]) == (3, 2, 16, 1024)
    beside = json.loads((exported / "normalization.json").read_text())
    assert beside["state_mean"] == constant(jaxdt.Agent.load(finished), "mean").tolist()
    assert (beside["return_scale"], beside["targets"], beside["context_length"]) == (10.0, [1.0, 5.0], 4)


def test_the_model_card_states_what_a_stranger_must_know(finished, exported):
    card = (exported / "README.md").read_text()
    last = [line for line in read_lines(finished / "evaluations.jsonl") if line["step"] == 12]
    for line in last:
        assert f"| {line['target']:g} | {line['return_mean']:.1f} ± {line['return_std']:.1f} | 2 | - |" in card
    mean = ", ".join(f"{value:.9g}" for value in constant(jaxdt.Agent.load(finished), "mean"))
    assert f"mean = [{mean}]" in card
    for text in (
        "divided by 10 before",
        "Target returns used: 1, 5.",
        "the last 4 steps",
        "12 of 12 updates of 8 windows",
        "learning rate 0.001, constant after a warm-up of 2 updates",
        "3 episodes, 22 steps",
        "zeros, and what they predict means nothing: `encoder.wte.weight`",
    ):
        assert text in card, text
    assert "library_name: transformers" in card.split("---")[1]


def test_the_hub_finds_the_highest_targets_return_first(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "tensorboard").mkdir()
    (copy / "tensorboard" / "events.out.tfevents.1.here").write_bytes(b"curves")
    lines = [json.loads(line) for line in (copy / "evaluations.jsonl").read_text().splitlines()]
    best = {"returns": [6100.0, 6000.5], "return_mean": 6050.25, "return_std": 49.75, "normalized_mean": 51.234}
    lines = [line | (best if line["target"] == 5.0 else {}) for line in lines]
    (copy / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = json.loads((copy / "config.json").read_text())
    record["data"]["spec"] = "hf:somebody/episodes/expert+local.npz+hf:somebody/episodes/medium"
    record["config"]["env"] = "Hopper-v5"
    (copy / "config.json").write_text(json.dumps(record))
    out = jaxdt.to_huggingface(copy, tmp_path / "model", license="mit")
    data = ModelCard.load(out / "README.md").data
    first, score, second = data.eval_results
    assert (first.dataset_name, first.metric_name, first.metric_value) == (
        "Hopper-v5",
        "mean_reward",
        "6050.25 +/- 49.75",
    )
    assert (score.metric_name, score.metric_value) == ("d4rl_normalized_score", 51.23)
    assert (second.metric_type, second.metric_name) == ("mean_reward", "mean return at target 1")
    assert (data.license, data.datasets, data.tags[0]) == ("mit", ["somebody/episodes"], "Hopper-v5")
    results = json.loads((out / "results.json").read_text())
    assert (results["mean_reward"], results["std_reward"], results["n_eval_episodes"]) == (6050.25, 49.75, 2)
    assert (results["env_id"], results["is_deterministic"], results["target_return"]) == ("Hopper-v5", True, 5.0)
    [curves] = (out / "tensorboard").iterdir()
    assert curves.name == "events.out.tfevents.0000"  # the host's name is not told
    assert curves.read_bytes() == b"curves"


def test_the_card_says_how_actions_and_returns_are_mapped(finished, tmp_path):
    agent = jaxdt.Agent.load(finished)
    delayed = dataclasses.replace(DRIFT_SPEC, delayed_reward=True)
    out = jaxdt.to_huggingface(jaxdt.Agent(agent.config, agent.params, delayed), tmp_path / "model")
    card = (out / "README.md").read_text()
    assert "predictions lie in [-1, 1] and are mapped onto [-1, -3], [1, 5]" in card
    assert "stay as they are while acting" in card
    assert "Not evaluated." in card
    assert "Made outside a run directory." in card


def test_no_path_of_the_machine_is_in_the_export(tmp_path):
    (tmp_path / "secret").mkdir()
    STORE.save(tmp_path / "secret" / "data.npz")
    dataset = str(tmp_path / "secret" / "data.npz")
    best = {"best_fraction": 0.5, "best_fraction_of": "episodes"}
    config = dataclasses.replace(CONFIG, dataset=dataset, env="none", targets=None, steps=1, **best)
    out = jaxdt.train(config, out=tmp_path / "run")
    assert "the best 0.5 of the episodes\n" in run_report(out)
    exported = jaxdt.to_huggingface(out, tmp_path / "model")
    text = "".join((exported / name).read_text() for name in ("README.md", "config.json", "normalization.json"))
    assert "secret" not in text
    assert "Data: data.npz, 3 episodes" in text
    assert "; trained on the best 0.5 of the episodes.\n" in text


def test_the_video_of_the_highest_target_goes_along(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "videos").mkdir()
    (copy / "videos" / "target-1.mp4").write_bytes(b"low")
    (copy / "videos" / "target-5.mp4").write_bytes(b"high")
    assert (jaxdt.to_huggingface(copy, tmp_path / "model") / "replay.mp4").read_bytes() == b"high"


def test_the_card_tells_how_far_the_training_was(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "12")
    step = checkpoint_steps(copy / "checkpoints")[-1]
    card = (jaxdt.to_huggingface(copy, tmp_path / "model") / "README.md").read_text()
    assert f"{step} of 12 updates" in card
    assert step < 12


def test_the_card_tells_of_fine_tuning(finished, tmp_path):
    copy = RunDirectory(shutil.copytree(finished, tmp_path / "copy"))
    chosen = jaxdt.FinetuneConfig(rounds=3, updates_per_round=4, episodes_per_round=2, exploration_target=7.5)
    online = Finetuning(run="runs/offline", first_step=5, config=chosen)
    write_record(copy, dataclasses.replace(read_record(copy), finetuning=online))
    card = (jaxdt.to_huggingface(copy.path, tmp_path / "model") / "README.md").read_text()
    assert (
        "Fine-tuned online from offline after its update 5: 3 rounds of 2 episodes asked for 7.5 and 4 updates; seed "
        "and learning rate are those of this part."
    ) in card


def test_known_targets_stay_where_statistics_are_computed(finished, exported, tmp_path):
    data = make_store()
    data.save(tmp_path / "data.npz")
    known = jaxdt.Agent.load(import_run(exported, tmp_path / "run", stats=str(tmp_path / "data.npz")))
    assert known.targets == jaxdt.Agent.load(finished).targets
    np.testing.assert_array_equal(known.spec.constants["state_mean"], data.statistics.mean)


def test_weights_of_another_environment_are_refused(tmp_path):
    (tmp_path / "stats.json").write_text(json.dumps({"state_mean": [0.0] * 5, "state_std": [1.0] * 5}))
    options = {"env": "Pendulum-v1", "stats": str(tmp_path / "stats.json")}
    message = refusal(import_run, GOLDEN / "bin", tmp_path / "run", **options)
    assert "the observations of Pendulum-v1 have 3 numbers, those of the weights" in message
    assert message.endswith(
        "; give theirs, or env='none' (--env none) and theirs with its keyword arguments where they play."
    )
    assert not (tmp_path / "run").exists()


def test_a_model_without_targets_comes_back_without_them(tmp_path):
    agent = jaxdt.from_huggingface(GOLDEN / "bin", state_mean=[0.0] * 5, state_std=[1.0] * 5)
    exported = jaxdt.to_huggingface(agent, tmp_path / "model")
    assert jaxdt.from_huggingface(exported).targets == ()
    assert "trained" not in (exported / "README.md").read_text().split("##")[0].split("---")[2]


@pytest.mark.parametrize("name", ["bad name!!/x", "a/b/c", "../x", ""])
def test_a_bad_name_to_push_to_is_refused_before_anything_is_written(finished, tmp_path, name):
    assert "a name on the hub must be" in refusal(jaxdt.to_huggingface, finished, tmp_path / "model", push=name)
    assert not list(tmp_path.iterdir())


def test_a_model_directory_is_not_mistaken_for_a_run(exported, tmp_path):
    assert "is a Hugging Face model and no run; make it one with jaxdt import" in refusal(jaxdt.Agent.load, exported)


@pytest.mark.slow
def test_the_best_checkpoint_can_be_exported(finished, tmp_path):
    out = jaxdt.to_huggingface(finished, tmp_path / "model", checkpoint="best")
    assert same(jaxdt.from_huggingface(out).params, jaxdt.Agent.load(finished, "best").params)


def test_an_export_does_not_write_into_a_directory_that_is_in_use(finished, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is not empty; choose another" in refusal(jaxdt.to_huggingface, finished, tmp_path)
    assert "is not empty; choose another" in refusal(jaxdt.to_huggingface, finished, tmp_path / "file")


def test_a_failed_export_leaves_nothing(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdt.run.exporting.model_card", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        jaxdt.to_huggingface(finished, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_is_pushed_and_fetched_over_a_real_connection(finished, exported, tmp_path):
    with HubServer() as hub:
        code = f"""
from jaxdt.cli import run
assert run(["export", {str(finished)!r}, {str(tmp_path / "model")!r}, "--push", "somebody/cheetah"]) == 0
assert run(["import", "somebody/cheetah", {str(tmp_path / "fetched")!r}]) == 0
assert run(["import", "somebody/nothing", {str(tmp_path / "nothing")!r}]) == 2
"""
        done = hub.python(code, tmp_path / "home", JAX_PLATFORMS="cpu")
        assert done.returncode == 0, done.stderr
        assert "pushed to somebody/cheetah" in done.stdout
        assert "'somebody/nothing' is no local path and cannot be fetched from the hub" in done.stderr
        pushed = hub.uploads["somebody/cheetah"]
        assert set(pushed) >= {"README.md", "config.json", "model.safetensors", "normalization.json"}
        assert pushed["model.safetensors"] == (exported / "model.safetensors").read_bytes()
        assert b"# cheetah" in pushed["README.md"]
    assert same(weights_of(tmp_path / "fetched"), weights_of(finished))
    assert not (tmp_path / "nothing").exists()
    with HubServer() as hub:  # fetched once, it is in the hub's cache
        hub.down = True
        code = f"""
from jaxdt.cli import run
assert run(["import", "somebody/cheetah", {str(tmp_path / "again")!r}]) == 0
assert run(["export", {str(finished)!r}, {str(tmp_path / "unsent")!r}, "--push", "somebody/x"]) == 1
"""
        done = hub.python(code, tmp_path / "home", JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1")
        assert done.returncode == 0, done.stderr
        assert "was written but not pushed to 'somebody/x'" in done.stderr


# ---- fine-tuning


FINE_TUNE = dataclasses.replace(
    CONFIG,
    algorithm=dataclasses.replace(
        CONFIG.algorithm, model=jaxdt.ModelConfig(context_length=4, residual_dropout=0.2, attention_dropout=0.0)
    ),
    steps=6,
    eval_every=6,
)
OTHER_DATA = make_store((5, 9), seed=3)


def test_training_starts_from_a_runs_weights_and_keeps_its_normalisation(finished, tmp_path):
    config = dataclasses.replace(FINE_TUNE, init=str(finished), steps=1)
    out = jaxdt.train(config, OTHER_DATA, out=tmp_path / "tuned", env=Drift())
    for before, after in zip(jax.tree.leaves(weights_of(finished)), jax.tree.leaves(weights_of(out)), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-3)  # Adam's first step is at most the learning rate
    record, before = read_record(RunDirectory(out)), read_record(RunDirectory(finished))
    assert record.spec == before.spec
    assert record.spec.constants["state_std"].tolist() != OTHER_DATA.statistics.std.tolist()
    given, trained, made = (each.algorithm.model for each in (config, before.config, record.config))
    assert (made.width, made.num_layers, made.num_heads) == (trained.width, trained.num_layers, trained.num_heads)
    assert (made.context_length, made.residual_dropout) == (given.context_length, given.residual_dropout) == (4, 0.2)
    assert record.data["fingerprint"] == OTHER_DATA.fingerprint


def test_windows_are_normalised_as_the_weights_expect(finished, tmp_path, monkeypatch):
    seen = []

    def noted(*arguments, statistics, **options):
        seen.append(statistics)
        return jaxdt.WindowSampler(*arguments, statistics=statistics, **options)

    monkeypatch.setattr("jaxdt.algorithms.decision_transformer.WindowSampler", noted)
    config = dataclasses.replace(FINE_TUNE, init=str(finished), env="none", steps=1)
    jaxdt.train(config, OTHER_DATA, out=tmp_path / "tuned")
    mean, std = seen[0]
    assert mean.tolist() == STORE.statistics.mean.tolist()
    assert std.tolist() == STORE.statistics.std.tolist()


@pytest.mark.slow
def test_an_imported_model_trains_on(tmp_path):
    imported = import_run(GOLDEN / "bin", tmp_path / "imported", stats=_stats(tmp_path))
    store = make_store((9, 14), state_dim=5, action_dim=3)
    config = dataclasses.replace(FINE_TUNE, init=str(imported), env="none", targets=None, steps=40, log_every=10)
    config = dataclasses.replace(config, algorithm=dataclasses.replace(config.algorithm, return_scale=1000.0))
    out = jaxdt.train(config, store, out=tmp_path / "tuned")
    losses = [line["loss"] for line in read_lines(out / "metrics.jsonl")]
    assert losses[-1] < 0.8 * losses[0]
    assert read_record(RunDirectory(out)).config.algorithm.model.activation == "gelu_new"


@pytest.mark.slow
def test_fine_tuning_resumes_to_the_same_weights_without_the_first_run(finished, tmp_path):
    first = shutil.copytree(finished, tmp_path / "first")
    config = dataclasses.replace(FINE_TUNE, init=str(first), env="none", save_every=3)
    whole = jaxdt.train(config, OTHER_DATA, out=tmp_path / "whole")
    part = jaxdt.train(dataclasses.replace(config, steps=3), OTHER_DATA, out=tmp_path / "part")
    shutil.rmtree(first)
    jaxdt.train(config, OTHER_DATA, out=part, resume=True)
    assert checkpoint_steps(part / "checkpoints")[-1] == 6
    assert same(weights_of(part), weights_of(whole))


def test_another_model_or_other_data_than_the_weights_are_for_is_refused(finished, tmp_path):
    wide = dataclasses.replace(FINE_TUNE, init=str(finished), algorithm=tiny_algorithm(width=32))
    message = refusal(jaxdt.train, wide, OTHER_DATA, out=tmp_path / "a", env=Drift())
    assert "finished: the weights have width=16 and cannot be used with 32; leave it out, or take the" in message
    other = make_store(state_dim=4)
    message = refusal(
        jaxdt.train, dataclasses.replace(FINE_TUNE, init=str(finished), env="none"), other, out=tmp_path / "b"
    )
    assert "observations of the data have 4 numbers, those of the run" in message
    message = refusal(
        jaxdt.train, dataclasses.replace(FINE_TUNE, init="nowhere", env="none"), STORE, out=tmp_path / "c"
    )
    assert "nowhere holds no run" in message
    scaled = dataclasses.replace(FINE_TUNE, init=str(finished), algorithm=tiny_algorithm(return_scale=500.0))
    message = refusal(jaxdt.train, scaled, OTHER_DATA, out=tmp_path / "d", env=Drift())
    cloned = dataclasses.replace(FINE_TUNE, init=str(finished), algorithm=BehaviorCloningConfig(), targets=None)
    assert "the weights are of decision-transformer and cannot be trained by behavior-cloning" in refusal(
        jaxdt.train, cloned, OTHER_DATA, out=tmp_path / "e", env=Drift()
    )
    assert "have return_scale=10.0; give them that, not 500.0" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_takes_model_and_scale_from_the_first_run(finished, tmp_path):
    OTHER_DATA.save(tmp_path / "data.npz")
    out = tmp_path / "tuned"
    options = ["--init", str(finished), "--dataset", str(tmp_path / "data.npz"), "--env", "none", "--out", str(out)]
    options += ["--steps", "2", "--batch-size", "4", "--residual-dropout", "0.3"]
    assert run(["train", "paper", *options]) == 0
    record = read_record(RunDirectory(out))
    algorithm = record.config.algorithm
    assert (algorithm.model.width, algorithm.model.residual_dropout, algorithm.return_scale) == (16, 0.3, 10.0)
    assert os.path.samefile(record.config.init, finished)


# ---- the tutorial's preset


@pytest.mark.slow
def test_a_run_by_passes_takes_the_trainers_number_of_updates(tmp_path):
    optimizer = dataclasses.replace(jaxdt.config.HUGGINGFACE.algorithm.optimizer, learning_rate=1e-3)
    algorithm = tiny_algorithm(optimizer=optimizer)
    config = dataclasses.replace(
        CONFIG, steps=None, passes=5, batch_size=2, env="none", targets=None, log_every=1, algorithm=algorithm
    )
    out = jaxdt.train(config, STORE, out=tmp_path / "run")  # 3 episodes: 2 batches a pass
    lines = read_lines(out / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 11))
    # Warm-up over the first tenth, here one update, from 0; then down to 0.
    np.testing.assert_allclose([line["learning_rate"] for line in lines], [0, *np.linspace(1e-3, 0, 10)[:9]], atol=1e-9)
    both = dataclasses.replace(config, steps=12)
    assert "give steps or passes, not both; got 12 and 5" in refusal(jaxdt.train, both, STORE, out=tmp_path / "both")
    with pytest.raises(JaxdtError, match="was made to end at update 10, so it cannot at 12"):
        jaxdt.train(dataclasses.replace(config, steps=12), STORE, out=out, resume=True)
