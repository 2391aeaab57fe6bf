"""Several devices: the run is what it is on one, but for rounding; the devices here are parts of one CPU."""

import contextlib
import dataclasses
import functools
import re
import weakref
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt import BehaviorCloningConfig
from jaxdt.algorithms import make_algorithm
from jaxdt.algorithms.decision_transformer import with_sizes
from jaxdt.cli import run as command
from jaxdt.errors import JaxdtError, StoppedError
from jaxdt.evaluation.environments import make_environment
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.loggers import read_lines
from jaxdt.models import build_model
from jaxdt.parallel import choose_layout
from jaxdt.run import loop
from jaxdt.run.beforehand import check_beforehand
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.stopping import never
from jaxdt.stacking import stacked
from tests.children import everything_saved, pendulum_episodes
from tests.conftest import EVERY_DROPOUT, tiny_algorithm
from tests.runs import STORE
from tests.test_stopping import stop_at
from tests.toys import DRIFT_SPEC, Drift


pytestmark = pytest.mark.usefixtures("quick_plots")
ALGORITHM = tiny_algorithm(**EVERY_DROPOUT)
UPDATES = 5  # of a call
# For whole runs, a method that compiles in no time; it drops out too.
RUN = jaxdt.TrainConfig(
    steps=6,
    batch_size=8,
    env="none",
    log_every=2,
    updates_per_call=1,
    validation_fraction=0.3,
    algorithm=BehaviorCloningConfig(width=16, num_layers=1, context_length=3),
)


class Trained(NamedTuple):
    losses: np.ndarray
    windows: list[Any]
    state: Any
    batch: Any
    """On the devices."""
    collectives: set[str]
    """In the compiled program."""
    programs: int


@functools.cache
def twenty_updates(
    devices: int,
    *seeds: int,
    shard_parameters: bool = False,
    scan_layers: bool = False,
    num_layers: int = 1,
    backend: str = "cpu",
) -> Trained:
    """As the loop makes them, dropout on; `backend`: whose program, for a GPU's differs in several places."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax.default_backend", lambda: backend)
        return _twenty_updates(devices, seeds, shard_parameters, scan_layers, num_layers)


def _twenty_updates(
    devices: int, seeds: tuple[int, ...], shard_parameters: bool, scan_layers: bool, num_layers: int
) -> Trained:
    model = dataclasses.replace(ALGORITHM.model, scan_layers=scan_layers, num_layers=num_layers)
    algorithm = dataclasses.replace(ALGORITHM, model=model)
    layout = choose_layout(8, seeds=len(seeds), devices=devices, shard_parameters=shard_parameters)
    init, update = cast(Any, loop.compiled).__wrapped__(algorithm, DRIFT_SPEC, UPDATES, layout)  # not another backend's
    sampler = make_algorithm(algorithm, DRIFT_SPEC).sampler
    samplers = [sampler(STORE, batch_size=8, seed=seed) for seed in seeds]
    keys = [jax.random.split(jax.random.key(seed)) for seed in seeds]
    state, key = layout.place_state(
        (stacked([init(first) for first, _ in keys]), stacked([second for _, second in keys]))
    )
    batch, losses, windows = loop.next_batches(samplers, UPDATES, layout), [], []
    program = update.lower(state, batch, key).compile().as_text()
    for _ in range(20 // UPDATES):
        windows.append(jax.device_get(batch))
        state, metrics = update(state, batch, key)
        losses.append(np.asarray(metrics["loss"]))
        batch = loop.next_batches(samplers, UPDATES, layout)
    collectives = set(re.findall(r" (all-[a-z]+|collective-[a-z]+|reduce-scatter)[a-z-]*\(", program))
    return Trained(np.concatenate(losses, axis=-1), windows, state, batch, collectives, update._cache_size())


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_windows_and_losses_are_those_of_one_device(devices):
    ours, one = twenty_updates(devices, 0), twenty_updates(1, 0)
    jax.tree.map(np.testing.assert_array_equal, ours.windows, one.windows)
    assert len(np.unique(ours.losses)) == 20
    np.testing.assert_allclose(ours.losses, one.losses, rtol=1e-5)


@pytest.mark.parametrize("devices", [2, 4])
def test_each_device_has_its_share_of_a_batch_and_gradients_are_summed_over_all(devices):
    trained = twenty_updates(devices, 0)
    for leaf in trained.batch:
        shares = {shard.device: shard.data.shape for shard in leaf.addressable_shards}
        assert shares == dict.fromkeys(jax.devices()[:devices], (UPDATES, 8 // devices, *leaf.shape[2:]))
    assert trained.collectives == {"all-reduce"}
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(trained.state))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "seeds", "shard_parameters", "collectives"),
    [
        (1, (0, 1), False, set()),
        (2, (0,), False, {"all-reduce"}),
        (4, (0,), False, {"all-reduce"}),
        (2, (0, 1, 2), False, {"all-reduce"}),
        (2, (0, 1), False, set()),
        (2, (0,), True, None),
    ],
)
def test_the_program_of_a_gpu_trains_to_the_same_losses(monkeypatch, devices, seeds, shard_parameters, collectives):
    monkeypatch.setattr("jaxdt.parallel._SMALL", 64)
    ours = twenty_updates(devices, *seeds, shard_parameters=shard_parameters, backend="gpu")
    for place, seed in enumerate(seeds):
        alone = twenty_updates(1, seed)
        losses = ours.losses if len(seeds) == 1 else ours.losses[place]
        np.testing.assert_allclose(losses, alone.losses, rtol=1e-5)
    assert ours.programs == 1
    assert collectives is None or ours.collectives == collectives


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "seeds", "shard_parameters"),
    [(2, (0,), False), (2, (0,), True), (1, (0, 1), False), (2, (0, 1), False)],
)
def test_blocks_that_are_looped_over_train_to_the_same_losses(monkeypatch, devices, seeds, shard_parameters):
    monkeypatch.setattr("jaxdt.parallel._SMALL", 64)
    looped = twenty_updates(devices, *seeds, shard_parameters=shard_parameters, scan_layers=True, num_layers=3)
    one = twenty_updates(1, *seeds, num_layers=3)
    np.testing.assert_allclose(looped.losses, one.losses, rtol=1e-5)
    assert jax.tree.structure(looped.state) == jax.tree.structure(one.state)


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_state_that_is_split_trains_to_the_same_losses_and_takes_its_share_of_memory(monkeypatch, devices):
    monkeypatch.setattr("jaxdt.parallel._SMALL", 64)
    ours, one = twenty_updates(devices, 0, shard_parameters=True), twenty_updates(1, 0)
    jax.tree.map(np.testing.assert_array_equal, ours.windows, one.windows)
    np.testing.assert_allclose(ours.losses, one.losses, rtol=1e-5)
    assert ours.programs == 1
    assert "all-gather" in ours.collectives
    held = [0] * devices
    for leaf in jax.tree.leaves(ours.state):
        for place, shard in enumerate(leaf.addressable_shards):
            held[place] += shard.data.nbytes
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(ours.state))
    assert max(held) < 1.3 * whole / devices


def test_a_state_is_split_of_one_seed_and_on_several_devices():
    with pytest.raises(JaxdtError, match=r"off where several seeds .* got 2 seeds; leave shard_parameters= .* out, or"):
        choose_layout(8, seeds=2, devices=2, shard_parameters=True)
    with pytest.warns(UserWarning, match=r"shard_parameters= \(--shard-parameters\) does nothing on one device"):
        assert not choose_layout(8, shard_parameters=True).splits_state
    config = jaxdt.preset("bc", env="none", devices=1, shard_parameters=True)
    check_beforehand(config, None, seeds=1)  # where it would be said a second time


@pytest.mark.slow
def test_seeds_that_the_devices_divide_are_shared_out_and_never_speak():
    trained = twenty_updates(2, 0, 1)
    assert not trained.collectives
    for leaf in jax.tree.leaves((trained.state, trained.batch)):
        shares = {shard.device: shard.data.shape for shard in leaf.addressable_shards}
        assert shares == dict.fromkeys(jax.devices()[:2], (1, *leaf.shape[1:]))
    for seed in (0, 1):
        alone = twenty_updates(1, seed)
        windows = jax.tree.map(lambda leaf, seed=seed: leaf[seed], trained.windows)
        jax.tree.map(np.testing.assert_array_equal, windows, alone.windows)
        np.testing.assert_allclose(trained.losses[seed], alone.losses, rtol=1e-5)


@pytest.mark.parametrize(("devices", "seeds"), [(1, (0,)), (2, (0,)), pytest.param(2, (0, 1), marks=pytest.mark.slow)])
def test_the_second_call_compiles_nothing_anew(devices, seeds):
    assert twenty_updates(devices, *seeds).programs == 1


@pytest.fixture(scope="module")
def on_one(tmp_path_factory, quick_plots):
    """Never interrupted; tests only read it."""
    return jaxdt.train(RUN, STORE, out=tmp_path_factory.mktemp("devices") / "on-one")


def train_on(devices: int, out, *, seed=0, stopped_after=None, shard_parameters=False, **options):
    config = dataclasses.replace(RUN, devices=devices, seed=seed, shard_parameters=shard_parameters)
    with contextlib.nullcontext() if stopped_after is None else pytest.raises(StoppedError):
        stop = never if stopped_after is None else stop_at(stopped_after)
        jaxdt.train(config, STORE, out=out, resume=True, stop=stop, **options)


def is_close(out, whole):
    ours, wanted = ([line["loss"] for line in read_lines(run / "metrics.jsonl")] for run in (out, whole))
    np.testing.assert_allclose(ours, wanted, rtol=1e-4)
    saved = (everything_saved(run / "checkpoints") for run in (out, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *saved)


@pytest.mark.slow
@pytest.mark.parametrize("shard_parameters", [False, True])
def test_a_run_resumes_on_fewer_and_on_more_devices(on_one, tmp_path, monkeypatch, shard_parameters):
    monkeypatch.setattr("jaxdt.parallel._SMALL", 64)
    for devices in (4, 1 + shard_parameters):
        train_on(devices, tmp_path, stopped_after=2, shard_parameters=shard_parameters)
    train_on(2, tmp_path)
    record = read_record(RunDirectory(tmp_path))
    assert (record.config.devices, record.made_with["devices"]) == (2, 2)
    is_close(tmp_path, on_one)
    # Orbax notes of each array where it lay; a checkpoint is that of one device.
    ours, wanted = (run / "checkpoints" / "6" / "params" / "_sharding" for run in (tmp_path, on_one))
    assert ours.read_text() == wanted.read_text()


@pytest.mark.slow
def test_seeds_on_devices_of_their_own_resume_together_and_alone(on_one, tmp_path):
    train_on(2, tmp_path, seeds=(3, 0), stopped_after=2)
    train_on(2, tmp_path, stopped_after=2)
    train_on(1, tmp_path / "seed-0")
    is_close(tmp_path / "seed-0", on_one)


def test_the_command_trains_on_several_devices_and_plays_on_one(tmp_path, capsys, monkeypatch):
    """Else each would compute every action of every episode; and training has room for shares of the weights alone."""
    played_on, played, left, play, draw = [], [], [], Evaluator._play, loop.next_batches

    def watched(self, title, params, *rest):
        played_on.extend(leaf.devices() for leaf in jax.tree.leaves(params))
        played.extend(map(weakref.ref, jax.tree.leaves(params)))
        return play(self, title, params, *rest)

    def drawn(*arguments):
        left.append([leaf().shape for leaf in played if leaf() is not None])
        return draw(*arguments)

    monkeypatch.setattr(Evaluator, "_play", watched)
    monkeypatch.setattr(loop, "next_batches", drawn)
    monkeypatch.setattr("jaxdt.parallel._SMALL", 64)
    pendulum_episodes(tmp_path / "data.npz")
    flags = "--width 16 --num-layers 1 --context-length 4 --batch-size 8 --steps 2 --eval-every 1 --eval-episodes 1"
    flags += " --devices 2 --shard-parameters"
    out = tmp_path / "out"
    assert command(["train", "bc", "--dataset", str(tmp_path / "data.npz"), "--out", str(out), *flags.split()]) == 0
    printed = capsys.readouterr()
    assert "trains on 2 devices, each with 4 of the 8 windows of a batch" in printed.err
    assert re.search("each device holds 5[0-9]% of weights and optimiser's state", printed.err)
    assert re.search(r"trained on +2 x cpu", printed.out)
    assert [line["step"] for line in read_lines(out / "evaluations.jsonl")] == [1, 2]
    assert left == [[]] * 3
    assert played_on == [{jax.devices()[0]}] * len(played_on) != []


@pytest.mark.parametrize(
    ("episodes", "options", "used"),
    [
        (4, {}, 4),
        pytest.param(3, {}, 3, marks=pytest.mark.slow),
        (5, {}, 1),
        pytest.param(10, {"parallel": 4}, 2, marks=pytest.mark.slow),
        pytest.param(3, {"training_seeds": (8, 9)}, 3, marks=pytest.mark.slow),
    ],
)
def test_episodes_that_need_no_host_are_shared_out_and_are_what_they_are_on_one_device(
    monkeypatch, episodes, options, used
):
    policy, seeds = make_algorithm(ALGORITHM, DRIFT_SPEC).policy, options.get("training_seeds", (8,))
    init, _ = build_model(with_sizes(ALGORITHM.model, DRIFT_SPEC))
    params = stacked([jax.jit(init)(jax.random.key(seed)) for seed in seeds])
    played_on, play = [], Evaluator._play

    def watched(self, *arguments):
        played = play(self, *arguments)
        played_on.append({shard.device for shard in played.returns.addressable_shards})
        assert {shard.data.size for shard in played.returns.addressable_shards} == {
            len(played.returns) // len(played_on[-1])
        }
        return played

    monkeypatch.setattr(Evaluator, "_play", watched)

    def evaluate(devices):
        environment, chosen = make_environment(Drift()), jax.devices()[:devices]
        evaluator = Evaluator(policy, environment, record=True, devices=chosen, **options)
        return evaluator.run_episodes(params, [2.0], episodes, 7)

    ours = evaluate(4)
    assert played_on == [set(jax.devices()[:used])] * len(played_on) != []
    assert len(np.unique(ours.returns)) == episodes * len(seeds)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, evaluate(1))


@pytest.mark.parametrize(
    ("batch", "seeds", "there", "used", "splits_seeds"),
    [(64, 1, 4, 4, False), (64, 5, 4, 4, False), (63, 4, 4, 4, True), (63, 8, 4, 4, True), (1, 1, 1, 1, False)],
)
def test_all_accelerators_train_by_default(monkeypatch, batch, seeds, there, used, splits_seeds):
    monkeypatch.setattr("jaxdt.parallel._number_by_default", lambda number: there)
    layout = choose_layout(batch, seeds=seeds)
    assert (len(layout.devices), layout.splits_seeds) == (used, splits_seeds)


@pytest.mark.parametrize(("batch", "seeds", "used"), [(63, 1, 3), (62, 3, 3), (62, 1, 2), (61, 1, 1)])
def test_a_batch_that_they_do_not_divide_is_for_as_many_as_do(monkeypatch, batch, seeds, used):
    monkeypatch.setattr("jaxdt.parallel._number_by_default", lambda number: 4)
    says = f"{4 - used} of 4 devices will not train: a batch of {batch} .* multiple of 4 uses all"
    with pytest.warns(UserWarning, match=says):
        assert len(choose_layout(batch, seeds=seeds).devices) == used


def test_of_a_cpu_one_device_trains_by_default():
    assert choose_layout(64).devices == (jax.devices()[0],)


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        (3, r"must be a multiple of devices; got batch_size=8, 1 seed and devices=3; give devices=2 \(--devices 2\)"),
        (5, r"at most 4, as many as jax finds .*; got 5; lower devices= \(--devices\), or set JAX_NUM_CPU_DEVICES"),
    ],
)
def test_devices_that_cannot_be_leave_nothing_behind(tmp_path, devices, says):
    with pytest.raises(JaxdtError, match=says):
        jaxdt.train(dataclasses.replace(RUN, devices=devices), STORE, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())
