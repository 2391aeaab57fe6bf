"""Where each of our weights is found in Hugging Face's, the original's and online-dt's state dicts, and the way back.

PyTorch's `nn.Linear` keeps (out, in), GPT-2's `Conv1D` (in, out) as our kernels; query, key and value are one matrix
there, a query and a key-value matrix here. Hugging Face adds row 0 of a position table `wpe` to every token (its
issue 17946): here that row is part of the embedding LayerNorm's bias. The original has no such table. online-dt's names
are the original's, but for its heads, and for its table of timesteps: `embed_timestep` is never used there, and
`embed_ordering`, which it has not always, is what is looked up.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxdt.config import ModelConfig
from jaxdt.errors import JaxdtError
from jaxdt.interop.tensors import Tensors


Layout = Literal["encoder", "transformer"]
"""Prefix of the GPT-2 in the state dict: Hugging Face's, the original's."""

UNTRAINED = ("predict_state", "predict_return")
"""Heads that neither trains: the loss is of actions only."""


_ONLINE_HEAD = "predict_action.mu.weight"


class _Leaf(NamedTuple):
    ours: tuple[str, ...]
    theirs: str
    shape: tuple[int, ...]
    """Of theirs."""
    transposed: bool = False


def layout_of(tensors: Tensors, source: str) -> Layout:
    """Which of the two a state dict is; raises JaxdtError when it is neither."""
    for layout in ("encoder", "transformer"):
        if any(name.startswith(f"{layout}.h.") for name in tensors):
            return layout
    raise JaxdtError(
        f"{source} is no Decision Transformer: no tensor is named encoder.h.… (Hugging Face) or transformer.h.… "
        f"(the original); it has {', '.join(list(tensors)[:3])} …"
    )


def is_online(tensors: Tensors) -> bool:
    """Whether a state dict of the original's layout is online-dt's."""
    return _ONLINE_HEAD in tensors


def params_from_tensors(tensors: Tensors, config: ModelConfig, source: str) -> tuple[dict[str, Any], list[str]]:
    """Our parameters from a state dict, and the names of the untrained tensors left out.

    Raises JaxdtError naming a tensor that is missing, unknown, of another shape or not finite.
    """
    layout = layout_of(tensors, source)
    left = dict(tensors)
    params: dict[str, Any] = {}
    for leaf in _leaves(config, layout, online=is_online(tensors)):
        value = take(left, leaf.theirs, leaf.shape, source)
        put(params, leaf.ours, value.T if leaf.transposed else value)
    for i in range(config.num_layers):
        _split_attention(params, left, f"{layout}.h.{i}.attn.c_attn", i, config.width, source)
    if layout == "encoder":
        positions = left.get("encoder.wpe.weight")
        rows = 1 if positions is None or positions.ndim != 2 else len(positions)
        wpe = take(left, "encoder.wpe.weight", (rows, config.width), source)
        params["embed_norm"]["bias"] = params["embed_norm"]["bias"] + wpe[0]
    ignored = {f"{layout}.wte.weight"} | {f"{head}.{part}" for head in UNTRAINED for part in ("weight", "bias")}
    if is_online(tensors):
        ignored.add("embed_timestep.weight")
    buffers = {f"{layout}.h.{i}.attn.{name}" for i in range(config.num_layers) for name in ("bias", "masked_bias")}
    unknown = sorted(set(left) - ignored - buffers)
    if unknown:
        raise JaxdtError(
            f"{source} has the unknown tensor {unknown[0]!r} ({len(unknown)} in all); is its config right?"
        )
    return params, sorted(ignored & set(left))


def tensors_from_params(params: dict[str, Any], config: ModelConfig, positions: int) -> tuple[Tensors, list[str]]:
    """Hugging Face's state dict of our parameters, and the names of the tensors that we do not have: zeros."""
    tensors: Tensors = {}
    for leaf in _leaves(config, "encoder"):
        value = np.asarray(_get(params, leaf.ours), np.float32)
        tensors[leaf.theirs] = np.ascontiguousarray(value.T if leaf.transposed else value)
    for i in range(config.num_layers):
        block, name = params["blocks"][f"block_{i}"], f"encoder.h.{i}.attn.c_attn"
        for part, theirs in (("kernel", "weight"), ("bias", "bias")):
            joined = [np.asarray(block[layer][part], np.float32) for layer in ("query", "key_value")]
            tensors[f"{name}.{theirs}"] = np.concatenate(joined, axis=-1)
    assert config.state_dim is not None
    absent = {
        "encoder.wte.weight": (1, config.width),
        "encoder.wpe.weight": (positions, config.width),
        "predict_state.weight": (config.state_dim, config.width),
        "predict_state.bias": (config.state_dim,),
        "predict_return.weight": (1, config.width),
        "predict_return.bias": (1,),
    }
    if not config.timestep_embedding:
        absent["embed_timestep.weight"] = (config.max_episode_length, config.width)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in absent.items()}
    return tensors | zeros, list(absent)


def config_from_tensors(tensors: Tensors, num_heads: int, context_length: int, source: str) -> ModelConfig:
    """The shape of an original model, which comes without a config; activation and dropouts are the original's.

    Raises JaxdtError when the tensors are not those of a Decision Transformer.
    """

    def size(name: str, axis: int) -> int:
        if name not in tensors or tensors[name].ndim != 2:
            raise JaxdtError(f"{source}: the tensor {name!r} is missing or no matrix; is it a Decision Transformer?")
        return int(tensors[name].shape[axis])

    prefix, timesteps = f"{layout_of(tensors, source)}.h.", "embed_timestep.weight"
    if is_online(tensors) and "embed_ordering.weight" in tensors:
        timesteps = "embed_ordering.weight"
    layers = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    return ModelConfig(
        state_dim=size("embed_state.weight", 1),
        action_dim=size("embed_action.weight", 1),
        context_length=context_length,
        max_episode_length=size(timesteps, 0),
        timestep_embedding=not is_online(tensors) or timesteps == "embed_ordering.weight",
        width=size(timesteps, 1),
        num_layers=len(layers),
        num_heads=num_heads,
        mlp_width=size(f"{prefix}0.mlp.c_fc.weight", 1),
    )


def one_hot_params(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a model of discrete actions as those of one that reads them as one-hot vectors: the same model."""
    table = np.asarray(params["embed_action"]["embedding"])
    return {**params, "embed_action": {"kernel": table, "bias": np.zeros_like(table[0])}}


def discrete_params(params: dict[str, Any]) -> dict[str, Any]:
    """The way back: every one-hot vector becomes a row of a table."""
    layer = params["embed_action"]
    return {**params, "embed_action": {"embedding": layer["kernel"] + layer["bias"]}}


def _leaves(config: ModelConfig, layout: Layout, *, online: bool = False) -> Iterator[_Leaf]:
    """Every tensor but the attention's joined one and those that only one side has."""
    assert config.state_dim is not None
    assert config.action_dim is not None
    d, hidden = config.width, config.mlp_width or 4 * config.width
    if config.timestep_embedding:
        table = "embed_ordering.weight" if online else "embed_timestep.weight"
        yield _Leaf(("embed_timestep", "embedding"), table, (config.max_episode_length, d))
    heads = {"predict_action": "predict_action.0"}
    if online:
        heads = {"predict_mean": "predict_action.mu", "predict_log_std": "predict_action.log_std"}
    linears = (
        ("embed_return", "embed_return", 1, d),
        ("embed_state", "embed_state", config.state_dim, d),
        ("embed_action", "embed_action", config.action_dim, d),
        *((ours, theirs, d, config.action_dim) for ours, theirs in heads.items()),
    )
    for ours, theirs, inputs, outputs in linears:
        yield _Leaf((ours, "kernel"), f"{theirs}.weight", (outputs, inputs), transposed=True)
        yield _Leaf((ours, "bias"), f"{theirs}.bias", (outputs,))
    yield from _norm(("embed_norm",), "embed_ln", d)
    yield from _norm(("final_norm",), f"{layout}.ln_f", d)
    for i in range(config.num_layers):
        block, name = ("blocks", f"block_{i}"), f"{layout}.h.{i}"
        yield from _norm((*block, "attention_norm"), f"{name}.ln_1", d)
        yield from _norm((*block, "mlp_norm"), f"{name}.ln_2", d)
        convolutions = (
            ("attention_out", "attn.c_proj", d, d),
            ("mlp_in", "mlp.c_fc", d, hidden),
            ("mlp_out", "mlp.c_proj", hidden, d),
        )
        for ours, theirs, inputs, outputs in convolutions:
            yield _Leaf((*block, ours, "kernel"), f"{name}.{theirs}.weight", (inputs, outputs))
            yield _Leaf((*block, ours, "bias"), f"{name}.{theirs}.bias", (outputs,))


def _norm(ours: tuple[str, ...], theirs: str, width: int) -> Iterator[_Leaf]:
    yield _Leaf((*ours, "scale"), f"{theirs}.weight", (width,))
    yield _Leaf((*ours, "bias"), f"{theirs}.bias", (width,))


def _split_attention(params: dict[str, Any], left: Tensors, name: str, block: int, width: int, source: str) -> None:
    for part, theirs, shape in (("kernel", "weight", (width, 3 * width)), ("bias", "bias", (3 * width,))):
        joined = take(left, f"{name}.{theirs}", shape, source)
        for layer, columns in (("query", joined[..., :width]), ("key_value", joined[..., width:])):
            put(params, ("blocks", f"block_{block}", layer, part), columns)


def take(left: Tensors, name: str, shape: tuple[int, ...], source: str) -> np.ndarray:
    if name not in left:
        raise JaxdtError(f"{source}: the tensor {name!r} is missing; is its config right?")
    value = left.pop(name)
    if value.shape != shape:
        raise JaxdtError(f"{source}: the tensor {name!r} has shape {value.shape} and should have {shape}.")
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise JaxdtError(f"{source}: the tensor {name!r} has numbers that are not finite; the weights are unusable.")
    return value


def put(params: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for name in path[:-1]:
        params = params.setdefault(name, {})
    params[path[-1]] = np.ascontiguousarray(value)


def _get(params: dict[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        params = params[name]
    return params
