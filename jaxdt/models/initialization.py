"""Initial weights, all cut from one draw: drawn each by itself they would take seconds, to compile one by one."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


@dataclasses.dataclass(frozen=True)
class Normal:
    """N(0, std)."""

    std: float


@dataclasses.dataclass(frozen=True)
class Uniform:
    """U(-bound, bound)."""

    bound: float


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """A uniformly random matrix whose rows or columns, whichever are fewer, are orthogonal and of length `gain`."""

    gain: float


@dataclasses.dataclass(frozen=True)
class Constant:
    value: float


Distribution = Normal | Uniform | Orthogonal | Constant


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What is known of a parameter before it is drawn."""

    shape: tuple[int, ...]
    distribution: Distribution

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def drawn_from(**distributions: Distribution) -> dict[str, Any]:
    """Arguments of a Flax layer that note what each of its parameters is drawn from; until then they are zeros."""
    arguments: dict[str, Any] = {}
    for name, distribution in distributions.items():
        arguments[f"{name}_init"] = nnx.initializers.zeros
        arguments[f"{name}_metadata"] = {"distribution": distribution}
    return arguments


def parameters_of(module: nnx.Module) -> PyTree[Parameter]:
    """Of a module made of layers with `drawn_from`, as a nested dict; needs no values, only shapes."""
    return nnx.to_pure_dict(
        nnx.state(module, nnx.Param),
        lambda leaf: Parameter(leaf.get_value().shape, leaf.get_metadata("distribution")),
    )


def draw(parameters: PyTree[Parameter], key: PRNGKeyArray) -> PyTree[Float[Array, "..."]]:
    """Values for a nested dict of parameters, float32."""
    leaves, structure = jax.tree.flatten(parameters)
    num_normal, num_uniform = (
        sum(leaf.size for leaf in leaves if isinstance(leaf.distribution, kind))
        for kind in (Normal | Orthogonal, Uniform)
    )
    # As jax.random.normal does it; without -1, where the inverse error function is infinite.
    above = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jax.random.uniform(key, (num_normal + num_uniform,), jnp.float32, above, 1)
    normal = math.sqrt(2) * jax.lax.erf_inv(uniform[:num_normal])
    uniform = uniform[num_normal:]
    values, normals_used, uniforms_used = [], 0, 0
    for leaf in leaves:
        match leaf.distribution:
            case Normal(std):
                value = std * normal[normals_used : normals_used + leaf.size]
                normals_used += leaf.size
            case Orthogonal(gain):
                value = gain * _orthogonal(normal[normals_used : normals_used + leaf.size].reshape(leaf.shape))
                normals_used += leaf.size
            case Uniform(bound):
                value = bound * uniform[uniforms_used : uniforms_used + leaf.size]
                uniforms_used += leaf.size
            case Constant(constant):
                value = jnp.full(leaf.size, constant, jnp.float32)
        values.append(value.reshape(leaf.shape))
    return jax.tree.unflatten(structure, values)


def _orthogonal(normal: Float[Array, "i o"]) -> Float[Array, "i o"]:
    """Of a matrix of independent normal numbers; the signs make it uniform over all orthogonal ones."""
    tall = normal if normal.shape[0] >= normal.shape[1] else normal.T
    orthogonal, triangular = jnp.linalg.qr(tall)
    orthogonal *= jnp.sign(jnp.diagonal(triangular))[None]
    return orthogonal if tall is normal else orthogonal.T
