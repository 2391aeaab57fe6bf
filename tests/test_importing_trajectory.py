"""Weights of the Trajectory Transformer that others have written."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxdt
from jaxdt import JaxdtError
from jaxdt.algorithms.trajectory_transformer import measure
from jaxdt.config import TrajectoryTransformerConfig
from jaxdt.interop.trajectory import ImportedTrajectory, read_edges, task_of
from jaxdt.run.importing import import_run
from jaxdt.run.importing_trajectory import _fitted
from tests.conftest import make_store
from tests.trajectory import BINS, CONFIG, EDGES, GOLDEN, ROW, ours


ACTIONS = CONFIG["action_dim"]
TENSORS = {name.removeprefix("param/"): values for name, values in GOLDEN.items() if name.startswith("param/")}
HUB = {".mlp.0.": ".l1.", ".mlp.2.": ".l2."}


def renamed(names: dict) -> dict:
    def new(name: str) -> str:
        for old, theirs in names.items():
            name = name.replace(old, theirs)
        return name

    return {new(name): values for name, values in TENSORS.items()}


@pytest.fixture
def source(tmp_path):
    """`source(tensors, name)`: a file of weights."""

    def write(tensors=TENSORS, name="state_48"):
        np.savez(tmp_path / "edges.npz", edges=EDGES)
        save_file(
            {key: np.ascontiguousarray(value) for key, value in tensors.items()}, tmp_path / f"{name}.safetensors"
        )
        return str(tmp_path / f"{name}.safetensors")

    return write


@pytest.mark.parametrize("names", [{}, HUB], ids=["the original's", "the hub's"])
def test_weights_by_their_names_are_ours_and_act(source, tmp_path, names):
    tensors = renamed(names) | {"blocks.0.attn.mask": np.ones((1, 1, 3, 3), np.float32)}
    options = {"env": "none", "discretizer": str(tmp_path / "edges.npz"), "action_dim": ACTIONS}
    run = import_run(source(tensors), tmp_path / "run", **options)
    agent = jaxdt.Agent.load(run, horizon=2, beam_width=3)
    jax.tree.map(np.testing.assert_array_equal, agent.params, ours("param"))
    assert (agent.config.bins, agent.config.transitions, agent.config.token_schedule) == (
        BINS,
        CONFIG["transitions"],
        False,
    )
    agent.reset()
    assert np.isfinite(agent.act(np.zeros(ROW - ACTIONS - 2))).all()


def test_edges_are_computed_by_the_authors_rules(source, tmp_path):
    store = make_store(lengths=(5, 8, 9), state_dim=ROW - ACTIONS - 2, action_dim=ACTIONS)
    store.terminations[4] = True
    store.truncations[4] = False
    store.save(tmp_path / "hopper_medium-v2.npz")
    options = {"env": "none", "dataset": str(tmp_path / "hopper_medium-v2.npz")}
    agent = jaxdt.Agent.load(import_run(source(), tmp_path / "run", **options))
    episodes = list(store)
    episodes[-1] = {name: values[:-1] for name, values in episodes[-1].items()}  # they drop the file's last row
    expected = measure(agent.config, jaxdt.EpisodeStore.from_episodes(episodes))["edges"]
    edges = agent.spec.constants["edges"]
    np.testing.assert_array_equal(edges, expected)
    # By hand: the reward where the environment ended an episode is -100, and the value before that -100 too.
    assert (edges[0, -2], edges[0, -1]) == (-100, -100)
    np.testing.assert_array_equal(edges[[0, -1], 0], store.observations[[0, 20], 0])  # row 21 is the last, left out
    assert (agent.config.horizon, agent.config.beam_width) == (15, 128)  # as the authors planned on that set


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({}, {"discretizer": "edges.npz", "dataset": "a.npz"}, "and not both"),
        ({}, {"discretizer": "edges.npz", "action_dim": 2, "num_heads": 0}, "num_heads must be at least 1; got 0"),
        ({}, {}, "has no edges of bins, and its weights mean nothing without"),
        ({}, {"discretizer": "edges.npz"}, f"of the {ROW} numbers of a transition it is not known how many"),
        (
            {},
            {"discretizer": "edges.npz", "env": "Pendulum-v1"},
            rf"of transitions of {ROW} numbers .* Pendulum-v1 has",
        ),
        ({}, {"discretizer": "none.npz", "action_dim": ACTIONS}, "must be an .npz with an array edges: "),
        (
            {},
            {"discretizer": "edges.npz", "targets": (1.0,)},
            "is a Trajectory Transformer, which takes none; leave ta",
        ),
        ({"blocks.0.ln1.weight": None}, {"discretizer": "edges.npz", "action_dim": 2}, "ln1.weight' is missing"),
        ({"blocks.0.more": 0}, {"discretizer": "edges.npz", "action_dim": 2}, "has the unknown tensor 'blocks.0.more'"),
        ({"blocks.0.attention.in_proj_weight": 0}, {"discretizer": "edges.npz"}, "was written by faster-trajectory"),
        ({"pos_emb": np.zeros((1, 7, 3))}, {"discretizer": "edges.npz", "action_dim": 2}, "must be whole transitions"),
    ],
)
def test_what_cannot_act_is_refused_before_anything_is_written(source, tmp_path, monkeypatch, changes, options, says):
    monkeypatch.chdir(tmp_path)
    tensors = {name: value for name, value in (TENSORS | changes).items() if value is not None}
    tensors = {name: np.atleast_1d(np.asarray(value, np.float32)) for name, value in tensors.items()}
    with pytest.raises(JaxdtError, match=says):
        import_run(source(tensors), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_other_weights_take_no_edges(tmp_path):
    save_file({"encoder.h.0.weight": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(JaxdtError, match="is no Trajectory Transformer, which alone takes one; leave action_dim=2 out"):
        import_run(str(tmp_path / "model.safetensors"), tmp_path / "run", action_dim=2)


def test_of_an_ants_111_numbers_the_first_27_are_seen():
    ant = make_store(lengths=(30, 20), state_dim=111, action_dim=8)
    imported = ImportedTrajectory(TrajectoryTransformerConfig(bins=5), {}, 27 + 8 + 2)
    seen = dataclasses.replace(ant, observations=ant.observations[:, :27])
    np.testing.assert_array_equal(_fitted(imported, ant, 27, 8), _fitted(imported, seen, 27, 8))


@pytest.mark.parametrize(
    ("source", "task"),
    [
        ("CarlCochet/trajectory-transformer-hopper-medium-v2", "hopper-medium"),
        ("logs/halfcheetah_medium_replay-v2/gpt/state_48.pt", "halfcheetah-medium-replay"),
        ("elephant-medium-v2/state_48.pt", None),
        ("ant-runs-v2/state_48.pt", None),
    ],
)
def test_the_task_of_weights_is_known_by_d4rls_names_alone(source, task):
    assert task_of(source) == task


@pytest.mark.slow
def test_a_file_of_edges_that_would_take_far_more_memory_than_it_has_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "edges.npz", edges=np.zeros((40_000_000, 2), np.float64))
    with pytest.raises(JaxdtError, match="would take 610 MiB or more, far more than a file of"):
        read_edges(tmp_path / "edges.npz")
