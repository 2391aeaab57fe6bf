"""Datasets of the Hugging Face hub: `hf:OWNER/NAME` and `hf:OWNER/NAME/CONFIG`."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jaxdt.data.d4rl import d4rl_env_id
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.parquet import load_parquet_files
from jaxdt.data.formats.pickled import load_pickle
from jaxdt.data.storage import Storage
from jaxdt.errors import JaxdtError, one_line
from jaxdt.progress import Progress


PREFIX = "hf:"
REVISIONS = ("refs/convert/parquet", "main")
"""The hub's own conversion first: a dataset that is a script or pickles is plain parquet there."""

_NAME = r"[A-Za-z0-9_][\w.-]*"
_TRAIN = rf"train(?:[/-]{_NAME})?\.parquet"
_OTHER = r"(?!(?:train|test|validation|valid|val|dev|eval)(?:[./-]|$))"
_LAYOUTS = (
    rf"(?:data/)?{_TRAIN}",
    r"(?:data/)?\d+\.parquet",
    rf"(?:data/)?(?P<config>(?!data/){_NAME})/{_TRAIN}",
    rf"(?:data/)?(?P<config>{_OTHER}{_NAME}?)(?:-\d+-of-\d+)?\.parquet",
    rf"(?:data/)?(?P<config>(?!data/){_OTHER}{_NAME})/{_OTHER}{_NAME}\.parquet",
    rf"(?:data/)?(?P<config>{_NAME})\.pkl",
)
"""Where repositories keep the split `train`, best first; a file of no config is of the config `default`."""

_TIMEOUT = 10.0  # seconds for the hub to answer


class _Listing(NamedTuple):
    sizes: dict[str, int]
    """Bytes of each file that has a plain name."""
    fault: str | None = None
    """Why the hub could not be asked; the sizes are then the cache's."""


def find_hub(spec: str, progress: Progress) -> tuple[list[Path], tuple[str, ...]]:
    """Files of a hub dataset's split `train`: parquet, or else a pickle; and the names that may tell its environment.

    Files are kept where `huggingface_hub` keeps them, and found there without a network. Without a CONFIG the
    repository must have one only. Raises JaxdtError naming the spec, what there is and the fix.
    """
    repo, wanted = _parsed(spec)
    found: dict[str, None] = {}
    names: dict[str, int] = {}
    fault = None
    for revision in REVISIONS:
        listing = _listing(spec, repo, revision)
        fault = fault or listing.fault
        names |= listing.sizes
        configs = configs_in(listing.sizes)
        found |= dict.fromkeys(configs)
        config = wanted or (next(iter(configs)) if len(configs) == 1 else None)
        if config in configs:
            assert config is not None
            return _download(spec, repo, revision, configs[config], listing, progress), (config, repo.split("/")[1])
        if configs and wanted is None:
            break
    if fault is not None:
        raise JaxdtError(f"{spec}: the hub cannot be asked ({fault}) and no copy is kept here; connect and try again.")
    if found:
        raise JaxdtError(
            f"{spec}: {f'there is no config {wanted!r}' if wanted else 'it has several configs'}; give "
            f"{PREFIX}{repo}/CONFIG with one of {_some(sorted(found))}."
        )
    raise JaxdtError(
        f"{spec}: the repository has no parquet files or pickles of a split train; it has {_some(sorted(names))} "
        "(give another repository)."
    )


def configs_in(names: Iterable[str]) -> dict[str, list[str]]:
    """The files of each config, in order, among the names of a repository's files; odd names are left out."""
    configs: dict[str, list[str]] = {}
    left = sorted(names)
    for layout in _LAYOUTS:
        here: dict[str, list[str]] = {}
        for name in left:
            if match := re.fullmatch(layout, name, re.ASCII):
                here.setdefault(match.groupdict().get("config") or "default", []).append(name)
        left = [name for name in left if not any(name in found for found in here.values())]
        configs = {**here, **configs}
    return configs


def _parsed(spec: str) -> tuple[str, str | None]:
    match = re.fullmatch(rf"{PREFIX}({_NAME}/{_NAME})(?:/({_NAME}))?", spec, re.ASCII)
    if match is None or ".." in spec:
        raise JaxdtError(
            f"dataset {spec!r:.120} must be {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME/CONFIG, "
            f"such as {PREFIX}edbeeching/decision_transformer_gym_replay/halfcheetah-expert-v2."
        )
    return match[1], match[2]


def _listing(spec: str, repo: str, revision: str) -> _Listing:
    """The files at a revision: none where there is no such revision, the cache's where the hub is out of reach."""
    from huggingface_hub import HfApi, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().dataset_info(repo, revision=revision, timeout=_TIMEOUT, files_metadata=True)
        return _Listing({file.rfilename: file.size or 0 for file in info.siblings or () if _is_plain(file.rfilename)})
    except RevisionNotFoundError:
        return _Listing({})
    except Exception as error:  # without a network the HTTP library raises what it likes
        refused = _refusal(spec, repo, error)
        if refused is not None:
            raise refused from error
        fault = one_line(error, 160)
    try:
        files = get_cached_repo_tree(repo, repo_type="dataset", revision=revision)
    except (CachedRepoTreeNotFoundError, OSError):
        return _Listing({}, fault)
    return _Listing({file.path: file.size for file in files if _is_plain(file.path)}, fault)


def _is_plain(name: str) -> bool:
    return re.fullmatch(rf"(?:{_NAME}/)*{_NAME}", name, re.ASCII) is not None


def _download(
    spec: str, repo: str, revision: str, names: list[str], listing: _Listing, progress: Progress
) -> list[Path]:
    """Paths of the files in the hub's cache; the library draws a bar on a terminal."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    new = [
        name
        for name in names
        if not isinstance(try_to_load_from_cache(repo, name, revision=revision, repo_type="dataset"), str)
    ]
    if new and listing.fault is None:
        size = sum(listing.sizes[name] for name in new)
        progress.say(f"{spec}: downloading {_some(new)} ({size / 1e6:.1f} MB) of the revision {revision}")
    try:
        folder = snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision,
            allow_patterns=names,
            local_files_only=listing.fault is not None,
        )
    except Exception as error:  # HTTP, disk and cache errors of many kinds
        raise _refusal(spec, repo, error) or JaxdtError(
            f"{spec}: {_some(names)} cannot be downloaded: {listing.fault or one_line(error, 160)}; "
            "check the connection and the disk, and try again."
        ) from error
    return [Path(folder, name) for name in names]


def _refusal(spec: str, repo: str, error: Exception) -> JaxdtError | None:
    """What to tell where the hub answered, and the answer is no."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return JaxdtError(f"{spec}: {repo} is gated; ask for access on its page, then log in with `hf auth login`.")
    if isinstance(error, RepositoryNotFoundError):
        return JaxdtError(
            f"{spec}: the hub has no dataset repository {repo} that you may see; check the name, "
            "or log in with `hf auth login`."
        )
    return None


def read_hub(
    spec: str, paths: list[Path], names: tuple[str, ...], storage: Storage, *, cut_after: int | None = None
) -> EpisodeStore:
    """Episodes of what `find_hub` found; D4RL's names, such as `halfcheetah-expert-v2`, say what the environment is."""
    try:
        if paths[0].suffix == ".pkl":
            store = load_pickle(paths[0], cut_after=cut_after)
        else:
            source = str(paths[0] if len(paths) == 1 else paths[0].parent)
            store = load_parquet_files(paths, source=source, storage=storage, cut_after=cut_after)
    except JaxdtError as error:
        raise JaxdtError(f"{spec}: {error} (If the download is damaged, delete that file.)") from error
    known = (d4rl_env_id(name, store.state_dim) for name in names)
    return dataclasses.replace(store, env_id=store.env_id or next(filter(None, known), None))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "nothing"
