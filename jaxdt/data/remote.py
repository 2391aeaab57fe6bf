"""Datasets in stores that fsspec knows (`s3://BUCKET/DIR`, `gs://…`, `https://…`): copied to local disk file by file.

What a store says of its files is not believed: a name from a listing must be a plain one, and no more is read than the
size that was said.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxdt.data.formats import FORMATS
from jaxdt.data.mapped import in_turn, short_hash
from jaxdt.errors import JaxdtError, one_line
from jaxdt.files import open_atomically, private_cache, remove_unfinished
from jaxdt.progress import Progress


_OTHERS = ("state.json", "dataset_info.json")  # of what `datasets` saved, beside its .arrow files
_VERSIONS = (
    "ETag", "etag", "md5Hash", "content_md5", "crc32c",
    "mtime", "modified", "LastModified", "last_modified", "updated", "created",
)  # fmt: skip
"""What stores call that by which a file can be told from what it was before; without any its size has to do."""
_JOURNAL = ".copied.jsonl"  # a line a file that is here whole
_BLOCK = 2**23


class _File(NamedTuple):
    address: str
    """Inside its store."""
    name: str
    state: list[Any]
    """Its size, and what there is of `_VERSIONS`."""


def is_remote(name: str) -> bool:
    return re.match(r"[A-Za-z][\w.-]*://", name, re.ASCII) is not None


def find_remote(spec: str, progress: Progress) -> Path:
    """Where a file or a directory of files of such a store lies on this machine; what is not here yet is copied.

    A directory is copied without those in it. Raises JaxdtError naming the address and the fix.
    """
    if "::" in spec:
        raise JaxdtError(f"dataset {spec!r:.200} must be one address; got several chained by ::.")
    system, address = _opened(spec)
    if "file" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol):
        return Path(address)
    try:
        system.invalidate_cache()
        found = system.info(address)
        is_directory = found["type"] == "directory"
        files = _chosen(spec, system.ls(address, detail=True) if is_directory else [found])
    except JaxdtError:
        raise
    except Exception as error:  # stores raise what they like
        raise _failed(spec, error) from error
    cache = private_cache("copies")
    if cache is None:
        raise JaxdtError(
            f"{spec} has to be copied and there is no directory for that; make ~/.cache writable by you alone, or set "
            "XDG_CACHE_HOME."
        )
    directory = cache / f"{re.sub(r'[^A-Za-z0-9.-]', '_', address)[-40:].strip('._')}-{short_hash(spec)}"
    busy = f"{spec}: another process is copying it; waiting for that"
    with in_turn(cache / f".{directory.name}.lock", busy, progress):
        _copy(spec, system, files, directory, progress)
    return directory if is_directory else directory / files[0].name


def _opened(spec: str) -> tuple[Any, str]:
    """The file system of an address, and the address inside it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(spec)
    except ImportError as error:
        raise JaxdtError(
            f"dataset {spec!r} is in a store whose package is not installed: {one_line(error, 160)} (pip install it)."
        ) from error
    except Exception as error:
        raise _failed(spec, error) from error


def _failed(spec: str, error: Exception) -> JaxdtError:
    return JaxdtError(
        f"dataset {spec!r} cannot be read: {type(error).__name__}: {one_line(error, 160)}; check the address, the "
        "store's credentials and the connection, and load it again (files that are copied are kept)."
    )


def _chosen(spec: str, found: list[dict[str, Any]]) -> list[_File]:
    """The files to copy of a listing, all of plain names and of known sizes."""
    files = []
    for info in found:
        address = info["name"]
        name = address.rstrip("/").rsplit("/", 1)[-1]
        is_ours = Path(name).suffix.lower() in (*FORMATS, ".arrow") or name in _OTHERS
        if info["type"] != "file" or name.startswith(".") or not is_ours:
            continue
        if not re.fullmatch(r"\w[\w.-]{0,199}", name, re.ASCII):
            raise JaxdtError(
                f"{spec}: a file must have a plain name of letters, digits, -, _ and dots; got {name!r:.80}; rename it."
            )
        size = info.get("size")
        if not isinstance(size, int) or size < 0:
            raise JaxdtError(f"{spec}: the store does not say how large {name} is; copy it here yourself.")
        files.append(_File(address, name, [size, *(str(info[key]) for key in _VERSIONS if key in info)]))
    if not files:
        names = ", ".join(f"{info['name'].rstrip('/').rsplit('/', 1)[-1]:.40}" for info in found[:12]) or "nothing"
        raise JaxdtError(f"{spec} has no files of a known kind ({', '.join(FORMATS)}) in it; it has {names}.")
    return sorted(files, key=lambda file: file.name)


def _copy(spec: str, system: Any, files: list[_File], directory: Path, progress: Progress) -> None:
    """Makes the directory hold these files and no others, of which those that are there already are not read again."""
    directory.mkdir(exist_ok=True)
    remove_unfinished(directory)
    here = _copied(directory)
    missing = [file for file in files if here.get(file.name) != file.state]
    for path in directory.iterdir():
        if path.name != _JOURNAL and path.name not in {file.name for file in files}:
            path.unlink()
    size, total = (sum(file.state[0] for file in some) for some in (missing, files))
    free = shutil.disk_usage(directory).free
    if size > free:
        raise JaxdtError(
            f"{spec} cannot be copied into {directory}: it takes {size / 2**30:.3g} GiB more and {free / 2**30:.3g} "
            "are free; make room there, or set XDG_CACHE_HOME to another disk."
        )
    if not missing:
        return
    progress.start(f"copy {spec}", total // 2**20, "MiB", done=(total - size) // 2**20)
    done = total - size
    try:
        for file in missing:
            read = partial(_advance, progress, done)
            _copy_file(spec, system, file, directory / file.name, read)
            done += file.state[0]
            with open(directory / _JOURNAL, "ab") as journal:
                journal.write(json.dumps([file.name, file.state]).encode() + b"\n")
    finally:
        progress.stop()


def _advance(progress: Progress, before: int, count: int) -> None:
    progress.advance((before + count) // 2**20)


def _copied(directory: Path) -> dict[str, list[Any]]:
    """States of the files that are here whole; a line of the journal that is torn says nothing."""
    found = {}
    path = directory / _JOURNAL
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            name, state = json.loads(line)
            if (directory / name).stat().st_size == state[0]:
                found[name] = state
        except (ValueError, TypeError, IndexError, OSError):
            continue
    with open_atomically(path, "wb") as journal:
        journal.writelines(json.dumps(line).encode() + b"\n" for line in found.items())
    return found


def _copy_file(spec: str, system: Any, file: _File, path: Path, read: Callable[[int], None]) -> None:
    """`read` hears how many bytes of it are copied."""
    with open_atomically(path, "wb") as local:
        for block in _blocks(spec, system, file):
            local.write(block)
            read(local.tell())


def _blocks(spec: str, system: Any, file: _File) -> Iterator[bytes]:
    size = left = file.state[0]
    try:
        with system.open(file.address, "rb") as remote:
            while left > 0 and (block := remote.read(min(left, _BLOCK))):
                left -= len(block)
                yield block
            is_whole = left == 0 and not remote.read(1)
    except Exception as error:
        raise _failed(spec, error) from error
    if not is_whole:
        raise JaxdtError(f"{spec}: {file.name} has not the {size} bytes that its listing says; load it again.")
