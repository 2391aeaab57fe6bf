"""From a spec, what a user writes after `--dataset`, to an EpisodeStore."""

import os
from collections.abc import Callable
from pathlib import Path

from jaxdt.data.arrow import load_directory, load_parquet
from jaxdt.data.demo import collect_demo_episodes
from jaxdt.data.episodes import EpisodeStore, concatenate
from jaxdt.data.hdf5 import load_hdf5
from jaxdt.data.hub import PREFIX as HUB, load_hub
from jaxdt.data.minari import PREFIX as MINARI, load_minari
from jaxdt.data.npz import load_npz
from jaxdt.data.pickled import load_pickle
from jaxdt.errors import JaxdtError
from jaxdt.progress import Progress


FILES: dict[str, Callable[[Path], EpisodeStore]] = {
    ".npz": load_npz,
    ".parquet": load_parquet,
    ".hdf5": load_hdf5,
    ".pkl": load_pickle,
}
"""Which function reads a file, by its ending."""

KINDS = f"give the path of a file ({', '.join(FILES)}) or a directory, {HUB}OWNER/NAME/CONFIG, {MINARI}NAME, or demo"


def load_episodes(spec: str | os.PathLike[str], *, progress: Progress | None = None) -> EpisodeStore:
    """Episodes of a spec: a path, `hf:OWNER/NAME/CONFIG`, `minari:NAME`, `demo`, or several joined by `+`.

    - A path: a file of `FILES`' kinds, or a directory that `datasets` saved, or one of parquet files.
    - `hf:OWNER/NAME/CONFIG`: a dataset of the Hugging Face hub, kept in its cache; `progress` hears of a download.
    - `minari:NAME`: a dataset of Minari, downloaded where it is not here yet (needs the extra `minari`).
    - `demo`: rolls out the shipped HalfCheetah-v5 policies (some seconds).

    Joined members must agree on sizes and environment. Raises JaxdtError naming the file, the field and the fix.
    """
    spec = os.fspath(spec)
    names = [spec] if os.path.exists(os.path.expanduser(spec)) else spec.split("+")
    stores = [_load_one(name, progress) for name in names]
    return stores[0] if len(stores) == 1 else concatenate(stores, names)


def _load_one(name: str, progress: Progress | None) -> EpisodeStore:
    if name == "demo":
        return collect_demo_episodes()
    if name.startswith(HUB):
        return load_hub(name, progress=progress)
    if name.startswith(MINARI):
        return load_minari(name.removeprefix(MINARI))
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        return load_directory(path)
    if not os.path.isfile(path):
        raise JaxdtError(f"dataset {name!r} does not exist; {KINDS}.")
    if path.suffix not in FILES:
        raise JaxdtError(f"dataset {name!r} is of an unknown kind {path.suffix!r}; {KINDS}.")
    return FILES[path.suffix](path)
