"""What Arrow's arrays hold: numbers as NumPy's arrays without a Python list in between, and pictures' files."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdt.errors import JaxdtError


if TYPE_CHECKING:
    import pyarrow


def leaf(kind: "pyarrow.DataType") -> tuple["pyarrow.DataType", int]:
    """What lists of lists hold in the end, and how many lists deep."""
    kind, depth = _stored(kind), 0
    while _is_list(kind):
        kind, depth = _stored(kind.value_type), depth + 1
    return kind, depth


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or (types.is_fixed_size_list(kind) and kind.list_size > 0)


def _stored(kind: Any) -> Any:
    """Of a type that a library added, such as Array2D of `datasets`, what it is made of."""
    return kind.storage_type if hasattr(kind, "storage_type") else kind


def are_files(kind: "pyarrow.DataType") -> bool:
    """Whether values are byte strings, or structs that have some, as the feature Image of `datasets` does."""
    from pyarrow import types

    if types.is_struct(kind):
        named = [kind.field(i).type for i in range(kind.num_fields) if kind.field(i).name == "bytes"]
        return len(named) == 1 and (types.is_binary(named[0]) or types.is_large_binary(named[0]))
    return types.is_binary(kind) or types.is_large_binary(kind)


def file_contents(values: "pyarrow.Array") -> list[memoryview | None]:
    """The bytes of each file where they lie, None where there are none; what paths name is not looked at."""
    import pyarrow.compute

    compute: Any = pyarrow.compute
    if pyarrow.types.is_struct(values.type):
        values = compute.struct_field(values, "bytes")
    scalars: Any = values
    return [memoryview(scalar.as_buffer()) if scalar.is_valid else None for scalar in scalars]


def flat_numbers(column: "pyarrow.Array", name: str, row: int, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps of each episode, and the numbers (steps, ...) of some rows, the first of them `row`."""
    lengths, values = flat_steps(column, name, row, source)
    starts = np.cumsum(lengths) - lengths

    def episode_and_step(step: int) -> tuple[int, int]:
        episode = int(np.searchsorted(starts, step, side="right")) - 1
        return row + episode, step - int(starts[episode])

    def null(step: int) -> str:
        return f"of row {episode_and_step(step)[0]} has a null"

    def uneven(step: int, width: int, first: int) -> str:
        episode, at = episode_and_step(step)
        return f"of episode {episode}, step {at}, has {width} numbers, other steps {first}"

    return lengths, _numbers(values, f"{source}: {name}", null, uneven)


def flat_steps(column: "pyarrow.Array", name: str, row: int, source: str) -> tuple[np.ndarray, "pyarrow.Array"]:
    """Steps of each episode, and the values of all, of some rows, the first of them `row`."""
    import pyarrow.compute

    compute: Any = pyarrow.compute
    if column.null_count:
        index = compute.index(column.is_null(), True).as_py()
        raise JaxdtError(f"{source}: {name} of row {row + index} has a null; remove that episode or repair it.")
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    flat: Any = column
    return lengths, flat.flatten()


def numbers_of(array: Any, name: str, row: int, source: str, *, deepest: int = 1) -> np.ndarray:
    """Of some rows, a step each, the first of them `row`: (rows,), or (rows, ...) of lists, `deepest` in each other."""
    if hasattr(array, "dictionary_decode"):  # categories
        array = array.dictionary_decode()
    depth = leaf(array.type)[1]
    if depth > deepest:
        raise JaxdtError(f"{source}: {name} must be a number or a list of numbers a step; got {array.type!s:.80}.")

    def uneven(step: int, width: int, first: int) -> str:
        return f"of row {row + step} has {width} numbers, other rows {first}"

    fault = "has a null" if depth else "is empty"
    return _numbers(array, f"{source}: {name}", lambda step: f"of row {row + step} {fault}", uneven)


def _numbers(
    values: Any, column: str, null: Callable[[int], str], uneven: Callable[[int, int, int], str]
) -> np.ndarray:
    """Numbers, or those of lists of lists that are all alike; `null`, `uneven`: what is wrong with a step."""
    import pyarrow.compute

    compute: Any = pyarrow.compute
    shape = [len(values)]
    while True:
        values = values.storage if hasattr(values, "storage") else values
        lists = max(1, int(np.prod(shape[1:])))  # of a step
        if values.null_count:
            index = compute.index(compute.is_null(values), True).as_py()
            raise JaxdtError(f"{column} {null(index // lists)}; remove that episode or repair it.")
        if not _is_list(values.type):
            return values.to_numpy(zero_copy_only=False).reshape(shape)
        widths = compute.list_value_length(values).to_numpy(zero_copy_only=False)
        width = int(widths[0]) if len(widths) else 0
        if (widths != width).any():
            index = int(np.argmax(widths != width))
            raise JaxdtError(f"{column} {uneven(index // lists, int(widths[index]), width)}; make them agree.")
        shape, values = [*shape, width], values.flatten()
