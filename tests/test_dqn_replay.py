import gzip
import io
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jaxdt import load_episodes
from jaxdt.data.formats import dqn_checkpoint
from jaxdt.data.formats.dqn_spec import game_of_directory
from jaxdt.games import GAMES
from jaxdt.progress import Progress
from jaxdt.run.exporting import _file_names
from jaxdt.run.finished import dataset_name
from tests.test_loading import array_header, refusal


ARRAYS = ("observation", "action", "reward", "terminal")
FIELDS = ("observations", "actions", "rewards", "terminations", "truncations", "offsets")


@pytest.fixture(autouse=True)
def small_blocks(tmp_path, monkeypatch) -> None:
    """A dozen rows of 8 x 8, so that episodes and blank rows lie across their bounds."""
    monkeypatch.setattr(dqn_checkpoint, "_BLOCK", 800)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def checkpoint(number: int, lengths: tuple[int, ...], *, rest: int = 4, after: int = 5, size: int = 8) -> dict:
    """Rows as Dopamine logs them: the rest of an episode, whole ones, the beginning of one, and a row of another time.

    A real row's pixels, action and reward tell its number; `kept` are the rows that a reader must keep.
    """
    blocks = [np.ones(rest, bool)] + [np.arange(3 + length) >= 3 for length in lengths]
    real = np.concatenate([*blocks, np.arange(3 + after) >= 3, [True]])
    rows = np.arange(len(real))
    terminal = np.zeros(len(real), np.uint8)
    ends = np.cumsum([len(block) for block in blocks])
    terminal[ends - 1] = 1
    terminal[-1] = 1  # of the other time
    kept = real & (rows >= ends[0]) & (rows < ends[-1])
    pixels = 1 + (rows[:, None, None] * 7 + np.arange(size * size).reshape(size, size) + number) % 255
    return {
        "observation": (pixels * real[:, None, None]).astype(np.uint8),
        "action": (real * (1 + (rows + number) % 17)).astype(np.int32),
        "reward": (real * ((rows + number) % 3 - 1)).astype(np.float32),
        "terminal": terminal,
        "kept": np.flatnonzero(kept),
    }


def path_of(directory: Path, name: str, number: int) -> Path:
    return directory / f"$store$_{name}_ckpt.{number}.gz"


def write(directory: Path, checkpoints: dict[int, dict]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for number, arrays in checkpoints.items():
        for name in ARRAYS:
            with gzip.open(path_of(directory, name, number), "wb", 1) as file:
                np.save(file, arrays[name])
    return directory


def some_logs(directory: Path) -> tuple[Path, dict[int, dict]]:
    checkpoints = {9: checkpoint(9, (120, 30, 7)), 10: checkpoint(10, (1, 200), rest=50, after=90)}
    return write(directory, checkpoints), checkpoints


def many(directory: Path, count: int = 3) -> tuple[Path, dict[int, dict]]:
    """Enough short episodes to draw from."""
    rng = np.random.default_rng(0)
    checkpoints = {number: checkpoint(number, tuple(rng.integers(2, 9, 50))) for number in range(50 - count, 50)}
    return write(directory, checkpoints), checkpoints


def same(ours, theirs) -> bool:
    return all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in FIELDS)


def test_whole_episodes_survive_and_nothing_else(tmp_path):
    logs, checkpoints = some_logs(tmp_path / "logs")
    store = load_episodes(f"dqn:{logs}")
    assert store.lengths.tolist() == [120, 30, 7, 1, 200]
    for ours, theirs in (("observations", "observation"), ("actions", "action"), ("rewards", "reward")):
        expected = np.concatenate([each[theirs][each["kept"]] for each in checkpoints.values()])
        np.testing.assert_array_equal(getattr(store, ours), expected)
    assert (store.observations > 0).all()  # no blank row
    assert store.observations.dtype == np.uint8
    np.testing.assert_array_equal(np.flatnonzero(store.terminations), store.offsets[1:] - 1)
    assert not store.truncations.any()
    assert store.env_id is None
    assert store.env_kwargs is None


def test_returns_to_go_and_timesteps_begin_anew_in_every_episode(tmp_path):
    store = load_episodes(f"dqn:{some_logs(tmp_path)[0]}")
    for episode in store:
        rewards = episode["rewards"]
        expected = [rewards[i:].sum() for i in range(len(rewards))]
        start = store.offsets[[np.array_equal(each["rewards"], rewards) for each in store].index(True)]
        np.testing.assert_array_equal(store.returns_to_go[start : start + len(rewards)], expected)


@pytest.mark.parametrize(("below", "spec"), [("", "replay_logs"), ("replay_logs", "replay_logs"), ("replay_logs", "")])
def test_the_environment_is_known_by_the_directory(tmp_path, below, spec):
    run = tmp_path / "SpaceInvaders" / "5"
    write(run / "replay_logs", {0: checkpoint(0, (3, 4))})
    for directory in (run, run / "replay_logs"):
        store = load_episodes(f"dqn:{directory}")
        assert store.env_id == "SpaceInvadersNoFrameskip-v4"
        assert store.env_kwargs == {"resize": "area", "repeat_action_probability": 0.25, "noop_max": 0}


def test_every_game_is_known_by_its_directory():
    """Dopamine may have logged others than the 60 of DQN-replay."""
    assert {game_of_directory(Path(game) / "1" / "replay_logs") for game in GAMES} == GAMES
    assert game_of_directory(Path("Data/1")) is None


@pytest.mark.parametrize("directory", ["breakout/1", "Data/1", "Breakout/logs", "Breakout", "Breakout/1/2/replay_logs"])
def test_no_environment_is_guessed(tmp_path, directory):
    assert load_episodes(f"dqn:{write(tmp_path / directory, {0: checkpoint(0, (3, 4))})}").env_id is None


def test_a_directory_may_be_relative_start_at_home_and_hold_a_question_mark(tmp_path, monkeypatch):
    expected = load_episodes(f"dqn:{some_logs(tmp_path / 'a?b' / 'replay_logs')[0]}?buffers=2")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for spec in ("dqn:~/a?b/replay_logs?buffers=2", "dqn:a?b?buffers=2"):
        assert same(load_episodes(spec), expected)


def test_other_files_are_left_alone(tmp_path):
    logs, _ = some_logs(tmp_path)
    expected = load_episodes(f"dqn:{logs}")
    for name in ("add_count_ckpt.9.gz", "invalid_range_ckpt.9.gz", "$store$_episode_end_indices_ckpt.9.gz", "notes"):
        (logs / name).write_bytes(b"anything")
    for number in ("09", "x", "-1", "1234567", "9.gz", "\N{ARABIC-INDIC DIGIT FIVE}"):
        (logs / f"$store$_action_ckpt.{number}.gz").write_bytes(b"anything")
    (logs / "$store$_action_ckpt.77.gz").mkdir()
    assert same(load_episodes(f"dqn:{logs}"), expected)


def test_buffers_are_the_last_checkpoints_by_number(tmp_path):
    logs, checkpoints = some_logs(tmp_path)
    store = load_episodes(f"dqn:{logs}?buffers=1")
    np.testing.assert_array_equal(store.actions, checkpoints[10]["action"][checkpoints[10]["kept"]])


@pytest.mark.parametrize(
    ("steps", "lengths"),
    [(1, [120]), (120, [120]), (121, [120, 30]), (157, [120, 30, 7]), ("1.58e2", [120, 30, 7, 1])],
)
def test_steps_takes_the_first_whole_episodes(tmp_path, steps, lengths):
    logs, _ = some_logs(tmp_path)
    store = load_episodes(f"dqn:{logs}?steps={steps}")
    assert store.lengths.tolist() == lengths
    np.testing.assert_array_equal(store.observations, load_episodes(f"dqn:{logs}").observations[: sum(lengths)])


def drawn_by_the_original(checkpoints: dict[int, dict], steps: int, seed: int, rows: int) -> tuple[list, int]:
    """Number and kept rows of each visit, and its count of rows, in a loop over rows as `create_dataset.py` has it."""
    state = np.random.RandomState(seed)
    cursors, visits, total = np.zeros(50, int), [], 0
    while total < steps:
        number = int(state.choice(np.arange(50 - len(checkpoints), 50), 1)[0])
        arrays, i = checkpoints[number], int(cursors[number])
        left, done = 10, False
        while not done:
            if arrays["terminal"][i]:
                done = left == 0
                left -= 1
            i += 1
            if i >= rows:
                i, done = int(cursors[number]), True
        kept = arrays["kept"]
        if i > cursors[number]:
            visits.append((number, kept[(kept >= cursors[number]) & (kept < i)]))
        total += i - cursors[number]
        cursors[number] = i
    return visits, total


@pytest.mark.parametrize("seed", [123, 0])
@pytest.mark.parametrize("rows", [100_000, 250])
def test_the_original_order_is_what_create_dataset_draws(tmp_path, monkeypatch, seed, rows):
    monkeypatch.setattr("jaxdt.data.formats.dqn_replay._ORIGINAL_ROWS", rows)
    logs, checkpoints = many(tmp_path)
    rows = min(rows, *(len(each["action"]) for each in checkpoints.values()))
    visits, total = drawn_by_the_original(checkpoints, 500, seed, rows)
    store = load_episodes(f"dqn:{logs}?order=original&steps=500" + ("" if seed == 123 else f"&seed={seed}"))
    for ours, theirs in (("observations", "observation"), ("actions", "action"), ("rewards", "reward")):
        expected = np.concatenate([checkpoints[number][theirs][kept] for number, kept in visits])
        np.testing.assert_array_equal(getattr(store, ours), expected)
    assert total >= 500
    assert total - 4 * 3 - 3 * store.num_episodes == store.num_steps  # the rest of an episode, and blank rows
    assert [number for number, _ in visits] != sorted(number for number, _ in visits)


def test_each_seed_draws_its_own(tmp_path):
    logs, _ = many(tmp_path)
    first, again, other = (load_episodes(f"dqn:{logs}?order=original&steps=400&seed={seed}") for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("options", ["", "?steps=150", "?order=original&steps=400", "?buffers=1"])
def test_a_mapped_store_is_the_one_in_memory(tmp_path, options):
    logs, _ = many(tmp_path / "logs")
    in_memory, mapped = (load_episodes(f"dqn:{logs}{options}", map_above=limit) for limit in (1e9, 0))
    assert in_memory.mapped_in is None
    assert mapped.mapped_in is not None
    assert not mapped.observations.flags.writeable
    assert same(in_memory, mapped)
    assert mapped.fingerprint == in_memory.fingerprint
    assert load_episodes(f"dqn:{logs}{options}", map_above=0).mapped_in == mapped.mapped_in


def test_other_options_and_other_files_are_unpacked_anew(tmp_path):
    logs, _ = many(tmp_path / ("logs" * 12))  # of the spec, entries are named by the first letters alone
    specs = [f"dqn:{logs}{options}" for options in ("", "?buffers=2", "?steps=9", "?order=original&steps=9&seed=4")]
    directories = {load_episodes(spec, map_above=0).mapped_in for spec in specs}
    write(logs, {49: checkpoint(49, (3, 4))})
    assert load_episodes(specs[0], map_above=0).mapped_in not in directories
    assert len(directories) == 4


def test_what_the_episodes_take_decides_whether_they_are_mapped(tmp_path):
    """Not what their files take, a hundredth of it here."""
    logs = write(tmp_path, {0: checkpoint(0, (300,), size=80)})
    gibibytes = 300 * 80 * 80 / 2**30
    assert load_episodes(f"dqn:{logs}", map_above=gibibytes * 0.9).mapped_in is not None
    assert load_episodes(f"dqn:{logs}", map_above=gibibytes * 1.2).mapped_in is None
    assert load_episodes(f"dqn:{logs}?steps=150", map_above=gibibytes * 0.6).mapped_in is None


def test_logs_are_joined_by_a_plus(tmp_path):
    logs, _ = some_logs(tmp_path / "Pong" / "1")
    spec = f"dqn:{logs}?buffers=1 + dqn:{logs}?steps=10"
    for limit in (1e9, 0):
        store = load_episodes(spec, map_above=limit)
        assert store.lengths.tolist() == [1, 200, 120]
        assert store.env_id == "PongNoFrameskip-v4"


def test_what_is_read_is_heard_of(tmp_path):
    heard = []

    class Heard(Progress):
        def start(self, task, total, unit, done=0):
            heard.append((task, total, unit))

        def advance(self, done, **numbers):
            heard.append(done)

        def stop(self):
            heard.append("stop")

    logs = write(tmp_path, {number: checkpoint(number, (900,), size=40) for number in range(3)})
    load_episodes(f"dqn:{logs}", progress=Heard())
    (task, total, unit), *done, last = heard
    assert (task, total, unit, last) == (f"read dqn:{logs}", 4, "MiB", "stop")
    assert done == sorted(done)
    assert done[-1] == 4


def test_a_cut_has_no_effect(tmp_path):
    logs, _ = some_logs(tmp_path)
    with pytest.warns(UserWarning, match="says where its episodes end: --cut-after 5"):
        assert load_episodes(f"dqn:{logs}", cut_after=5).lengths.tolist() == [120, 30, 7, 1, 200]


@pytest.mark.slow
def test_loading_takes_little_more_than_the_episodes_do(tmp_path, monkeypatch):
    monkeypatch.setattr(dqn_checkpoint, "_BLOCK", 2**20)
    logs = write(tmp_path / "logs", {number: checkpoint(number, (2000, 1900), size=84) for number in range(2)})
    tracemalloc.start()
    try:
        store = load_episodes(f"dqn:{logs}", map_above=1e9)
        peak = tracemalloc.get_traced_memory()[1]
        size = store.observations.nbytes
        assert size > 50e6
        assert peak < 1.2 * size
        del store
        tracemalloc.reset_peak()
        load_episodes(f"dqn:{logs}", map_above=0)
        assert tracemalloc.get_traced_memory()[1] < 0.2 * size
    finally:
        tracemalloc.stop()


def test_reading_stops_after_the_last_episode_that_is_wanted(tmp_path):
    logs = write(tmp_path, {number: checkpoint(number, (100, 900), size=40) for number in (47, 48)})
    for number in (47, 48):
        path = path_of(logs, "observation", number)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert load_episodes(f"dqn:{logs}?steps=20").num_steps == 100
    assert re.search(r"ckpt.4[78].gz: observation cannot be read", refusal(f"dqn:{logs}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?buffers=3", "there are 2 checkpoints; buffers must be at most that"),
        ("?buffers=0", "must be at least 1"),
        ("?buffers=-1", "must be at least 1"),
        ("?buffers=1.5", "must be a whole number; got '1.5'"),
        ("?steps=", "must be a whole number; got ''"),
        ("?steps=many", "must be a whole number; got 'many'"),
        ("?steps=inf", "must be a whole number; got 'inf'"),
        ("?steps=nan", "must be a whole number; got 'nan'"),
        ("?steps=1e30", "at most"),
        ("?steps=359", "2 checkpoints hold 358 steps of whole episodes; leave steps out or ask for fewer"),
        ("?step=5", "the option 'step' is none of buffers, steps, order, seed (did you mean steps?)"),
        ("?", "the option '' is none of buffers"),
        ("?steps=5&steps=6", "the option 'steps' is given twice"),
        ("?order=random", "order must be recorded or original; got 'random'"),
        ("?seed=5", "seed is for order=original"),
        ("?order=original&seed=4294967296", "must be at least 0 and at most 4294967295"),
        ("?order=original", "the original's way of drawing finds 0 rows in 2 checkpoints; ask for fewer steps"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, options, message):
    spec = f"dqn:{some_logs(tmp_path)[0]}{options}"
    assert message in refusal(spec)


@pytest.mark.parametrize("spec", ["dqn:", "dqn:nowhere", "dqn:?steps=5", "dqn:file", "dqn:a\0b", "dqn:" + "a" * 300])
def test_a_directory_that_is_none_is_named(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert refusal(spec).startswith(f"dataset {spec!r:.200}: ".replace("\0", "\\x00"))
    assert "is no directory; give dqn:DIR of replay_logs" in refusal(spec)


def test_a_directory_without_logs_is_named(tmp_path):
    assert f"{tmp_path} holds no files such as $store$_observation_ckpt.0.gz" in refusal(f"dqn:{tmp_path}")


def test_too_few_steps_for_an_episode_are_named(tmp_path):
    logs = write(tmp_path, {0: checkpoint(0, ())})
    assert "1 checkpoints hold 0 steps of whole episodes; give more checkpoints" in refusal(f"dqn:{logs}")


@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_file_is_named(tmp_path, name):
    logs, _ = some_logs(tmp_path)
    path_of(logs, name, 9).unlink()
    assert refusal(f"dqn:{logs}").startswith(f"{path_of(logs, name, 9)} is missing; download it, or move")
    assert load_episodes(f"dqn:{logs}?buffers=1").num_episodes == 2


def gz(content: bytes) -> bytes:
    return gzip.compress(content, 1)


def npy(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


def damaged(good: bytes) -> dict[str, tuple[bytes, str]]:
    """Ways to spoil a file of a checkpoint, and what is said of each."""
    plain = gzip.decompress(good)
    values = np.load(io.BytesIO(plain))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    return {
        "cut off": (good[: len(good) * 2 // 3], "cannot be read"),
        "head cut off": (good[:5], "cannot be read"),
        "empty": (b"", "cannot be read"),
        "no gzip": (plain, "cannot be read: Not a gzipped file"),
        "no npy": (gz(b"PK\3\4" * 99), "cannot be read"),
        "flipped": (bytes(flipped), "cannot be read"),
        "too short": (gz(plain[:-1]), "it ends before all rows that its head names"),
        "too long": (gz(plain + b"\0"), "it holds more than its head says"),
        "a bomb": (gz(plain + bytes(2**24)), "it holds more than its head says"),
        "promises": (gz(array_header(values.dtype.str, (10**12, *values.shape[1:]))), "cannot lie in a file of"),
        "other dtype": (gz(npy(values.astype(np.float64))), "got float64 of"),
        "other byte order": (gz(npy(values.astype(">i2"))), "got >i2 of"),
        "pickle": (gz(array_header("|O", values.shape)), "got object of"),
        "a row less": (gz(npy(values[:-1])), "rows but observation of the same checkpoint has"),
        "no rows": (gz(npy(values[:0])), "must be an array of"),
        "flat": (gz(npy(values.reshape(*values.shape, 1))), "must be an array of"),
        "negative": (gz(array_header(values.dtype.str, (-1, *values.shape[1:]))), "must be an array of"),
    }


KINDS = tuple(damaged(gz(npy(np.zeros((9, 2), np.uint8)))))


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named(tmp_path, name, kind):
    logs, _ = some_logs(tmp_path)
    path = path_of(logs, name, 9)
    content, message = damaged(path.read_bytes())[kind]
    path.write_bytes(content)
    said = refusal(f"dqn:{logs}")
    assert message in said
    if kind != "a row less" or name != "observation":
        assert said.startswith(f"{path}: ")
    assert re.search(r"again\.$|both again\.$", said)


def test_a_promise_is_refused_before_anything_is_made_of_it(tmp_path):
    """Even where all four files agree on it."""
    logs, checkpoints = some_logs(tmp_path)
    for name in ARRAYS:
        values = checkpoints[9][name]
        path_of(logs, name, 9).write_bytes(gz(array_header(values.dtype.str, (10**7, *values.shape[1:]))))
    tracemalloc.start()
    try:
        assert "cannot lie in a file of" in refusal(f"dqn:{logs}")
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", [2, 3])
def test_an_endless_head_is_refused_before_it_is_inflated(tmp_path, version):
    logs, _ = some_logs(tmp_path)
    head = b"\x93NUMPY" + bytes([version, 0]) + (2**25).to_bytes(4, "little")
    path_of(logs, "observation", 9).write_bytes(gz(head + b" " * 2**25))
    tracemalloc.start()
    try:
        assert "its head is to have 33554432 bytes, and that of an array has at most 65536" in refusal(f"dqn:{logs}")
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_endless_pictures_are_refused(tmp_path):
    logs, _ = some_logs(tmp_path)
    path_of(logs, "observation", 9).write_bytes(gz(array_header("|u1", (9, 2**12, 2**9))))
    assert "pictures of (4096, 512) are larger than any of Atari's (210, 160)" in refusal(f"dqn:{logs}")


def test_pictures_of_two_sizes_are_refused(tmp_path):
    logs = write(tmp_path, {0: checkpoint(0, (5,)), 1: checkpoint(1, (5,), size=9)})
    assert "ckpt.1.gz: pictures are (9, 9) but (8, 8) in checkpoint 0" in refusal(f"dqn:{logs}")


@pytest.mark.parametrize("name", ["observation", "action", "reward"])
def test_a_row_that_must_be_blank_is_named(tmp_path, name):
    arrays = checkpoint(0, (5, 6))
    row = 4 + 3 + 5 + 2  # the last blank row of the second episode
    arrays[name][row].fill(1) if name == "observation" else arrays[name].__setitem__(row, 1)
    logs = write(tmp_path, {0: arrays})
    assert refusal(f"dqn:{logs}").startswith(
        f"{path_of(logs, name, 0)}: row {row} must be blank (zero), as the first 3"
    )


def test_an_episode_shorter_than_its_blank_rows_is_named(tmp_path):
    arrays = checkpoint(0, (5, 6))
    arrays["terminal"][4 + 3 + 5 + 1] = 1
    logs = write(tmp_path, {0: arrays})
    assert f"{path_of(logs, 'terminal', 0)}: row 13 must be blank" in refusal(f"dqn:{logs}")


def test_other_terminals_and_rewards_are_refused(tmp_path):
    arrays = checkpoint(0, (5, 6))
    logs = write(tmp_path, {0: {**arrays, "terminal": arrays["terminal"] * 2}})
    assert "terminal must be 0 or 1; got 2" in refusal(f"dqn:{logs}")
    logs = write(tmp_path, {0: {**arrays, "reward": np.where(arrays["action"] > 0, np.float32(np.nan), np.float32(0))}})
    assert "rewards of episode 0, step 0, is not a finite float32" in refusal(f"dqn:{logs}")


def test_a_failure_ends_the_other_checkpoints_reading(tmp_path, monkeypatch):
    """Each of these would read dozens of blocks."""
    monkeypatch.setattr("jaxdt.data.formats.dqn_replay.usable_cores", lambda: 1)
    logs, _ = many(tmp_path)
    path = path_of(logs, "observation", 47)
    path.write_bytes(gz(gzip.decompress(path.read_bytes())[:-99]))
    read, fill = [], dqn_checkpoint._fill
    monkeypatch.setattr(dqn_checkpoint, "_fill", lambda file, rows: (read.append(file.name), fill(file, rows)))
    assert f"{path}: " in refusal(f"dqn:{logs}")
    assert sum("observation" in name and name != str(path) for name in read) <= 2


def test_files_of_a_run_name_no_directory_of_the_machine(tmp_path):
    for spec in ("dqn:/home/me/Breakout/1/replay_logs?steps=5", "dqn:/home/me/logs/", "dqn:Pong/2"):
        assert "home" not in _file_names(spec) + dataset_name(spec)
    assert _file_names("dqn:/home/me/Breakout/1/replay_logs?steps=5+demo") == "dqn:Breakout/1?steps=5 + demo"
