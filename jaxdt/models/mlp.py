"""The multilayer perceptron: policies that look at single states, and value functions."""

import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdt.models.functional import Init, Params, as_functions
from jaxdt.models.layers import drop, orthogonal_linear, split, torch_linear


class MLP(nnx.Module):
    """Linear, ReLU and dropout for each hidden layer, then a linear output."""

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
        rngs: nnx.Rngs,
    ):
        def linear(inputs: int, outputs: int, gain: float | None) -> nnx.Linear:
            if gain is None:
                return torch_linear(inputs, outputs, rngs)
            return orthogonal_linear(inputs, outputs, rngs, gain=gain)

        sizes, (hidden_gain, output_gain) = [inputs] + [width] * num_layers, gains or (None, None)
        self.hidden = nnx.Dict({f"layer_{i}": linear(sizes[i], sizes[i + 1], hidden_gain) for i in range(num_layers)})
        self.output = linear(sizes[-1], outputs, output_gain)
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
    *,
    inputs: int,
    outputs: int,
    width: int,
    num_layers: int,
    dropout: float = 0.0,
    tanh: bool = False,
    gains: tuple[float, float] | None = None,
) -> tuple[Init, ApplyMLP]:
    """A multilayer perceptron as two pure functions.

    - `init(key) -> params`: a nested dict of float32 arrays.
    - `apply(params, x (b, inputs), *, key=None)`: (b, outputs), in [-1, 1] with `tanh`. Dropout is on exactly when
      `key` is given.

    `num_layers` counts the hidden ones. `gains`: initial weights are orthogonal, of these gains in hidden layers and in
    the output layer, and biases 0; None: both as PyTorch initialises linear layers. Kept, so that the same network is
    compiled once.
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
            rngs=rngs,
        )

    init, with_params = as_functions(make)

    def apply(
        params: Params, x: Float[Array, "b inputs"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "b outputs"]:
        return with_params(params)(x, key=key)

    return init, apply
