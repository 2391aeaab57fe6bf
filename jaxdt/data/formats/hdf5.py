"""HDF5 files of D4RL's layout: flat arrays, flags where episodes end."""

import contextlib
import io
import itertools
import json
import math
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from jaxdt.data.episodes import FIELDS, EpisodeStore
from jaxdt.data.fields import ending_fields, flat_episodes, warn_of_unused_cut
from jaxdt.data.formats.hdf5_heap import read_byte_strings
from jaxdt.data.formats.limits import Budget, are_pictures, array_bytes, kept_bytes, write_readable
from jaxdt.data.formats.picture_files import PictureReader
from jaxdt.data.formats.pictures import is_screen
from jaxdt.data.joining import join_episodes
from jaxdt.data.storage import LARGE, MEMORY, Storage
from jaxdt.errors import JaxdtError, one_line
from jaxdt.files import open_atomically
from jaxdt.games import GREY_PICTURE
from jaxdt.simulator import checked_env_id, checked_env_kwargs, registered_id


if TYPE_CHECKING:
    import h5py

_GZIP, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
_PIPELINES = [
    [*shuffle, *compression, *checksum]
    for shuffle in ([], [_SHUFFLE])
    for compression in ([], [_GZIP], [_LZF])
    for checksum in ([], [_FLETCHER32])
]
_JPEG = b"\xff\xd8\xff"
"""How its files begin."""
_MOST_OF_LZF = 2**30  # bytes; one of a chunk can become 88


def load_hdf5(path: Path, storage: Storage = MEMORY, *, cut_after: int | None = None) -> EpisodeStore:
    """Episodes of a file of D4RL's layout, or of one that d3rlpy wrote.

    - The datasets `observations` (n, ...), `actions` (n, a), or integers (n,) where they are discrete, and `rewards`
      (n,) or (n, 1); others are not read. Observations may be PNG or JPEG files, as Minari keeps pictures.
    - `terminals` (n,): the environment ended the episode, `timeouts` (n,): it was cut off, or what else
      `fields.ENDINGS` names. `cut_after`: steps after which it was cut off, where the file has `terminals` alone.
    - The attribute `env_id`, a string of fixed length, names the environment.

    Steps after the last end are dropped with a warning. Raises JaxdtError naming the file, the dataset and the fix.
    """
    with reading_hdf5(path) as file:
        environment = _environment(file, path)
        if "num_episodes" in file and "observations" not in file:
            warn_of_unused_cut(cut_after, str(path))
            return join_episodes(_d3rlpy_episodes(file, path), **environment, source=str(path))
        if "episode_0" in file and "observations" not in file:
            raise JaxdtError(f"{path} is a part of a Minari dataset; give its directory, or minari: and its name.")
        names = {name: name for name in LARGE} | ending_fields(file)
        arrays, budget, pictures = {}, Budget(path), PictureReader(str(path), path)
        for ours, theirs in names.items():
            arrays[ours] = read_dataset(file, theirs, path, budget, storage, pictures=pictures)
        unread = environment["env_id"] is None and "env_id" in file.attrs
    if unread:
        warnings.warn(
            f"{path}: env_id is a string of any length, which is not read; give env= (--env), or write it as "
            "numpy.bytes_.",
            stacklevel=3,
        )
    columns = flat_episodes(arrays, names, source=str(path), cut_after=cut_after)
    return EpisodeStore.from_arrays(**columns, **pictures.environment(**environment), source=str(path))


def _d3rlpy_episodes(file: "h5py.File", path: Path) -> list[dict[str, np.ndarray]]:
    """What d3rlpy 2 dumps: `observations_0`, `actions_0`, ... of each episode, and whether it `terminated`."""
    count, budget = member(file, "num_episodes", path), Budget(path)
    if getattr(count, "shape", None) != () or count.dtype.kind not in "iu" or not 0 < count[()] <= len(file):
        raise JaxdtError(f"{path}: num_episodes must be the number of its episodes; dump it again.")
    episodes = []
    for number in range(int(count[()])):
        arrays = {}
        for name in LARGE:
            arrays[name] = read_dataset(file, f"{name}_{number}", path, budget, field=name)
        actions, terminated = arrays["actions"], member(file, f"terminated_{number}", path)
        if getattr(terminated, "shape", None) != () or terminated.dtype.kind not in "biu":
            raise JaxdtError(f"{path}: terminated_{number} must be one truth value; dump it again.")
        if actions.dtype.kind in "iu" and actions.ndim == 2 and actions.shape[1] == 1:
            arrays["actions"] = actions[:, 0]  # discrete ones
        steps = len(arrays["observations"])
        arrays["terminations"] = np.arange(steps) == (steps - 1 if terminated[()] else -1)
        episodes.append(arrays)
    return episodes


@contextlib.contextmanager
def reading_hdf5(path: Path) -> Iterator["h5py.File"]:
    """The open file; whatever damage makes h5py raise is one JaxdtError that names the file."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except JaxdtError:
        raise
    except Exception as error:  # damaged bytes make h5py raise a dozen kinds
        reason = one_line(error)
        raise JaxdtError(f"{path} cannot be read as an HDF5 file: {reason:.200}; copy or make it again.") from error


def read_dataset(
    group: Any,
    name: str,
    path: Path,
    budget: Budget,
    storage: Storage = MEMORY,
    *,
    field: str | None = None,
    pictures: PictureReader | None = None,
) -> np.ndarray:
    """A dataset's numbers, which `budget` pays for; refuses what points elsewhere or needs a filter of others.

    `field`: what it holds, where its name says more. `pictures`: decodes observations that are PNG or JPEG files, and
    makes grey ones of screens; None: the former are refused, the latter stay.
    """
    import h5py

    where = _where(group, name, path)
    dataset = member(group, name, path)
    if not isinstance(dataset, h5py.Dataset):
        raise JaxdtError(f"{where} must be a dataset of numbers; got a {type(dataset).__name__.lower()}.")
    if dataset.external or dataset.is_virtual:
        raise JaxdtError(f"{where} keeps its numbers in another file; store them in this one.")
    field = field or name
    reader = pictures if field == "observations" else None
    are_files = h5py.check_vlen_dtype(dataset.dtype) == np.uint8
    if are_files and reader is not None and len(dataset.shape) == 1:
        return _filled(_decoded(read_byte_strings(dataset, path), reader, where), len(dataset), storage, where)
    if dataset.dtype.kind not in "biuf":
        raise JaxdtError(
            f"{where} must be numbers; got dtype {dataset.dtype!s:.60}"
            + (" of byte strings, such as JPEG files (save the pictures as an array of numbers)." if are_files else ".")
        )
    if not dataset.shape:
        raise JaxdtError(f"{where} must be an array of a row a step; got a single value or nothing.")
    are_bytes = are_pictures(field, dataset.shape, dataset.dtype)
    to_grey = reader is not None and is_screen(dataset.shape, dataset.dtype)
    shape = (len(dataset), *GREY_PICTURE) if to_grey else dataset.shape
    size = max(array_bytes(field, each, dataset.dtype) for each in (shape, dataset.chunks or ()))
    if not budget.has(size, pictures=are_bytes):
        raise JaxdtError(
            f"{where} would take {size / 2**30:.1f} GiB, far more than a file of "
            f"{path.stat().st_size / 2**20:.1f} MiB holds; copy it again, or write it in smaller files."
        )
    budget.spend(array_bytes(field, shape, dataset.dtype), pictures=are_bytes)
    _check_chunks(dataset, where)
    if reader is not None and to_grey:
        return _filled(map(reader.kept, _blocks(dataset)), len(dataset), storage, where)
    if storage.on_disk and name in LARGE and dataset.dtype.kind != "b":  # truth values become bytes later
        writer = storage.array_writer(name, dataset.shape, dataset.dtype)
        for block in _blocks(dataset):
            writer.append(block)
        return writer.done()
    values = dataset[()]
    if reader is not None and values.ndim == 2 and len(values) and bytes(values[0, :3]) == _JPEG:
        return _filled(_decoded(list(values), reader, where), len(values), storage, where)  # files of one length
    return values


def _blocks(dataset: "h5py.Dataset") -> Iterator[np.ndarray]:
    chunk = dataset.chunks[0] if dataset.chunks else 1  # a chunk is decompressed whole
    steps = chunk * max(1, 2**24 // max(1, chunk * math.prod(dataset.shape[1:]) * dataset.dtype.itemsize))
    for start in range(0, len(dataset), steps):
        yield dataset[start : start + steps]


def _decoded(files: Sequence[Any], reader: PictureReader, where: str) -> Iterator[np.ndarray]:
    place = where.rpartition(": ")[2]
    return reader.decoded(files, lambda i: f"{place}, row {i},")


def _filled(blocks: Iterable[np.ndarray], count: int, storage: Storage, where: str) -> np.ndarray:
    """So many pictures."""
    writer = None
    for block in blocks:
        writer = writer or storage.array_writer("observations", (count, *block.shape[1:]), block.dtype)
        writer.append(block)
    if writer is None:
        raise JaxdtError(f"{where} has no rows; a dataset needs at least one step.")
    return writer.done()


def _check_chunks(dataset: "h5py.Dataset", where: str) -> None:
    """Whether each chunk is as large as declared once it has been through its filters.

    HDF5 2.0 inflates a chunk that is larger to its end, and reads beyond the end (SIGSEGV) of one that is smaller.
    """
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    numbers = [number for number, *_ in filters]
    if foreign := set(numbers) - {_GZIP, _SHUFFLE, _FLETCHER32, _LZF}:  # some load a library from the machine
        raise JaxdtError(f"{where} is stored through filter {min(foreign)}, which is not read; use gzip or lzf.")
    if numbers not in _PIPELINES:
        raise JaxdtError(f"{where} is stored through filters in an order that is not read, {numbers}; use gzip alone.")
    if not numbers or dataset.chunks is None:
        return
    assert dataset.chunks is not None  # only chunks have filters
    declared = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    chunks: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(chunks.append)
    for chunk in chunks:
        skipped = {number for i, number in enumerate(numbers) if chunk.filter_mask >> i & 1}
        size = chunk.size - 4 * (_FLETCHER32 in numbers and _FLETCHER32 not in skipped)
        if _GZIP in numbers and _GZIP not in skipped:
            _, stored = dataset.id.read_direct_chunk(chunk.chunk_offset)
            size = len(zlib.decompressobj().decompress(stored[:size], declared + 1))
        elif _LZF in numbers and _LZF not in skipped:
            first_allocation = filters[numbers.index(_LZF)][2][2:3]  # what the filter allocates at first, then more
            size = declared if first_allocation == (declared,) and chunk.size * 88 <= _MOST_OF_LZF else 0
        if size != declared:
            raise JaxdtError(f"{where} is damaged: its chunk at {chunk.chunk_offset} has another size than declared.")


def member(group: Any, name: str, path: Path) -> Any:
    """What a group holds itself under a name; links to elsewhere are refused."""
    import h5py

    where = _where(group, name, path)
    link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
    if link is None:
        names = itertools.islice(group, 12) if isinstance(group, h5py.Group) else ()
        found = ", ".join(f"{other:.40}" for other in names) or "nothing"
        raise JaxdtError(f"{where} is missing; there is {found} (add the dataset).")
    if not isinstance(link, h5py.HardLink):
        raise JaxdtError(f"{where} is a link to another place, which is not followed; store the numbers themselves.")
    return group[name]


def _where(group: Any, name: str, path: Path) -> str:
    return f"{path}: {f'{group.name}/{name}'.lstrip('/')}"


def _environment(file: "h5py.File", path: Path) -> dict[str, Any]:
    """What the attributes say: `env_id` and `env_kwargs`."""
    env_id, kwargs = (_text(file, name, path) for name in ("env_id", "env_kwargs"))
    if env_id is not None:
        env_id = checked_env_id(env_id, str(path))
    return {
        "env_id": env_id,
        "env_kwargs": None if kwargs is None else checked_env_kwargs(kwargs, env_id, str(path)),
    }


def _text(file: "h5py.File", name: str, path: Path) -> str | None:
    """An attribute that is a string of fixed length; None where there is none."""
    if name not in file.attrs:
        return None
    kind = file.attrs.get_id(name)
    if kind.shape == () and kind.dtype.kind == "O":  # HDF5 may never come back from a damaged string of any length
        return None
    if kind.shape != () or kind.dtype.kind != "S":
        raise JaxdtError(
            f"{path}: {name} must be one string of fixed length; got shape {kind.shape}, dtype {kind.dtype} "
            "(write it as numpy.bytes_)."
        )
    value: Any = file.attrs[name]
    return bytes(value).decode("utf-8", "replace")


def hdf5_size(path: Path) -> int:
    """Bytes of its observations, actions and rewards in memory; of Minari's, a group an episode, the file's size."""
    with reading_hdf5(path) as file:
        if "observations" not in file:
            return path.stat().st_size
        arrays = {name: member(file, name, path) for name in LARGE}
        size = 0
        for name, array in arrays.items():
            if array.dtype.kind == "O":  # pictures' files
                size += path.stat().st_size
                continue
            to_grey = name == "observations" and is_screen(array.shape, array.dtype)
            size += kept_bytes(name, (len(array), *GREY_PICTURE) if to_grey else array.shape, array.dtype)
        return size


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
    theirs = {"terminations": "terminals", "truncations": "timeouts"}
    arrays = {theirs.get(name, name): getattr(store, name) for name in FIELDS}

    def write(out: IO[bytes], compressed: bool) -> None:
        with h5py.File(out, "w") as file:
            how: dict[str, Any] = {"compression": "gzip" if compressed else None, "shuffle": True, "fletcher32": True}
            for name, values in arrays.items():
                file.create_dataset(name, data=values, **how)
            if store.env_id is not None:
                file.attrs["env_id"] = np.bytes_(registered_id(store.env_id).encode())
            if store.env_kwargs is not None:
                file.attrs["env_kwargs"] = np.bytes_(json.dumps(store.env_kwargs).encode())

    content = io.BytesIO()  # h5py cannot let go of a file on a disk that is full
    write_readable(store, content, write)
    with open_atomically(path, "wb") as out:
        out.write(content.getbuffer())
