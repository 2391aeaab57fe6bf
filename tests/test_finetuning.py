"""Online fine-tuning: explore, remember, update, and exactly so after every interruption."""

import itertools

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt import FinetuneConfig
from jaxdt.checkpoint import find_checkpoint
from jaxdt.errors import StoppedError
from tests.children import everything_saved
from tests.runs import without_clock
from tests.toys import Buttons, button_episodes


pytestmark = [
    pytest.mark.usefixtures("quick_plots"),
    pytest.mark.filterwarnings("ignore:observations .* are constant"),
]
STORE = button_episodes()
OFFLINE = jaxdt.TrainConfig(
    steps=6,
    batch_size=8,
    targets=(1.0, 4.0),
    eval_episodes=2,
    algorithm=jaxdt.RvSConfig(width=8, num_layers=1, optimizer=jaxdt.OptimizerConfig(schedule="linear")),
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
    for path in sorted((whole / "replay").iterdir()):
        assert (out / "replay" / path.name).read_bytes() == path.read_bytes()
    assert len(list((out / "replay").iterdir())) == ROUNDS
    assert find_checkpoint(out / "checkpoints", "best") == find_checkpoint(whole / "checkpoints", "best")


def test_a_run_stopped_again_and_again_ends_as_what_it_would_have_been(trained, whole, tmp_path):
    out = tmp_path / "stopped"
    for asked in (1, 15, 18):
        calls = itertools.count(1)
        with pytest.raises(StoppedError, match=f"rounds finished; go on with jaxdt finetune --resume --out {out}"):
            jaxdt.finetune(
                trained,
                ONLINE,
                STORE,
                out=out,
                env=Buttons(),
                resume=True,
                stop=lambda calls=calls, asked=asked: 15 if next(calls) >= asked else None,
            )
    jaxdt.finetune(None, None, STORE, out=out, env=Buttons(), resume=True)
    is_as(out, whole)
