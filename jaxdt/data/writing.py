"""An EpisodeStore as a file of any kind that others read; it appears whole or not at all."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError
from jaxdt.files import open_atomically
from jaxdt.progress import Progress


def convert(
    spec: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    map_above: float | None = None,
    progress: Progress | None = None,
) -> EpisodeStore:
    """Loads a spec, see `load_episodes`, and writes its episodes to `out`, whose ending says how.

    Returns the episodes. Raises JaxdtError before loading where `out` exists or ends in something else, and for
    what cannot be loaded or what the format cannot hold.
    """
    out = Path(os.path.expanduser(out))
    write = writer_for(out)
    store = load_episodes(spec, map_above=map_above, progress=progress)
    write(store, out)
    return store


def write_episodes(store: EpisodeStore, path: Path) -> None:
    """Writes the kind of file that the path's ending says; raises JaxdtError for what it cannot hold."""
    writer_for(path)(store, path)


def write_parquet(store: EpisodeStore, path: Path) -> None:
    """Hugging Face's layout: an episode a row, a list of its steps in each column; `env_id` in the schema."""
    import pyarrow.parquet

    if store.observations.ndim != 2:
        raise JaxdtError(
            f"{path}: observations of shape {store.observations.shape[1:]} cannot be lists of lists of numbers; "
            "write .npz or .hdf5."
        )
    dones = np.zeros(store.num_steps, bool)
    last = store.offsets[1:] - 1
    dones[last] = store.terminations[last]
    columns = {
        "observations": store.observations,
        "actions": store.actions,
        "rewards": store.rewards,
        "dones": dones,
        "terminations": store.terminations,
        "truncations": store.truncations,
    }
    metadata = {} if store.env_id is None else {"env_id": store.env_id}
    table = pyarrow.table({name: _an_episode_a_row(values, store) for name, values in columns.items()})
    table = table.replace_schema_metadata(metadata)
    with open_atomically(path, "wb") as file:
        pyarrow.parquet.write_table(table, file, row_group_size=64, write_page_checksum=True)


def _an_episode_a_row(values: np.ndarray, store: EpisodeStore):
    import pyarrow

    steps = pyarrow.array(values.reshape(-1))
    if values.ndim == 2:
        rows = np.arange(len(values) + 1, dtype=np.int64) * values.shape[1]
        steps = _lists(rows, steps)
    return _lists(store.offsets, steps)


def _lists(offsets: np.ndarray, values):
    """Lists of 32-bit offsets, which all readers know, where the values are few enough for them."""
    import pyarrow

    if offsets[-1] < 2**31:
        return pyarrow.ListArray.from_arrays(offsets, values)
    return pyarrow.LargeListArray.from_arrays(offsets, values)


def write_hdf5(store: EpisodeStore, path: Path) -> None:
    """D4RL's layout: flat arrays, `terminals` and `timeouts` where episodes end; `env_id` as an attribute."""
    import h5py

    ends: Bool[np.ndarray, " n"] = np.zeros(store.num_steps, bool)
    ends[store.offsets[1:] - 1] = True
    if not np.array_equal(store.terminations | store.truncations, ends):
        step = int(np.argmax((store.terminations | store.truncations) & ~ends))
        episode = int(np.searchsorted(store.offsets, step, side="right")) - 1
        raise JaxdtError(
            f"{path}: episode {episode} has a termination or truncation at step {step - store.offsets[episode]}, "
            "before its last, where HDF5's flags would end it; write .npz or .parquet."
        )
    arrays = {
        "observations": store.observations,
        "actions": store.actions,
        "rewards": store.rewards,
        "terminals": store.terminations,
        "timeouts": store.truncations,
    }
    content = io.BytesIO()  # h5py cannot let go of a file on a disk that is full
    with h5py.File(content, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip", shuffle=True, fletcher32=True)
        if store.env_id is not None:
            file.attrs["env_id"] = np.bytes_(store.env_id.encode())
    with open_atomically(path, "wb") as out:
        out.write(content.getbuffer())


def _write_npz(store: EpisodeStore, path: Path) -> None:
    store.save(path)


WRITERS: dict[str, Callable[[EpisodeStore, Path], None]] = {
    ".npz": _write_npz,
    ".parquet": write_parquet,
    ".hdf5": write_hdf5,
}
"""Which function writes a file, by its ending."""


def writer_for(path: Path) -> Callable[[EpisodeStore, Path], None]:
    """The function that writes a file of this ending; raises JaxdtError where there is none, or the file exists."""
    if path.suffix not in WRITERS:
        raise JaxdtError(f"episodes are written as {', '.join(WRITERS)}; got {str(path)!r}.")
    if os.path.lexists(path):
        raise JaxdtError(f"{str(path)!r} exists already; give another path, or delete it first.")
    return WRITERS[path.suffix]
