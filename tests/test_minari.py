import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest

import jaxdt
from jaxdt.data.formats.minari import _environment, _in_order, load_minari
from tests.conftest import make_store
from tests.hub_server import HubServer


NAME = "mujoco/hopper/tiny-v0"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty folder of Minari's."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    (tmp_path / "datasets").mkdir()
    return tmp_path / "datasets"


@pytest.fixture
def dataset(root) -> Path:
    """The data folder of a small dataset as Minari lays it out; what Minari itself writes is tested apart."""
    return write(root / NAME / "data")


def write(folder: Path, store: jaxdt.EpisodeStore | None = None, **metadata) -> Path:
    store = store or make_store()
    folder.mkdir(parents=True)
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for number, (start, end) in enumerate(zip(store.offsets[:-1], store.offsets[1:], strict=True)):
            group = file.create_group(f"episode_{number}")
            final = np.full((1, *store.observations.shape[1:]), 9, store.observations.dtype)
            group["observations"] = np.concatenate([store.observations[start:end], final])
            for name in ("actions", "rewards", "terminations", "truncations"):
                group[name] = getattr(store, name)[start:end]
            group.create_group("infos")["qpos"] = np.zeros((end - start + 1, 2))
    said = {"total_episodes": store.num_episodes, "data_format": "hdf5", "env_spec": json.dumps({"id": "Hopper-v5"})}
    (folder / "metadata.json").write_text(json.dumps({**said, **metadata}))
    return folder


def change(folder: Path, **members) -> None:
    """Replaces members of episode 1; None deletes them."""
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        group = file["episode_1"]
        for name, value in members.items():
            del group[name]
            if isinstance(value, dict):
                group.create_group(name).create_dataset("a", data=0.0)
            elif value is not None:
                group[name] = value


def refusal(name: str = NAME) -> str:
    """The one sentence with which a dataset is refused."""
    with pytest.raises(jaxdt.JaxdtError) as caught:
        load_minari(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("discrete", [None, 5])
def test_a_local_dataset_loads_without_its_last_observations(root, discrete):
    store = make_store(discrete=discrete)
    write(root / NAME / "data", store)
    loaded = jaxdt.load_episodes(f"minari:{NAME}")
    assert loaded.fingerprint == store.fingerprint
    assert loaded.env_id == "Hopper-v5"


DICT = """gymnasium.spaces.Dict({
    "goal": gymnasium.spaces.Box(-9, 9, (1,), np.float32),
    "at": gymnasium.spaces.Dict({"y": gymnasium.spaces.Box(-9, 9, (2,)), "x": gymnasium.spaces.Box(-9, 9, (1,))}),
})"""


@pytest.mark.parametrize(
    ("action_space", "action", "space", "parts"),
    [
        ("gymnasium.spaces.Box(-9, 9, (3,), np.float32)", [0.5, 0.5, 0.5], None, [0, 1, 2, 3]),
        ("gymnasium.spaces.Discrete(3, start=2)", 4, DICT, [3, 1, 2, 0]),
    ],
    ids=["box", "discrete actions and a dict of observations"],
)
def test_what_minari_writes_is_read_in_each_of_its_formats(root, action_space, action, space, parts):
    action_type = "np.int64" if space else "np.float32"
    code = f"""
import gymnasium, minari, numpy as np
from minari.data_collector import EpisodeBuffer
space, as_dict = {space or "gymnasium.spaces.Box(-9, 9, (4,), np.float32)"}, {space is not None}
def observed(n):
    rows = np.arange(4 * (n + 1), dtype=np.float32).reshape(-1, 4)
    parts = dict(goal=rows[:, :1], at=dict(y=rows[:, 1:3], x=rows[:, 3:]))
    if as_dict:
        first = dict(goal=rows[0, :1], at=dict(y=rows[0, 1:3], x=rows[0, 3:]))
        assert gymnasium.spaces.flatten(space, first).tolist() == rows[0, {parts}].tolist()
    return parts if as_dict else rows
for kind in ("hdf5", "arrow", "parquet"):
    buffers = [
        EpisodeBuffer(
            observations=observed(n), actions=np.array([{action}] * n, {action_type}), rewards=np.arange(n),
            terminations=np.arange(n) == n - 1 if n == 4 else np.zeros(n, bool),
            truncations=np.arange(n) == n - 1 if n == 2 else np.zeros(n, bool), infos={{"x": np.zeros(n + 1)}},
        )
        for n in (2, 4)
    ]
    minari.create_dataset_from_buffers(
        f"made/{{kind}}-v0", buffers, env="Pendulum-v1", observation_space=space, action_space={action_space},
        algorithm_name="a", author="a", author_email="a@b.c", code_permalink="a", description="a", data_format=kind,
    )
"""
    made = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    for kind in ("hdf5", "arrow", "parquet"):
        store = load_minari(f"made/{kind}-v0")
        assert store.lengths.tolist() == [2, 4]
        assert store.returns.tolist() == [1, 6]
        np.testing.assert_array_equal(store.observations[2:], np.arange(16).reshape(4, 4)[:, parts])
        assert store.actions.tolist() == [action] * 6
        assert np.flatnonzero(store.terminations).tolist() == [5]
        assert np.flatnonzero(store.truncations).tolist() == [1]
        assert store.env_id == "Pendulum-v1"


@pytest.mark.parametrize("name", ["", "data", "data/main_data.hdf5"])
def test_a_dataset_may_be_given_by_its_path(root, dataset, name):
    path = root / NAME / name
    assert jaxdt.load_episodes(path).fingerprint == load_minari(NAME).fingerprint
    assert jaxdt.load_episodes(path, map_above=0.0).env_id == "Hopper-v5"


@pytest.mark.parametrize(
    "spec", [None, "{", "3", '{"id": 3}', '{"id": "evil:Env-v0"}', {"id": "Hopper-v5"}, "[" * 10_000]
)
def test_an_environment_that_is_no_plain_gymnasium_id_is_left_out(root, spec):
    write(root / NAME / "data", env_spec=spec)
    assert load_minari(NAME).env_id is None


PENDULUM = {"id": "Pendulum-v1", "kwargs": {}, "max_episode_steps": 200, "additional_wrappers": []}


@pytest.mark.parametrize(
    ("changed", "kwargs", "says"),
    [
        ({}, {}, None),
        ({"kwargs": {"render_mode": "human"}}, {}, None),
        ({"kwargs": 3, "max_episode_steps": "9"}, {}, None),
        ({"kwargs": {"g": 9.8}, "max_episode_steps": 50}, {"g": 9.8, "max_episode_steps": 50}, None),
        ({"id": "Unknown_x-v0"}, {"max_episode_steps": 200}, None),
        (
            {"kwargs": {"xml_file": "/evil.xml"}},
            None,
            r"Pendulum-v1 with env_kwargs {\"xml_file\": \"/evil\.xml\"}, which .* give --env Pendulum-v1 --env-kwargs "
            r"'{\"xml_file\": \"/evil\.xml\"}' if you trust it\.$",
        ),
        (
            {"additional_wrappers": [{"name": "Mine"}]},
            {},
            r'with additional_wrappers \[{"name": "Mine"}\], .* make it with its wrappers in a function, from Python',
        ),
    ],
)
def test_what_a_datasets_environment_has_beside_its_id_is_kept_or_said(recwarn, changed, kwargs, says):
    spec = {**PENDULUM, **changed}
    environment = _environment({"env_spec": json.dumps(spec)}, "minari:x")
    assert environment == {"env_id": spec["id"], "env_kwargs": kwargs}
    assert [bool(re.search(says or "", str(each.message))) for each in recwarn] == ([True] if says else [])


def test_the_code_that_a_datasets_environment_names_is_never_run(root, tmp_path):
    marker = tmp_path / "ran"
    spec = {"id": "Evil-v0", "entry_point": "os:mkdir", "kwargs": {"path": str(marker)}, "additional_wrappers": []}
    write(root / NAME / "data", env_spec=json.dumps(spec), minari_version="0.5.4", dataset_id=NAME)
    with pytest.warns(UserWarning, match="was recorded in Evil-v0 with env_kwargs"):
        assert load_minari(NAME).env_id == "Evil-v0"
    assert not marker.exists()
    code = f"import minari; minari.load_dataset({NAME!r})"  # the trap works: there are no spaces, so Minari makes it
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True)
    assert marker.exists()


@pytest.mark.parametrize(
    "name", ["", "hopper", "../x-v0", "/etc/x-v0", "a//b-v0", "a/../b-v0", "a-v0/", "a-v0\n", "hf://a/b-v0"]
)
def test_a_name_that_is_not_minaris_is_refused(root, name):
    assert refusal(name).startswith(f"dataset {'minari:' + name!r} is no name of Minari's; give one such as minari:")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"observations": {}}, "episode_1/observations/a must be an array of a row a step; got a single value"),
        ({"actions": {}}, "episode_1/actions must be a dataset of numbers; got a group."),
        ({"rewards": None}, "episode_1/rewards is missing; there is actions, infos, "),
        (
            {"observations": np.zeros((7, 3))},
            "observations of episode 1 has 7 rows for 7 steps; there must be one more",
        ),
        ({"actions": np.zeros((6, 2))}, "actions of episode 1 has 6 steps but observations has 7; they must agree."),
        ({"actions": np.zeros((7, 1))}, "actions of episode 1 has steps of shape (1,) but episode 0 of (2,)"),
        ({"rewards": np.full(7, np.nan)}, "rewards of episode 1, step 0, is not a finite float32"),
        ({"rewards": h5py.SoftLink("/episode_0/rewards")}, "episode_1/rewards is a link to another place"),
        ({"rewards": ["a"] * 7}, "episode_1/rewards must be numbers; got dtype object."),
        ({"terminations": np.arange(7)}, "terminations must be true or false at every step"),
    ],
)
def test_episodes_that_do_not_fit_are_refused_by_name(dataset, members, message):
    change(dataset, **members)
    assert message in refusal()


@pytest.mark.parametrize("total", [0, -1, 4, 10**9, None, "3", True, 2.0])
def test_a_number_of_episodes_that_is_not_the_files_is_refused(root, total):
    write(root / NAME / "data", total_episodes=total)
    assert f"holds 3 episodes but its metadata says {total!r}; load it anew." in refusal()


def test_an_episode_that_repeats_through_links_fills_no_memory(root, monkeypatch):
    monkeypatch.setattr("jaxdt.data.formats.limits.size_limit", lambda path, times=4: 10_000)
    folder = write(root / NAME / "data", make_store((100,)), total_episodes=40)
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        for number in range(1, 40):
            file[f"episode_{number}"] = file["episode_0"]
    assert "episode_3/observations would take 0.0 GiB, far more than a file of 0.0 MiB holds" in refusal()


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"a": ', "[" * 100_000, "\udcff"])
def test_damaged_metadata_is_refused(dataset, content):
    (dataset / "metadata.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert refusal().startswith(str(dataset / "metadata.json"))


def test_a_file_that_is_cut_off_or_absent_is_refused(dataset):
    path = dataset / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:3000])
    assert refusal().startswith(f"{path} cannot be read as an HDF5 file: ")
    path.unlink()
    assert "has no main_data.hdf5 (its format is 'hdf5')" in refusal()
    assert "delete the directory and load it again" in refusal()


def test_without_minari_only_a_download_asks_for_it(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    write(root / NAME / "data")
    assert load_minari(NAME).num_episodes == 3
    message = refusal("mujoco/hopper/other-v0")
    assert message.endswith("downloading it needs Minari: pip install 'jaxdt[minari]'.")


def remote_files(folder: Path) -> dict[str, bytes]:
    """A namespace's repository as Minari uploads it."""
    write(folder, minari_version="0.5.3", dataset_id=NAME)
    files = {f"hopper/tiny-v0/data/{path.name}": path.read_bytes() for path in folder.iterdir()}
    listed = {"datasets": [NAME], "namespaces": ["mujoco/hopper"]}
    return {**files, "namespace_metadata.json": json.dumps(listed).encode(), "hopper/namespace_metadata.json": b"{}"}


class Lists:
    """The hub's answer to which datasets an author has."""

    def do_GET(self):
        if self.path.startswith("/api/datasets?"):
            self._answer(200, [{"_id": "0", "id": repo} for kind, repo in self.hub.repos if kind == "datasets"])
        else:
            super().do_GET()


@pytest.fixture
def hub():
    with HubServer() as hub:
        hub._server.RequestHandlerClass = type("Handler", (Lists, hub._server.RequestHandlerClass), {})
        yield hub


def loading(hub: HubServer, folder: Path, name: str = NAME) -> subprocess.CompletedProcess:
    code = f"""
import jaxdt
try:
    print(jaxdt.load_episodes("minari:{name}").fingerprint)
except jaxdt.JaxdtError as error:
    print(error)
"""
    return hub.python(code, folder / "home", MINARI_DATASETS_PATH=str(folder / "datasets"), PYTHONWARNINGS="ignore")


@pytest.mark.slow
def test_a_dataset_of_a_remote_is_downloaded_once(hub, tmp_path):
    hub.add("datasets", "farama-minari/mujoco", "main", remote_files(tmp_path / "made"))
    first = loading(hub, tmp_path)
    assert first.stdout.strip() == make_store().fingerprint, first.stderr
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == ["mujoco"]
    hub.requests.clear()
    assert loading(hub, tmp_path).stdout == first.stdout
    assert not hub.requests
    unknown = loading(hub, tmp_path, "mujoco/hopper/nothing-v3").stdout
    assert unknown.startswith("dataset 'minari:mujoco/hopper/nothing-v3' could not be downloaded: Couldn't find any")
    assert unknown.strip().endswith(f"check the name and the network. Already here: {NAME}.")


@pytest.mark.parametrize("failure", [OSError("no network\nat all"), KeyboardInterrupt()])
def test_a_download_that_fails_leaves_nothing(root, monkeypatch, failure):
    def download_half(name):
        write(Path(os.environ["MINARI_DATASETS_PATH"]) / name / "data")
        raise failure

    monkeypatch.setitem(sys.modules, "minari", types.SimpleNamespace(download_dataset=download_half))
    write(root / "other-v0" / "data")
    if isinstance(failure, Exception):
        assert refusal() == (
            f"dataset 'minari:{NAME}' could not be downloaded: no network; check the name and the network. "
            "Already here: other-v0."
        )
    else:
        with pytest.raises(KeyboardInterrupt):
            load_minari(NAME)
    assert [path.name for path in root.iterdir()] == ["other-v0"]
    assert os.environ["MINARI_DATASETS_PATH"] == str(root)


def test_the_parts_of_a_tuple_follow_their_numbers():
    assert _in_order([f"_index_{i}" for i in range(12)][::-1]) == [f"_index_{i}" for i in range(12)]
    assert _in_order(["b", "_index_2", "a"]) == ["a", "b", "_index_2"]
