"""The run that many tests train or read: one config and one set of episodes, so one compiled program."""

import jaxdt
from jaxdt.loggers import read_lines
from tests.conftest import make_store, tiny_algorithm


CONFIG = jaxdt.TrainConfig(
    steps=12,
    batch_size=8,
    targets=(1.0, 5.0),
    eval_every=6,
    eval_episodes=2,
    save_every=4,
    log_every=5,
    algorithm=tiny_algorithm(),
)
STORE = make_store()


def weights_of(path):
    return jaxdt.Agent.load(path).params


def without_clock(path):
    return [{k: v for k, v in line.items() if k not in ("updates_per_second", "seconds")} for line in read_lines(path)]
