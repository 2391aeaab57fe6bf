import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxdt import load_episodes
from jaxdt.data.formats.columns import ArrowFile, _episode_lengths, flat_numbers
from tests.test_loading import refusal, write_npz


OBSERVATIONS = [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11], [12, 13, 14]]]
ACTIONS = [[[-1, 0], [1, 0]], [[0, 0], [0, 1], [1, 1]]]
REWARDS = [[0, 1], [2, 3, 4]]
DONES = [[False, True], [False, False, False]]
NUMBERS = pa.list_(pa.list_(pa.float32()))
FLAGS = pa.list_(pa.bool_())


def columns(**changes) -> dict:
    """Episodes of 2 and 3 steps, of which the first was terminated; None leaves a column out."""
    good = {
        "observations": pa.array(OBSERVATIONS, NUMBERS),
        "actions": pa.array(ACTIONS, NUMBERS),
        "rewards": pa.array(REWARDS, pa.list_(pa.float32())),
        "dones": pa.array(DONES, FLAGS),
    }
    return {name: values for name, values in {**good, **changes}.items() if values is not None}


def write_parquet(path: Path, env_id: bytes | None = None, options: dict | None = None, **changes) -> Path:
    table = pa.table(columns(**changes))
    if env_id is not None:
        table = table.replace_schema_metadata({"env_id": env_id})
    pq.write_table(table, path, **(options or {}))
    return path


def write_saved(path: Path, *tables: pa.Table, names: list | None = None, **info) -> Path:
    """What `save_to_disk` writes."""
    path.mkdir(parents=True, exist_ok=True)
    names = names or [f"data-{i:05d}-of-{len(tables):05d}.arrow" for i in range(len(tables))]
    for name, table in zip(names, tables, strict=False):
        with pa.ipc.new_stream(path / name, table.schema) as file:
            file.write_table(table)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (path / "dataset_info.json").write_text(json.dumps(info))
    return path


def many_episodes(lengths: list[int]) -> dict:
    """Episodes whose numbers count up, so that every one shows its place."""
    steps = sum(lengths)
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))

    def nested(width: int) -> pa.Array:
        numbers = pa.array(np.arange(steps * width, dtype=np.float32))
        inner = pa.ListArray.from_arrays(pa.array(np.arange(steps + 1, dtype=np.int32) * width), numbers)
        return pa.ListArray.from_arrays(ends, inner)

    rewards = pa.ListArray.from_arrays(ends, pa.array(np.arange(steps, dtype=np.float32)))
    dones = pa.ListArray.from_arrays(ends, pa.array(np.zeros(steps, bool)))
    return {"observations": nested(3), "actions": nested(2), "rewards": rewards, "dones": dones}


def check_good(store) -> None:
    assert store.lengths.tolist() == [2, 3]
    assert store.observations.tolist() == [step for episode in OBSERVATIONS for step in episode]
    assert store.actions.tolist() == [step for episode in ACTIONS for step in episode]
    assert store.rewards.tolist() == [0, 1, 2, 3, 4]
    assert store.terminations.tolist() == [False, True, False, False, False]
    assert store.truncations.tolist() == [False, False, False, False, True]
    assert store.observations.flags.writeable


def test_a_row_of_a_parquet_file_is_an_episode(tmp_path):
    store = load_episodes(write_parquet(tmp_path / "a.parquet"))
    check_good(store)
    assert store.observations.dtype == np.float32
    assert store.env_id is None


@pytest.mark.parametrize("outer", [pa.list_, pa.large_list])
@pytest.mark.parametrize("inner", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 3)])
@pytest.mark.parametrize("kind", [pa.float16(), pa.float64(), pa.int8(), pa.uint64()], ids=str)
def test_lists_and_numbers_of_every_kind_are_read(tmp_path, outer, inner, kind):
    observations = pa.array(OBSERVATIONS, outer(inner(kind)))
    rewards = pa.array(REWARDS, outer(kind))
    check_good(load_episodes(write_parquet(tmp_path / "a.parquet", observations=observations, rewards=rewards)))
    table = pa.table(columns(observations=observations, rewards=rewards))
    check_good(load_episodes(write_saved(tmp_path / "saved", table)))


def test_a_number_a_step_may_be_a_list_of_one(tmp_path):
    rewards = pa.array([[[value] for value in episode] for episode in REWARDS], pa.list_(pa.list_(pa.float32())))
    dones = pa.array([[[value] for value in episode] for episode in DONES], pa.list_(pa.list_(pa.bool_())))
    check_good(load_episodes(write_parquet(tmp_path / "a.parquet", rewards=rewards, dones=dones)))
    wide = pa.array([[[value] * 2 for value in episode] for episode in REWARDS], pa.list_(pa.list_(pa.float32())))
    path = write_parquet(tmp_path / "b.parquet", rewards=wide)
    assert refusal(path) == f"{path}: rewards must have one value a step; got 2."


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64()], ids=str)
@pytest.mark.filterwarnings("ignore:.*actions are whole numbers")
def test_discrete_actions_are_lists_of_whole_numbers(tmp_path, kind):
    actions = pa.array([[3, 5], [4, 3, 100]], pa.list_(kind))
    saved = write_saved(tmp_path / "saved", pa.table(columns(actions=actions)))
    for path in (write_parquet(tmp_path / "a.parquet", actions=actions), saved):
        store = load_episodes(path)
        assert (store.actions.dtype, store.actions.tolist()) == (np.int32, [3, 5, 4, 3, 100])
    of_one = pa.array([[[3], [5]], [[4], [3], [3]]], pa.list_(pa.list_(kind)))
    assert load_episodes(write_parquet(tmp_path / "b.parquet", actions=of_one)).actions.shape == (5, 1)
    (tmp_path / "both").mkdir()
    write_parquet(tmp_path / "both" / "0.parquet", actions=of_one)
    write_parquet(tmp_path / "both" / "1.parquet", actions=actions)
    assert refusal(tmp_path / "both") == (
        f"{tmp_path / 'both'}: actions of episode 2 has a number a step, those before it a list of 1; make them agree."
    )


def test_terminations_and_truncations_win_over_dones(tmp_path):
    ours = {
        "terminations": pa.array([[False, False], [False, False, True]], FLAGS),
        "truncations": pa.array([[False, True], [False, False, False]], FLAGS),
    }
    for dones in (DONES, [[True, True], [True, False, False]], None):
        changes = {**ours, "dones": None if dones is None else pa.array(dones, FLAGS)}
        store = load_episodes(write_parquet(tmp_path / "a.parquet", **changes))
        assert store.terminations.tolist() == [False] * 4 + [True]
        assert store.truncations.tolist() == [False, True, False, False, False]
    store = load_episodes(write_parquet(tmp_path / "a.parquet", dones=None))
    assert store.truncations.tolist() == [False, True, False, False, True]


def test_dones_end_episodes_beside_truncations_alone(tmp_path):
    truncations = pa.array([[False, True], [False, False, False]], FLAGS)
    dones = pa.array([[False, False], [False, False, True]], FLAGS)
    store = load_episodes(write_parquet(tmp_path / "a.parquet", truncations=truncations, dones=dones))
    assert store.terminations.tolist() == [False] * 4 + [True]
    assert store.truncations.tolist() == [False, True, False, False, False]


def test_dones_before_an_episodes_end_are_refused(tmp_path):
    dones = pa.array([[False, True], [False, True, False]], FLAGS)
    path = write_parquet(tmp_path / "a.parquet", dones=dones)
    assert refusal(path) == (
        f"{path}: dones of episode 1 is true at step 1 of 3, before its last; make what follows an episode of its own."
    )


@pytest.mark.parametrize("rows", [7, 1000])
def test_episodes_come_in_order_whatever_the_chunks(tmp_path, rows):
    lengths = [1 + i % 5 for i in range(150)]
    table = pa.table(many_episodes(lengths))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows)
    halves = write_saved(tmp_path / "saved", table.slice(0, 70), table.slice(70))
    batches = write_saved(tmp_path / "batches", pa.concat_tables([table.slice(i, rows) for i in range(0, 150, rows)]))
    for path in (tmp_path / "a.parquet", halves, batches):
        store = load_episodes(path)
        assert store.lengths.tolist() == lengths
        assert (store.observations.ravel() == np.arange(3 * sum(lengths))).all()
        assert (store.actions.ravel() == np.arange(2 * sum(lengths))).all()
        assert (store.rewards == np.arange(sum(lengths))).all()


def test_a_slice_of_a_longer_array_is_read_from_its_own_start():
    table = pa.table(many_episodes([2, 3, 4, 1])).slice(1, 2)
    file = ArrowFile(Path("a"), table.schema, lambda name: iter(table.column(name).chunks))
    assert _episode_lengths([file], "rewards", "a").tolist() == [3, 4]
    assert flat_numbers(table.column("observations").chunk(0), "observations", 0, "a")[1].ravel().tolist() == [
        *range(6, 27)
    ]


def test_other_columns_are_not_read(tmp_path):
    extra = np.array([123456789, 987654321])
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True, "write_statistics": False}
    path = write_parquet(tmp_path / "a.parquet", options=options, extra=pa.array(extra))
    content = path.read_bytes()
    place = content.index(extra.tobytes())
    path.write_bytes(content[:place] + b"~" + content[place + 1 :])
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(path, page_checksum_verification=True).read()
    check_good(load_episodes(path))


def test_a_flipped_bit_under_a_checksum_is_noticed(tmp_path):
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True, "write_statistics": False}
    path = write_parquet(tmp_path / "a.parquet", options=options)
    content = path.read_bytes()
    place = content.index(np.array([6, 7, 8], np.float32).tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert refusal(path).startswith(f"{path} cannot be read as a parquet file: ")


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
def test_a_missing_column_is_named(tmp_path, name):
    path = write_parquet(tmp_path / "a.parquet", **{name: None})
    rest = ", ".join(other for other in columns() if other != name)
    said = f"{path}: the column {name!r} is missing; it has {rest}. Rename its columns: with "
    assert refusal(path).startswith(said)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    twice = pa.Table.from_arrays([*columns().values(), columns()["rewards"]], [*columns(), "rewards"])
    assert "the column 'rewards' is there 2 times" in refusal(write_saved(tmp_path / "saved", twice))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": pa.array([[0.0, 1.0], [2.0]])}, "observations must be lists of lists of numbers"),
        ({"observations": pa.array([0.0, 1.0])}, "lists of PNG or JPEG files; got double."),
        ({"observations": pa.array(["a", "b"])}, "lists of PNG or JPEG files; got string."),
        ({"observations": pa.array([[["1"]], [["2"]]])}, "got list<element: list<element: string>>."),
        ({"observations": pa.array([[[[[[1.0]]]]], [[[[[2.0]]]]]])}, "observations must be lists of lists of numbers"),
        ({"actions": pa.array([[0.0, 1], [0, 1, 1]])}, "or lists of whole numbers where they are discrete; got list<"),
        ({"actions": pa.array([[[True]], [[False]]])}, "actions must be lists of lists of numbers"),
        ({"actions": pa.array([{"x": 1.0}, {"x": 2.0}])}, "got struct<x: double>."),
        ({"rewards": pa.array(["a", "b"])}, "observations must be a number or a list of numbers a step; got list<"),
        ({"rewards": pa.array([["1"], ["2"]])}, "rewards must be lists of numbers"),
        ({"rewards": pa.array([[None], [None]])}, "rewards must be lists of numbers"),
        ({"dones": pa.array([["no"], ["yes"]])}, "dones must be lists of booleans"),
        ({"dones": pa.array([[0.0, 1.0], [0.0, 0.0, 0.0]])}, "dones must be lists of booleans"),
        ({"terminations": pa.array([1, 2])}, "terminations must be lists of booleans, an episode a row; got int64."),
        ({"dones": pa.array([[0, 2], [0, 0, 0]])}, "dones must be true or false at every step"),
        ({"observations": pa.array([[[], []], [[], [], []]], NUMBERS)}, "observations have no numbers in them"),
        ({"actions": pa.array([[[np.nan] * 2] * 2, [[0, 0]] * 3], NUMBERS)}, "actions of episode 0, step 0, is not"),
        (
            {"observations": pa.array([[[1e300] * 2] * 2, [[0, 0]] * 3], pa.list_(pa.list_(pa.float64())))},
            "observations of episode 0, step 0, is not a finite float32",
        ),
    ],
)
def test_columns_of_another_kind_are_refused_with_the_files_name(tmp_path, changes, message):
    path = write_parquet(tmp_path / "a.parquet", **changes)
    assert refusal(path).startswith(f"{path}: ")
    assert message in refusal(path)


def test_a_dictionary_is_refused_by_its_name(tmp_path):
    rewards = pa.ListArray.from_arrays(pa.array([0, 2, 5], pa.int32()), pa.array(list("aabba")).dictionary_encode())
    message = refusal(write_saved(tmp_path / "saved", pa.table(columns(rewards=rewards))))
    assert "rewards must be lists of numbers, an episode a row; got list<item: dictionary<values=string" in message


@pytest.mark.parametrize(
    ("name", "values", "row"),
    [
        ("observations", [None, OBSERVATIONS[1]], 0),
        ("observations", [OBSERVATIONS[0], [[6, 7, 8], None, [12, 13, 14]]], 1),
        ("observations", [OBSERVATIONS[0], [[6, 7, 8], [9, 10, 11], [12, 13, None]]], 1),
        ("observations", [[[0, None, 2], [3, 4, 5]], OBSERVATIONS[1]], 0),
        ("rewards", [[0, 1], None], 1),
        ("rewards", [[0, None], [2, 3, 4]], 0),
        ("rewards", [[0, 1], [None, 3, 4]], 1),
    ],
)
def test_a_null_is_refused_with_its_row(tmp_path, name, values, row):
    path = write_parquet(tmp_path / "a.parquet", **{name: pa.array(values, columns()[name].type)})
    assert refusal(path) == f"{path}: {name} of row {row} has a null; remove that episode or repair it."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"observations": pa.array([OBSERVATIONS[0], [[6, 7, 8], [9, 10], [12, 13, 14]]], NUMBERS)},
            "observations of episode 1, step 1, has 2 numbers, other steps 3; make them agree.",
        ),
        (
            {"actions": pa.array([ACTIONS[0], ACTIONS[1][:2]], NUMBERS)},
            "actions of episode 1 has 2 steps but rewards has 3; they must agree.",
        ),
        (
            {"dones": pa.array([[False], [False, False, True]], FLAGS)},
            "dones of episode 0 has 1 steps but rewards has 2; they must agree.",
        ),
        (
            {"rewards": pa.array([[0, 1], []], pa.list_(pa.float32()))},
            "episode 1 has no steps; remove that row.",
        ),
    ],
)
def test_ragged_episodes_are_refused_by_number(tmp_path, changes, message):
    path = write_parquet(tmp_path / "a.parquet", **changes)
    assert refusal(path) == f"{path}: {message}"


def test_a_table_of_no_rows_is_refused(tmp_path):
    pq.write_table(pa.table(columns()).slice(0, 0), tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet").endswith("a.parquet has no rows; a dataset needs at least one episode.")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_parquet_file_that_is_cut_off_is_refused(tmp_path, share):
    whole = write_parquet(tmp_path / "whole.parquet").read_bytes()
    path = tmp_path / "cut.parquet"
    path.write_bytes(whole[: int(share * len(whole))])
    assert refusal(path).startswith(f"{path} cannot be read as a parquet file: ")
    assert refusal(path).endswith("; copy or make it again.")


@pytest.mark.parametrize("content", [b"hello\n", b"PAR1PAR1", b"PAR1" + b"\xff" * 40 + b"PAR1", b"\x80\x04\x95."])
def test_a_file_of_another_kind_called_parquet_is_refused(tmp_path, content):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path} cannot be read as a parquet file: ")


@pytest.mark.slow
def test_damaged_bytes_anywhere_load_or_are_refused(tmp_path):
    whole = write_parquet(tmp_path / "a.parquet").read_bytes()
    script = tmp_path / "damage.py"
    script.write_text(DAMAGE)  # in a process of its own: damage must not crash the reader either
    for path in (tmp_path / "a.parquet", write_saved(tmp_path / "saved", pa.table(columns()))):
        done = subprocess.run([sys.executable, script, path], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 30
    assert len(whole) > 1000


DAMAGE = """
import random, sys
from pathlib import Path
from jaxdt import JaxdtError
from jaxdt.data.formats.parquet import load_parquet
from jaxdt.data.formats.saved import load_directory
path = Path(sys.argv[1])
file = path if path.is_file() else next(path.glob("*.arrow"))
whole, rng, refused = file.read_bytes(), random.Random(0), 0
for _ in range(300):
    place = rng.randrange(len(whole))
    file.write_bytes(whole[:place] + bytes([rng.randrange(256)]) + whole[place + 1:])
    try:
        (load_parquet if path.is_file() else load_directory)(path)
    except JaxdtError:
        refused += 1
print(refused)
"""


def believe_little(monkeypatch) -> None:
    limit = "jaxdt.data.formats.columns.size_limit"
    monkeypatch.setattr(limit, lambda *paths, times: 100 * sum(path.stat().st_size for path in paths))


@pytest.mark.parametrize("name", ["observations", "rewards"])
def test_a_small_file_that_promises_far_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch, name):
    believe_little(monkeypatch)
    numbers = pa.array(np.zeros(3_000_000, np.float32))
    if name == "observations":
        numbers = pa.ListArray.from_arrays(pa.array([0, 3_000_000], pa.int32()), numbers)
    bomb = {name: pa.ListArray.from_arrays(pa.array([0, len(numbers)], pa.int32()), numbers)}
    path = write_parquet(tmp_path / "a.parquet", **{key: value[:1] for key, value in columns().items()} | bomb)
    assert refusal(path).startswith(f"{path} would take 11 MiB or more, far more than its files hold (0.0 MiB); ")


def test_a_first_step_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    believe_little(monkeypatch)
    wide = pa.array([[list(range(2000))]] * 64 + [[[]] * 50_000], NUMBERS)
    rest = {
        "actions": pa.array([[[0.0]]] * 64 + [[[0.0]] * 50_000], NUMBERS),
        "rewards": pa.array([[0.0]] * 64 + [[0.0] * 50_000], pa.list_(pa.float32())),
    }
    path = write_parquet(tmp_path / "a.parquet", observations=wide, dones=None, **rest)
    assert refusal(path) == f"{path}: observations has 2000 numbers at its first step, far more than the file holds."


def test_the_environment_of_the_schema_is_kept(tmp_path):
    assert load_episodes(write_parquet(tmp_path / "a.parquet", b"Hopper-v5")).env_id == "Hopper-v5"


@pytest.mark.parametrize("env_id", [b"evil:Env-v0", b"../Env-v0", b"Env v0", b"", b"\xff\xfe", b"Env-v0\n"])
def test_an_environment_that_is_no_plain_gymnasium_id_is_refused(tmp_path, env_id):
    path = write_parquet(tmp_path / "a.parquet", env_id)
    assert refusal(path).startswith(f"{path}: env_id must be a Gymnasium id such as HalfCheetah-v5; got ")


def test_a_directory_of_parquet_files_is_their_episodes_in_order(tmp_path):
    table = pa.table(many_episodes([2, 3, 4]))
    for place in ("", "train", "data"):
        folder = tmp_path / f"set+{place}" / place
        folder.mkdir(parents=True)
        for i in range(3):
            pq.write_table(table.slice(i, 1), folder / f"train-{i}.parquet")
        pq.write_table(table.slice(0, 1), folder / "test-0.parquet")
        store = load_episodes(tmp_path / f"set+{place}")
        assert store.lengths.tolist() == [2, 3, 4]
        assert (store.rewards == np.arange(9)).all()


def test_shards_that_do_not_belong_together_are_refused(tmp_path):
    write_parquet(tmp_path / "0.parquet", b"HalfCheetah-v4")
    write_parquet(tmp_path / "1.parquet", b"Walker2d-v4")
    assert "0.parquet is of HalfCheetah-v4 but " in refusal(tmp_path)
    wide = pa.array([[[0, 0, 0, 0]] * len(episode) for episode in OBSERVATIONS], NUMBERS)
    write_parquet(tmp_path / "1.parquet", observations=wide)
    assert refusal(tmp_path) == (
        f"{tmp_path}: observations of episode 2 has a list of 4 a step, those before it a list of 3; make them agree."
    )
    write_parquet(tmp_path / "1.parquet", dones=None)
    assert refusal(tmp_path).startswith(f"{tmp_path / '1.parquet'}: the column 'dones' is missing; it has ")


@pytest.mark.filterwarnings("ignore:.*actions are whole numbers")
def test_what_datasets_saves_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    values = {"observations": OBSERVATIONS, "actions": ACTIONS, "rewards": REWARDS, "dones": DONES, "name": ["a", "b"]}
    saved = datasets.Dataset.from_dict(values)
    saved.save_to_disk(tmp_path / "one", num_shards=2)
    check_good(load_episodes(tmp_path / "one"))
    datasets.DatasetDict({"test": saved.select([1]), "train": saved}).save_to_disk(tmp_path / "splits")
    check_good(load_episodes(tmp_path / "splits"))
    saved.select([1]).save_to_disk(tmp_path / "chosen")
    assert load_episodes(tmp_path / "chosen").rewards.tolist() == [2, 3, 4]
    datasets.DatasetDict({"test": saved}).save_to_disk(tmp_path / "test")
    assert "train does not exist; the saved dataset has no split named train, only test; " in refusal(tmp_path / "test")


def test_the_config_of_a_saved_dataset_names_its_environment(tmp_path):
    wide = pa.array([[[0.0] * 17] * 2, [[0.0] * 17] * 3], NUMBERS)
    for name, table, env_id in (
        ("halfcheetah-expert-v2", pa.table(columns(observations=wide)), "HalfCheetah-v4"),
        ("walker2d-medium-replay-v2", pa.table(columns(observations=wide)), "Walker2d-v4"),
        ("halfcheetah-expert-v2", pa.table(columns()), None),
        ("halfcheetah-expert-v1", pa.table(columns(observations=wide)), None),
        (["halfcheetah-expert-v2"], pa.table(columns(observations=wide)), None),
    ):
        assert load_episodes(write_saved(tmp_path / "saved", table, config_name=name)).env_id == env_id


@pytest.mark.parametrize("name", ["../out.arrow", "/out.arrow", "a/b.arrow", "..", ".arrow", "a\\b.arrow", 3, None, ""])
def test_a_saved_dataset_names_no_file_outside_itself(tmp_path, name):
    write_saved(tmp_path, pa.table(columns()), names=["out.arrow"])
    path = write_saved(tmp_path / "saved", names=[str(tmp_path / "out.arrow") if name == "/out.arrow" else name])
    assert refusal(path).startswith(f"{path / 'state.json'}: a file must have a plain name such as data.arrow; got ")


@pytest.mark.parametrize("state", ["", "{", "[]", "{}", '{"_data_files": 3}', '{"_data_files": [3]}', "[" * 100_000])
def test_a_damaged_state_of_a_saved_dataset_is_refused(tmp_path, state):
    path = write_saved(tmp_path / "saved", pa.table(columns()))
    (path / "state.json").write_text(state)
    assert refusal(path).startswith(f"{path / 'state.json'} cannot be read as the state of a saved dataset: ")


def test_a_saved_dataset_without_rows_of_its_own_is_refused(tmp_path):
    path = write_saved(tmp_path / "saved")
    assert refusal(path) == f"{path} holds no rows of its own; save it again with save_to_disk."
    (path / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [1]}')
    assert "holds no rows of its own" in refusal(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_an_arrow_file_that_is_missing_or_cut_off_is_refused(tmp_path, share):
    path = write_saved(tmp_path / "saved", pa.table(columns()))
    (file,) = path.glob("*.arrow")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert refusal(path).startswith(f"{file} cannot be read as an Arrow file: ")
    file.unlink()
    assert refusal(path).startswith(f"{file} cannot be read as an Arrow file: ")


def test_offsets_that_leave_their_array_are_refused(tmp_path):
    path = write_saved(tmp_path / "saved", pa.table(columns()))
    (file,) = path.glob("*.arrow")
    content = file.read_bytes()
    ends = np.array([0, 2, 5], np.int32).tobytes()
    assert ends in content
    file.write_bytes(content.replace(ends, np.array([0, 2, 2**30], np.int32).tobytes()))
    assert "cannot be read as an Arrow file: " in refusal(path)


def test_parquet_joins_with_other_files(tmp_path):
    parquet, npz = write_parquet(tmp_path / "a.parquet"), write_npz(tmp_path / "b.npz")
    store = load_episodes(f"{parquet}+{npz}")
    assert store.lengths.tolist() == [2, 3, 2, 3]
    assert store.env_id == "Hopper-v5"


MEASURE = """
import re, sys, time
from pathlib import Path
import pyarrow.compute, pyarrow.parquet
from jaxdt.data.formats.parquet import load_parquet
def peak():  # of this process alone: getrusage's goes on from the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before, start = peak(), time.perf_counter()
store = load_parquet(Path(sys.argv[1]))
seconds, more = time.perf_counter() - start, peak() - before
names = ("observations", "actions", "rewards", "terminations", "truncations")
print(store.num_steps, seconds, more / sum(getattr(store, name).nbytes for name in names))
"""


@pytest.mark.slow
def test_a_million_steps_load_within_five_seconds_and_three_times_their_size(tmp_path):
    rng = np.random.default_rng(0)
    ends = pa.array(np.arange(0, 1_000_001, 1000, dtype=np.int32))

    def nested(width: int) -> pa.Array:
        numbers = pa.array(rng.standard_normal(1_000_000 * width, dtype=np.float32))
        inner = pa.ListArray.from_arrays(pa.array(np.arange(0, 1_000_000 * width + 1, width, dtype=np.int32)), numbers)
        return pa.ListArray.from_arrays(ends, inner)

    rewards = pa.ListArray.from_arrays(ends, pa.array(rng.standard_normal(1_000_000, dtype=np.float32)))
    dones = pa.ListArray.from_arrays(ends, pa.array(np.zeros(1_000_000, bool)))
    path = tmp_path / "a.parquet"
    write_parquet(path, observations=nested(17), actions=nested(6), rewards=rewards, dones=dones)
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    steps, seconds, memory = map(float, done.stdout.split())
    print(f"{seconds:.2f} s, peak {memory:.2f} times the size")
    assert steps == 1_000_000
    assert seconds < 5
    assert 1 < memory < 3  # less than the arrays themselves would be a measurement that does not measure
