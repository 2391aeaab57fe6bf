"""Files that were made to crash a reader, to hang it, to fill the memory or to reach another file."""

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import pyarrow as pa

from tests import test_hdf5
from tests.test_arrow import columns, write_saved
from tests.test_loading import array_header, write_zip


def _deflated(head: bytes, mebibytes: int) -> bytes:
    """A head and so many MiB of zeros in a raw deflate stream, made without compressing them all."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    first, more = (compressor.compress(part) + compressor.flush(zlib.Z_FULL_FLUSH) for part in (head, bytes(2**20)))
    return first + more * mebibytes + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def _deflated_npz(samples: Path, folder: Path) -> Path:
    path = write_zip(folder / "bomb.npz", rewards=_deflated(array_header("<f4", (500 * 2**20,))[:-64], 2000))
    content = bytearray(path.read_bytes())
    for at, size_at in ((content.index(b"rewards.npy") - 30 + 8, 14), (content.rindex(b"rewards.npy") - 46 + 10, 14)):
        content[at : at + 2] = zipfile.ZIP_DEFLATED.to_bytes(2, "little")
        content[at + size_at : at + size_at + 4] = (2000 * 2**20).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def _sizes_that_lie(samples: Path, folder: Path) -> Path:
    return write_zip(folder / "bomb.npz", rewards=array_header("<f4", (2**40,)))


def _other_compression(samples: Path, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("rewards.npy", array_header("<f4", (2**26,)) + bytes(2**20))
    return folder / "bomb.npz"


def _chunk(stored: bytes, size: int, mask: int = 0, **options) -> Callable[[Path, Path], Path]:
    def write(samples: Path, folder: Path) -> Path:
        path = folder / "bomb.hdf5"
        with h5py.File(path, "w") as file:
            for name in ("observations", "actions"):
                file.create_dataset(name, (size, 1), "f4")
            file.create_dataset("terminals", (size,), "u1", fillvalue=1)
            file.create_dataset("rewards", (size,), "f4", chunks=(size,), **options)
            file["rewards"].id.write_direct_chunk((0,), stored, filter_mask=mask)
        return path

    return write


def _gzip_twice(samples: Path, folder: Path) -> Path:
    path = test_hdf5.write(folder / "bomb.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((5,))
        properties.set_deflate(9)
        properties.set_deflate(9)
        h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((5,)), properties)
    return path


def _link_to_a_pipe(samples: Path, folder: Path) -> Path:
    path = test_hdf5.write(folder / "bomb.hdf5", timeouts=None)
    with h5py.File(path, "a") as file:
        file["timeouts"] = h5py.ExternalLink(str(folder.parent / "pipe"), "/timeouts")
    return path


def _arrow(table: pa.Table, compression: str | None = None) -> Callable[[Path, Path], Path]:
    def write(samples: Path, folder: Path) -> Path:
        write_saved(folder / "bomb", table)
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(next((folder / "bomb").glob("*.arrow")), table.schema, options=options) as file:
            file.write_table(table)
        return folder / "bomb"

    return write


def _endless_lists_of_nothing() -> pa.Table:
    kind = pa.list_(pa.float32(), 0)
    steps = pa.Array.from_buffers(kind, 2**31 - 1, [None], children=[pa.array([], pa.float32())])
    episodes = pa.ListArray.from_arrays(pa.array([0, 2**31 - 1], pa.int32()), steps)
    return pa.table({"observations": episodes, "actions": episodes, "rewards": pa.array([[0.0]])})


def _varint(number: int) -> bytes:
    digits = b""
    while number > 127:
        digits, number = digits + bytes([number & 127 | 128]), number >> 7
    return digits + bytes([number])


def _deep_schema(samples: Path, folder: Path) -> Path:
    """Groups of one group each, 100,000 times."""
    group, leaf = b"\x35\x02\x18\x01a\x15\x02\x00", b"\x15\x08\x25\x02\x18\x01b\x00"  # of Thrift's compact protocol
    schema = group * 100_000 + leaf
    footer = b"\x15\x02\x19\xfc" + _varint(100_001) + schema + b"\x16\x00\x19\x0c\x00"
    (folder / "bomb.parquet").write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return folder / "bomb.parquet"


def _pickle(content: bytes) -> Callable[[Path, Path], Path]:
    def write(samples: Path, folder: Path) -> Path:
        (folder / "bomb.pkl").write_bytes(content)
        return folder / "bomb.pkl"

    return write


def _config(**changes) -> Callable[[Path, Path], Path]:
    def write(samples: Path, folder: Path) -> Path:
        run = shutil.copytree(samples / "run", folder, dirs_exist_ok=True)
        document = json.loads((run / "config.json").read_text())
        document["config"]["algorithm"]["model"] |= changes
        (run / "config.json").write_text(json.dumps(document))
        return run

    return write


_EQUAL_HASHES = [i * (2**61 - 1) for i in range(1, 100_000)]
_KEYS = b"".join(b"\x8a\x0a" + number.to_bytes(10, "little") + b"N" for number in _EQUAL_HASHES)
_PLACES = b"".join(b"p%d\n" % number for number in _EQUAL_HASHES)

BOMBS: dict[str, tuple[str, str, Callable[[Path, Path], Path]]] = {
    "npz inflating to 2 GB": ("episodes", "would take", _deflated_npz),
    "npz heads that lie": ("episodes", "would take", _sizes_that_lie),
    "npz of bzip2": ("episodes", "compressed as NumPy never does", _other_compression),
    "hdf5 chunk inflating to 2 GB": (
        "episodes",
        "another size than declared",
        _chunk(b"\x78\xda" + _deflated(b"", 2000) + b"\0\0\0\1", 5, compression="gzip"),
    ),
    **{
        f"hdf5 chunk smaller than its place, {name}": (
            "episodes",
            "another size than declared",
            _chunk(stored, 2**23, mask, **options),
        )
        for name, stored, mask, options in (
            ("gzip", zlib.compress(b"1234"), 0, {"compression": "gzip"}),
            ("gzip left out", b"1234", 1, {"compression": "gzip"}),
            ("shuffle", b"1234", 0, {"shuffle": True}),
            ("checksum left out", b"1234", 1, {"fletcher32": True}),
        )
    },
    "hdf5 inflated twice": ("episodes", "filters in an order that is not read", _gzip_twice),
    "hdf5 link to a pipe": ("episodes", "timeouts is a link to another place", _link_to_a_pipe),
    "arrow inflated": ("episodes", "it is compressed", _arrow(pa.table(columns()), "zstd")),
    "arrow lists of nothing": ("episodes", "must be lists of lists of numbers", _arrow(_endless_lists_of_nothing())),
    "parquet schema of 100,000 groups": ("episodes", "nested more than 100 deep", _deep_schema),
    "pickle keys of one hash": ("episodes", "as a key", _pickle(b"\x80\x04]}(" + _KEYS + b"ua.")),
    "pickle places of one hash": ("episodes", "as a key", _pickle(b"]" + _PLACES + b".")),
    "run of a thousand layers": ("agent", "num_layers is 1000; the checkpoint has 41 arrays", _config(num_layers=1000)),
    "run of endless sizes": ("agent", "does not fit its config", _config(width=2**24, max_episode_length=2**24)),
    "run of an endless context": ("agent", "context_length must be at most 4096", _config(context_length=10**9)),
}
"""The worker's kind, words of the refusal, and how it is written into an empty folder, `pipe` beside which is one."""
