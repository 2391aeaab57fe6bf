"""Several seeds in one program: each run is what it would have been alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.algorithms import make_algorithm
from jaxdt.algorithms.decision_transformer import with_sizes
from jaxdt.checkpoint import checkpoint_steps
from jaxdt.cli import run as command
from jaxdt.errors import JaxdtError, NonFiniteError, RunError, SimulationError
from jaxdt.evaluation.environments import make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.loggers import read_lines
from jaxdt.progress import decimals
from jaxdt.run import loop
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.stacking import stacked
from jaxdt.types import Evaluation
from tests.children import everything_saved, pendulum_episodes
from tests.conftest import EVERY_DROPOUT, make_store, tiny_algorithm
from tests.runs import CONFIG, STORE
from tests.test_run import PoisonedSampler
from tests.toys import DRIFT_SPEC, Drift


SEEDS = (3, 0, 5)
pytestmark = pytest.mark.usefixtures("quick_plots")


@pytest.fixture(params=["lax.map", pytest.param("vmap", marks=pytest.mark.slow)])
def mapping(request, monkeypatch):
    """Both ways over seeds, whatever this machine would choose."""
    monkeypatch.setattr("jaxdt.stacking._one_after_the_other", lambda: request.param == "lax.map")
    loop.compiled.cache_clear()
    yield
    loop.compiled.cache_clear()


def model_and_policy(context):
    algorithm = dataclasses.replace(tiny_algorithm(), context=context)
    init, _ = jaxdt.build_model(with_sizes(algorithm.model, DRIFT_SPEC))
    return jax.jit(init), make_algorithm(algorithm, DRIFT_SPEC).policy


def twenty_updates(dropout):
    algorithm = tiny_algorithm(**EVERY_DROPOUT if dropout else dict.fromkeys(EVERY_DROPOUT, 0.0))
    intervals = {"steps": 20, "log_every": 2, "eval_every": 20, "save_every": 20}
    return dataclasses.replace(CONFIG, **intervals, validation_fraction=0.3, algorithm=algorithm)


@pytest.fixture(scope="module", params=[False, True], ids=["without dropout", "with dropout"])
def singles(request, tmp_path_factory, quick_plots):
    """The config, and a run of its own for each of two seeds."""
    config, path = twenty_updates(request.param), tmp_path_factory.mktemp("singles")
    for seed in SEEDS[:2]:
        jaxdt.train(dataclasses.replace(config, seed=seed), STORE, out=path / f"seed-{seed}", env=Drift())
    return config, path


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["vmap", "lax.map"], indirect=True)
def test_each_seed_is_its_single_run(singles, mapping, tmp_path):
    config, path = singles
    out = jaxdt.train(config, STORE, seeds=SEEDS[:2], out=tmp_path / "out", env=Drift())
    for name in ("seed-3", "seed-0"):
        ours, single = out / name, path / name
        assert read_record(RunDirectory(ours)).config == read_record(RunDirectory(single)).config
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
            *(everything_saved(run / "checkpoints")["params"] for run in (ours, single)),
        )
        for file, columns in (
            ("metrics.jsonl", ["loss", "grad_norm", "validation_loss"]),
            ("evaluations.jsonl", ["returns", "lengths"]),
        ):
            for column in ("step", *columns):
                values, wanted = ([line[column] for line in read_lines(run / file)] for run in (ours, single))
                np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4)
        assert {file.name for file in ours.iterdir()} == {file.name for file in single.iterdir()}


@pytest.mark.parametrize("context", ["exact", "cached"])
def test_each_seeds_model_plays_its_share_of_one_batch(mapping, context):
    init, policy = model_and_policy(context)
    params = [jax.tree.map(lambda leaf: leaf * 3, init(jax.random.key(seed))) for seed in SEEDS]
    together = Evaluator(policy, make_environment(Drift()), training_seeds=SEEDS)
    alone = Evaluator(policy, make_environment(Drift()))
    played = together.run_episodes(stacked(params), [1.0, 5.0], 2, seed=7)
    assert played.returns.shape == (len(SEEDS) * 2 * 2,)
    each = [alone.run_episodes(single, [1.0, 5.0], 2, seed=7) for single in params]
    np.testing.assert_allclose(played.returns, np.concatenate([one.returns for one in each]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(played.lengths, np.concatenate([one.lengths for one in each]))
    assert np.abs(each[0].returns - each[1].returns).max() > 1e-3


def test_an_episode_that_fails_is_named_with_its_training_seed():
    init, policy = model_and_policy("exact")
    sound = init(jax.random.key(0))
    params = stacked([sound, jax.tree.map(lambda leaf: leaf * np.nan, sound), sound])
    evaluator = Evaluator(policy, make_environment(Drift()), training_seeds=SEEDS)
    with pytest.raises(SimulationError, match=r"^Drift, seed 0, target 1, episode 0, step 0: the policy's action"):
        evaluator.evaluate(params, [1.0, 5.0], 1, seed=0)


@pytest.mark.slow
def test_when_one_seed_saves_its_best_all_save(tmp_path, monkeypatch):
    """Else a kill between their saves might leave them without a checkpoint in common."""

    def only_seed_3_improves(self, params, targets, episodes, seed):
        evaluator_calls.append(1)
        step = len(evaluator_calls)
        returns = [np.array([float(step)]), np.array([-float(step)])]  # of seeds 3 and 0
        return [[Evaluation(target=t, returns=r, lengths=np.ones(1, int)) for t in targets] for r in returns]

    evaluator_calls = []
    monkeypatch.setattr("jaxdt.evaluation.evaluator.Evaluator.evaluate", only_seed_3_improves)
    config = dataclasses.replace(CONFIG, steps=4, eval_every=1, save_every=4)
    out = jaxdt.train(config, STORE, seeds=SEEDS[:2], out=tmp_path / "out", env=Drift())
    assert checkpoint_steps(out / "seed-3" / "checkpoints") == [3, 4]
    assert checkpoint_steps(out / "seed-0" / "checkpoints") == [1, 3, 4]


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ((), r"one or more numbers, each given once; got \[\]"),
        ((1, 2, 1), r"each given once; got \[1, 2, 1\]"),
        ((0, -1), "seed must be at least 0 and below 1073741824; got -1"),
    ],
)
def test_seeds_that_cannot_be_leave_nothing_behind(tmp_path, seeds, says):
    with pytest.raises(JaxdtError, match=says):
        jaxdt.train(CONFIG, STORE, seeds=seeds, out=tmp_path / "out", env=Drift())
    with pytest.raises(JaxdtError, match="give seed or seeds, not both"):
        jaxdt.train(dataclasses.replace(CONFIG, seed=2), STORE, seeds=(0, 1), env=Drift())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_named_with_its_seed(tmp_path, monkeypatch):
    def poisoned_once(*arguments, seed, **options):
        sampler = PoisonedSampler if seed == 5 else jaxdt.WindowSampler
        return sampler(*arguments, seed=seed, **options)

    monkeypatch.setattr("jaxdt.algorithms.decision_transformer.WindowSampler", poisoned_once)
    config = dataclasses.replace(CONFIG, env="none", save_every=2)
    with pytest.raises(
        NonFiniteError, match=r"^of seed 5, the loss or gradient of update 3, .* last good checkpoint is 2"
    ):
        jaxdt.train(config, STORE, seeds=SEEDS, out=tmp_path / "out")


@pytest.mark.slow
def test_an_evaluation_that_fails_is_recorded_for_each_seed(tmp_path, monkeypatch):
    def fail(*arguments):
        raise SimulationError("the motor is gone")

    monkeypatch.setattr("jaxdt.evaluation.evaluator.Evaluator.run_episodes", fail)
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match=r"update \d+ failed and training goes on: the motor is gone"):
        with pytest.raises(RunError, match=r"the last evaluation failed; the weights are in .*seed-3.*seed-0.*seed-5"):
            jaxdt.train(CONFIG, STORE, seeds=SEEDS, out=out, env=Drift())
    for seed in SEEDS:
        failures = [{"step": step, "failed": "the motor is gone"} for step in (6, 12)]
        assert read_lines(out / f"seed-{seed}" / "evaluations.jsonl") == failures
    assert json.loads((out / "summary.json").read_text())["evaluations"] == []


@pytest.mark.slow
def test_one_seed_of_an_experiment_is_a_run_like_any_other(tmp_path):
    out = jaxdt.train(dataclasses.replace(CONFIG, steps=2), STORE, seeds=[4], out=tmp_path / "out", env=Drift())
    alone = dataclasses.replace(CONFIG, steps=2, seed=4, env="none")
    single = jaxdt.train(alone, STORE, out=tmp_path / "single")
    both = (everything_saved(run / "checkpoints") for run in (out / "seed-4", single))
    jax.tree.map(np.testing.assert_array_equal, *both)
    (line, _) = json.loads((out / "summary.json").read_text())["evaluations"]
    assert line["return_std"] is None


@pytest.mark.slow
def test_the_command_trains_seeds_from_beginning_to_end(tmp_path, capsys):
    pendulum_episodes(tmp_path / "data.npz")
    out = tmp_path / "out"
    flags = "--seeds 1 2 --width 16 --num-layers 1 --context-length 4 --batch-size 8 --steps 4 --warmup-steps 2"
    flags += " --targets 1 5 --eval-every 2 --eval-episodes 2 --save-every 2 --log-every 2 --tensorboard"
    assert command(["train", "paper", "--dataset", str(tmp_path / "data.npz"), "--out", str(out), *flags.split()]) == 0
    printed = capsys.readouterr()
    assert "after 4 updates, 2 seeds" in printed.out
    assert "target -> achieved return over 2 seeds" in printed.err
    assert command(["train", "--resume", "--out", str(out)]) == 0
    assert "is finished: 4 of 4 updates done; --resume with --steps 8 (steps=) makes" in capsys.readouterr().err
    assert command(["train", "--resume", "--seeds", "1", "--out", str(out)]) == 2
    assert "cannot go on with 1" in capsys.readouterr().err
    runs = [str(out / "seed-1"), str(out / "seed-2")]
    assert command(["evaluate", *runs, "--episodes", "2", "--seed", "1000"]) == 0
    last = json.loads((out / "summary.json").read_text())["evaluations"][-1]
    form = decimals(last["return_mean"], last["return_std"])
    assert f"{last['return_mean']:{form}} ± {last['return_std']:{form}}" in capsys.readouterr().out
    assert command(["export", runs[1], str(tmp_path / "exported")]) == 0
    assert command(["train", "--resume", "--out", runs[0], "--steps", "6"]) == 0
    assert all((out / f"seed-{seed}" / "tensorboard").is_dir() for seed in (1, 2))


@pytest.mark.slow
def test_a_demo_experiment_keeps_the_episodes_in_each_run(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdt.run.train.load_episodes", lambda *_, **__: make_store())
    config = dataclasses.replace(CONFIG, steps=1, dataset="demo", env="none")
    out = jaxdt.train(config, seeds=SEEDS[:2], out=tmp_path / "out")
    for seed in SEEDS[:2]:
        assert jaxdt.load_episodes(out / f"seed-{seed}" / "episodes.npz").fingerprint == STORE.fingerprint
