"""A policy's whole acting step as one function of arrays, which programs without jaxdt can run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num, PyTree

from jaxdt.errors import JaxdtError
from jaxdt.types import Policy, Spec


PLATFORMS = ("cpu", "cuda", "tpu")

Step = Callable[[Mapping[str, Array], Array, Array], tuple[dict[str, Array], Array]]
"""`step(state, observation (b, *s), reward (b,)) -> (state, action (b, *a))`, in the environment's units."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateArray:
    """One array that a policy remembers from step to step."""

    name: str
    shape: tuple[int | str, ...]
    """`b` stands for the number of episodes side by side."""
    dtype: str
    first: float
    """Its numbers before an episode's first step are all this ..."""
    per_target: float
    """... and this times the target return."""

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "shape": list(self.shape)}


def acting_step(policy: Policy, params: PyTree) -> tuple[list[StateArray], Step]:
    """What the policy remembers, as arrays by name, and its step with the weights inside."""
    arrays, structure = _remembered(policy)

    def step(
        state: Mapping[str, Array], observation: Num[Array, "b *s"], reward: Num[Array, " b"]
    ) -> tuple[dict[str, Array], Num[Array, "b *a"]]:
        memory = jax.tree.unflatten(structure, [state[array.name] for array in arrays])
        memory, action = policy.act(params, memory, observation, reward, None)
        return dict(zip((array.name for array in arrays), jax.tree.leaves(memory), strict=True)), action

    return arrays, step


def _remembered(policy: Policy) -> tuple[list[StateArray], Any]:
    """Looked at with two and three episodes, and at two targets, which tells what depends on them."""
    named = jax.tree_util.tree_flatten_with_path(policy.start(jnp.zeros(2)))[0]
    leaves, structure = jax.tree.flatten(policy.start(jnp.ones(2)))
    more = jax.tree.leaves(jax.eval_shape(policy.start, jax.ShapeDtypeStruct((3,), np.float32)))
    arrays = []
    for (path, at_zero), at_one, of_three in zip(named, leaves, more, strict=True):
        name = ".".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)
        first, other = np.unique(at_zero), np.unique(np.asarray(at_one, np.float64) - np.asarray(at_zero, np.float64))
        if len(first) != 1 or len(other) != 1:
            raise JaxdtError(f"what the policy remembers begins with several numbers in {name}; it cannot be exported.")
        shape = tuple("b" if two != three else two for two, three in zip(at_zero.shape, of_three.shape, strict=True))
        arrays.append(
            StateArray(
                name=name, shape=shape, dtype=at_zero.dtype.name, first=float(first[0]), per_target=float(other[0])
            )
        )
    return arrays, structure


def to_stablehlo(step: Step, arrays: list[StateArray], spec: Spec) -> bytes:
    """The step for any number of episodes, on CPUs, CUDA GPUs and TPUs, as `jax.export` writes it.

    Raises JaxdtError where flatbuffers, which it is written with, is missing.
    """
    from jax import export

    (batch,) = export.symbolic_shape("b")
    state, observation, reward = arguments(arrays, spec, batch)
    exported = export.export(jax.jit(step), platforms=PLATFORMS)(state, observation, reward)
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise JaxdtError("--to stablehlo needs flatbuffers; pip install 'jaxdt[serve]'.") from error


def arguments(
    arrays: list[StateArray], spec: Spec, batch: Any
) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """The shapes that a step takes."""
    state = {
        array.name: jax.ShapeDtypeStruct([batch if size == "b" else size for size in array.shape], array.dtype)
        for array in arrays
    }
    observation = jax.ShapeDtypeStruct((batch, *spec.observation_shape), spec.observation_dtype)
    return state, observation, jax.ShapeDtypeStruct((batch,), np.float32)


def to_onnx(step: Step, arrays: list[StateArray], spec: Spec) -> bytes:
    """The step for any number of episodes as an ONNX model: `state.NAME` in, `new_state.NAME` out.

    Raises JaxdtError where onnx is missing, or for a model that needs what is not translated.
    """
    from jax import export

    from jaxdt.interop import onnx

    (batch,) = export.symbolic_shape("b")
    state, observation, reward = arguments(arrays, spec, batch)
    names = list(state)

    def flat(observation: Array, reward: Array, *values: Array) -> list[Array]:
        new, action = step(dict(zip(names, values, strict=True)), observation, reward)
        return [action, *(new[name] for name in names)]

    inputs = [("observation", observation), ("reward", reward), *((f"state.{name}", s) for name, s in state.items())]
    return onnx.to_onnx(flat, inputs, ["action", *(f"new_state.{name}" for name in names)])
