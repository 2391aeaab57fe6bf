"""From a spec, what a user writes after `--dataset`, to an EpisodeStore."""

import importlib.util
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxdt.data.demo import DEMOS, collect_demo_episodes, num_demo_episodes
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats import FORMATS, size_in_memory
from jaxdt.data.formats.hub import PREFIX as HUB, find_hub, read_hub
from jaxdt.data.formats.minari import PREFIX as MINARI, find_minari, load_minari
from jaxdt.data.formats.saved import load_directory
from jaxdt.data.joining import concatenate
from jaxdt.data.mapped import load_mapped, most_in_memory
from jaxdt.data.storage import MEMORY, Storage
from jaxdt.errors import JaxdtError
from jaxdt.progress import Progress


KINDS = (
    f"give the path of a file ({', '.join(FORMATS)}) or a directory, {HUB}OWNER/NAME/CONFIG, {MINARI}NAME, or one of "
    f"{', '.join(DEMOS)}"
)


class _Source(NamedTuple):
    name: str
    """As the user gave it, but paths whole."""
    files: list[Path]
    """What it is read from, or made by."""
    read: Callable[[Storage], EpisodeStore]


def load_episodes(
    spec: str | os.PathLike[str], *, map_above: float | None = None, progress: Progress | None = None
) -> EpisodeStore:
    """Episodes of a spec: a path, `hf:OWNER/NAME/CONFIG`, `minari:NAME`, `demo` and its
    like, or several joined by `+`.

    - A path: a file of `FORMATS`, or a directory that `datasets` saved, or one of parquet files.
    - `hf:OWNER/NAME/CONFIG`: a dataset of the Hugging Face hub, kept in its cache; `progress` hears of a download.
    - `minari:NAME`: a dataset of Minari, downloaded where it is not here yet (needs the extra `minari`).
    - `demo`, `cartpole`, `acrobot`: collects episodes of mixed quality in HalfCheetah-v5, CartPole-v1 or Acrobot-v1
      (some seconds).
    - `map_above`: GiB; episodes that would take more are unpacked once into `.npy` files in jaxdt's cache and mapped
      from there (`mapped_in`); default: a quarter of the machine's memory. Parquet, Arrow, HDF5 and `.npz` are
      unpacked piece by piece; pickles and Minari's lie in memory whole while they are.

    Joined members must agree on sizes, kind of actions and environment. Raises JaxdtError naming the file, the field
    and the fix.
    """
    if map_above is not None and not 0 <= map_above < math.inf:
        raise JaxdtError(f"map_above must be at least 0 and finite; got {map_above} (1e9 never maps).")
    spec = os.fspath(spec)
    names = [spec] if os.path.exists(os.path.expanduser(spec)) else spec.split("+")
    sources = [_find(name, progress or Progress()) for name in names]

    def read(storage: Storage) -> EpisodeStore:
        if len(sources) == 1:
            return sources[0].read(storage)
        return concatenate([source.read(storage.part(i)) for i, source in enumerate(sources)], names, storage)

    files = [(source.name, source.files) for source in sources]
    size = sum(size_in_memory(path) for source in sources for path in source.files)
    if size <= (most_in_memory() if map_above is None else map_above * 2**30):
        return read(MEMORY)
    return load_mapped(files, spec, read, size, progress or Progress())


def _find(name: str, progress: Progress) -> _Source:
    if name in DEMOS:
        made_by = (importlib.util.find_spec(simulator) for simulator in ("gymnasium", "mujoco"))
        files = [Path(found.origin) for found in made_by if found is not None and found.origin]
        return _Source(name, files, lambda storage: _collect(name, progress))
    if name.startswith(HUB):
        paths, names = find_hub(name, progress)
        return _Source(name, paths, lambda storage: read_hub(name, paths, names, storage))
    if name.startswith(MINARI):
        dataset_id = name.removeprefix(MINARI)
        return _Source(name, _files_in(find_minari(dataset_id)), lambda storage: load_minari(dataset_id))
    path = Path(os.path.expanduser(name))
    whole = os.path.abspath(path)
    if name and os.path.isdir(path):
        return _Source(whole, _files_in(path), lambda storage: load_directory(path, storage))
    if not os.path.isfile(path):
        raise JaxdtError(f"dataset {name!r} does not exist; {KINDS}.")
    if path.suffix not in FORMATS:
        raise JaxdtError(f"dataset {name!r} is of an unknown kind {path.suffix!r}; {KINDS}.")
    return _Source(whole, [path], lambda storage: FORMATS[path.suffix].read(path, storage))


def _collect(name: str, progress: Progress) -> EpisodeStore:
    progress.start(f"collect {name} episodes", num_demo_episodes(name), "episode")
    try:
        return collect_demo_episodes(name, progress=lambda done, total: progress.advance(done))
    finally:
        progress.stop()


def _files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())
