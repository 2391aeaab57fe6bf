"""An EpisodeStore as a file of any kind that others read; it appears whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats import FORMATS
from jaxdt.data.loading import load_episodes
from jaxdt.errors import JaxdtError
from jaxdt.progress import Progress


def convert(
    spec: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    map_above: float | None = None,
    cut_after: int | None = None,
    progress: Progress | None = None,
) -> EpisodeStore:
    """Loads a spec, see `load_episodes`, and writes its episodes to `out`, whose ending says how.

    Returns the episodes. Raises JaxdtError before loading where `out` exists or ends in something else, and for
    what cannot be loaded or what the format cannot hold.
    """
    out = Path(os.path.expanduser(out))
    write = writer_for(out)
    store = load_episodes(spec, map_above=map_above, cut_after=cut_after, progress=progress)
    write(store, out)
    return store


def write_episodes(store: EpisodeStore, path: Path) -> None:
    """Writes the kind of file that the path's ending says; raises JaxdtError for what it cannot hold."""
    writer_for(path)(store, path)


WRITERS = {suffix: kind.write for suffix, kind in FORMATS.items() if kind.write is not None}
"""Which function writes a file, by its ending."""


def writer_for(path: Path) -> Callable[[EpisodeStore, Path], None]:
    """The function that writes a file of this ending; raises JaxdtError where there is none, or the file exists."""
    if path.suffix.lower() not in WRITERS:
        raise JaxdtError(f"episodes are written as {', '.join(WRITERS)}; got {str(path)!r}.")
    if os.path.lexists(path):
        raise JaxdtError(f"{str(path)!r} exists already; give another path, or delete it first.")
    return WRITERS[path.suffix.lower()]
