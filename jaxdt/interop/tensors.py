"""Files of named tensors as NumPy arrays: safetensors, and PyTorch's `.bin` and `.pt` without PyTorch."""

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxdt.errors import JaxdtError, one_line
from jaxdt.pickles import Stand, brief, is_shape, read_pickle


Tensors = dict[str, np.ndarray]

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("bool"),
}
_NESTED = ("state_dict", "model_state_dict", "model_state", "model")


def read_tensors(path: Path) -> Tensors:
    """Every tensor of a `.safetensors`, `.bin`, `.pt` or `.pth` file, by name.

    Raises JaxdtError naming the file, and the tensor or the forbidden global where there is one.
    """
    if not path.is_file():
        raise JaxdtError(f"{path} does not exist; give a .safetensors, .bin or .pt file of weights.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".bin", ".pt", ".pth"):
        tensors = _named_tensors(_read_torch(path), path)
        if sum(tensor.size for tensor in tensors.values()) > path.stat().st_size:
            raise JaxdtError(f"{path}: its tensors share their numbers; save each with numbers of its own (clone it).")
        return tensors
    raise JaxdtError(f"{path} is of an unknown kind {path.suffix!r}; give a .safetensors, .bin or .pt file of weights.")


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # it is no mapping
    except Exception as error:  # the library's own kinds, and NumPy's for dtypes that it lacks
        raise JaxdtError(
            f"{path} is not a readable safetensors file: {one_line(error, 200)}; copy it again."
        ) from error


def _named_tensors(value: Any, path: Path) -> Tensors:
    for key in _NESTED:
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
            break
    if not isinstance(value, dict) or not value:
        raise JaxdtError(f"{path} holds no state dict but a {type(value).__name__}; save model.state_dict().")
    for name, tensor in value.items():
        if not (isinstance(name, str) and isinstance(tensor, _Tensor)):
            raise JaxdtError(
                f"{path} holds no state dict: {str(name)!r:.80} is a {type(tensor).__name__}; save model.state_dict()."
            )
    return {name: tensor.array for name, tensor in value.items()}


class _StorageKind:
    """Stands for `torch.FloatStorage` and its like."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class _Tensor(Stand):
    """Stands for a `torch.Tensor`."""

    def __init__(self, array: np.ndarray):
        self.array = array


def _read_torch(path: Path) -> Any:
    """PyTorch's zip format (since 1.6): `<name>/data.pkl` and one stored member `<name>/data/<key>` a storage."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # damaged bytes make zipfile raise a dozen kinds
        raise JaxdtError(
            f"{path} is not a PyTorch file of version 1.6 or newer, or only part of one ({one_line(error, 200)}); copy "
            "it again, or load and save it once with a current PyTorch."
        ) from error
    with archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise JaxdtError(f"{path} is a zip archive without PyTorch's data.pkl; save model.state_dict().")
        root = pickles[0].removesuffix("data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise JaxdtError(f"{path} is compressed, as PyTorch never saves; save it once more with torch.save.")
        if sum(info.file_size for info in members.values()) > path.stat().st_size:
            raise JaxdtError(f"{path} is damaged: its members add up to more than the file; copy it again.")
        if f"{root}byteorder" in members and _member(archive, f"{root}byteorder", path) != b"little":
            raise JaxdtError(f"{path} was saved on a big-endian machine; save it once more on a little-endian one.")
        storages: dict[str, np.ndarray] = {}

        def storage(pid: Any) -> np.ndarray:
            match pid:
                case ("storage", _StorageKind(dtype=dtype), str(key), str(), int()):
                    if key not in storages:
                        content = _member(archive, f"{root}data/{key}", path)
                        storages[key] = np.frombuffer(content, np.uint8)
                    return storages[key][: storages[key].size // dtype.itemsize * dtype.itemsize].view(dtype)
            raise ValueError(f"a persistent id of an unknown form: {brief(pid)}")

        content = _member(archive, pickles[0], path)
        return read_pickle(io.BytesIO(content), len(content), _ALLOWED, source=str(path), persistent=storage)


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except Exception as error:  # damaged bytes make zipfile raise a dozen kinds
        raise JaxdtError(f"{path} is damaged at {name!r:.80}: {one_line(error, 200)}; copy it again.") from error


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *ignored: Any) -> _Tensor:
    """Stands for `torch._utils._rebuild_tensor_v2`; an array never larger than its storage."""
    del ignored  # requires_grad, hooks, metadata
    if not (isinstance(storage, np.ndarray) and is_shape((offset,)) and is_shape(size) and is_shape(stride)):
        raise ValueError("a tensor without a storage, or with a size that is no whole number")
    if len(size) != len(stride):
        raise ValueError(f"a tensor of size {size} with strides {stride}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count and (last >= storage.size or count > storage.size):
        raise ValueError(f"a tensor of size {size} in a storage of {storage.size} numbers")
    if not count:
        return _Tensor(np.zeros(size, storage.dtype))
    strides = tuple(step * storage.itemsize for step in stride)
    return _Tensor(np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False))


def _rebuild_parameter(tensor: Any, *ignored: Any) -> _Tensor:
    """Stands for `torch._utils._rebuild_parameter`."""
    del ignored
    if not isinstance(tensor, _Tensor):
        raise ValueError("a parameter that is no tensor")
    return tensor


class _Unread(Stand):
    """Stands for NumPy's arrays and numbers: online-dt saves a random generator's state and a count beside weights."""

    def set_state(self, state: Any) -> None:
        """Its numbers are not needed."""


def _unread(*ignored: Any) -> _Unread:
    del ignored
    return _Unread()


_ALLOWED: dict[str, Any] = {
    **{f"torch.{name}": _StorageKind(dtype) for name, dtype in _STORAGES.items()},
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "numpy.ndarray": None,
    "numpy.dtype": _unread,
    **{f"numpy.{core}.multiarray.{name}": _unread for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
}
