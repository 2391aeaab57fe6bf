import contextlib
import os
import pickle
import pty
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jaxdt.data.formats.hub import configs_in
from jaxdt.progress import Progress
from tests.hub_server import HubServer
from tests.test_arrow import NUMBERS, columns, write_parquet
from tests.test_loading import load_episodes, refusal


GYM = "edbeeching/decision_transformer_gym_replay"
SPEC = f"hf:{GYM}/halfcheetah-expert-v2"
CONVERTED = "refs/convert/parquet"


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch, home):
    """A hub that this process knows too; the library reads its environment when it is imported."""
    from huggingface_hub import close_session, constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    with HubServer() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        disable_progress_bars()
        yield hub
        enable_progress_bars()
        close_session()


def parquet(tmp_path: Path, rewards: float = 0.0, width: int = 17, **more: pa.Array) -> bytes:
    """One episode of two steps with HalfCheetah's observation; the rewards tell files apart."""
    changes = {
        "observations": pa.array([[[0.0] * width, [1.0] * width]], NUMBERS),
        "actions": pa.array([[[0.0] * 6, [0.5] * 6]], NUMBERS),
        "rewards": pa.array([[rewards, rewards]], pa.list_(pa.float32())),
        "dones": pa.array([[False, False]], columns()["dones"].type),
    }
    return write_parquet(tmp_path / "some.parquet", **{**changes, **more}).read_bytes()


def pickled(rewards: float = 0.0) -> bytes:
    episode = {
        "observations": np.zeros((2, 17), np.float32),
        "actions": np.zeros((2, 6), np.float32),
        "rewards": np.full(2, rewards, np.float32),
        "terminals": np.array([False, True]),
    }
    return pickle.dumps([episode])


def add_gym(hub: HubServer, converted: dict[str, bytes] | None) -> None:
    """The repository as it is: a script and pickles, and where the hub made it, the conversion."""
    hub.add("datasets", GYM, "main", {"README.md": b"#", "decision_transformer_gym_replay.py": b"import os"})
    hub.add("datasets", GYM, "main", {".gitattributes": b"", "data/halfcheetah-expert-v2.pkl": pickled(7)})
    hub.add("datasets", GYM, "main", {"data/hopper-medium-v2.pkl": pickled(8)})
    if converted is not None:
        hub.add("datasets", GYM, CONVERTED, converted)


LOAD = """
import json, sys
from jaxdt import JaxdtError, load_episodes
try:
    store = load_episodes({spec!r})
    print(json.dumps([store.env_id, store.rewards.tolist()]))
except JaxdtError as error:
    print(error)
assert "jax" not in sys.modules and "datasets" not in sys.modules
"""


def load_elsewhere(hub: HubServer, home: Path, spec: str = SPEC, **more: str) -> str:
    """What a fresh process prints that has HF_ENDPOINT and HF_HOME in its environment."""
    done = hub.python(LOAD.format(spec=spec), home, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_fresh_process_loads_the_parquet_revision_and_then_its_copy(hub, home, tmp_path):
    add_gym(hub, {"halfcheetah-expert-v2/train/0000.parquet": parquet(tmp_path, 3)})
    good = '["HalfCheetah-v4", [3.0, 3.0]]'
    assert load_elsewhere(hub, home) == good
    assert [request for request in hub.requests if "resolve" in request and request.startswith("GET")] == [
        request for request in hub.requests if request.endswith("/halfcheetah-expert-v2/train/0000.parquet")
    ][-1:]
    assert list((home / "hub" / f"datasets--{GYM.replace('/', '--')}" / "snapshots").rglob("0000.parquet"))
    hub.requests.clear()
    assert load_elsewhere(hub, home, HF_HUB_OFFLINE="1") == good
    assert hub.requests == []


def test_discrete_actions_come_from_the_hub_as_well(hub, tmp_path):
    add_gym(hub, {"halfcheetah-expert-v2/train/0000.parquet": parquet(tmp_path, actions=pa.array([[2, 1]]))})
    assert load_episodes(SPEC).actions.tolist() == [2, 1]


def test_a_hub_that_fails_is_answered_with_the_copy(hub, tmp_path):
    add_gym(hub, {"halfcheetah-expert-v2/train/0000.parquet": parquet(tmp_path, 3)})
    first = load_episodes(SPEC)
    hub.down = True
    hub.requests.clear()
    assert load_episodes(SPEC).fingerprint == first.fingerprint
    assert len(hub.requests) == 1  # asked once, and not again for what is kept
    assert refusal(f"hf:{GYM}/hopper-medium-v2").endswith(") and no copy is kept here; connect and try again.")


def test_without_the_parquet_revision_the_pickle_is_read_as_data(hub, home):
    add_gym(hub, None)
    store = load_episodes(SPEC)
    assert store.rewards.tolist() == [7, 7]
    assert store.terminations.tolist() == [False, True]
    assert store.env_id == "HalfCheetah-v4"


def test_a_config_that_the_conversion_lacks_comes_from_its_pickle(hub, tmp_path):
    add_gym(hub, {"halfcheetah-expert-v2/train/0000.parquet": parquet(tmp_path)})
    store = load_episodes(f"hf:{GYM}/hopper-medium-v2")
    assert store.rewards.tolist() == [8, 8]
    assert store.env_id is None  # 17 numbers are no Hopper's


def test_a_pickle_of_the_hub_runs_nothing(hub, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    hub.add("datasets", GYM, "main", {"data/halfcheetah-expert-v2.pkl": pickle.dumps([Evil()])})
    assert refusal(SPEC).startswith(f"{SPEC}: ")
    assert "asks to run posix.mkdir" in refusal(SPEC)
    assert not (tmp_path / "ran").exists()


def test_shards_are_joined_in_order(hub, tmp_path):
    shards = {f"c/train/{i:04d}.parquet": parquet(tmp_path, i) for i in (2, 0, 11, 1)}
    hub.add("datasets", "a/b", CONVERTED, {**shards, "c/test/0000.parquet": parquet(tmp_path, 99)})
    assert load_episodes("hf:a/b/c").rewards[::2].tolist() == [0, 1, 2, 11]
    assert load_episodes("hf:a/b").rewards[::2].tolist() == [0, 1, 2, 11]


def test_a_repository_of_plain_parquet_files_is_read_from_main(hub, tmp_path):
    hub.add("datasets", "me/halfcheetah-medium-v2", "main", {"data/train-00000-of-00001.parquet": parquet(tmp_path, 5)})
    store = load_episodes("hf:me/halfcheetah-medium-v2")
    assert store.rewards.tolist() == [5, 5]
    assert store.env_id == "HalfCheetah-v4"
    joined = load_episodes("hf:me/halfcheetah-medium-v2+hf:me/halfcheetah-medium-v2/default")
    assert joined.rewards.tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize(
    ("names", "configs"),
    [
        ("data/train-0-of-2.parquet data/train-1-of-2.parquet data/test-0-of-1.parquet", "default"),
        ("train.parquet test.parquet README.md", "default"),
        ("train/0.parquet test/0.parquet validation/0.parquet", "default"),
        ("0000.parquet 0001.parquet", "default"),
        ("a/train/0.parquet a/test/0.parquet b/train-0-of-1.parquet b/validation.parquet", "a b"),
        ("a.parquet b-00000-of-00002.parquet b-00001-of-00002.parquet", "a b"),
        ("data/a/train-0.parquet data/b/x.parquet", "a b"),
        ("a/x.parquet a/y.parquet a/x.pkl", "a"),
        ("data/a.pkl b.pkl model.bin", "a b"),
        ("a/partial-train/0.parquet deep/er/and/train/0.parquet", ""),
        ("../a.parquet a/../train/0.parquet /a.parquet a/.x/train.parquet ..pkl .pkl a\\b.pkl a//b.parquet", ""),
        ("", ""),
    ],
)
def test_the_files_of_each_config_are_found_by_their_names(names, configs):
    assert sorted(configs_in(names.split())) == configs.split()


def test_parquet_is_preferred_to_a_pickle_and_no_shard_is_left_out():
    found = configs_in(["data/a.pkl", "a/train/1.parquet", "a/train/0.parquet", "a/train/10.parquet", "a.parquet"])
    assert found == {"a": ["a/train/0.parquet", "a/train/1.parquet", "a/train/10.parquet"]}


@pytest.mark.parametrize("kind", ["short", "cut"])
def test_a_truncated_file_is_refused_with_the_spec_and_the_file(hub, home, tmp_path, kind):
    whole, name = parquet(tmp_path), "halfcheetah-expert-v2/train/0000.parquet"
    add_gym(hub, {name: whole if kind == "cut" else whole[:-20]})
    if kind == "short":
        message = refusal(SPEC)
        assert message.startswith(f"{SPEC}: {home}")
        assert "0000.parquet cannot be read as a parquet file: " in message
        assert message.endswith("; copy or make it again. (If the download is damaged, delete that file.)")
    else:  # the connection ends early, again and again
        hub.cut = {name}
        message = load_elsewhere(hub, home, PYTHONPATH=str(impatient(tmp_path)))
        assert message.startswith(f"{SPEC}: {name} cannot be downloaded: ")
        hub.cut = set()
        assert load_elsewhere(hub, home) == '["HalfCheetah-v4", [0.0, 0.0]]'


def impatient(folder: Path) -> Path:
    """Makes the library's five retries, a second apart, follow each other at once."""
    (folder / "sitecustomize.py").write_text("import time\ntime.sleep = lambda seconds: None\n")
    return folder


def test_a_repository_that_is_not_there_is_named(hub):
    message = refusal("hf:nobody/nothing/x")
    assert message.startswith("hf:nobody/nothing/x: the hub has no dataset repository nobody/nothing ")
    hub.add("models", "nobody/nothing", "main", {"x.parquet": b""})
    assert refusal("hf:nobody/nothing/x") == message


def test_a_config_that_is_not_there_is_told_which_are(hub, tmp_path):
    add_gym(hub, {"halfcheetah-expert-v2/train/0000.parquet": parquet(tmp_path)})
    assert refusal(f"hf:{GYM}/halfcheetah-expert-v3") == (
        f"hf:{GYM}/halfcheetah-expert-v3: there is no config 'halfcheetah-expert-v3'; give hf:{GYM}/CONFIG "
        "with one of halfcheetah-expert-v2, hopper-medium-v2."
    )


def test_a_repository_of_several_configs_asks_for_one(hub):
    add_gym(hub, None)
    assert refusal(f"hf:{GYM}") == (
        f"hf:{GYM}: it has several configs; give hf:{GYM}/CONFIG with one of halfcheetah-expert-v2, hopper-medium-v2."
    )


def test_a_repository_without_episodes_is_told_what_it_has(hub):
    hub.add("datasets", "a/b", "main", {"README.md": b"", "images/1.png": b"", "data/test.parquet": b""})
    assert refusal("hf:a/b") == (
        "hf:a/b: the repository has no parquet files or pickles of a split train; it has README.md, "
        "data/test.parquet, images/1.png (give another repository)."
    )


def test_a_gated_repository_is_told_how_to_get_in(hub, tmp_path):
    hub.add("datasets", "a/b", "main", {"train.parquet": parquet(tmp_path)})
    hub.gated = {"a/b"}
    assert refusal("hf:a/b") == "hf:a/b: a/b is gated; ask for access on its page, then log in with `hf auth login`."


@pytest.mark.parametrize("fault", ["down", "offline", "nobody listens"])
def test_without_a_network_and_a_copy_one_is_told_to_connect(hub, monkeypatch, fault):
    from huggingface_hub import constants

    hub.down = fault == "down"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", fault == "offline")
    if fault == "nobody listens":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    message = refusal(SPEC)
    assert message.startswith(f"{SPEC}: the hub cannot be asked (")
    assert message.endswith(") and no copy is kept here; connect and try again.")


def test_an_incomplete_copy_is_not_taken_for_the_whole(hub, home, tmp_path, monkeypatch):
    from huggingface_hub import constants

    shards = {f"c/train/{i:04d}.parquet": parquet(tmp_path, i) for i in range(3)}
    hub.add("datasets", "a/b", CONVERTED, shards)
    assert load_episodes("hf:a/b/c").num_episodes == 3
    next((home / "hub").rglob("0001.parquet")).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal("hf:a/b/c").startswith(
        "hf:a/b/c: c/train/0000.parquet, c/train/0001.parquet, c/train/0002.parquet cannot be "
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert load_episodes("hf:a/b/c").num_episodes == 3


def test_names_of_a_hostile_hub_never_become_paths(hub, home, tmp_path):
    bad = {f"c/train/{'../' * i}escaped.parquet": parquet(tmp_path) for i in range(1, 9)}
    hub.add("datasets", "a/b", "main", {**bad, "/tmp/escaped.parquet": b"", "README.md": b""})
    assert refusal("hf:a/b/c") == (
        "hf:a/b/c: the repository has no parquet files or pickles of a split train; it has README.md "
        "(give another repository)."
    )
    assert not list(tmp_path.rglob("escaped.parquet"))
    assert not [request for request in hub.requests if "resolve" in request]


@pytest.mark.parametrize(
    "spec",
    [
        *("hf:", "hf:a", "hf:a/", "hf:a/b/", "hf:a/b/c/d", "hf:../b", "hf:a/..", "hf:a/b/..", "hf:a/b/c..d"),
        *("hf:a\\b/c", "hf:/a/b", "hf:a/b\n", "hf: a/b", "hf:a/b@main", "hf:a/b?x", "hf:ä/b", "hf:.a/b", "hf:-a/b"),
    ],
)
def test_a_spec_that_is_no_repository_is_refused_before_anything_is_asked(hub, spec):
    assert refusal(spec).startswith(f"dataset {spec!r} must be hf:OWNER/NAME or hf:OWNER/NAME/CONFIG, such as hf:")
    assert hub.requests == []


class Heard(Progress):
    def __init__(self):
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_a_download_is_announced_once(hub, tmp_path):
    hub.add("datasets", "a/b", "main", {"train.parquet": parquet(tmp_path)})
    heard = Heard()
    load_episodes("hf:a/b", progress=heard)
    assert heard.said == ["hf:a/b: downloading train.parquet (0.0 MB) of the revision main"]
    load_episodes("hf:a/b", progress=heard)
    assert len(heard.said) == 1


def test_a_terminal_sees_a_bar(hub, home, tmp_path):
    hub.add("datasets", "a/b", "main", {"train.parquet": parquet(tmp_path)})
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    command = [sys.executable, "-c", LOAD.format(spec="hf:a/b")]
    process = subprocess.Popen(command, env=hub.environment(home), stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as screen:  # Linux ends it with an error
        while content := screen.read(65536):
            seen += content
    assert process.wait(60) == 0
    assert b"100%" in seen
    assert b"kB" in seen


UPLOAD = """
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
api.create_repo("me/model", exist_ok=True)
api.create_repo("me/model", exist_ok=True)
api.upload_folder(repo_id="me/model", folder_path={folder!r})
print(open(hf_hub_download("me/model", "config.json")).read())
"""


def test_the_test_hub_takes_a_model_and_gives_it_back(hub, home, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(3000))
    (folder / "README.md").write_text("---\nlibrary_name: jaxdt\n---\n")
    done = hub.python(UPLOAD.format(folder=str(folder)), home)
    assert done.stdout.strip() == "{}", done.stderr
    assert hub.uploads["me/model"] == {path.name: path.read_bytes() for path in folder.iterdir()}
