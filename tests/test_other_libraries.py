"""Examples of scripts/usage.md that need other libraries."""

import json
import re
import warnings
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdt
from tests.conftest import make_store, untrained_agent


PAGE = Path(__file__).parent.parent / "scripts" / "usage.md"


def example_with(word):
    [example] = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in code]
    return example


@pytest.mark.parity
def test_jobs_of_submitit_train_and_go_on(tmp_path, monkeypatch):
    import submitit

    make_store().save(tmp_path / "halfcheetah.npz")
    example = example_with("submitit")
    for whole, short in (
        ("for rate in (1e-4, 3e-4) for seed in (0, 1, 2)", "for rate in (1e-4,) for seed in (0, 1)"),
        ('"huggingface", ', '"demo", env="none", steps=2, eval_every=2, save_every=1, width=8, num_layers=1, '),
        (", cpus_per_task=8, gpus_per_node=1", ""),
    ):
        assert example.count(whole) == 1
        example = example.replace(whole, short)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submitit, "AutoExecutor", partial(submitit.AutoExecutor, cluster="local"))
    names = {"__name__": "__main__"}
    exec(example, names)
    assert names["runs"] == [Path(f"runs/sweep/0.0001-{seed}") for seed in (0, 1)]
    for seed, run in enumerate(names["runs"]):
        assert json.loads((run / "config.json").read_text())["config"]["seed"] == seed
    again = names["Training"]()
    assert again.checkpoint(0, 1e-4).function is again  # what SLURM submits again
    assert again(0, 1e-4) == names["runs"][0]  # and it finds the run finished


@pytest.mark.parity
def test_the_adapter_plays_brax():
    names = {"jaxdt": jaxdt, "agent": untrained_agent(4, 1)}
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        warnings.simplefilter("ignore")  # Brax's own code is freer than ours
        exec(example_with("brax"), names)
    [result] = names["results"]
    assert result.lengths.min() > 1  # it stands for a while
    assert result.lengths.max() < 1000  # and falls, since nothing was learned
    np.testing.assert_array_equal(result.returns, result.lengths)  # a step earns 1


@pytest.mark.parity
def test_the_adapter_plays_gymnax():
    names = {"jaxdt": jaxdt, "jax": jax, "agent": untrained_agent(4, discrete=2)}
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        exec(example_with("gymnax"), names)
    [result] = names["results"]
    assert 8 <= result.lengths.min() <= result.lengths.max() < 500  # a pole falls, since nothing was learned
    np.testing.assert_array_equal(result.returns, result.lengths)  # a step earns 1
    again = jaxdt.evaluate(names["agent"], names["GymnaxEnvironment"]("CartPole-v1"), targets=[500.0], episodes=4)
    np.testing.assert_array_equal(again[0].returns, result.returns)


@pytest.mark.parity
def test_raw_files_become_shards_by_duckdb(tmp_path, monkeypatch):
    """Two episodes a file, whose steps are in no order."""
    store, rng = make_store(), np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    vectors = [f"observation_{i}" for i in range(store.state_dim)] + [f"action_{i}" for i in range(store.action_dim)]
    for first in range(0, store.num_episodes, 2):
        lines = []
        for number in range(first, min(first + 2, store.num_episodes)):
            episode = store[number]
            for step, rewarded in enumerate(episode["rewards"]):
                numbers = *episode["observations"][step], *episode["actions"][step], rewarded
                ended = str(bool(episode["terminations"][step])).lower()
                lines.append(",".join([str(number), str(step), *(repr(float(x)) for x in numbers), ended]))
        rng.shuffle(lines)
        header = ",".join(["episode", "step", *vectors, "reward", "terminated"])
        (tmp_path / "raw" / f"{first:04d}.csv").write_text("\n".join([header, *lines]) + "\n")
    exec(example_with("duckdb").replace("200", "1"), {})
    assert len(list((tmp_path / "shards").iterdir())) > 1
    read = jaxdt.load_episodes("shards")
    assert read.fingerprint == store.fingerprint
    np.testing.assert_array_equal(read.offsets, store.offsets)
