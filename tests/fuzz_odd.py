"""Files of the right format with the wrong things in them: what random bytes would not find."""

import io
import itertools
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests import test_hdf5
from tests.fuzzing import TRIPWIRE
from tests.test_arrow import columns, write_saved
from tests.test_loading import good_arrays


# ---- archives of arrays

_ODD_ARRAYS = [
    *(
        np.zeros((5, 3), dtype)
        for dtype in ("f2", ">f8", "i1", "u8", "?", "c8", "M8[s]", "U3", "S3", "V3", "f4,i4", "g")
    ),
    *(np.zeros(shape, "f4") for shape in ((), (0,), (5,), (5, 0), (5, 1), (5, 3, 1), (4, 3), (2**12, 3))),
    *(np.full((5, 3), value, "f8") for value in (np.nan, np.inf, -np.inf, 1e39, 1e308, 3.4e38)),
    *(
        np.array(value)
        for value in (b"\xff" * 9, "../x", f"{TRIPWIRE}:Env-v0", [2**63], [-1, 5], [5, 2], [2, 5], 2**62)
    ),
]
_ODD_HEADS = [
    f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    for descr in ("<f4", "|O", "<V0", "<U0", "|V2147483647", [("a", "<f4", (2**30,))], "<f4'*9", 3)
    for order in ("False", "True")
    for shape in ("(5, 3)", "(2**40,)", "(4611686018427387904,)", "(-5,)", "(5.0,)", "(0, 4611686018427387904)")
]


def _write_npz(samples: Path, folder: Path, mutation: tuple) -> Path:
    """Arrays of other kinds, heads that promise anything, payloads, and members of odd names."""
    names, content, how, compression = mutation
    members = {}
    for name, values in good_arrays().items():
        members[f"{name}.npy"] = _npy(values)
    for name in names:
        member = f"{name}.npy"
        members[member if how == "replaced" else how + member] = content
    with zipfile.ZipFile(folder / "mutant.npz", "w", compression) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return folder / "mutant.npz"


def _npy(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


class _Payload:
    """Would run a command when it is unpickled."""

    def __init__(self, function: Callable, *arguments: Any):
        self._call = function, arguments

    def __reduce__(self) -> tuple:
        return self._call


_PAYLOADS = [
    _Payload(function, argument)
    for function in (eval, exec, __import__, os.system)
    for argument in (f"{TRIPWIRE}", f"__import__('{TRIPWIRE}')")
]
_ODD_CONTENTS = [
    [_npy(values) for values in _ODD_ARRAYS],
    [b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(64) for head in _ODD_HEADS],
    [pickle.dumps(payload) for payload in _PAYLOADS],
    [_npy(np.array([payload] * 5, object)) for payload in _PAYLOADS],
]

NPZ = (
    st.tuples(
        st.sets(st.sampled_from(sorted(good_arrays())), min_size=1, max_size=2).map(sorted),
        st.one_of(map(st.sampled_from, _ODD_CONTENTS)),
        st.sampled_from(["replaced", "replaced", "replaced", "../", "/", "a/", "C:\\"]),
        st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    ),
    _write_npz,
)

# ---- HDF5 of other kinds

_SHAPES: list[dict] = [
    *({"shape": shape, "dtype": "f4"} for shape in ((), (0,), (5, 3, 1), (10**9,), (2**40, 2), (2**29, 2**30))),
    *({"shape": (5,), "dtype": "f4", "chunks": (chunk,), "maxshape": (None,)} for chunk in (1, 5, 1000, 10**8)),
    *({"shape": (2**31,), "dtype": "u1", "chunks": (chunk,)} for chunk in (2**10, 2**31 - 1)),
]
_KINDS: list[Any] = ["f2", ">f8", "i1", "u8", "?", "c8", "S3", "V3", "f4,i4", h5py.ref_dtype, h5py.regionref_dtype]
_KINDS += [h5py.vlen_dtype("f4"), h5py.string_dtype(), h5py.enum_dtype({"a": 1}), np.dtype(("f4", (3,)))]
_FILTERS: list[dict] = [
    *({"compression": name} for name in ("gzip", "lzf", 1)),
    *({"compression": "gzip", **more} for more in ({"shuffle": True}, {"fletcher32": True})),
    *({"shuffle": True}, {"fletcher32": True}, {"scaleoffset": 4}, {"chunks": (5,)}),
]
_CHUNKS = [b"1", b"1234", bytes(20), bytes(24), b"x\x9c", b"\x78\xda" + bytes(100), b"\x1f0" * 30]


def _write_hdf5(samples: Path, folder: Path, mutation: tuple) -> Path:
    """One dataset replaced by what a file can hold instead of numbers, or by chunks that are none."""
    name, what, which, mask = mutation
    pipe = folder.parent / "pipe"  # who opens it waits for ever
    path = test_hdf5.write(folder / "mutant.hdf5", **{name: None})
    with h5py.File(path, "a") as file:
        if what == "shape":
            file.create_dataset(name, **_SHAPES[which % len(_SHAPES)])
        elif what == "kind":
            file.create_dataset(name, (5,), _KINDS[which % len(_KINDS)])
        elif what == "link":
            target = (str(pipe), "../pipe", "mutant.hdf5", "/dev/zero", "nothing")[which % 5]
            file[name] = h5py.SoftLink("/" + target) if which % 2 else h5py.ExternalLink(target, "/rewards")
        elif what == "outside":
            file.create_dataset(name, (5,), "f4", external=[((str(pipe), "../pipe")[which % 2], 0, 20)])
        elif what == "virtual":
            layout = h5py.VirtualLayout((5,), "f4")
            layout[:] = h5py.VirtualSource((str(pipe), ".")[which % 2], "rewards", (5,))
            file.create_virtual_dataset(name, layout)
        elif what == "group":
            file.create_group(name)[name] = file["/"] if which % 2 else h5py.SoftLink(f"/{name}")
        else:
            options = {"chunks": (5,), **_FILTERS[which % len(_FILTERS)]}
            file.create_dataset(name, (5,), "f4", **options)
            file[name].id.write_direct_chunk((0,), _CHUNKS[which % len(_CHUNKS)], filter_mask=mask)
    return path


HDF5 = (
    st.tuples(
        st.sampled_from(sorted(test_hdf5.good_arrays())),
        st.sampled_from(["shape", "kind", "link", "outside", "virtual", "group", "chunk", "chunk", "chunk"]),
        st.integers(0, 1000),
        st.sampled_from([0, 0, 1, 2, 3]),
    ),
    _write_hdf5,
)

# ---- tables of other kinds

_F4, _LISTS = pa.float32(), (pa.list_, pa.large_list, lambda kind: pa.list_(kind, 1), lambda kind: pa.list_(kind, 0))
_LEAVES = [_F4, pa.float16(), pa.int8(), pa.uint64(), pa.bool_(), pa.string(), pa.null(), pa.binary(), pa.date32()]
_LEAVES += [pa.struct([("a", _F4)]), pa.dictionary(pa.int8(), pa.string()), pa.decimal128(9)]


def _write_table(samples: Path, folder: Path, mutation: tuple) -> Path:
    """A column of another type, or with empty, ragged, missing or endless values, in either format."""
    name, lists, leaf, shape, saved = mutation
    kind = _LEAVES[leaf]
    for make in lists:
        kind = _LISTS[make if saved else make % 2](kind)  # pyarrow crashes as it writes parquet of the others
    try:
        values = pa.array(_ODD_ROWS[shape], kind)
    except (ValueError, TypeError, NotImplementedError, OverflowError):  # no such values of that type
        values = pa.nulls(2, kind)
    table = pa.table(columns(**{name: values}) if len(values) == 2 else {name: values})
    if saved:
        return write_saved(folder / "saved", table)
    try:
        pq.write_table(table, folder / "mutant.parquet", compression=("none", "zstd")[shape % 2])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        (folder / "mutant.parquet").write_bytes(b"PAR1")
    return folder / "mutant.parquet"


_ODD_ROWS: list[list] = [
    *([[], []], [[[]], [[]]], [None, None], [[None], [None, None]], [[1.0, 2.0], [3.0]], [[[1.0]] * 2, [[1.0]] * 3]),
    *(
        [[1, 2], [3, 4, 5]],
        [[[1, 2]] * 2, [[1]] * 3],
        [[[float("nan")] * 3] * 2, [[1e300] * 3] * 3],
        [[True, True]] * 2,
    ),
    *([["x"] * 2, ["y"] * 3], [["a" * 1000]] * 2, [], [[0, 1], [0, 0, 2]], [[2**62] * 2, [-1] * 3]),
]

TABLES = (
    st.tuples(
        st.sampled_from(["observations", "actions", "rewards", "dones", "terminations"]),
        st.lists(st.integers(0, len(_LISTS) - 1), max_size=3),
        st.integers(0, len(_LEAVES) - 1),
        st.integers(0, len(_ODD_ROWS) - 1),
        st.booleans(),
    ),
    _write_table,
)

# ---- instructions of pickles

_ORDERS = [
    *(bytes([code]) for code in b"()]}.02NRbaoseudtlQ\x81\x85\x86\x87\x88\x8f\x90\x91\x92\x93\x94\x97\x98"),
    *(
        f"c{place}\n".encode()
        for place in ("os\nsystem", "builtins\neval", f"{TRIPWIRE}\nrun", "numpy\nload", "numpy\ndtype")
    ),
    *(f"i{place}\n".encode() for place in ("os\nsystem", "builtins\nexec")),
    *(
        f"\x8c\x02os\x8c\x06system\x93\x8c{chr(len(TRIPWIRE))}{TRIPWIRE}\x85R".encode("latin1"),
        b"V" + TRIPWIRE.encode() + b"\n",
    ),
    *(
        code + bytes([255] * size)
        for code, size in ((b"B", 4), (b"X", 4), (b"\x8e", 8), (b"\x96", 8), (b"\x8d", 8), (b"\x95", 8))
    ),
    *(
        b"\x8a\x09" + bytes(8) + b"\x01",
        b"\x8b\xff\xff\xff\x7f",
        b"I9" + b"9" * 5000 + b"\n",
        b"L1L\n",
        b"p99999999999999999999\n",
    ),
    *(
        b"\x82\x01",
        b"\x83\x01\x01",
        b"h\x00",
        b"j\xff\xff\xff\x7f",
        b"g0\n",
        b"P0\n",
        b"K\x00",
        b"G\x7f\xf8" + bytes(6),
        b"U\x01x",
    ),
]
_ORDERS_EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "insert", "replace", "remove", "repeat"]),
        st.integers(0, 2**16 - 1),
        st.sampled_from(_ORDERS),
    ),
    min_size=1,
    max_size=4,
)


def _disordered(content: bytes, edits: list[tuple]) -> bytes:
    """A pickle with instructions added, replaced, removed and repeated."""
    starts = [place for _, _, place in pickletools.genops(content)] + [len(content)]
    orders = [content[start:end] for start, end in itertools.pairwise(starts)]
    for name, place, new in edits:
        at = place * len(orders) >> 16
        orders[at : at + (name not in ("insert", "repeat"))] = {
            "insert": [new],
            "replace": [new],
            "remove": [],
            "repeat": orders[at : at + 1] * 50,
        }[name]
    return b"".join(orders)


def _write_pickle(samples: Path, folder: Path, mutation: tuple) -> Path:
    name, edits = mutation
    (folder / "mutant.pkl").write_bytes(_disordered((samples / name).read_bytes(), edits))
    return folder / "mutant.pkl"


def _write_torch(samples: Path, folder: Path, edits: list[tuple]) -> Path:
    with zipfile.ZipFile(samples / "original.pt") as old, zipfile.ZipFile(folder / "mutant.pt", "w") as new:
        for member in old.infolist():
            content = old.read(member)
            new.writestr(member, _disordered(content, edits) if member.filename.endswith("data.pkl") else content)
    return folder / "mutant.pt"


PICKLE = (st.tuples(st.sampled_from(["0.pkl", "2.pkl", "3.pkl"]), _ORDERS_EDITS), _write_pickle)
TORCH = (_ORDERS_EDITS, _write_torch)
