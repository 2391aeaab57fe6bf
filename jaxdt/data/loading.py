"""From a spec, what a user writes after `--dataset`, to an EpisodeStore."""

import os
from collections.abc import Callable
from pathlib import Path

from jaxdt.data.demo import collect_demo_episodes
from jaxdt.data.episodes import EpisodeStore, concatenate
from jaxdt.data.npz import load_npz
from jaxdt.errors import JaxdtError


FILES: dict[str, Callable[[Path], EpisodeStore]] = {".npz": load_npz}
"""Which function reads a file, by its ending."""

KINDS = f"give the path of an {' or '.join(FILES)} file, or demo"


def load_episodes(spec: str | os.PathLike[str]) -> EpisodeStore:
    """Episodes of a spec: an `.npz` path, `demo`, or several joined by `+`.

    `demo` rolls out the shipped HalfCheetah-v5 policies (some seconds). Joined members must agree on
    sizes and environment. Raises JaxdtError naming the file, the field and the fix.
    """
    spec = os.fspath(spec)
    names = [spec] if os.path.isfile(os.path.expanduser(spec)) else spec.split("+")
    stores = [_load_one(name) for name in names]
    return stores[0] if len(stores) == 1 else concatenate(stores, names)


def _load_one(name: str) -> EpisodeStore:
    if name == "demo":
        return collect_demo_episodes()
    path = Path(os.path.expanduser(name))
    if not os.path.isfile(path):
        raise JaxdtError(f"dataset {name!r} does not exist; {KINDS}.")
    if path.suffix not in FILES:
        raise JaxdtError(f"dataset {name!r} is of an unknown kind {path.suffix!r}; {KINDS}.")
    return FILES[path.suffix](path)
