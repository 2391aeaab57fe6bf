"""Weights of the Decision Transformer for Atari, by the names of its authors' code."""

from typing import Any, NamedTuple

import numpy as np

from jaxdt.config import AtariDTConfig
from jaxdt.config.atari_dt import NATURE, STACK
from jaxdt.errors import JaxdtError
from jaxdt.games import GREY_PICTURE
from jaxdt.interop.mingpt import take_block, take_norm, without_buffers
from jaxdt.interop.names import put, take
from jaxdt.interop.tensors import Tensors


UNTRAINED = "tok_emb.weight"


class ImportedAtari(NamedTuple):
    """Weights in our shape."""

    config: AtariDTConfig
    params: dict[str, Any]
    num_actions: int
    last_timestep: int
    """Later ones share its row."""
    dropped: list[str]
    """Names of the tensors that were left out, since nothing uses them."""


def is_atari(tensors: Tensors) -> bool:
    return "state_encoder.0.weight" in tensors


def atari_from_tensors(tensors: Tensors, num_heads: int | None, source: str) -> ImportedAtari:
    """Sizes are those of the tensors; only `num_heads` they do not tell (default 8, which all published ones have).

    The authors act with the newest step's timestep; so does what comes of these. Raises JaxdtError naming a tensor that
    is missing, unknown, of another shape or not finite.
    """
    left = without_buffers(tensors)
    conditioned = "ret_emb.0.weight" in left
    actions, width, places, timesteps = _sizes(left, source)
    per_step = 3 if conditioned else 2
    params: dict[str, Any] = {"encoder": _encoder(left, width, source)}
    if conditioned:
        _take_linear(params, left, ("embed_return",), "ret_emb.0", (width, 1), source)
    put(params, ("action_table",), take(left, "action_embeddings.0.weight", (actions, width), source))
    context = (places - 1) // 3  # the authors' naive models have room for three tokens a step too
    positions = take(left, "pos_emb", (1, places, width), source)[0]
    put(params, ("position_table",), positions[: per_step * context])
    put(params, ("timestep_table",), take(left, "global_pos_emb", (1, timesteps, width), source)[0])
    layers = len({name.split(".")[1] for name in left if name.startswith("blocks.")})
    for i in range(layers):
        take_block(params, left, i, width, source)
    take_norm(params, left, ("final_norm",), "ln_f", width, source)
    put(params, ("head", "kernel"), take(left, "head.weight", (actions, width), source).T)
    dropped = [UNTRAINED] if left.pop(UNTRAINED, None) is not None else []
    if left:
        raise JaxdtError(f"{source} has the unknown tensor {min(left)!r} ({len(left)} in all).")
    config = AtariDTConfig(
        conditioned=conditioned,
        context_length=context,
        width=width,
        num_layers=layers,
        num_heads=8 if num_heads is None else num_heads,
        timestep_when_acting="newest",
    )
    return ImportedAtari(config, params, actions, timesteps - 1, dropped)


def _sizes(tensors: Tensors, source: str) -> tuple[int, int, int, int]:
    """Actions, width, places of tokens and rows of the table of timesteps."""
    head, positions, timesteps = (tensors.get(name) for name in ("head.weight", "pos_emb", "global_pos_emb"))
    if head is None or head.ndim != 2 or any(each is None or each.ndim != 3 for each in (positions, timesteps)):
        raise JaxdtError(
            f"{source} is no Decision Transformer for Atari: head.weight must have two dimensions, pos_emb and "
            "global_pos_emb three."
        )
    assert positions is not None
    assert timesteps is not None
    places = positions.shape[1]
    if places < 4 or (places - 1) % 3:
        raise JaxdtError(
            f"{source}: pos_emb must have a row for each of three tokens a step, and one more; got {places}."
        )
    return head.shape[0], head.shape[1], places, timesteps.shape[1]


def _encoder(left: Tensors, width: int, source: str) -> dict[str, Any]:
    """PyTorch keeps a kernel as (out, in, height, width), and pictures with their channels first."""
    encoder: dict[str, Any] = {}
    inputs, side = STACK, GREY_PICTURE[0]  # which the encoder's last layer is made for
    for i, (outputs, size, stride) in enumerate(NATURE):
        kernel = take(left, f"state_encoder.{2 * i}.weight", (outputs, inputs, size, size), source)
        put(encoder, ("convolutions", f"convolution_{i}", "kernel"), kernel.transpose(2, 3, 1, 0))
        bias = take(left, f"state_encoder.{2 * i}.bias", (outputs,), source)
        put(encoder, ("convolutions", f"convolution_{i}", "bias"), bias)
        inputs, side = outputs, (side - size) // stride + 1
    last = f"state_encoder.{2 * len(NATURE) + 1}"
    _take_linear(encoder, left, ("project",), last, (width, inputs * side * side), source)
    by_channel = encoder["project"]["kernel"].reshape(inputs, side, side, width)
    encoder["project"]["kernel"] = np.ascontiguousarray(by_channel.transpose(1, 2, 0, 3).reshape(-1, width))
    return encoder


def _take_linear(
    params: dict[str, Any], left: Tensors, ours: tuple[str, ...], theirs: str, shape: tuple[int, int], source: str
) -> None:
    put(params, (*ours, "kernel"), take(left, f"{theirs}.weight", shape, source).T)
    put(params, (*ours, "bias"), take(left, f"{theirs}.bias", shape[:1], source))
