"""`kill -9` while a run is fine-tuned, `--resume`, and the run is what it would have been: nothing explored is lost."""

import random
import time
from pathlib import Path

import numpy as np
import pytest

import jaxdt
from jaxdt.loggers import read_lines
from tests.children import start
from tests.test_killing import Trained, _is_saving, _modified, is_what_it_would_have_been, kill


ROUNDS, UPDATES = 6, 11
FLAGS = (
    f"--rounds {ROUNDS} --updates-per-round {UPDATES} --episodes-per-round 2 --replay-capacity 9 --evaluate-every 3 "
    "--save-every 2 --learning-rate 1e-3"
).split()
PHASES = ("compile", "explore", "updates", "evaluation", "save")


class Finetuned(Trained):
    """One directory that is fine-tuned, and the processes that do it one after the other."""

    def start(self, *, cached: bool = True):
        self.begun = _modified(self.run.config)
        arguments = ["finetune", str(self.shared / "run"), *FLAGS, "--out", str(self.run.path), "--resume"]
        with open(f"{self.run.path}.log", "a") as log:
            cache = self.shared / "cache" if cached else None
            return start(["-m", "jaxdt", *arguments], cache, stdout=log, stderr=log)

    def phase(self) -> str:
        config, metrics = _modified(self.run.config), _modified(self.run.metrics)
        explored = len(list(self.run.replay.glob("round-*.npz")))
        if config == self.begun:
            return "start"
        if _is_saving(self.run.checkpoints):
            return "save"
        lines = [line["round"] for line in read_lines(self.run.metrics)][-1:]
        evaluated = {line["round"] for line in read_lines(self.run.evaluations)}
        if not explored:
            return "evaluation" if not evaluated else "compile"
        if metrics <= config or not lines:  # the first line may be half written
            return "compile"
        if lines[0] % 3 == 0 and lines[0] not in evaluated:
            return "evaluation"
        return "updates" if explored > lines[0] else "explore"


def is_complete(finetuned: Finetuned, whole: Finetuned) -> None:
    is_what_it_would_have_been(finetuned, whole)
    assert jaxdt.load_episodes(whole.run.replay).env_kwargs == {"max_episode_steps": 20}  # as the run was evaluated
    names = sorted(path.name for path in whole.run.replay.iterdir())
    assert names == [f"round-{number:06}.npz" for number in range(1, ROUNDS + 1)]
    assert sorted(path.name for path in finetuned.run.replay.iterdir()) == names
    for name in names:
        assert (finetuned.run.replay / name).read_bytes() == (whole.run.replay / name).read_bytes()


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A run to start from, of random actions in CartPole."""
    path = tmp_path_factory.mktemp("killing-finetuning")
    rng = np.random.default_rng(0)
    ends = 20 * np.arange(1, 13)
    observations, actions = rng.normal(size=(240, 4)).astype(np.float32), rng.integers(0, 2, 240)
    data = jaxdt.EpisodeStore.from_arrays(observations, actions, np.ones(240), episode_ends=ends, env_id="CartPole-v1")
    data.save(path / "data.npz")
    config = jaxdt.TrainConfig(
        steps=2,
        batch_size=8,
        dataset=str(path / "data.npz"),
        targets=(20.0,),
        eval_episodes=2,
        max_episode_steps=20,
        algorithm=jaxdt.RvSConfig(width=8, num_layers=1),
    )
    jaxdt.train(config, out=path / "run")
    return path


@pytest.fixture(scope="module")
def whole(shared) -> Finetuned:
    """What nothing disturbs; it also fills the cache of compiled programs."""
    finetuned = Finetuned(shared, shared / "whole")
    finetuned.finish()
    assert [line["round"] for line in read_lines(finetuned.run.metrics)] == list(range(1, ROUNDS + 1))
    return finetuned


@pytest.mark.slow
def test_a_fine_tuning_killed_twice_ends_as_the_one_that_was_not(shared, whole):
    finetuned, chance = Finetuned(shared, shared / "killed"), random.Random(0)
    found = [kill(finetuned, phase, chance, 0.003) for phase in ("updates", "save")]
    finetuned.finish()
    assert found == ["updates", "save"]
    is_complete(finetuned, whole)


@pytest.mark.slow
def test_ten_kills_at_random_moments_lose_nothing(shared, whole):
    seed, began = 1, time.monotonic()
    chance = random.Random(seed)
    wanted: list[str | None] = [*PHASES, None, None, "updates", "explore", "save"]
    chance.shuffle(wanted)
    found: list[str] = []
    runs = [Finetuned(shared, shared / "killed-often-0")]
    while len(found) < 10:
        phase = wanted.pop() if wanted else None
        killed_in = kill(runs[-1], phase, chance, {None: 6.0}.get(phase, 0.02))
        if killed_in is None:  # it had ended: the next kills are another run's
            is_complete(runs[-1], whole)
            runs.append(Finetuned(shared, shared / f"killed-often-{len(runs)}"))
        else:
            found.append(killed_in)
    runs[-1].finish()
    print(f"{len(found)} kills, seed {seed}, {time.monotonic() - began:.0f} s, {len(runs)} runs: {found}")
    is_complete(runs[-1], whole)
