"""Where episodes end, by whatever name that is said, in every format."""

import contextlib
import json
import pickle
import warnings

import datasets
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

import jaxdt
from jaxdt import JaxdtError
from jaxdt.data import fields
from tests.conftest import make_store


STORE = make_store((2, 3))
LAST = np.array([False, True, False, False, True])
FELL = np.array([False, True, False, False, False])
CUT = LAST & ~FELL

SAID = {
    "gymnasium": {"terminations": FELL, "truncations": CUT},
    "gymnasium's step": {"terminated": FELL, "truncated": CUT},
    "d4rl": {"terminals": FELL, "timeouts": CUT},
    "one of each": {"terminated": FELL, "timeout": CUT},
    "done and timeout": {"done": LAST, "timeout": CUT},
    "singular": {"terminal": FELL, "truncation": CUT},
    "singular and a last step": {"termination": FELL, "is_last": LAST},
    "rlds": {"is_terminal": FELL, "is_last": LAST},
    "d3rlpy 1": {"terminals": FELL, "episode_terminals": LAST},
    "gym's done and its time limit": {"dones": LAST, "timeouts": CUT},
    "done and terminals": {"done": LAST, "terminals": FELL},
    "columns": {"terminals": FELL[:, None], "timeouts": CUT[:, None].astype(np.uint8)},
    "numbers of episodes": {"terminals": FELL, "episode_id": np.array([4, 4, 9, 9, 9])},
    "ends": {"terminals": FELL, "episode_ends": np.array([2, 5])},
}


def arrays(said: dict) -> dict:
    # Rewards in a column, as some of these tools write them.
    return {"observations": STORE.observations, "actions": STORE.actions, "rewards": STORE.rewards[:, None], **said}


def write_hdf5(path, values) -> None:
    with h5py.File(path, "w") as file:
        for name, each in values.items():
            file[name] = each


def write_npz(path, values) -> None:
    np.savez(path, **values)


@pytest.mark.parametrize("said", [said for said in SAID.values() if "episode_ends" not in said])
def test_every_name_of_an_end_means_the_same_in_a_table_of_steps(said):
    values = arrays(said) | {"rewards": STORE.rewards}
    table = pa.Table.from_pydict({name: np.asarray(each).tolist() for name, each in values.items()})
    store = jaxdt.load_episodes(table)
    assert store.terminations.tolist() == FELL.tolist()
    assert store.truncations.tolist() == CUT.tolist()


@pytest.mark.parametrize("said", SAID.values(), ids=SAID.keys())
@pytest.mark.parametrize("write", [write_hdf5, write_npz, lambda path, values: None], ids=["hdf5", "npz", "dict"])
def test_every_name_of_an_end_means_the_same_in_flat_arrays(tmp_path, write, said):
    path = tmp_path / ("a.hdf5" if write is write_hdf5 else "a.npz")
    write(path, arrays(said))
    data = path if path.exists() else arrays(said)
    for map_above in (1.0, 0.0):
        store = jaxdt.load_episodes(data, map_above=map_above)
        assert store.lengths.tolist() == [2, 3]
        assert store.terminations.tolist() == FELL.tolist()
        assert store.truncations.tolist() == CUT.tolist()
        assert store.rewards.tolist() == STORE.rewards.tolist()


@pytest.mark.parametrize("said", [said for said in SAID.values() if not {"episode_ends", "episode_id"} & said.keys()])
def test_every_name_of_a_flag_means_the_same_where_a_row_or_an_entry_is_an_episode(tmp_path, said):
    rows = [{name: values[:2] for name, values in arrays(said).items()}]
    rows += [{name: values[2:] for name, values in arrays(said).items()}]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(rows))
    table = pa.Table.from_pylist([{name: values.tolist() for name, values in row.items()} for row in rows])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for data in (tmp_path / "a.pkl", tmp_path / "a.parquet", rows):
        store = jaxdt.load_episodes(data)
        assert store.terminations.tolist() == FELL.tolist()
        assert store.truncations.tolist() == CUT.tolist()


SEEN = np.arange(1.0, 8.0, dtype=np.float32)[:, None]
RLDS = {
    "observations": SEEN,
    "actions": np.array([[0.1], [0.2], [0.0], [0.3], [0.4], [0.5], [0.0]], np.float32),
    "rewards": np.array([1.0, 2.0, 0.0, 3.0, 4.0, 5.0, 0.0], np.float32),
    "is_last": np.array([0, 0, 1, 0, 0, 0, 1], bool),
    "is_terminal": np.array([0, 0, 1, 0, 0, 0, 0], bool),
}
"""Two episodes of two and three steps, with the row of a last observation behind each, as RLDS has them."""


def test_rlds_rows_of_a_last_observation_are_no_steps(tmp_path):
    write_npz(tmp_path / "a.npz", RLDS)
    write_hdf5(tmp_path / "a.hdf5", RLDS)
    frame = pd.DataFrame({name: values.ravel() for name, values in RLDS.items()})
    rows = [{name: values[of] for name, values in RLDS.items()} for of in (slice(3), slice(3, 7))]
    numbered = RLDS | {"episode_id": np.array([7, 7, 7, 3, 3, 3, 3])}
    table = pa.Table.from_pylist([{name: values.tolist() for name, values in row.items()} for row in rows])
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    parts = [row | {"actions": {"a": row["actions"], "b": row["actions"]}} for row in rows]
    steps = [row | {"actions": [{"a": action} for action in row["actions"]]} for row in rows]
    columns = pa.array([[[flag] for flag in row["is_last"].tolist()] for row in rows])
    nested = table.set_column(table.schema.names.index("is_last"), "is_last", columns)
    of_episodes = (rows, parts, nested, steps, table, tmp_path / "a.parquet")
    for data in (tmp_path / "a.npz", tmp_path / "a.hdf5", frame, RLDS, numbered, *of_episodes):
        with pytest.warns(UserWarning, match="rows are taken for RLDS's, which hold an episode's last observation alo"):
            store = jaxdt.load_episodes(data)
        assert store.lengths.tolist() == [2, 3]
        assert store.observations.ravel().tolist() == [1, 2, 4, 5, 6]
        assert store.terminations.tolist() == [False, True, False, False, False]
        assert store.truncations.tolist() == [False, False, False, False, True]
    for path in (tmp_path / "a.npz", tmp_path / "a.hdf5", tmp_path / "a.parquet"):
        with pytest.warns(UserWarning, match="are taken for RLDS's"):
            with pytest.raises(
                JaxdtError, match=r"write the data without them, or load them into memory \(--map-above"
            ):
                jaxdt.load_episodes(path, map_above=0.0)


@pytest.mark.filterwarnings("ignore:.*are taken for RLDS's")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"observations": SEEN[:5]}, "observations"),
        ({"is_terminal": np.zeros(6, bool)}, "is_terminal"),
        ({"actions": 0.0}, "actions must have a row a step"),
        ({"actions": [[0.1], [0.2, 0.3]]}, "actions"),
    ],
)
def test_rlds_rows_that_do_not_agree_are_said(changes, says):
    for data in (RLDS | changes, [RLDS | {"is_last": np.arange(7) == 6} | changes]):
        with pytest.raises(JaxdtError, match=says):
            jaxdt.load_episodes(data)


def test_last_steps_with_an_action_are_steps():
    store = jaxdt.load_episodes(RLDS | {"actions": RLDS["actions"] + 0.25})
    assert store.lengths.tolist() == [3, 4]
    assert np.flatnonzero(store.terminations).tolist() == [2]
    unsaid = RLDS | {"is_last": np.zeros(7, bool), "is_terminal": np.zeros(7, bool), "episode": np.arange(7) // 4}
    assert jaxdt.load_episodes(unsaid).lengths.tolist() == [4, 3]
    some = {"observations": SEEN[:6], "actions": np.array([1, 1, 0, 1, 0, 1]), "rewards": np.zeros(6)}
    some |= {"is_last": np.array([0, 0, 1, 0, 0, 1], bool)}  # one of two happens to end with action 0
    rows = [{name: values[of] for name, values in some.items()} for of in (slice(3), slice(3, 6))]
    table = pa.Table.from_pylist([{name: values.tolist() for name, values in row.items()} for row in rows])
    once = table.set_column(table.schema.names.index("is_last"), "is_last", pa.array([True, True]))
    for data in (some, rows, table, once, [{**row, "is_last": True} for row in rows]):
        assert jaxdt.load_episodes(data).lengths.tolist() == [3, 3]


def episodes_by(names: tuple[str, str, str], **said) -> list[dict]:
    """STORE as a list of dicts, its fields by other names."""
    fields = dict(zip(names, (STORE.observations, STORE.actions, STORE.rewards), strict=True)) | said
    return [{name: values[rows].tolist() for name, values in fields.items()} for rows in (slice(2), slice(2, 5))]


def containers(tmp_path, rows: list[dict]) -> list:
    """The same episodes in all that holds an episode a row or an entry."""
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    frames = [pd.DataFrame(rows), datasets.Dataset.from_list(rows)]
    return [rows, *frames, *(tmp_path / f"a.{kind}" for kind in ("pkl", "jsonl", "parquet"))]


@pytest.mark.parametrize("names", [("obs", "action", "reward"), ("states", "actions", "reward")])
def test_names_of_fields_and_no_flags_are_taken_wherever_an_entry_is_an_episode(tmp_path, names):
    for data in containers(tmp_path, episodes_by(names)):
        store = jaxdt.load_episodes(data)
        assert store.lengths.tolist() == [2, 3]
        assert store.observations.tolist() == STORE.observations.tolist()
        assert store.truncations.tolist() == LAST.tolist()


@pytest.mark.parametrize("name", ["done", "terminated", "timeouts"])
def test_a_flag_before_an_episodes_last_step_is_refused_wherever_episodes_are_known(tmp_path, name):
    names, early = ("observations", "actions", "rewards"), np.arange(5) == 3
    flat = arrays({name: early, "episode": np.array([7, 7, 9, 9, 9])})
    frame = pd.DataFrame(flat | {field: list(flat[field]) for field in names} | {"rewards": STORE.rewards})
    for data in (flat, frame, *containers(tmp_path, episodes_by(names, **{name: early}))):
        with pytest.raises(
            jaxdt.JaxdtError, match=f"{name} of episode 1 is true at step 1 of 3, before its last; make what follows"
        ):
            jaxdt.load_episodes(data)


def test_a_flag_before_an_episodes_last_step_is_said_once_where_both_kinds_are_given(tmp_path):
    names, early = ("observations", "actions", "rewards"), np.array([True, False, True, False, False])
    for data in containers(tmp_path, episodes_by(names, terminals=early, timeouts=np.zeros(5, bool))):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("default")
            assert jaxdt.load_episodes(data).terminations.tolist() == early.tolist()
        assert ["terminals is true before the last step" in str(each.message) for each in said] == [True]


def terminals_only(path, n, at) -> str:
    zeros = {"observations": np.zeros((n, 1)), "actions": np.zeros((n, 1)), "rewards": np.ones(n)}
    write_hdf5(path, zeros | {"terminals": np.isin(np.arange(n), at)})
    return str(path)


@pytest.mark.parametrize("name", fields.ENDINGS["terminations"])
def test_terminations_alone_by_any_name_are_one_rule(name):
    flags = np.isin(np.arange(9), [3, 8])
    data = {field: np.zeros((9, 1)) for field in ("observations", "actions", "rewards")} | {name: flags}
    with pytest.warns(UserWarning, match=f"taken to end where {name} is true, the longest after 5 steps"):
        assert jaxdt.load_episodes(data).lengths.tolist() == [4, 5]
    assert jaxdt.load_episodes(data, cut_after=4).lengths.tolist() == [4, 4, 1]
    with pytest.raises(jaxdt.JaxdtError, match=f"{name} alone do not say where all episodes end .1 do; the last"):
        jaxdt.load_episodes(data | {name: np.arange(9) == 3})


@pytest.mark.filterwarnings("ignore:.*the last .* steps belong to an unfinished episode")
@pytest.mark.parametrize(("at", "ends"), [([], 0), ([50, 1450], 2)])
def test_terminals_alone_are_no_reason_to_guess_a_time_limit(tmp_path, at, ends):
    path = terminals_only(tmp_path / "maze2d-umaze-v1.hdf5", 2000, at)
    with pytest.raises(
        jaxdt.JaxdtError, match=rf"do not say where all episodes end \({ends} do; the last step is none"
    ):
        jaxdt.load_episodes(path)
    lengths = jaxdt.load_episodes(path, cut_after=200).lengths
    assert lengths.sum() == (1851 if at else 2000)
    assert lengths[0] == (51 if at else 200)
    assert lengths.max() == 200
    assert jaxdt.load_episodes(path, cut_after=200, map_above=0.0).num_episodes == len(lengths)
    assert jaxdt.load_episodes(path, cut_after=500, map_above=0.0).num_episodes != len(lengths)  # another entry


def test_terminals_at_the_end_of_each_episode_are_taken_with_a_warning(tmp_path):
    path = terminals_only(tmp_path / "a.hdf5", 9, [3, 8])
    with pytest.warns(
        UserWarning, match="episodes are taken to end where terminals is true, the longest after 5 steps"
    ):
        assert jaxdt.load_episodes(path).lengths.tolist() == [4, 5]


def test_what_d3rlpy_2_dumps_is_read(tmp_path):
    for discrete in (None, 3):
        store = make_store((2, 3), discrete=discrete)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["columns"], file["num_episodes"], file["version"] = ["observations", "actions"], 2, "2.1"
            for number, (start, end) in enumerate(((0, 2), (2, 5))):
                file[f"observations_{number}"] = store.observations[start:end]
                file[f"actions_{number}"] = store.actions[start:end].reshape(end - start, -1)
                file[f"rewards_{number}"] = store.rewards[start:end, None]
                file[f"terminated_{number}"] = number == 0
        loaded = jaxdt.load_episodes(tmp_path / "a.h5")
        assert loaded.lengths.tolist() == [2, 3]
        assert loaded.is_discrete == (discrete is not None)
        assert loaded.actions.tolist() == store.actions.tolist()
        assert loaded.terminations.tolist() == FELL.tolist()


def test_a_cut_without_effect_is_said(tmp_path):
    rows = [{name: values[:2] for name, values in arrays(SAID["gymnasium"]).items()}]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(rows))
    table = pa.Table.from_pylist([{name: values.tolist() for name, values in rows[0].items()}])
    numbered = arrays({"terminals": FELL, "episode": [1, 1, 2, 2, 2]})
    for data in (STORE, arrays({"done": LAST}), numbered, rows, table, tmp_path / "a.pkl", "minari:nobody/has/this"):
        with (
            pytest.warns(UserWarning, match=r"--cut-after 2 \(cut_after=\) has no effect; leave it out"),
            contextlib.suppress(jaxdt.JaxdtError),  # that Minari's is not there
        ):
            jaxdt.load_episodes(data, cut_after=2)


@pytest.mark.parametrize("limit", [0, -1])
def test_an_episode_is_cut_after_one_step_at_least(limit):
    with pytest.raises(jaxdt.JaxdtError, match=f"cut_after must be at least 1 step; got {limit}"):
        jaxdt.load_episodes(arrays(SAID["d4rl"]), cut_after=limit)


def test_whole_numbers_as_vectors_of_actions_are_said():
    with pytest.warns(UserWarning, match="actions are whole numbers, 2 a step, and are taken as continuous vectors"):
        jaxdt.load_episodes(arrays(SAID["d4rl"]) | {"actions": np.ones((5, 2), int)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxdt.load_episodes(arrays(SAID["d4rl"]) | {"actions": np.arange(5)})


def test_the_default_string_of_h5py_as_env_id_is_said_and_the_file_is_read(tmp_path):
    write_hdf5(tmp_path / "a.hdf5", arrays(SAID["d4rl"]))
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file.attrs["env_id"] = "Hopper-v5"
    with pytest.warns(
        UserWarning, match=r"env_id is a string of any length, which is not read; give env= \(--env\), or write it"
    ):
        assert jaxdt.load_episodes(tmp_path / "a.hdf5").env_id is None


def test_flags_that_stay_true_after_an_end_are_said(tmp_path):
    flags = np.isin(np.arange(30), [4, *range(10, 30)])
    many = {"observations": np.zeros((30, 1)), "actions": np.zeros((30, 1)), "rewards": np.zeros(30)}
    with pytest.warns(UserWarning, match="19 of 21 episodes have one step, for the flags of an end stay true after it"):
        jaxdt.load_episodes(many | {"terminals": flags, "timeouts": np.zeros(30, bool)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxdt.load_episodes(
            many | {"terminals": np.arange(30) % 10 > 7, "timeouts": np.zeros(30, bool), "episode_ends": [30]}
        )
