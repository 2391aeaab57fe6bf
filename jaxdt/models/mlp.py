"""The multilayer perceptron: policies that look at single states, and value functions."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdt.models.functional import Init, Params, as_functions
from jaxdt.models.layers import drop, layer_norm, normalize, orthogonal_linear, split, torch_linear, uniform_linear


EPSILON = 1e-6
"""Of LayerNorm."""
HIDDEN_BIAS = 0.1
"""Where the output layer has a bound (ReBRAC's initial weights, which are EDAC's)."""


class MLP(nnx.Module):
    """Linear, ReLU, perhaps LayerNorm, and dropout for each hidden layer, then a linear output."""

    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        width: int,
        num_layers: int,
        dropout: float,
        tanh: bool,
        gains: tuple[float, float] | None,
        output_bound: float | None,
        norm: bool,
        rngs: nnx.Rngs,
    ):
        sizes = [inputs] + [width] * num_layers + [outputs]
        *hidden, self.output = _linear_layers(sizes, gains, output_bound, rngs)
        names = [f"layer_{i}" for i in range(num_layers)]
        self.hidden = nnx.Dict(dict(zip(names, hidden, strict=True)))
        self.norm = nnx.Dict({name: layer_norm(width, EPSILON, rngs) for name in names}) if norm else None
        self.dropout, self.tanh = dropout, tanh

    def __call__(self, x: Float[Array, "b inputs"], *, key: PRNGKeyArray | None = None) -> Float[Array, "b outputs"]:
        for i, layer_key in enumerate(split(key, len(self.hidden))):
            x = jax.nn.relu(self.hidden[f"layer_{i}"](x))
            if self.norm is not None:
                x = normalize(self.norm[f"layer_{i}"], x)
            x = drop(x, self.dropout, layer_key)
        return jnp.tanh(self.output(x)) if self.tanh else self.output(x)


def _linear_layers(
    sizes: Sequence[int], gains: tuple[float, float] | None, output_bound: float | None, rngs: nnx.Rngs
) -> list[nnx.Linear]:
    *hidden, output = itertools.pairwise(sizes)
    if gains is not None:
        return [
            *(orthogonal_linear(*size, rngs, gain=gains[0]) for size in hidden),
            orthogonal_linear(*output, rngs, gain=gains[1]),
        ]
    if output_bound is not None:
        return [
            *(uniform_linear(*size, rngs, bound=1 / math.sqrt(size[0]), bias=HIDDEN_BIAS) for size in hidden),
            uniform_linear(*output, rngs, bound=output_bound),
        ]
    return [torch_linear(*size, rngs) for size in (*hidden, output)]


@runtime_checkable
class ApplyMLP(Protocol):
    """What `build_mlp` returns second."""

    def __call__(
        self, params: Params, x: Float[Array, "b inputs"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b outputs"]: ...


@functools.lru_cache(maxsize=8)
def build_mlp(
    *,
    inputs: int,
    outputs: int,
    width: int,
    num_layers: int,
    dropout: float = 0.0,
    tanh: bool = False,
    gains: tuple[float, float] | None = None,
    output_bound: float | None = None,
    norm: bool = False,
) -> tuple[Init, ApplyMLP]:
    """A multilayer perceptron as two pure functions.

    - `init(key) -> params`: a nested dict of float32 arrays.
    - `apply(params, x (b, inputs), *, key=None)`: (b, outputs), in [-1, 1] with `tanh`. Dropout is on exactly when
      `key` is given.

    `num_layers` counts the hidden ones; with `norm` each has LayerNorm behind its ReLU. Initial weights and biases are
    PyTorch's of linear layers. With `gains` they are orthogonal, of these gains in hidden layers and in the output
    layer, and biases 0. With `output_bound` hidden biases are 0.1, and the output layer is uniform within it, biases
    too. Kept, so that the same network is compiled once.
    """

    def make(rngs: nnx.Rngs) -> MLP:
        return MLP(
            inputs=inputs,
            outputs=outputs,
            width=width,
            num_layers=num_layers,
            dropout=dropout,
            tanh=tanh,
            gains=gains,
            output_bound=output_bound,
            norm=norm,
            rngs=rngs,
        )

    init, with_params = as_functions(make)

    def apply(
        params: Params, x: Float[Array, "b inputs"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b outputs"]:
        return with_params(params)(x, key=key)

    return init, apply
