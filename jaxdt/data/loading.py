"""From a spec, what a user writes after `--dataset`, to an EpisodeStore."""

import importlib.util
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxdt.config import number, whole
from jaxdt.data.demo import DEMOS, collect_demo_episodes, num_demo_episodes
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.fields import warn_of_unused_cut
from jaxdt.data.formats import FORMATS, format_of, size_in_memory
from jaxdt.data.formats.dqn_replay import read_dqn
from jaxdt.data.formats.dqn_spec import PREFIX as DQN, find_dqn
from jaxdt.data.formats.hub import PREFIX as HUB, find_hub, read_hub
from jaxdt.data.formats.minari import PREFIX as MINARI, find_minari, minari_directory, read_minari
from jaxdt.data.formats.saved import is_saved, load_directory
from jaxdt.data.joining import concatenate, shared_environment
from jaxdt.data.mapped import load_mapped, most_in_memory
from jaxdt.data.objects import episodes_of
from jaxdt.data.remote import find_remote, is_remote
from jaxdt.data.replay import FAILED_TRIES
from jaxdt.data.shards import Shard, load_shards
from jaxdt.data.storage import MEMORY, DirectoryStorage, Storage
from jaxdt.errors import JaxdtError
from jaxdt.progress import Progress


KINDS = (
    f"give the path of a file ({', '.join(FORMATS)}) or a directory, {HUB}OWNER/NAME/CONFIG, {MINARI}NAME, "
    f"{DQN}DIR, s3://BUCKET/DIR, or one of {', '.join(DEMOS)}"
)


class _Source(NamedTuple):
    name: str
    """As the user gave it, but paths whole."""
    files: list[Path]
    """What it is read from, or made by."""
    read: Callable[[Storage], EpisodeStore]
    size: int | None = None
    """Bytes that its episodes take, where its files do not say themselves."""


def load_episodes(
    spec: Any, *, map_above: Any = None, cut_after: Any = None, progress: Progress | None = None
) -> EpisodeStore:
    """Episodes of a spec: a path, `hf:OWNER/NAME/CONFIG`, `minari:NAME`, `dqn:DIR`, `demo` and its like, or several
    joined by `+`; or of what lies in memory.

    - A path: a file of `FORMATS`, a directory that `datasets` saved or of files of one kind, or Minari's.
    - `hf:OWNER/NAME/CONFIG`: a dataset of the Hugging Face hub, kept in its cache; `progress` hears of a download.
    - `minari:NAME`: a dataset of Minari, downloaded where it is not here yet (needs the extra `minari`).
    - `dqn:DIR`, `dqn:DIR?buffers=50&steps=500000&order=original&seed=123`: Dopamine's logs of an Atari game, the
      DQN-replay dataset, in a directory such as `Breakout/1/replay_logs`; `dqn_replay.read_dqn` says what is kept.
    - `s3://BUCKET/DIR`, `gs://…` and other addresses that fsspec knows: a file or a directory of such files, which are
      copied into jaxdt's cache one after the other; what is there and has not changed is not copied again.
    - `demo`, `cartpole`, `acrobot`: collects episodes of mixed quality in HalfCheetah-v5, CartPole-v1 or Acrobot-v1
      (some seconds).
    - `map_above`: GiB; episodes that would take more are unpacked once into `.npy` files in jaxdt's cache and mapped
      from there (`mapped_in`); default: a quarter of the machine's memory. Parquet, Arrow, HDF5, `.npz` and
      Dopamine's logs are unpacked piece by piece; pickles, text and Minari's lie in memory whole while they are.
    - `cut_after`: steps after which an episode was cut off, where the data only say where the environment ended one
      (`terminals` without `timeouts`); at least 1. A warning says where it has no effect.
    - In memory, see `objects.episodes_of`: a list of dicts, an episode each; a dict of flat arrays; a DataFrame of
      pandas or polars; a Dataset of `datasets`; an EpisodeStore, which comes back as it is.

    Joined members must agree on sizes, kind of actions and environment. Raises JaxdtError naming the file, the field
    and the fix.
    """
    map_above = None if map_above is None else number(map_above, "map_above")
    cut_after = None if cut_after is None else whole(cut_after, "cut_after")
    if map_above is not None and not 0 <= map_above < math.inf:
        raise JaxdtError(f"map_above must be at least 0 and finite; got {map_above} (1e9 never maps).")
    if cut_after is not None and not cut_after >= 1:
        raise JaxdtError(f"cut_after must be at least 1 step; got {cut_after}.")
    if not isinstance(spec, str | os.PathLike):
        return episodes_of(spec, cut_after=cut_after)
    spec = os.fspath(spec)
    names = _names(spec)
    sources = [_find(name, progress or Progress(), cut_after) for name in names]

    def read(storage: Storage) -> EpisodeStore:
        if len(sources) == 1:
            return sources[0].read(storage)
        return concatenate([source.read(storage.part(i)) for i, source in enumerate(sources)], names, storage)

    cut = f", cut after {cut_after}" if cut_after is not None else ""  # the cache's entry is of this one
    files = [(source.name + cut, source.files) for source in sources]
    size = sum(_size(source) for source in sources)
    if size <= (most_in_memory() if map_above is None else map_above * 2**30):
        return read(MEMORY)
    return load_mapped(files, spec, read, size, progress or Progress())


def check_is_there(spec: str) -> None:
    """Raises JaxdtError for a file or directory that is not; the rest is found out when it is loaded."""
    for name in _names(spec):
        if name not in DEMOS and not name.startswith((HUB, MINARI, DQN)) and not is_remote(name):
            path = os.path.expanduser(name)
            if not (name and (os.path.isfile(path) or os.path.isdir(path))):
                raise _not_there(name)


def _names(spec: str) -> list[str]:
    is_one = "+" not in spec or os.path.exists(os.path.expanduser(spec))
    return [spec] if is_one else [name.strip() or name for name in spec.split("+")]


def _not_there(name: str) -> JaxdtError:
    return JaxdtError(f"dataset {name!r} does not exist; {KINDS} (+ joins several; no name in them may have one).")


def _size(source: _Source) -> int:
    return source.size if source.size is not None else sum(map(size_in_memory, source.files))


def _find(name: str, progress: Progress, cut_after: int | None) -> _Source:
    if name in DEMOS or name.startswith((MINARI, DQN)):
        warn_of_unused_cut(cut_after, name)
    if name in DEMOS:
        made_by = (importlib.util.find_spec(simulator) for simulator in ("gymnasium", "mujoco"))
        files = [Path(found.origin) for found in made_by if found is not None and found.origin]
        return _Source(name, files, lambda storage: _collect(name, progress))
    if name.startswith(HUB):
        paths, names = find_hub(name, progress)
        return _Source(name, paths, lambda storage: read_hub(name, paths, names, storage, cut_after=cut_after))
    if name.startswith(MINARI):
        directory = find_minari(name.removeprefix(MINARI))
        return _Source(name, _files_in(directory), lambda storage: read_minari(directory, name))
    if name.startswith(DQN):
        logs = find_dqn(name)
        return _Source(logs.name, logs.files, lambda storage: read_dqn(logs, storage, progress), logs.size)
    path = find_remote(name, progress) if is_remote(name) else Path(os.path.expanduser(name))
    whole = os.path.abspath(path)
    minari = minari_directory(path) if name and os.path.exists(path) else None
    if minari is not None:
        warn_of_unused_cut(cut_after, name)
        return _Source(whole, _files_in(minari), lambda storage: read_minari(minari, name))
    if name and os.path.isdir(path):
        return _find_directory(name, path, progress, cut_after)
    if not os.path.isfile(path):
        raise _not_there(name)
    kind = format_of(path)
    if kind is None:
        raise JaxdtError(f"dataset {name!r} is of an unknown kind {path.suffix!r}; {KINDS}.")
    return _Source(whole, [path], lambda storage: kind.read(path, storage, cut_after=cut_after))


def _find_directory(name: str, path: Path, progress: Progress, cut_after: int | None) -> _Source:
    """What `datasets` saved, parquet files, or files of one other kind, which are joined."""
    whole = os.path.abspath(path)
    if any(child.name.startswith("._") for child in path.iterdir()):
        warnings.warn(f"{name}: files whose names begin with ._ are macOS's own and left out.", stacklevel=4)
    files = [file for file in _files_in(path) if file.parent == path and format_of(file) is not None]
    files = [file for file in files if file.name != FAILED_TRIES]
    kinds = {format_of(file) for file in files}
    if files and not is_saved(path) and not any(file.suffix.lower() == ".parquet" for file in files):
        if len(kinds) > 1:
            shown = ", ".join(sorted({file.suffix for file in files}))
            raise JaxdtError(f"{name!r} holds files of several kinds, {shown}; give one of them, or join some with +.")
        members = [_find(str(file), progress, cut_after) for file in files]

        def read(storage: Storage) -> EpisodeStore:
            names = list(map(str, files))
            if isinstance(storage, DirectoryStorage):
                shards = [Shard(file, member.read) for file, member in zip(files, members, strict=True)]
                return load_shards(shards, storage, lambda found: shared_environment(found, names))
            return concatenate([member.read(storage) for member in members], names, storage)

        return _Source(whole, files, members[0].read if len(members) == 1 else read)
    return _Source(whole, _files_in(path), lambda storage: load_directory(path, storage, cut_after=cut_after))


def _collect(name: str, progress: Progress) -> EpisodeStore:
    progress.start(f"collect {name} episodes", num_demo_episodes(name), "episode")
    try:
        return collect_demo_episodes(name, progress=lambda done, total: progress.advance(done))
    finally:
        progress.stop()


def _files_in(directory: Path) -> list[Path]:
    """Files in it and below; those that begin with a dot are some system's own, as `._a.npz` of macOS is."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
