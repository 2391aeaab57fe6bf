"""Mutants of valid files of every format: each loads as declared or is one clear error, whatever is in it.

Never a traceback of a library, a crash, more than 5 s of computing, more memory than the larger of 4 times the file
and 1 GiB, code run, or a file touched that nobody asked for. The plain suite tries a fifth of each target's count, the
slow tests all of it, and then twenty times as many from a seed that they print; JAXDT_FUZZ_SEED repeats one.
"""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from tests.fuzz_bombs import BOMBS
from tests.fuzz_targets import TARGETS, VALID, write_samples
from tests.fuzzing import Worker


LEAST, LEAST_IN_THE_PLAIN_SUITE = 2000, 500
FEWEST = 12
"""Of any target, so that some are refused."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    """Valid files; tests only read them."""
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder)
    return folder


@pytest.fixture(scope="module")
def worker(samples, tmp_path_factory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("home"), [(kind, samples / name) for kind, name in VALID])
    yield worker
    worker.close()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Beside what is loaded lies a pipe that nobody writes to: who follows a name out of the folder never returns."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def fuzz(name: str, count: int, worker: Worker, samples: Path, folder: Path, seed: int | None = None) -> None:
    """Loads `count` mutants; the first that fails stays in `folder`."""
    target, outcomes = TARGETS[name], []

    @hypothesis.settings(
        max_examples=count,
        derandomize=seed is None,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(target.mutations)
    def load(mutation):
        place = folder / "mutant"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        path = target.write(samples, place, mutation)
        outcome, why = worker.load(target.kind, path)
        outcomes.append(outcome)
        assert outcome != "failed", f"{path}: {why}"

    (load if seed is None else hypothesis.seed(seed)(load))()
    assert len(outcomes) >= count
    assert "refused" in outcomes


def plain_count(name: str) -> int:
    return max(FEWEST, TARGETS[name].count // 6)


@pytest.mark.parametrize("name", TARGETS)
def test_every_mutant_loads_as_declared_or_is_one_clear_error(name, worker, samples, folder):
    fuzz(name, plain_count(name), worker, samples, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_every_one_of_thousands_of_mutants_does(name, worker, samples, folder):
    fuzz(name, TARGETS[name].count, worker, samples, folder)


@pytest.mark.parametrize("name", BOMBS)
def test_what_was_made_to_harm_is_refused_unharmed(name, worker, samples, folder):
    kind, words, write = BOMBS[name]
    (folder / "mutant").mkdir()
    outcome, why = worker.load(kind, write(samples, folder / "mutant"))
    assert outcome == "refused", why
    assert words in why


def test_the_plain_suite_has_five_hundred_mutants_and_the_slow_tests_two_thousand():
    assert sum(map(plain_count, TARGETS)) >= LEAST_IN_THE_PLAIN_SUITE
    assert sum(target.count for target in TARGETS.values()) >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_twenty_times_as_many_from_another_seed(name, worker, samples, folder):
    seed = int(os.environ.get("JAXDT_FUZZ_SEED", random.randrange(2**32)))
    print(f"JAXDT_FUZZ_SEED={seed}")
    fuzz(name, 20 * TARGETS[name].count, worker, samples, folder, seed)
