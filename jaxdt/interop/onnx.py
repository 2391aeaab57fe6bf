"""An acting step as an ONNX graph: the jaxpr that JAX traces, translated primitive by primitive.

What policies here are made of is translated; any other primitive is refused by its name, and says what to add.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxdt.errors import JaxdtError
from jaxdt.interop.onnx_primitives import SAME, TRANSLATIONS, not_translated


OPSET = 18
"""The first in which all reductions take their axes as an input."""

IR_VERSION = 8
"""Of the file; ONNX Runtime 1.14 and newer read it."""

_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
"""Primitives that call a jaxpr, which is translated in their place."""


def to_onnx(function: Callable, inputs: Sequence[tuple[str, Any]], outputs: Sequence[str], batch: str = "b") -> bytes:
    """The graph of `function(*shapes)`, which returns one array for each output's name, as a serialised model.

    `inputs` are names and shapes (`jax.ShapeDtypeStruct`), whose first size may be the symbol `batch`; the first input
    with it tells the graph how large that is. Raises JaxdtError where onnx is missing, or for a primitive that is not
    translated.
    """
    try:
        import onnx
    except ImportError as error:
        raise JaxdtError("--to onnx needs onnx; pip install 'jaxdt[onnx]'.") from error
    closed = jax.make_jaxpr(function)(*(shape for _, shape in inputs))
    graph = Graph(onnx, batch)
    for variable, (name, _) in zip(closed.jaxpr.invars, inputs, strict=True):
        graph.names[variable] = name
        graph.learn_batch(name, variable.aval.shape)
    graph.translate(closed.jaxpr, closed.consts)
    for variable, name in zip(closed.jaxpr.outvars, outputs, strict=True):
        graph.node("Identity", [graph.name(variable)], outputs=[name])
    described = [
        [graph.described(name, variable.aval) for name, variable in zip(names, variables, strict=True)]
        for names, variables in (([name for name, _ in inputs], closed.jaxpr.invars), (outputs, closed.jaxpr.outvars))
    ]
    made = onnx.helper.make_graph(graph.nodes, "acting_step", *described, initializer=graph.initializers)
    opset = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION, producer_name="jaxdt")
    onnx.checker.check_model(model)
    return model.SerializeToString()


class Graph:
    """Nodes and initialisers so far, and how each variable of the jaxpr is called."""

    def __init__(self, onnx: Any, batch: str):
        self.onnx, self.batch = onnx, batch
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.names: dict[Any, str] = {}
        self.known: dict[Any, np.ndarray] = {}
        """Variables whose values do not depend on the inputs."""
        self._constants: dict[Any, str] = {}
        self._batch_size: str | None = None
        self._count = 0

    def learn_batch(self, name: str, shape: Sequence[Any]) -> None:
        if self._batch_size is None and [str(size) for size in shape[:1]] == [self.batch]:
            shape_name = self.node("Shape", [name], start=0, end=1)
            self._batch_size = shape_name

    def described(self, name: str, aval: Any) -> Any:
        shape = [size if isinstance(size, int) else str(size) for size in aval.shape]
        return self.onnx.helper.make_tensor_value_info(name, self.kind(aval.dtype), shape)

    def kind(self, dtype: Any) -> int:
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def translate(self, jaxpr: Any, consts: Sequence[Any]) -> None:
        for variable, value in zip(jaxpr.constvars, consts, strict=True):
            self.known[variable] = np.asarray(value)
        for equation in jaxpr.eqns:
            primitive, variables = equation.primitive.name, equation.invars
            for variable in equation.outvars:  # a jaxpr that is called twice has the same ones again
                self.known.pop(variable, None)
                self.names.pop(variable, None)
            if primitive in _CALLS:
                self._call(equation)
            elif primitive != "dim_as_value" and self._is_known(equation):
                values = equation.primitive.bind(*map(self.value, variables), **equation.params)
                values = values if equation.primitive.multiple_results else [values]
                self.known.update(zip(equation.outvars, map(np.asarray, values), strict=True))
            elif primitive in SAME:
                self.names[equation.outvars[0]] = self.node(SAME[primitive], [self.name(v) for v in variables])
            elif primitive in TRANSLATIONS:
                made = TRANSLATIONS[primitive](self, equation)
                made = [made] if isinstance(made, str) else made
                self.names.update(zip(equation.outvars, made, strict=True))
            else:
                raise not_translated(primitive)

    def _call(self, equation: Any) -> None:
        inner = next(equation.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in equation.params)
        jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, [])
        for variable, outer in zip(jaxpr.invars, equation.invars, strict=True):
            self._pass_on(outer, variable)
        self.translate(jaxpr, consts)
        for variable, outer in zip(jaxpr.outvars, equation.outvars, strict=True):
            self._pass_on(variable, outer)

    def _pass_on(self, given: Any, taken: Any) -> None:
        value = self.value(given)
        self.known.pop(taken, None)
        self.names.pop(taken, None)
        if value is None:
            self.names[taken] = self.name(given)
        else:
            self.known[taken] = value

    def _is_known(self, equation: Any) -> bool:
        sizes = [size for variable in equation.outvars for size in variable.aval.shape]
        return all(isinstance(s, int) for s in sizes) and all(self.value(v) is not None for v in equation.invars)

    def value(self, variable: Any) -> np.ndarray | None:
        """What it is whatever the inputs are; None where it depends on them."""
        if hasattr(variable, "val"):
            return np.asarray(variable.val, variable.aval.dtype)
        return self.known.get(variable)

    def name(self, variable: Any) -> str:
        value = self.value(variable)
        return self.names[variable] if value is None else self.constant(value)

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._new_name("constant")
            self.initializers.append(self.onnx.numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def shape(self, sizes: Sequence[Any]) -> str:
        """A shape that is known when the graph is run."""
        if all(isinstance(size, int) for size in sizes):
            return self.integers(*sizes)
        return self.node("Concat", [self.size(size) for size in sizes], axis=0)

    def size(self, size: Any) -> str:
        """One size as an array of one number: a whole number, `b` or a multiple of it."""
        if isinstance(size, int):
            return self.integers(size)
        match = re.fullmatch(rf"(?:(\d+)\*)?{self.batch}", str(size))
        if match is None or self._batch_size is None:
            raise not_translated(f"a size of {size}")
        return self.node("Mul", [self._batch_size, self.integers(int(match[1]))]) if match[1] else self._batch_size

    def node(self, kind: str, inputs: Sequence[str], *, outputs: Sequence[str] | None = None, **attributes: Any) -> Any:
        """Adds a node; the name of its output."""
        outputs = outputs or [self._new_name(kind.lower())]
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), list(outputs), **attributes))
        return outputs[0]

    def reshaped(self, name: str, sizes: Sequence[Any]) -> str:
        """One size may be unknown."""
        unknown = [size for size in sizes if not isinstance(size, int)]
        if len(unknown) > 1:
            return self.node("Reshape", [name, self.shape(sizes)])
        return self.node("Reshape", [name, self.integers(*(s if isinstance(s, int) else -1 for s in sizes))])

    def sliced(self, name: str, axis: int, start: str, end: str, step: int = 1) -> str:
        return self.node("Slice", [name, start, end, self.integers(axis), self.integers(step)])

    def new_names(self, kind: str, count: int) -> list[str]:
        return [self._new_name(kind) for _ in range(count)]

    def _new_name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"
