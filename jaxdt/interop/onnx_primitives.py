"""What each of JAX's primitives is in ONNX.

A translation takes the graph so far and an equation of the jaxpr, adds nodes, and returns the name of what they give.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdt.errors import JaxdtError


SAME = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "neg": "Neg", "abs": "Abs"},
    **{"exp": "Exp", "log": "Log", "tanh": "Tanh", "sqrt": "Sqrt", "erf": "Erf", "logistic": "Sigmoid", "sin": "Sin"},
    **{"cos": "Cos", "floor": "Floor", "sign": "Sign", "pow": "Pow"},
    **{"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"},
    **{"copy": "Identity", "stop_gradient": "Identity", "optimization_barrier": "Identity"},
    **{"name": "Identity"},
}
"""Primitives that ONNX has as they are."""


def not_translated(what: str) -> JaxdtError:
    return JaxdtError(f"the model needs {what}, which has no translation to ONNX yet; use --to stablehlo.")


def _of_booleans(kind: str) -> Callable[[Any, Any], str]:
    def translate(graph: Any, equation: Any) -> str:
        if equation.invars[0].aval.dtype != np.bool_:
            raise not_translated(f"{equation.primitive.name} of whole numbers")
        return graph.node(kind, _of_inputs(graph, equation))

    return translate


def _of_inputs(graph: Any, equation: Any) -> list[str]:
    return [graph.name(variable) for variable in equation.invars]


def _twice(first: str, second: str) -> Callable[[Any, Any], str]:
    return lambda graph, equation: graph.node(second, [graph.node(first, _of_inputs(graph, equation))])


def _broadcast(graph: Any, equation: Any) -> str:
    sizes, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    given = equation.invars[0].aval.shape
    ones = [given[places.index(axis)] if axis in places else 1 for axis in range(len(sizes))]
    name = graph.reshaped(graph.name(equation.invars[0]), ones)
    return name if [*map(str, ones)] == [*map(str, sizes)] else graph.node("Expand", [name, graph.shape(sizes)])


def _reduce(kind: str) -> Callable[[Any, Any], str]:
    def translate(graph: Any, equation: Any) -> str:
        axes = graph.integers(*equation.params["axes"])
        return graph.node(kind, [*_of_inputs(graph, equation), axes], keepdims=0)

    return translate


def _reduce_and(graph: Any, equation: Any) -> str:
    numbers = graph.node("Cast", _of_inputs(graph, equation), to=graph.kind(np.int32))
    least = graph.node("ReduceMin", [numbers, graph.integers(*equation.params["axes"])], keepdims=0)
    return graph.node("Cast", [least], to=graph.kind(np.bool_))


def _argmax(graph: Any, equation: Any) -> str:
    (axis,) = equation.params["axes"]
    chosen = graph.node("ArgMax", _of_inputs(graph, equation), axis=axis, keepdims=0)
    return graph.node("Cast", [chosen], to=graph.kind(equation.params["index_dtype"]))


def _is_finite(graph: Any, equation: Any) -> str:
    odd = [graph.node(kind, _of_inputs(graph, equation)) for kind in ("IsInf", "IsNaN")]
    return graph.node("Not", [graph.node("Or", odd)])


def _select(graph: Any, equation: Any) -> str:
    which, no, yes = _of_inputs(graph, equation)
    return graph.node("Where", [which, yes, no])


def _dot(graph: Any, equation: Any) -> str:
    ((left_sum,), (right_sum,)), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = equation.invars
    names = []
    for variable, batch, summed, last in ((left, left_batch, left_sum, True), (right, right_batch, right_sum, False)):
        free = [axis for axis in range(len(variable.aval.shape)) if axis not in (*batch, summed)]
        if len(free) > 1 and (batch or not last):
            raise not_translated("dot_general of that many axes")
        order = [*batch, *free, summed] if last else [*batch, summed, *free]
        name = graph.name(variable)
        names.append(name if order == sorted(order) else graph.node("Transpose", [name], perm=order))
    return graph.node("MatMul", names)


def _gather(graph: Any, equation: Any) -> str:
    """One place or slice along an axis that is known, or rows of a table."""
    operand, index = equation.invars
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    where, name = graph.value(index), graph.name(operand)
    one_axis = len(numbers.start_index_map) == 1 and not numbers.operand_batching_dims
    (axis,) = numbers.start_index_map if one_axis else (None,)
    if axis is not None and where is not None and where.size == 1:
        start = int(where.ravel()[0])
        if numbers.collapsed_slice_dims == (axis,):
            return graph.node("Gather", [name, graph.constant(np.int64(start))], axis=axis)
        if not numbers.collapsed_slice_dims:
            return graph.sliced(name, axis, graph.integers(start), graph.integers(start + sizes[axis]))
    rows = index.aval.shape[:-1]
    last = tuple(range(len(rows), len(rows) + len(sizes) - 1))
    if axis == 0 and numbers.collapsed_slice_dims == (0,) and numbers.offset_dims == last and sizes[0] == 1:
        return graph.node("Gather", [name, graph.reshaped(graph.name(index), rows)], axis=0)
    raise not_translated("gather of that kind")


def _scatter(graph: Any, equation: Any) -> str:
    """One place along an axis, which is known, is replaced."""
    operand, index, update = equation.invars
    numbers, where = equation.params["dimension_numbers"], graph.value(index)
    axes = numbers.scatter_dims_to_operand_dims
    if where is None or where.size != 1 or numbers.inserted_window_dims != axes:
        raise not_translated("scatter of that kind")
    (axis,), start = axes, int(where.ravel()[0])
    one = [size if i != axis else 1 for i, size in enumerate(operand.aval.shape)]
    return _replaced(graph, operand, graph.reshaped(graph.name(update), one), axis, graph.integers(start), 1)


def _update_slice(graph: Any, equation: Any) -> str:
    """A slice along one axis is replaced, from a place that is clamped so that it fits."""
    operand, update, *starts = equation.invars
    whole, part = operand.aval.shape, update.aval.shape
    axes = [axis for axis in range(len(whole)) if str(whole[axis]) != str(part[axis])]
    if len(axes) != 1:
        raise not_translated("dynamic_update_slice along several axes")
    (axis,) = axes
    start = graph.node("Cast", [graph.reshaped(graph.name(starts[axis]), [1])], to=graph.kind(np.int64))
    start = graph.node("Min", [graph.node("Max", [start, graph.integers(0)]), graph.integers(whole[axis] - part[axis])])
    return _replaced(graph, operand, graph.name(update), axis, start, part[axis])


def _replaced(graph: Any, operand: Any, update: str, axis: int, start: str, count: int) -> str:
    name, size = graph.name(operand), operand.aval.shape[axis]
    before = graph.sliced(name, axis, graph.integers(0), start)
    after = graph.sliced(name, axis, graph.node("Add", [start, graph.integers(count)]), graph.integers(size))
    return graph.node("Concat", [before, update, after], axis=axis)


def _slice(graph: Any, equation: Any) -> str:
    name, given = graph.name(equation.invars[0]), equation.invars[0].aval.shape
    strides = equation.params["strides"] or (1,) * len(given)
    bounds = zip(given, equation.params["start_indices"], equation.params["limit_indices"], strides, strict=True)
    for axis, (size, start, end, step) in enumerate(bounds):
        if (start, str(end), step) != (0, str(size), 1):
            name = graph.sliced(name, axis, graph.size(start), graph.size(end), step)
    return name


def _split(graph: Any, equation: Any) -> list[str]:
    sizes = [int(size) for size in equation.params["sizes"]]
    names = graph.new_names("split", len(sizes))
    inputs = [*_of_inputs(graph, equation), graph.integers(*sizes)]
    graph.node("Split", inputs, outputs=names, axis=equation.params["axis"])
    return names


def _stack(graph: Any, equation: Any) -> str:
    axis = equation.params["axis"]
    widened = [graph.node("Unsqueeze", [name, graph.integers(axis)]) for name in _of_inputs(graph, equation)]
    return graph.node("Concat", widened, axis=axis)


def _integer_power(graph: Any, equation: Any) -> str:
    dtype = equation.invars[0].aval.dtype
    return graph.node("Pow", [*_of_inputs(graph, equation), graph.constant(np.asarray(equation.params["y"], dtype))])


def _erfc(graph: Any, equation: Any) -> str:
    one = graph.constant(np.ones((), equation.invars[0].aval.dtype))
    return graph.node("Sub", [one, graph.node("Erf", _of_inputs(graph, equation))])


def _clamp(graph: Any, equation: Any) -> str:
    low, value, high = _of_inputs(graph, equation)
    return graph.node("Min", [graph.node("Max", [value, low]), high])


TRANSLATIONS: dict[str, Callable[[Any, Any], Any]] = {
    **{"and": _of_booleans("And"), "or": _of_booleans("Or"), "not": _of_booleans("Not")},
    "rsqrt": _twice("Sqrt", "Reciprocal"),
    "ne": _twice("Equal", "Not"),
    "square": lambda graph, equation: graph.node("Mul", _of_inputs(graph, equation) * 2),
    "rem": lambda graph, equation: graph.node("Mod", _of_inputs(graph, equation), fmod=1),
    "integer_pow": _integer_power,
    "erfc": _erfc,
    "clamp": _clamp,
    "select_n": _select,
    "is_finite": _is_finite,
    "convert_element_type": lambda graph, equation: graph.node(
        "Cast", _of_inputs(graph, equation), to=graph.kind(equation.params["new_dtype"])
    ),
    "dim_as_value": lambda graph, equation: graph.node(
        "Cast", [graph.reshaped(graph.size(equation.params["dim"]), [])], to=graph.kind(equation.outvars[0].aval.dtype)
    ),
    "broadcast_in_dim": _broadcast,
    **dict.fromkeys(
        ("reshape", "squeeze", "expand_dims"),
        lambda graph, equation: graph.reshaped(graph.name(equation.invars[0]), equation.outvars[0].aval.shape),
    ),
    "transpose": lambda graph, equation: graph.node(
        "Transpose", _of_inputs(graph, equation), perm=equation.params["permutation"]
    ),
    "concatenate": lambda graph, equation: graph.node(
        "Concat", _of_inputs(graph, equation), axis=equation.params["dimension"]
    ),
    "stack": _stack,
    "split": _split,
    "slice": _slice,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_and": _reduce_and,
    "argmax": _argmax,
    "dot_general": _dot,
    "gather": _gather,
    "scatter": _scatter,
    "dynamic_update_slice": _update_slice,
}
