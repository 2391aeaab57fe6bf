"""Mapped episodes where size, time and other processes matter."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest

from jaxdt import EpisodeStore, TrainConfig, WindowSampler, load_episodes, train
from jaxdt.cli import run
from jaxdt.data.writing import write_episodes
from jaxdt.loggers import read_lines
from jaxdt.run.directory import RunDirectory, read_record
from tests.conftest import make_store, tiny_algorithm
from tests.test_arrow import write_parquet
from tests.test_mapped import cache as cache


LOAD = "import sys, jaxdt; s = jaxdt.load_episodes(sys.argv[1], map_above=0.0); print(s.fingerprint, s.mapped_in)"


def test_processes_that_start_at_once_share_one_entry(tmp_path, cache):
    write_episodes(make_store((1000,) * 40), tmp_path / "a.npz")
    commands = [[sys.executable, "-c", LOAD, str(tmp_path / "a.npz")]] * 3
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    printed = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(printed) == 1
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def many_steps(path: Path, steps: int, observation_dim: int = 17, action_dim: int = 6) -> Path:
    """A parquet file of episodes of 1000 steps."""
    rng = np.random.default_rng(0)
    ends = pa.array(np.arange(0, steps + 1, 1000, dtype=np.int32))

    def nested(width: int) -> pa.Array:
        inner_ends = pa.array(np.arange(0, steps * width + 1, width, dtype=np.int32))
        numbers = pa.array(rng.random(steps * width, np.float32))
        return pa.ListArray.from_arrays(ends, pa.ListArray.from_arrays(inner_ends, numbers))

    rewards = pa.ListArray.from_arrays(ends, pa.array(rng.standard_normal(steps, dtype=np.float32)))
    columns = {"observations": nested(observation_dim), "actions": nested(action_dim), "rewards": rewards}
    return write_parquet(path, options={"row_group_size": 64}, dones=None, **columns)


MEASURE = """
import json, re, sys
from pathlib import Path
import h5py, pyarrow.compute, pyarrow.parquet
import jaxdt
def peak():  # of this process alone: getrusage's goes on from the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
store = jaxdt.load_episodes(sys.argv[1], map_above=float(sys.argv[2]))
size, loaded = store.observations.nbytes + store.actions.nbytes, peak() - before
store.statistics, store.fingerprint, jaxdt.WindowSampler(store).batch(0)
print(json.dumps([size / 2**20, loaded / 2**20, (peak() - before) / 2**20]))
"""


def measured(path: Path, limit: float) -> tuple[float, float, float]:
    """MiB of the large arrays, of the most that loading took, and of the most until there is a batch."""
    command = [sys.executable, "-c", MEASURE, str(path), str(limit)]
    size, loaded, used = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{path.suffix or 'files'}, {size:.0f} MiB: loading {loaded:.0f}, then {used:.0f} MiB")
    return size, loaded, used


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's peak memory there")


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("kind", [".parquet", ".hdf5", ".npz"])
def test_unpacking_takes_much_less_memory_than_the_episodes_would(tmp_path, kind):
    path = many_steps(tmp_path / "a.parquet", 4_000_000)
    if kind != ".parquet":
        store = load_episodes(path)
        path = tmp_path / f"a{kind}"
        arrays = {name: getattr(store, name) for name in ("observations", "actions", "rewards")}
        if kind == ".npz":
            np.savez(path, **arrays, episode_ends=store.offsets[1:])
        else:
            with h5py.File(path, "w") as file:
                flags = {"terminals": store.terminations, "timeouts": store.truncations}
                for name, values in {**arrays, **flags}.items():
                    file.create_dataset(name, data=values)
        del store, arrays
    size, loaded, used = measured(path, 0.0)
    assert 350 < size < 352
    assert loaded < 0.6 * size  # 100 MiB of it are pyarrow's own, whatever the size
    assert used < 0.9 * size  # rewards and returns-to-go lie in memory, and what they are made of for a moment
    assert measured(path, 1e9)[1] > size  # less would be a measurement that does not measure


@pytest.mark.slow
def test_a_load_that_the_system_killed_goes_on_after_its_last_whole_shard(tmp_path, cache):
    file = many_steps(tmp_path / "a.parquet", 200_000)
    (tmp_path / "shards").mkdir()
    for number in range(12):
        os.link(file, tmp_path / "shards" / f"{number:02d}.parquet")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "shards")]
    seen: set[str] = set()
    for enough in (2, 8):
        running = subprocess.Popen(command)
        while running.poll() is None and len(lines := journal_lines(cache)) < enough:
            time.sleep(0.01)
        running.kill()
        running.wait()
        assert seen <= set(lines)  # none was read again
        seen = set(lines)
    assert 8 <= len(seen) < 12
    store = load_episodes(tmp_path / "shards", map_above=0.0)
    assert store.fingerprint == load_episodes(tmp_path / "shards", map_above=1e9).fingerprint


def journal_lines(cache: Path) -> list[str]:
    """What is said of each shard that is whole."""
    return [line for path in cache.glob(".*.tmp/shards.jsonl") for line in path.read_text().splitlines()]


def mapped_steps(path: Path, steps: int) -> EpisodeStore:
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.standard_normal((steps, 17), np.float32),
        "actions": rng.random((steps, 6), np.float32),
    }
    np.savez(path, **arrays, rewards=np.ones(steps, np.float32), episode_ends=np.arange(1000, steps + 1, 1000))
    store = load_episodes(path, map_above=0.0)
    path.unlink()
    assert store.mapped_in is not None
    return store


def microseconds_a_batch(stores: list[EpisodeStore]) -> np.ndarray:
    """Of each store, the median."""
    samplers = [WindowSampler(store, 20, 64) for store in stores]
    for store in stores:  # every page is in the system's cache, and known to this process
        float(store.observations.sum()), float(store.actions.sum()), float(store.returns_to_go.sum())
    seconds = np.empty((2, 3000))
    for i in range(3000):  # side by side, so that other processes slow both
        for sampler, times in zip(samplers, seconds, strict=True):
            start = time.perf_counter()
            sampler.batch(i)
            times[i] = time.perf_counter() - start
    return 1e6 * np.median(seconds[:, 500:], axis=1)


@pytest.mark.slow
def test_a_batch_of_ten_million_mapped_steps_takes_at_most_twice_the_time_of_one_of_a_million(tmp_path):
    stores = [mapped_steps(tmp_path / f"{steps}.npz", steps) for steps in (1_000_000, 10_000_000)]
    medians = microseconds_a_batch(stores)
    print("microseconds a batch of 1 and 10 million steps:", *medians.round(1))
    assert medians[1] < 2 * medians[0]


def test_info_says_that_and_where_episodes_are_mapped(tmp_path, capsys, cache):
    path = tmp_path / "a.npz"
    write_episodes(make_store(), path)
    assert run(["info", str(path)]) == 0
    assert "mapped" not in capsys.readouterr().out
    assert run(["info", str(path), "--map-above", "0"]) == 0
    (entry,) = (child for child in cache.iterdir() if child.is_dir())
    assert f"{entry} (delete it to have that room back)" in capsys.readouterr().out
    assert run(["convert", str(path), str(tmp_path / "b.parquet"), "--map-above", "0"]) == 0
    assert "mapped from" in capsys.readouterr().out
    assert load_episodes(tmp_path / "b.parquet").fingerprint == make_store().fingerprint


@pytest.mark.slow
def test_a_run_on_mapped_episodes_is_the_run_on_those_in_memory(tmp_path):
    path = tmp_path / "a.npz"
    write_episodes(make_store(), path)
    algorithm = tiny_algorithm()
    config = TrainConfig(dataset=str(path), env="none", steps=4, batch_size=8, updates_per_call=2, algorithm=algorithm)
    kept = train(config, out=tmp_path / "kept")
    mapped = train(dataclasses.replace(config, map_above=0.0), out=tmp_path / "mapped")
    assert read_lines(mapped / "metrics.jsonl")[-1]["loss"] == read_lines(kept / "metrics.jsonl")[-1]["loss"]
    assert read_record(RunDirectory(mapped)).data == read_record(RunDirectory(kept)).data
    train(dataclasses.replace(config, steps=6), out=tmp_path / "mapped", resume=True)  # where they lie may change


@pytest.mark.slow
@needs_proc
def test_a_hundred_million_steps_in_a_hundred_shards_take_the_memory_of_one_shard(tmp_path):
    """On disk they are one file of a million steps, by a hundred names, and 2.7 GB of what is unpacked."""
    file = many_steps(tmp_path / "a.parquet", 1_000_000, observation_dim=3, action_dim=1)
    used = {}
    for count in (1, 100):
        (tmp_path / str(count)).mkdir()
        for number in range(count):
            os.link(file, tmp_path / str(count) / f"{number:03d}.parquet")
        for start in ("first", "second"):
            began = time.perf_counter()
            size, _, used[count, start] = measured(tmp_path / str(count), 0.0)
            print(f"the {start} start took {time.perf_counter() - began:.1f} s")
            assert size == count * 16e6 / 2**20
    assert used[100, "first"] < used[1, "first"] + 100  # in memory they would take 2,000 more
    assert used[100, "second"] < used[1, "second"] + 100
    stores = [load_episodes(tmp_path / str(count), map_above=0.0) for count in (1, 100)]
    medians = microseconds_a_batch(stores)
    print("microseconds a batch of 1 and 100 million steps:", *medians.round(1))
    assert medians[1] < 2 * medians[0]
