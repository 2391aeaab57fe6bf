"""The multilayer perceptron of behaviour cloning (the original's `mlp_bc.py`)."""

import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdt.models.functional import Init, Params, as_functions
from jaxdt.models.layers import drop, split, torch_linear


class MLP(nnx.Module):
    """Linear, ReLU and dropout for each hidden layer, then a linear output."""

    def __init__(
        self, *, inputs: int, outputs: int, width: int, num_layers: int, dropout: float, tanh: bool, rngs: nnx.Rngs
    ):
        sizes = [inputs] + [width] * num_layers
        self.hidden = nnx.Dict({f"layer_{i}": torch_linear(sizes[i], sizes[i + 1], rngs) for i in range(num_layers)})
        self.output = torch_linear(sizes[-1], outputs, rngs)
        self.dropout, self.tanh = dropout, tanh

    def __call__(self, x: Float[Array, "b inputs"], *, key: PRNGKeyArray | None = None) -> Float[Array, "b outputs"]:
        for i, layer_key in enumerate(split(key, len(self.hidden))):
            x = drop(jax.nn.relu(self.hidden[f"layer_{i}"](x)), self.dropout, layer_key)
        return jnp.tanh(self.output(x)) if self.tanh else self.output(x)


@runtime_checkable
class ApplyMLP(Protocol):
    """What `build_mlp` returns second."""

    def __call__(
        self, params: Params, x: Float[Array, "b inputs"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b outputs"]: ...


@functools.lru_cache(maxsize=8)
def build_mlp(
    *, inputs: int, outputs: int, width: int, num_layers: int, dropout: float, tanh: bool
) -> tuple[Init, ApplyMLP]:
    """A multilayer perceptron as two pure functions, initialised as PyTorch initialises linear layers.

    - `init(key) -> params`: a nested dict of float32 arrays.
    - `apply(params, x (b, inputs), *, key=None)`: (b, outputs), in [-1, 1] with `tanh`. Dropout is on exactly when
      `key` is given.

    `num_layers` counts the hidden ones. Kept, so that the same network is compiled once.
    """

    def make(rngs: nnx.Rngs) -> MLP:
        return MLP(
            inputs=inputs,
            outputs=outputs,
            width=width,
            num_layers=num_layers,
            dropout=dropout,
            tanh=tanh,
            rngs=rngs,
        )

    init, with_params = as_functions(make)

    def apply(
        params: Params, x: Float[Array, "b inputs"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b outputs"]:
        return with_params(params)(x, key=key)

    return init, apply
