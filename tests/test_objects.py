"""Episodes that a program has: the same ones in every form that people keep them in."""

import json

import datasets
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import jaxdt
from jaxdt.progress import Progress
from tests.conftest import make_store


STORE = make_store((2, 4), state_dim=2)


def episode_dicts(**changes) -> list[dict]:
    """STORE as a list of dicts; a change replaces a field of every episode, None leaves it out."""
    rows = [slice(*pair) for pair in zip(STORE.offsets[:-1], STORE.offsets[1:], strict=True)]
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    found = [{name: getattr(STORE, name)[row] for name in names} | changes for row in rows]
    return [{name: value for name, value in episode.items() if value is not None} for episode in found]


def flat(**changes) -> dict:
    arrays = {"observations": STORE.observations, "actions": STORE.actions, "rewards": STORE.rewards}
    arrays |= {"episode": np.repeat([7, 3], STORE.lengths)} | changes
    return {name: value for name, value in arrays.items() if value is not None}


def wide() -> pd.DataFrame:
    """A step a row and a number a cell."""
    columns = {f"obs_{i}": STORE.observations[:, i] for i in range(2)}
    columns |= {f"action_{i + 1}": STORE.actions[:, i] for i in range(2)}
    return pd.DataFrame(columns | {"reward": STORE.rewards, "episode_id": np.repeat(["b", "a"], STORE.lengths)})


def nested(rows: list[dict]) -> list[dict]:
    return [{name: np.asarray(value).tolist() for name, value in row.items()} for row in rows]


class OfPolars:
    """What polars' frames are asked for."""

    def to_arrow(self):
        return pa.Table.from_pylist(nested(episode_dicts()))


def steps() -> list[dict]:
    return [{name: values[i] for name, values in flat().items()} for i in range(STORE.num_steps)]


FORMS = {
    "a store": lambda: STORE,
    "a list of dicts": episode_dicts,
    "a tuple of dicts": lambda: tuple(episode_dicts()),
    "a last observation more": lambda: [
        episode | {"observations": np.vstack([episode["observations"], [[9, 9]]])} for episode in episode_dicts()
    ],
    "a flag an episode": lambda: episode_dicts(terminations=None, truncations=None, terminated=False),
    "rewards in a column": lambda: [episode | {"rewards": episode["rewards"][:, None]} for episode in episode_dicts()],
    "a dict of flat arrays": flat,
    "a dict of lists": lambda: {name: np.asarray(values).tolist() for name, values in flat().items()},
    "a dict with ends": lambda: flat(episode=None, episode_ends=[2, 6]),
    "a dict of lists of episodes": lambda: {
        name: [episode[name] for episode in episode_dicts()] for name in ("observations", "actions", "rewards")
    },
    "a list of steps": steps,
    "pandas, a step a row": lambda: pd.DataFrame(steps()),
    "pandas, a number a cell": wide,
    "pandas, an episode a row": lambda: pd.DataFrame(episode_dicts()),
    "pyarrow, an episode a row": lambda: pa.Table.from_pylist(nested(episode_dicts())),
    "polars": OfPolars,
    "datasets": lambda: datasets.Dataset.from_list(nested(episode_dicts())),
    "datasets, chosen rows": lambda: datasets.Dataset.from_list(nested(episode_dicts() * 2)).select([2, 1]),
    "datasets, splits": lambda: datasets.DatasetDict(train=datasets.Dataset.from_list(nested(episode_dicts()))),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_the_same_episodes_in_any_form_are_the_same_store(form):
    assert jaxdt.load_episodes(form()).fingerprint == STORE.fingerprint


def test_the_parts_of_a_dict_follow_one_another_by_name_as_gymnasium_flattens_them():
    from gymnasium import spaces

    parts = {"b": np.arange(6.0).reshape(6, 1), "a": np.arange(12.0).reshape(6, 2) + 10}
    store = jaxdt.load_episodes(flat(observations=parts))
    space = spaces.Dict({name: spaces.Box(-99, 99, (parts[name].shape[1],)) for name in parts})
    assert store.observations[1].tolist() == spaces.flatten(space, {name: parts[name][1] for name in parts}).tolist()
    as_steps = [{**step, "observations": {name: parts[name][i] for name in parts}} for i, step in enumerate(steps())]
    assert jaxdt.load_episodes(as_steps).fingerprint == store.fingerprint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "an object of type int is no dataset; give a list of dicts, one an episode"),
        (None, "an object of type NoneType is no dataset; give a list of dicts"),
        ([], "an empty list is no dataset; "),
        (["a.npz", "b.npz"], "a list of str is no dataset; "),
        (np.zeros(3), "an object of type numpy.ndarray is no dataset; "),
        (b"a.npz", "an object of type bytes is no dataset; "),
        ({}, "the episodes has no observations; it has nothing ("),
        ([{"observations": [[1]], "actions": [[1.0]]}], "the first has no rewards; it has observations, actions ("),
        (episode_dicts(actions=np.zeros((3, 2))), "actions of episode 0 has 3 steps but observations has 2"),
        (episode_dicts(terminations=[0, 2]), "terminations of episode 0 must be true or false at every step"),
        (episode_dicts(terminations=[True]), "terminations of episode 0 has 1 steps but observations has 2"),
        ([{"observations": None, "actions": [1], "rewards": [1]}], "the first has None for observations; give"),
        ([episode_dicts()[0], episode_dicts()[1] | {"truncations": None}], "episode 1 has None for trunc"),
        ([{"observations": [[1]], "actions": [1], "rewards": None}], "the first has None for rewards; give an array"),
        (episode_dicts(observations=3.0), "episode 0: observations must have a row a step; got a single float64 ("),
        (flat(actions=3.0), "the episodes: actions must have a row a step; got a single value ("),
        (FORMS["a dict of lists of episodes"]() | {"actions": 3}, "actions must have a row a step; got a single value"),
        (flat(observations={"a": None}), "the episodes: observations has parts of different lengths"),
        (flat(episode=None, episode_ends=np.array(None)), "episode_ends must have a row a step; got a single value"),
        (flat(done=[0, 0, 0], episode=[1, 1, 1, 2, 2, 2]), "done has 3 steps but observations has 6"),
        (flat(done=np.zeros(6), episode=[1] * 7), "the last of episode_ends must be the number of steps, 6; got 7"),
        ([{"observations": [], "actions": [], "rewards": [1], "done": []}], "episode 0 has no steps; leave it out."),
        (episode_dicts(rewards=np.zeros(0)), "episode 0 has no steps; leave it out."),
        (episode_dicts(observations=[[1], [1, 2]]), "episode 0, observations must be one array; got rows of different"),
        (flat(episode=None), "the episodes: nothing says where episodes end; "),
        (flat(episode=[1, 1, 2, 2, 1, 1]), "the steps of episode 1 do not lie together; sort the rows."),
        (pd.DataFrame({"a": [1]}), "the column 'observations' is missing; it has a. Rename "),
        (pa.Table.from_pylist([*nested(steps())[:2], {"rewards": 1.0}]), "observations of row 2 has a null"),
        (wide().drop(columns="obs_0").rename(columns={"obs_1": "obs_7"}), "a column of obs is missing; it has [7]"),
        (wide().assign(reward=[1, None, 1, 1, 1, 1]), "reward of row 1 is empty; "),
    ],
)  # fmt: skip
def test_what_is_no_dataset_is_one_sentence(data, message):
    with pytest.raises(jaxdt.JaxdtError) as caught:
        jaxdt.load_episodes(data)
    assert message in str(caught.value)


def test_a_config_takes_a_path_and_refuses_episodes_in_its_place(tmp_path):
    assert jaxdt.TrainConfig(dataset=tmp_path / "a.npz").dataset == str(tmp_path / "a.npz")
    with pytest.raises(jaxdt.JaxdtError, match=r"dataset must be str or None; got \[\] .episodes themselves are"):
        jaxdt.TrainConfig(dataset=[])


def test_a_list_of_dicts_trains(tmp_path):
    from jaxdt.run.train import with_store

    config = jaxdt.TrainConfig()
    assert with_store(config, episode_dicts(), Progress())[1].fingerprint == STORE.fingerprint
    STORE.save(tmp_path / "a.npz")
    named, store = with_store(config, tmp_path / "a.npz", Progress())
    assert (named.dataset, store.fingerprint) == (str(tmp_path / "a.npz"), STORE.fingerprint)


def write_npz(path):
    with path.open("wb") as file:
        np.savez(file, **flat())


def write_csv(path, frame=None):
    (wide() if frame is None else frame).to_csv(path)


FILES = {
    "a.csv": write_csv,
    "a.CSV": write_csv,
    "steps.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, nested(steps())))),
    "episodes.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, nested(episode_dicts())))),
    "steps.parquet": lambda path: pd.DataFrame(nested(steps())).to_parquet(path),
    "wide.parquet": lambda path: wide().to_parquet(path),
    "a.NPZ": lambda path: write_npz(path),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_steps_and_of_text_hold_the_same_episodes(tmp_path, name):
    FILES[name](tmp_path / name)
    loaded = jaxdt.load_episodes(tmp_path / name)
    assert loaded.lengths.tolist() == [2, 4]
    np.testing.assert_allclose(loaded.observations, STORE.observations, rtol=1e-6)
    np.testing.assert_allclose(loaded.rewards, STORE.rewards, rtol=1e-6)
    assert jaxdt.load_episodes(tmp_path / name, map_above=0.0).fingerprint == loaded.fingerprint


@pytest.mark.parametrize("ending", [".h5", ".hdf", ".HDF5", ".H5"])
def test_hdf5_has_many_endings(tmp_path, ending):
    with h5py.File(tmp_path / f"a{ending}", "w") as file:
        for column, values in flat(episode=None, timeouts=STORE.truncations).items():
            file[column] = values
    assert jaxdt.load_episodes(tmp_path / f"a{ending}").fingerprint == STORE.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "cannot be read as a CSV file: "),
        ("a.csv", b"obs_0,action,reward,episode\n", "has no rows; a dataset needs at least one step."),
        ("a.csv", b"obs_0,action,reward,done\n1,0.5,,0\n2,0.5,1,1\n", "reward of row 0 is empty; "),
        ("a.csv", b"obs_0,action,reward,done\nx,0.5,1,0\n", "observations must be numbers; got dtype object."),
        ("a.csv", b"obs_0,action,reward,done\n1,0.5,1,maybe\n", "done must be true or false at every step"),
        (
            "a.csv",
            b"obs_0,obs_0,obs_1,action,reward,done\n1,1,2,0.5,1,1\n",
            "the column 'obs_0' is there more than once; give it once.",
        ),
        ("a.jsonl", b"{", "cannot be read as JSON lines: "),
        ("a.jsonl", b'{"rewards": ' + b"[" * 10**5, "nests lists or objects more than 16 deep; "),
        ("a.jsonl", b'{"rewards": 1}', "the column 'observations' is missing; it has rewards"),
        ("a.jsonl", b'{"rewards": [1]}', "the column 'observations' is missing; it has rewards"),
    ],
)
def test_text_that_is_no_dataset_is_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(jaxdt.JaxdtError) as caught:
        jaxdt.load_episodes(tmp_path / name)
    assert str(tmp_path) in str(caught.value)
    assert message in str(caught.value)


def test_a_directory_of_files_of_one_kind_is_joined_without_those_of_macos(tmp_path):
    for number in (0, 1):
        STORE.save(tmp_path / f"{number}.npz")
    (tmp_path / "notes.txt").touch()
    assert jaxdt.load_episodes(tmp_path).lengths.tolist() == [2, 4, 2, 4]
    (tmp_path / "._0.npz").write_bytes(b"macOS")
    with pytest.warns(UserWarning, match=r"files whose names begin with \._ are macOS's own and left out"):
        assert jaxdt.load_episodes(tmp_path).num_episodes == 4
    write_csv(tmp_path / "a.csv")
    (tmp_path / "._0.npz").unlink()
    with pytest.raises(
        jaxdt.JaxdtError, match=r"holds files of several kinds, \.csv, \.npz; give one of them, or join"
    ):
        jaxdt.load_episodes(tmp_path)


def test_streamed_rows_are_not_here_yet():
    stream = datasets.Dataset.from_dict({"observations": [[0.0]], "actions": [[0.0]], "rewards": [0.0]})
    with pytest.raises(jaxdt.JaxdtError, match=r"are streamed, .* load the dataset without streaming=True, or name it"):
        jaxdt.load_episodes(stream.to_iterable_dataset())
