"""Observations that lie in data as PNG or JPEG files, or as pictures of bytes in lists and in Minari's datasets."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import gymnasium
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from jaxdt import Agent, load_episodes
from jaxdt.algorithms import make_algorithm
from jaxdt.choice import EnvironmentChoice
from jaxdt.config import AtariDTConfig
from jaxdt.data.collecting import Behaviour, collect_episodes
from jaxdt.data.formats import size_in_memory
from jaxdt.data.formats.pictures import grey_pictures
from jaxdt.evaluation.environments import make_environment
from jaxdt.types import Discrete, Spec
from tests.test_arrow import FLAGS, write_saved
from tests.test_loading import refusal


RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 4, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(picture: np.ndarray, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, kind)
    return content.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def as_images(files: list) -> list:
    return [{"bytes": content, "path": "/etc/hostname"} for content in files]


def episodes(observations: pa.Array, **metadata: str) -> pa.Table:
    """Of 2 and 3 steps, a row each."""
    table = pa.table(
        {
            "observations": observations,
            "actions": pa.array([[0, 1], [2, 1, 0]], pa.list_(pa.int64())),
            "rewards": pa.array([[0.0, 1], [2, 3, 4]], pa.list_(pa.float32())),
            "dones": pa.array([[False, True], [False, False, False]], FLAGS),
        }
    )
    return table.replace_schema_metadata(metadata)


def steps(observations: pa.Array) -> pa.Table:
    """The same, a step a row."""
    return pa.table({"observation": observations, "action": [0, 1, 2, 1, 0], "reward": [0.0, 1, 2, 3, 4],
                     "episode": ["a", "a", "b", "b", "b"]})  # fmt: skip


def write(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


def of_files(files: list, kind: pa.DataType = IMAGE) -> pa.Array:
    """An episode a row."""
    values = as_images(files) if kind == IMAGE else files
    return pa.array([values[:2], values[2:]], pa.list_(kind))


def check(store, pictures: np.ndarray) -> None:
    assert store.observations.dtype == np.uint8
    np.testing.assert_array_equal(store.observations, pictures)
    assert store.lengths.tolist() == [2, 3]
    assert (store.actions.tolist(), store.rewards.tolist()) == ([0, 1, 2, 1, 0], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("pictures", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("kind", [IMAGE, pa.binary(), pa.large_binary()], ids=["image", "binary", "large"])
def test_files_in_a_column_are_pictures(tmp_path, monkeypatch, pictures, kind):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = [encoded(picture) for picture in pictures]
    path = write(tmp_path / "episodes.parquet", episodes(of_files(files, kind)))
    check(load_episodes(path), pictures)
    assert size_in_memory(path) >= pictures.nbytes
    check(load_episodes(path, map_above=0), pictures)
    values = as_images(files) if kind == IMAGE else files
    path = write(tmp_path / "steps.parquet", steps(pa.array(values, kind)))
    check(load_episodes(path), pictures)
    assert size_in_memory(path) >= pictures.nbytes
    store = load_episodes(path, map_above=0)
    check(store, pictures)
    assert store.mapped_in is not None
    check(load_episodes(write_saved(tmp_path / "saved", episodes(of_files(files, kind)))), pictures)


def test_datasets_images_are_pictures_in_memory_and_on_disk(tmp_path):
    import datasets

    values = {"action": datasets.Value("int64"), "reward": datasets.Value("float32")}
    values["episode"] = datasets.Value("string")
    features = datasets.Features({"observation": datasets.Image(), **values})
    rows = steps(pa.nulls(5)).to_pydict() | {"observation": [Image.fromarray(picture) for picture in COLOUR]}
    dataset = datasets.Dataset.from_dict(rows, features)
    check(load_episodes(dataset), COLOUR)
    dataset.save_to_disk(tmp_path / "saved")
    check(load_episodes(tmp_path / "saved"), COLOUR)
    dataset.to_parquet(tmp_path / "a.parquet")
    check(load_episodes(tmp_path / "a.parquet"), COLOUR)
    features = datasets.Features({**features, "observation": datasets.Array3D((4, 6, 3), "uint8")})
    dataset = datasets.Dataset.from_dict({**rows, "observation": COLOUR}, features)
    check(load_episodes(dataset), COLOUR)
    dataset.to_parquet(tmp_path / "b.parquet")
    check(load_episodes(tmp_path / "b.parquet"), COLOUR)


@pytest.mark.parametrize("pictures", [GREY, COLOUR], ids=["grey", "colour"])
def test_lists_of_lists_of_bytes_are_pictures(tmp_path, pictures):
    kind = pa.uint8()
    for _ in pictures.shape[1:]:
        kind = pa.list_(kind)
    rows = pictures.tolist()
    check(
        load_episodes(write(tmp_path / "a.parquet", episodes(pa.array([rows[:2], rows[2:]], pa.list_(kind))))), pictures
    )
    check(load_episodes(write(tmp_path / "b.parquet", steps(pa.array(rows, kind)))), pictures)
    rows[3][1] = rows[3][1][:-1]
    path = write(tmp_path / "c.parquet", episodes(pa.array([rows[:2], rows[2:]], pa.list_(kind))))
    assert refusal(path) == f"{path}: observations of episode 1, step 1, has 5 numbers, other steps 6; make them agree."
    path = write(tmp_path / "d.parquet", steps(pa.array(rows, kind)))
    assert refusal(path) == f"{path}: observation of row 3 has 5 numbers, other rows 6; make them agree."


@pytest.mark.parametrize("kind", ["PNG", "JPEG", None])
def test_colour_screens_become_grey_pictures_whatever_they_lie_in(tmp_path, kind):
    screens = np.repeat(RNG.integers(0, 256, (5, 21, 16, 3), dtype=np.uint8), 10, axis=1).repeat(10, axis=2)
    if kind is None:
        lists = pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8()))))
        column = pa.array([screens[:2].tolist(), screens[2:].tolist()], lists)
    else:
        files = [encoded(screen, kind) for screen in screens]
        column, screens = of_files(files), np.stack([decoded(content) for content in files])
    path = write(tmp_path / "a.parquet", episodes(column, env_id="ALE/Pong-v5"))
    with pytest.warns(UserWarning, match="kept as grey ones of 84 x 84"):
        store = load_episodes(path)
    check(store, grey_pictures(screens))
    assert store.env_kwargs == {"resize": "antialiased"}


def test_a_picture_that_is_written_is_a_png(tmp_path):
    from jaxdt.data.writing import write_episodes

    store = load_episodes(write(tmp_path / "a.parquet", episodes(of_files([encoded(picture) for picture in GREY]))))
    write_episodes(store, tmp_path / "b.parquet")
    assert pq.read_schema(tmp_path / "b.parquet").field("observations").type == pa.list_(IMAGE)
    assert load_episodes(tmp_path / "b.parquet").fingerprint == store.fingerprint


def with_sizes(content: bytes, width: int, height: int) -> bytes:
    """A PNG whose head promises so many pixels."""
    import zlib

    head = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:8] + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def some(kind: str = "L", size: tuple[int, int] = (6, 4)) -> bytes:
    content = io.BytesIO()
    Image.new(kind, size).save(content, "PNG")
    return content.getvalue()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "has no bytes of a picture (a path to one is not followed); save the data with their pictures inside."),
        (b"", "has no bytes of a picture (a path to one is not followed); save the data with their pictures inside."),
        (b"hello", "is no PNG or JPEG file, or a damaged one (it begins with b'hello'); make it again."),
        (
            b"GIF89a" + bytes(99),
            "is no PNG or JPEG file, or a damaged one (it begins with b'GIF89a\\x00\\x00'); make it again.",
        ),
        (encoded(GREY[0])[:60], "is a damaged picture ("),
        (encoded(COLOUR[0], "JPEG")[:300], "is no PNG or JPEG file, or a damaged one (it begins with"),
        (encoded(COLOUR[0], "JPEG")[:-40], "is a damaged picture ("),
        (some("RGBA"), "is a picture of Pillow's mode 'RGBA'; save it as grey ('L') or as colours ('RGB')."),
        (some("P"), "is a picture of Pillow's mode 'P'; save it as grey ('L') or as colours ('RGB')."),
        (some("I;16"), "is a picture of Pillow's mode 'I;16'; save it as grey ('L') or as colours ('RGB')."),
        (some("L", (7, 4)), "is a picture of shape (4, 7), the first of (4, 6); make them agree."),
        (
            with_sizes(some(), 2**31 - 1, 2**31 - 1),
            "is no PNG or JPEG file, or a damaged one (it begins with b'\\x89PNG",
        ),
        (with_sizes(some(), 12_000, 12_000), "is a picture of shape (12000, 12000), the first of (4, 6); make"),
    ],
)
def test_a_file_that_is_no_such_picture_is_refused_by_its_row(tmp_path, content, says):
    first = encoded(GREY[0]) if b"JFIF" not in (content or b"") else encoded(COLOUR[0], "JPEG")
    files = [first] * 4 + [content]
    path = write(tmp_path / "a.parquet", episodes(of_files(files)))
    assert refusal(path).startswith(f"{path}: observations of row 1 {says}")
    path = write(tmp_path / "b.parquet", steps(pa.array(as_images(files), IMAGE)))
    assert refusal(path).startswith(f"{path}: observation of row 4 {says}")


def test_bombs_are_refused_before_they_inflate(tmp_path, monkeypatch):
    """One picture that is too large, and many that are together."""
    monkeypatch.setattr("jaxdt.data.formats.limits.SMALL", 0)
    monkeypatch.setattr("jaxdt.data.formats.columns.check_declared_size", lambda *_: None)
    huge, large = (with_sizes(some(), side, side) for side in (9000, 3000))
    for content, shape in ((huge, (9000, 9000)), (large, (3000, 3000))):
        monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was inflated"))
        for table in (episodes(of_files([content] * 5)), steps(pa.array(as_images([content] * 5), IMAGE))):
            path = write(tmp_path / "a.parquet", table)
            assert f"is a picture of shape {shape}, which would take far more memory than its files" in refusal(path)


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", episodes(of_files([encoded(picture) for picture in GREY])))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert refusal(path) == (
        f"{path}: observations of row 0 has pictures as files, which need Pillow; pip install 'jaxdt[pictures]'."
    )


# ---- Minari


MADE = """
import sys, warnings
import gymnasium, minari, numpy as np
from minari.data_collector import EpisodeBuffer
from gymnasium.envs.registration import EnvSpec
spec = EnvSpec("ALE/Pong-v5", entry_point="ale_py.env:AtariEnv", kwargs=dict(
    game="pong", obs_type="rgb", mode=None, repeat_action_probability=0.25, frameskip=4))
screens = np.load(sys.argv[1])
space = gymnasium.spaces.Box(0, 255, screens.shape[1:], np.uint8)
for kind in ("hdf5", "arrow", "parquet"):
    for name in ("jpeg", "raw", "same"):
        shown = screens[:1].repeat(7, 0) if name == "same" else screens
        buffers = [
            EpisodeBuffer(
                observations=shown[start:start + n + 1], actions=np.arange(n), rewards=np.arange(n) + 0.0,
                terminations=np.arange(n) == n - 1, truncations=np.zeros(n, bool),
            )
            for start, n in ((0, 2), (3, 3))
        ]
        minari.create_dataset_from_buffers(
            f"atari/pong/{kind}-{name}-v0", buffers, env=spec, observation_space=space,
            action_space=gymnasium.spaces.Discrete(6), algorithm_name="a", author="a", author_email="a@b.c",
            code_permalink="a", description="a", data_format=kind, jpeg_encoding=name != "raw",
        )
"""
SCREENS = np.repeat(RNG.integers(0, 256, (7, 21, 16, 3), dtype=np.uint8), 10, axis=1).repeat(10, axis=2)
STEPS = [0, 1, 3, 4, 5]
"""Which of the screens are a step's, and no last observation."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Datasets of Atari that Minari wrote in each of its formats."""
    root = tmp_path_factory.mktemp("minari")
    np.save(root / "screens.npy", SCREENS)
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MADE, str(root / "screens.npy")], capture_output=True, text=True,
        env=os.environ | {"MINARI_DATASETS_PATH": str(root)},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("name", ["jpeg", "raw", "same"])
def test_minaris_atari_is_read_in_each_of_its_formats(root, monkeypatch, kind, name):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    with pytest.warns(UserWarning, match=f"minari:atari/pong/{kind}-{name}-v0: colour pictures of 210 x 160"):
        store = load_episodes(f"minari:atari/pong/{kind}-{name}-v0")
    assert store.observations.shape == (5, 84, 84)
    shown = SCREENS if name == "raw" else np.stack([decoded(encoded(screen, "JPEG")) for screen in SCREENS])
    np.testing.assert_array_equal(store.observations, grey_pictures(shown)[[0] * 5 if name == "same" else STEPS])
    assert (store.lengths.tolist(), store.actions.tolist()) == ([2, 3], [0, 1, 0, 1, 2])
    assert store.env_id == "ALE/Pong-v5"
    assert store.env_kwargs == {"resize": "antialiased", "repeat_action_probability": 0.25, "frameskip": 4}


def test_a_games_settings_are_kept_though_its_id_is_registered_with_them(root, monkeypatch):
    """ALE's id has sticky actions of its own, which ours, of the same name, has not."""
    kwargs = {"game": "pong", "obs_type": "rgb", "mode": None, "repeat_action_probability": 0.25, "frameskip": 4}
    spec = EnvSpec("ALE/Pong-v5", entry_point="ale_py.env:AtariEnv", kwargs=kwargs)
    monkeypatch.setitem(gymnasium.registry, "ALE/Pong-v5", spec)
    with pytest.warns(UserWarning, match="kept as grey"):
        store = load_episodes(root / "atari/pong/hdf5-raw-v0")
    assert store.env_kwargs == {"resize": "antialiased", "repeat_action_probability": 0.25, "frameskip": 4}


def test_minaris_files_of_one_length_are_an_array(root):
    """Or the tests above would not have met them."""
    with h5py.File(root / "atari/pong/hdf5-same-v0/data/main_data.hdf5") as file:
        assert file["episode_0/observations"].ndim == 2
    with h5py.File(root / "atari/pong/hdf5-jpeg-v0/data/main_data.hdf5") as file:
        assert file["episode_0/observations"].dtype == object


# ---- the global heap of HDF5


def write_hdf5(path: Path, files: list[bytes], **options) -> Path:
    with h5py.File(path, "w") as file:
        file["actions"], file["rewards"] = [0, 1, 2, 1, 0], [0.0, 1, 2, 3, 4]
        file["terminals"], file["timeouts"] = [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]
        observations = file.create_dataset("observations", (len(files),), h5py.vlen_dtype(np.uint8), **options)
        for i, content in enumerate(files):
            observations[i] = np.frombuffer(content, np.uint8)
    return path


@pytest.mark.parametrize("options", [{}, {"chunks": (2,)}, {"chunks": (8,), "maxshape": (None,)}])
def test_strings_of_hdf5_are_found_in_its_heaps(tmp_path, options):
    noise = RNG.integers(0, 256, (5, 120, 160), dtype=np.uint8)  # more than one heap
    path = write_hdf5(tmp_path / "a.hdf5", [encoded(picture) for picture in noise], **options)
    check(load_episodes(path), noise)
    assert path.read_bytes().count(b"GCOL") > 1


def test_an_empty_string_of_hdf5_is_no_picture(tmp_path):
    path = write_hdf5(tmp_path / "a.hdf5", [*map(encoded, GREY[:4]), b""])
    assert refusal(path).startswith(f"{path}: observations, row 4, has no bytes of a picture (a path to one is not")


def changed(path: Path, place: int, form: str, value: int) -> None:
    """Of the first heap, a number at a place."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, content.find(b"GCOL") + place, value)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("place", "form", "value", "says"),
    [
        (0, "<I", 0, "a heap of strings is damaged"),
        (4, "<B", 2, "a heap of strings is damaged"),
        (8, "<Q", 2**63, "a heap of strings is damaged"),
        (16, "<H", 77, "a string of"),
        (24, "<Q", 3, "a string of"),
        (24, "<Q", 2**64 - 8, "a heap of strings is damaged"),
        (24, "<Q", 2**62, "a heap of strings is damaged"),
    ],
)
def test_a_damaged_heap_is_refused(tmp_path, place, form, value, says):
    path = write_hdf5(tmp_path / "a.hdf5", [encoded(picture) for picture in GREY])
    changed(path, place, form, value)
    assert refusal(path).startswith(f"{path} cannot be read as an HDF5 file: {says}")


@pytest.mark.parametrize(
    ("place", "form", "value", "says"),
    [
        (0, "<I", 2**32 - 1, "its strings are longer than the file"),
        (0, "<I", 5000, "a string of 5000 bytes is not where the file says"),
        (4, "<Q", 2**64 - 1, "a heap of strings lies outside of the file"),
        (4, "<Q", 0, "a heap of strings is damaged"),
        (12, "<I", 2**32 - 1, "a string of"),
    ],
)
def test_a_damaged_reference_into_a_heap_is_refused(tmp_path, place, form, value, says):
    noise = RNG.integers(0, 256, (5, 40, 60), dtype=np.uint8)
    path = write_hdf5(tmp_path / "a.hdf5", [encoded(picture) for picture in noise])
    with h5py.File(path) as file:
        offset = file["observations"].id.get_offset()
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset + place, value)
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path} cannot be read as an HDF5 file: {says}")


def test_strings_of_hdf5_that_are_compressed_are_refused(tmp_path):
    path = write_hdf5(tmp_path / "a.hdf5", [encoded(picture) for picture in GREY], compression="gzip", chunks=(5,))
    assert "its strings are stored in a way that is not read; write them without compression" in refusal(path)


# ---- truth values


def test_pictures_of_truth_values_are_kept_as_bytes(tmp_path):
    there = RNG.random((5, 4, 6, 2)) < 0.5
    np.savez(tmp_path / "a.npz", observations=there, actions=np.arange(5), rewards=np.zeros(5), episode_ends=[2, 5])
    store = load_episodes(tmp_path / "a.npz")
    assert store.observations.dtype == np.uint8
    np.testing.assert_array_equal(store.observations, 255 * there)


class Grid(gymnasium.Env):
    """A light that walks over a picture of two channels, of which the other is empty."""

    observation_space = gymnasium.spaces.Box(0, 1, (4, 6, 2), bool)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.at = 0
        return self._seen(), {}

    def step(self, action):
        self.at += 1
        return self._seen(), 1.0, False, self.at == 5, {}

    def _seen(self):
        return np.arange(48).reshape(4, 6, 2) == 2 * self.at


@pytest.mark.slow
def test_an_environment_of_truth_values_is_seen_as_its_data_are_kept():
    gymnasium.register("PictureGrid-v0", Grid)
    store = collect_episodes("PictureGrid-v0", [Behaviour(lambda observation, rng: 1, 2)])
    assert store.spec.observation_shape == (4, 6, 2)
    assert store.observations.dtype == np.uint8
    assert store.observations[:5].reshape(5, -1).argmax(axis=1).tolist() == [0, 2, 4, 6, 8]
    assert store.observations.max() == 255
    environment = make_environment(EnvironmentChoice(env="PictureGrid-v0"))
    state, observation = environment.reset(jnp.arange(2))
    np.testing.assert_array_equal(observation, store.observations[[0, 5]])
    _, observation, *_ = environment.step(state, jnp.arange(2))
    np.testing.assert_array_equal(observation, store.observations[[1, 6]])
    config = AtariDTConfig(context_length=2, width=16, num_layers=1, num_heads=1, timestep_embedding=False).for_steps(9)
    spec = Spec(observation_shape=(4, 6, 2), observation_dtype="uint8", action=Discrete(3),
                constants={"longest_episode": np.asarray(5.0), "windows": np.asarray(4.0)})  # fmt: skip
    params = make_algorithm(config, spec).init(jax.random.key(0)).params
    agents = [Agent(config, params, spec) for _ in range(2)]
    for agent, seen in zip(agents, (store.observations[1], store.observations[1] > 0), strict=True):
        agent.reset(3.0, seed=0)
        agent.act(seen)
    assert jax.tree.all(jax.tree.map(np.array_equal, *(agent._memory for agent in agents)))
