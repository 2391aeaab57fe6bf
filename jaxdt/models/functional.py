"""A Flax module as pure functions on plain nested dicts."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

from jaxdt.models.initialization import draw, parameters_of


Params = dict[str, Any]
Init = Callable[[PRNGKeyArray], Params]
Module = TypeVar("Module", bound=nnx.Module)


def as_functions(make: Callable[[nnx.Rngs], Module]) -> tuple[Init, Callable[[Params], Module]]:
    """`init(key) -> params`, compiled as one program, and `with_params(params) -> module`.

    `make(rngs)` makes the module, of layers with `drawn_from`; it is called for shapes alone and draws nothing.
    """
    without_values = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    parameters = parameters_of(without_values)
    graph, shapes = nnx.split(without_values)

    @jax.jit
    def init(key: PRNGKeyArray) -> Params:
        return draw(parameters, key)

    def with_params(params: Params) -> Module:
        state = jax.tree.map(lambda leaf: leaf, shapes)  # a copy: the next line writes into it
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)

    return init, with_params
