"""What published models that were written on minGPT share: the names of their blocks' tensors."""

from typing import Any

import numpy as np

from jaxdt.interop.names import put, take
from jaxdt.interop.tensors import Tensors


def without_buffers(tensors: Tensors) -> Tensors:
    """All but the causal masks, which are no weights."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".attn.mask")}


def take_block(params: dict[str, Any], left: Tensors, i: int, width: int, source: str) -> None:
    """Moves block `i` from a state dict into our parameters; raises JaxdtError naming a tensor that is not right."""
    ours, theirs = ("blocks", f"block_{i}"), f"blocks.{i}"
    take_norm(params, left, (*ours, "attention_norm"), f"{theirs}.ln1", width, source)
    take_norm(params, left, (*ours, "mlp_norm"), f"{theirs}.ln2", width, source)
    first, second = ("l1", "l2") if f"{theirs}.l1.weight" in left else ("mlp.0", "mlp.2")
    layers = {
        "query": [("attn.query", width, width)],
        "key_value": [("attn.key", width, width), ("attn.value", width, width)],
        "attention_out": [("attn.proj", width, width)],
        "mlp_in": [(first, width, 4 * width)],
        "mlp_out": [(second, 4 * width, width)],
    }
    for name, parts in layers.items():
        kernels = [take(left, f"{theirs}.{part}.weight", (out, into), source).T for part, into, out in parts]
        biases = [take(left, f"{theirs}.{part}.bias", (out,), source) for part, _, out in parts]
        put(params, (*ours, name, "kernel"), np.concatenate(kernels, axis=1))
        put(params, (*ours, name, "bias"), np.concatenate(biases))


def take_norm(
    params: dict[str, Any], left: Tensors, ours: tuple[str, ...], theirs: str, width: int, source: str
) -> None:
    """The same for a LayerNorm, by our place for it and their name."""
    put(params, (*ours, "scale"), take(left, f"{theirs}.weight", (width,), source))
    put(params, (*ours, "bias"), take(left, f"{theirs}.bias", (width,), source))
