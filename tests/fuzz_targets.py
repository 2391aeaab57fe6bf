"""Valid files of every format that is read, and how each is made into mutants."""

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from hypothesis import strategies as st

from jaxdt.checkpoint.checksums import CHECKSUMS, checksums_of
from jaxdt.run.importing import import_run
from tests import fuzz_odd, test_dqn_replay, test_hdf5, test_minari, test_picture_files
from tests.conftest import make_store
from tests.fuzzing import EDITS, JSON_EDITS, mutated, mutated_json
from tests.test_arrow import columns, write_parquet, write_saved
from tests.test_interop import GOLDEN
from tests.test_loading import good_arrays, write_npz
from tests.test_pickled import episodes_of


class Target(NamedTuple):
    count: int
    """Mutants in the slow tests; the plain suite has fewer."""
    kind: str
    """What the worker does with them."""
    mutations: st.SearchStrategy
    write: Callable[[Path, Path, Any], Path]
    """From the valid files, into an empty folder, by a mutation: the mutant's path."""


def write_samples(folder: Path) -> None:
    write_npz(folder / "a.npz")
    np.savez(folder / "b.npz", **good_arrays())
    write_parquet(folder / "a.parquet", b"Hopper-v5", {"compression": "snappy"})
    write_parquet(
        folder / "b.parquet", None, {"use_dictionary": False, "compression": "gzip", "data_page_version": "2.0"}
    )
    write_parquet(folder / "c.parquet", None, {"use_dictionary": False, "compression": "none"})
    write_saved(folder / "saved", pa.table(columns()), config_name="halfcheetah-expert-v2")
    test_hdf5.write(folder / "a.hdf5", env_id="Hopper-v5")
    _write_chunked(folder / "b.hdf5", libver="latest", compression="gzip", shuffle=True, fletcher32=True)
    _write_chunked(folder / "c.hdf5", libver="earliest", compression="lzf")
    for protocol in (0, 2, 3, 4, 5):
        (folder / f"{protocol}.pkl").write_bytes(pickle.dumps(episodes_of(make_store((2, 3))), protocol))
    test_minari.write(folder / "minari" / "fuzz-v0" / "data", make_store((2, 3)))
    test_dqn_replay.some_logs(folder / "dqn")
    _write_rows(folder)
    _write_minari_arrow(folder / "minari-arrow" / "fuzz-v0" / "data")
    _write_pictures(folder)
    shutil.copytree(GOLDEN / "bin", folder / "bin")
    shutil.copytree(GOLDEN / "safetensors", folder / "safetensors")
    shutil.copy(GOLDEN / "original.pt", folder / "original.pt")
    known = {
        "state_mean": [0.0] * 5,
        "state_std": [1.0] * 5,
        "return_scale": 10.0,
        "context_length": 4,
        "targets": [1.0],
    }
    bounds = {"action_low": [-1.0] * 3, "action_high": [1.0] * 3, "delayed_reward": False, "env_id": "Hopper-v5"}
    (folder / "safetensors" / "normalization.json").write_text(json.dumps(known | bounds))
    shutil.copytree(GOLDEN / "bin", folder / "import" / "model")
    (folder / "import" / "stats.json").write_text(json.dumps(known))
    import_run(folder / "safetensors", folder / "run")


VALID = [
    *(("episodes", f"{name}") for name in ("a.npz", "b.npz", "a.parquet", "b.parquet", "c.parquet", "saved")),
    *(("episodes", f"{name}") for name in ("a.hdf5", "b.hdf5", "c.hdf5", "0.pkl", "2.pkl", "3.pkl", "4.pkl", "5.pkl")),
    *(("episodes", name) for name in ("steps.parquet", "steps.jsonl", "episodes.jsonl", "steps.csv", "d3rlpy.h5")),
    *(("episodes", name) for name in ("pictures.parquet", "shots.parquet", "pictures.h5")),
    *(("weights", name) for name in ("bin", "safetensors", "original.pt")),
    *(("minari", "minari"), ("minari", "minari-arrow"), ("dqn", "dqn"), ("import", "import"), ("agent", "run")),
]
"""Every sample, by the kind of loading."""


def _write_rows(folder: Path) -> None:
    """A step a row, as text and as a table; and what d3rlpy dumps."""
    arrays = good_arrays()
    steps = pa.table(
        {name: arrays[name].tolist() for name in ("observations", "actions", "rewards")} | {"episode": [0, 0, 1, 1, 1]}
    )
    pa.parquet.write_table(steps, folder / "steps.parquet")
    (folder / "steps.jsonl").write_text("\n".join(map(json.dumps, steps.to_pylist())))
    (folder / "episodes.jsonl").write_text("\n".join(map(json.dumps, pa.table(columns()).to_pylist())))
    (folder / "steps.csv").write_text("obs_0,obs_1,action_0,reward,done\n1,2.5,0.5,1,0\n-1,1e3,-0.5,0,1\n")
    with h5py.File(folder / "d3rlpy.h5", "w") as file:
        file["num_episodes"] = 1
        for name in ("observations", "actions", "rewards"):
            file[f"{name}_0"] = arrays[name]
        file["terminated_0"] = True


def _write_minari_arrow(folder: Path) -> None:
    parts = {"goal": [[1.0], [2.0]], "at": [{"x": [0.5]}, {"x": [1.5]}]}
    columns = {"observations": [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]}
    columns |= {"actions": [[0.5], [0.0]], "rewards": [1.0, 0.0], "terminations": [True, False]}
    table = pa.table(columns | {"truncations": [False, False]})
    (folder / "0").mkdir(parents=True)
    with pa.OSFile(str(folder / "0" / "part-0.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    (folder / "metadata.json").write_text(json.dumps({"total_episodes": 1, "data_format": "arrow"}))


def _write_pictures(folder: Path) -> None:
    """As PNG and JPEG files, an episode or a step a row, and as strings of HDF5."""
    files = [test_picture_files.encoded(picture) for picture in test_picture_files.GREY]
    episodes = test_picture_files.episodes(test_picture_files.of_files(files))
    pa.parquet.write_table(episodes, folder / "pictures.parquet")
    shots = [test_picture_files.encoded(picture, "JPEG") for picture in test_picture_files.COLOUR]
    rows = test_picture_files.steps(pa.array(test_picture_files.as_images(shots), test_picture_files.IMAGE))
    pa.parquet.write_table(rows, folder / "shots.parquet", compression="none", use_dictionary=False)
    test_picture_files.write_hdf5(folder / "pictures.h5", files)


def _write_chunked(path: Path, *, libver: str, **options: Any) -> None:
    with h5py.File(path, "w", libver=libver) as file:
        for name, values in test_hdf5.good_arrays().items():
            chunks = (2, *values.shape[1:])
            file.create_dataset(name, data=values, chunks=chunks, maxshape=(None, *values.shape[1:]), **options)


# ---- bytes and JSON


def _files(count: int, *names: str, kind: str = "episodes") -> Target:
    """One of the files, its bytes changed; splices come from the next one."""

    def write(samples: Path, folder: Path, mutation: tuple) -> Path:
        which, edits = mutation
        content, other = ((samples / names[i % len(names)]).read_bytes() for i in (which, which + 1))
        path = folder / f"mutant{Path(names[which]).suffix}"
        path.write_bytes(mutated(content, edits, other))
        return path

    return Target(count, kind, st.tuples(st.integers(0, len(names) - 1), EDITS), write)


def _tree(
    count: int, kind: str, tree: str, *names: str, edits: st.SearchStrategy = EDITS, resum: bool = False
) -> Target:
    """A directory, one of its files changed; with `resum` the sums of its checkpoint are those of the change."""

    def write(samples: Path, folder: Path, mutation: tuple) -> Path:
        name, changes = mutation
        shutil.copytree(samples / tree, folder, dirs_exist_ok=True)
        path = next(folder.glob(name))
        if edits is JSON_EDITS:
            path.write_text(mutated_json(path.read_text(), changes))
        else:
            path.write_bytes(mutated(path.read_bytes(), changes, path.read_bytes()[::-1]))
        if resum:
            checkpoint = folder / "checkpoints" / "0"
            (checkpoint / CHECKSUMS).write_text(json.dumps(checksums_of(checkpoint)))
        return folder

    return Target(count, kind, st.tuples(st.sampled_from(names), edits), write)


def _logs(count: int) -> Target:
    """Dopamine's logs, one of a checkpoint's arrays changed before it is compressed."""

    def write(samples: Path, folder: Path, mutation: tuple) -> Path:
        name, edits = mutation
        shutil.copytree(samples / "dqn", folder, dirs_exist_ok=True)
        path = test_dqn_replay.path_of(folder, name, 9)
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(mutated(content, edits, content[::-1]), 1))
        return folder

    return Target(count, "dqn", st.tuples(st.sampled_from(test_dqn_replay.ARRAYS), EDITS), write)


_CHECKPOINT = [f"checkpoints/0/{name}" for name in ("_CHECKPOINT_METADATA", "params/_METADATA", "params/_sharding")]
_CHECKPOINT += [f"checkpoints/0/params/{name}" for name in ("manifest.ocdbt", "d/*", "*/manifest.ocdbt", "*/d/*")]

TARGETS = {
    "npz": _files(200, "a.npz", "b.npz"),
    "npz members": Target(150, "episodes", *fuzz_odd.NPZ),
    "parquet": _files(280, "a.parquet", "b.parquet", "c.parquet"),
    "arrow": _tree(150, "episodes", "saved", "*.arrow"),
    "arrow json": _tree(80, "episodes", "saved", "state.json", "dataset_info.json", edits=JSON_EDITS),
    "tables": Target(150, "episodes", *fuzz_odd.TABLES),
    "hdf5": _files(350, "a.hdf5", "b.hdf5", "c.hdf5"),
    "hdf5 members": Target(150, "episodes", *fuzz_odd.HDF5),
    "minari": _tree(100, "minari", "minari", "fuzz-v0/data/main_data.hdf5"),
    "minari json": _tree(60, "minari", "minari", "fuzz-v0/data/metadata.json", edits=JSON_EDITS),
    "minari arrow": _tree(60, "minari", "minari-arrow", "fuzz-v0/data/0/*.arrow"),
    "dqn": _tree(60, "dqn", "dqn", "*observation*", "*action*", "*reward*", "*terminal*"),
    "dqn arrays": _logs(100),
    "json lines": _files(100, "steps.jsonl", "episodes.jsonl"),
    "csv": _files(60, "steps.csv"),
    "steps": _files(60, "steps.parquet"),
    "pictures": _files(100, "pictures.parquet", "shots.parquet"),
    "pictures in hdf5": _files(100, "pictures.h5"),
    "d3rlpy": _files(60, "d3rlpy.h5"),
    "pickle": _files(180, "0.pkl", "2.pkl", "3.pkl", "4.pkl", "5.pkl"),
    "pickle instructions": Target(180, "episodes", *fuzz_odd.PICKLE),
    "safetensors": _tree(120, "weights", "safetensors", "model.safetensors"),
    "import json": _tree(150, "weights", "safetensors", "config.json", "normalization.json", edits=JSON_EDITS),
    "pytorch_model.bin": _tree(80, "weights", "bin", "pytorch_model.bin"),
    "state dict": _files(80, "original.pt", kind="weights"),
    "state dict instructions": Target(100, "weights", *fuzz_odd.TORCH),
    "statistics": _tree(30, "import", "import", "stats.json", edits=JSON_EDITS),
    "run config": _tree(60, "agent", "run", "config.json", edits=JSON_EDITS),
    "checkpoint": _tree(20, "agent", "run", f"checkpoints/0/{CHECKSUMS}", *_CHECKPOINT),
    "checkpoint with its sums": _tree(16, "agent", "run", *_CHECKPOINT, resum=True),
    "checkpoint json with its sums": _tree(12, "agent", "run", *_CHECKPOINT[:2], edits=JSON_EDITS, resum=True),
}
