"""Layers with the initialisation of the systems that we follow, and dropout.

Flax asks for `rngs`; what a layer's parameters are drawn from is only noted (`initialization.py`).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, UInt32

from jaxdt.models.initialization import Constant, Distribution, Normal, Orthogonal, Uniform, drawn_from


STD = 0.02
"""Of GPT-2's weights."""


def layer_norm(width: int, epsilon: float, rngs: nnx.Rngs, *, bias_std: float = 0.0) -> nnx.LayerNorm:
    init = drawn_from(scale=Constant(1.0), bias=Normal(bias_std) if bias_std else Constant(0.0))
    return nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs, **init)


def gpt2_linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, std: float = STD) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, rngs=rngs, **drawn_from(kernel=Normal(std), bias=Constant(0.0)))


def torch_linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Weights and biases uniform in +-1/sqrt(inputs): PyTorch's default, which the original leaves in place."""
    return uniform_linear(inputs, outputs, rngs, bound=1 / math.sqrt(inputs))


def uniform_linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, bound: float, bias: float | None = None) -> nnx.Linear:
    """Weights uniform in +-`bound`; so are biases where no `bias` is given."""
    uniform = Uniform(bound)
    distributions = drawn_from(kernel=uniform, bias=uniform if bias is None else Constant(bias))
    return nnx.Linear(inputs, outputs, rngs=rngs, **distributions)


def orthogonal_linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, gain: float) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, rngs=rngs, **drawn_from(kernel=Orthogonal(gain), bias=Constant(0.0)))


def embedding(rows: int, width: int, rngs: nnx.Rngs, *, std: float = STD) -> nnx.Embed:
    return nnx.Embed(rows, width, rngs=rngs, **drawn_from(embedding=Normal(std)))


def table(shape: tuple[int, ...], distribution: Distribution) -> nnx.Param:
    """Numbers of a layer of one's own; those called neither `embedding` nor `kernel` are not decayed."""
    return nnx.Param(jnp.zeros(shape), distribution=distribution)


def dense(layer: nnx.Linear, x: Float[Array, "*rows i"]) -> Float[Array, "*rows o"]:
    return times(x, layer.kernel[...]) + _for_rows(layer.bias, x)


def times(x: Float[Array, "*rows i"], matrix: Float[Array, "i o"]) -> Float[Array, "*rows o"]:
    # On flattened rows XLA computes the matrix's gradient without transposing its inputs: 1.7 x a whole step on CPU.
    rows = x.reshape(-1, x.shape[-1])
    narrows = matrix.shape[1] < matrix.shape[0]
    product = _narrowing_product if narrows and jax.default_backend() == "cpu" else jnp.dot
    return product(rows, matrix).reshape(*x.shape[:-1], matrix.shape[-1])


@jax.custom_vjp
def _narrowing_product(rows: Float[Array, "n i"], matrix: Float[Array, "i o"]) -> Float[Array, "n o"]:
    """A product whose matrix has a gradient that XLA's CPU computes 1.3 to 8 times as fast with its long axis last.

    4,000 rows of 256 numbers, to 32: 0.7 ms instead of 2.2.
    """
    return jnp.dot(rows, matrix)


def _narrowing_forward(rows: Array, matrix: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.dot(rows, matrix), (rows, matrix)


def _narrowing_backward(known: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    rows, matrix = known
    if len(rows) <= matrix.shape[1]:  # too little to compute for the transposition of what comes out
        of_matrix = jnp.dot(rows.T, gradient)
    else:  # without the barrier XLA would move the transposition into the product again
        of_matrix = jax.lax.optimization_barrier(jnp.dot(gradient.T, rows)).T
    return jnp.dot(gradient, matrix.T), of_matrix


_narrowing_product.defvjp(_narrowing_forward, _narrowing_backward)


def normalize(layer: nnx.LayerNorm, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
    """Layer normalisation, computed in float32 whatever the type of `x`."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)  # PyTorch's two passes, not E[x^2] - E[x]^2
    factor = jax.lax.rsqrt(variance + layer.epsilon) * _for_rows(layer.scale, x)
    return ((wide - mean) * factor + _for_rows(layer.bias, x)).astype(x.dtype)


def _for_rows(parameter: nnx.Param | None, x: Array) -> Float[Array, "*b_1 d"]:
    """A vector, or one for each window, with as many axes as `x`."""
    assert parameter is not None
    vector = jnp.asarray(parameter[...])  # imported weights may still be NumPy's
    return vector if vector.ndim == x.ndim else vector.reshape(*[1] * (x.ndim - 1), -1)


def for_each_window(params: PyTree[Array], batch: int) -> PyTree[Array]:
    """Every vector (d,) of a transformer's parameters as (b, 1, d), for its `b` windows; the rest as it is.

    It changes no result, only the order of the sums in the gradients of biases and of LayerNorm's scales, which are
    over all tokens of all windows. XLA gives such a sum too few of a GPU's processors, so that 3,840 rows of 128 took
    8 µs on an H100, as long as a matrix product, 35 times an update. So each window's tokens are summed where they are
    computed, and the sums of windows, all vectors together, in one more kernel: an update took 0.75 ms instead of 1.00.
    """
    leaves, structure = jax.tree.flatten(params)
    spread = iter(_spread([leaf for leaf in leaves if leaf.ndim == 1], batch))
    return jax.tree.unflatten(structure, [next(spread) if leaf.ndim == 1 else leaf for leaf in leaves])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _spread(vectors: list[Array], batch: int) -> list[Array]:
    return [jnp.broadcast_to(vector, (batch, 1, *vector.shape)) for vector in vectors]


def _spread_forward(vectors: list[Array], batch: int) -> tuple[list[Array], None]:
    return _spread(vectors, batch), None


def _spread_backward(batch: int, _: None, gradients: list[Array]) -> tuple[list[Array]]:
    joined = jnp.concatenate([gradient.reshape(batch, -1) for gradient in gradients], axis=1)
    joined = jax.lax.optimization_barrier(joined)  # else XLA makes one sum of both again
    ends = np.cumsum([gradient.shape[-1] for gradient in gradients])
    return (jnp.split(joined.sum(axis=0), ends[:-1]),)


_spread.defvjp(_spread_forward, _spread_backward)


_COUNTED = 2**32
"""Elements whose places have numbers of 32 bits."""


def drop(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Dropout whose bits are hashes of the key and an element's place, so that they are never written to memory.

    That is 1.1 x a whole step on CPU. The rate is exact to 2**-33.
    """
    if key is None or rate == 0:
        return x
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    if x.size <= _COUNTED:
        place = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    else:  # counted in each row anew, and each row's second word is its own
        place = jax.lax.iota(jnp.uint32, math.prod(x.shape[1:])).reshape(1, *x.shape[1:])
        second = _hash(jax.lax.broadcasted_iota(jnp.uint32, (len(x), *[1] * (x.ndim - 1)), 0) ^ second)
    bits = _hash(_hash(place ^ first) + second)
    return jnp.where(bits >= jnp.uint32(round(rate * 2**32)), x / (1 - rate), 0)


def _hash(x: UInt32[Array, "*n"]) -> UInt32[Array, "*n"]:
    """A one-to-one mixer of 32 bits, each of which sways all others (C. Wellons, "lowbias32")."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def split(key: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    return [None] * count if key is None else list(jax.random.split(key, count))
