"""From a checkpoint of others, on disk or on the hub, to our config and parameters."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdt import files
from jaxdt.config import ModelConfig
from jaxdt.data.d4rl import d4rl_env_id, paper_targets
from jaxdt.errors import JaxdtError, one_line
from jaxdt.interop.huggingface import config_from_huggingface
from jaxdt.interop.names import config_from_tensors, is_online, layout_of, params_from_tensors
from jaxdt.interop.tensors import Tensors, read_tensors
from jaxdt.simulator import checked_env_id, checked_env_kwargs
from jaxdt.types import numbers_from_json


WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
NORMALIZATION = "normalization.json"
"""Beside the weights that we export: what stands between them and their environment."""


class PartialSpec(NamedTuple):
    """What weights need to be used, as a flat document says it; None where nothing is known."""

    state_mean: Float[np.ndarray, "*s"] | None = None
    state_std: Float[np.ndarray, "*s"] | None = None
    return_scale: float | None = None
    context_length: int | None = None
    env_id: str | None = None
    env_kwargs: dict[str, Any] | None = None
    """What its constructor was given, `max_episode_steps` among them where a limit was set."""
    targets: tuple[float, ...] | None = None
    action_low: Float[np.ndarray, " a"] | None = None
    action_high: Float[np.ndarray, " a"] | None = None
    num_actions: int | None = None
    """Of discrete ones, which the model sees as one-hot vectors."""
    first_action: int | None = None
    """The environment's number of the first of them."""
    delayed_reward: bool | None = None


class Imported(NamedTuple):
    """Weights of others in our shape."""

    config: ModelConfig
    params: dict[str, Any]
    known: PartialSpec
    dropped: list[str]
    """Names of the untrained tensors that were left out."""
    online: bool = False
    """Whether it is an Online Decision Transformer, whose heads give a distribution."""


class WeightFile(NamedTuple):
    """A file of weights that has been read."""

    path: Path
    tensors: Tensors


def read_model(
    source: str, context_length: int | None = None, num_heads: int | None = None, *, file: WeightFile | None = None
) -> Imported:
    """Weights of a directory, a file or a hub name such as `owner/name`.

    `file`: its weights, where they have been read already. `num_heads` is needed for the original's state dict,
    which does not tell, and `context_length` may be given.
    Raises JaxdtError naming the file and the field or tensor that is wrong.
    """
    weights, tensors = read_weights(source) if file is None else file
    config_file = weights.parent / "config.json"
    known = _known_of(source, weights.parent / NORMALIZATION)
    length = next(value for value in (context_length, known.context_length, 20) if value is not None)
    if layout_of(tensors, str(weights)) == "encoder":
        if not config_file.is_file():
            raise JaxdtError(f"{config_file} is missing; weights of Hugging Face's model need it beside them.")
        config = config_from_huggingface(read_json(config_file), length, str(config_file))
        if num_heads not in (None, config.num_heads):
            raise JaxdtError(f"{config_file} has n_head={config.num_heads}; got --num-heads {num_heads}; leave it out.")
    else:
        config = _original_config(tensors, num_heads, length, weights)
    params, dropped = params_from_tensors(tensors, config, str(weights))
    _check_sizes(known, config, source)
    return Imported(config, params, known, dropped, is_online(tensors))


def read_weights(source: str) -> WeightFile:
    """The weights of a directory, a file or a hub name; raises JaxdtError where there are none, or damaged ones."""
    path = _local(source)
    path = path if path.is_file() else _weights_in(path)
    return WeightFile(path, read_tensors(path))


def read_json(path: Path) -> Any:
    """A JSON document; raises JaxdtError when it cannot be read."""
    if not path.is_file():
        raise JaxdtError(f"{path} does not exist; give the path of a JSON file.")
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        raise JaxdtError(f"{path} is not a readable JSON file: {one_line(error, 200)}; copy it again.") from error


def read_partial_spec(values: Any, source: str) -> PartialSpec:
    """What a JSON object says, checked field by field; raises JaxdtError naming the wrong one."""
    if not isinstance(values, dict):
        raise JaxdtError(f"{source} must be a JSON object with state_mean and state_std; got {type(values).__name__}.")
    known = {name: values[name] for name in PartialSpec._fields if values.get(name) is not None}
    if isinstance(known.get("targets"), list) and not known["targets"]:
        del known["targets"]
    for name in ("state_mean", "state_std", "action_low", "action_high"):
        if name in known:
            known[name] = numbers_from_json(known[name], f"{source}: {name}")
    if "targets" in known:
        known["targets"] = tuple(
            numbers_from_json(known["targets"], f"{source}: targets", np.float64).reshape(-1).tolist()
        )
    if "return_scale" in known:
        known["return_scale"] = float(
            numbers_from_json([known["return_scale"]], f"{source}: return_scale", np.float64)[0]
        )
    rules = {
        "state_std": ("must be above 0 everywhere", lambda std: bool((std > 0).all())),
        "return_scale": ("must be above 0", lambda scale: scale > 0),
        "context_length": ("must be a whole number of 1 or more", lambda k: type(k) is int and k >= 1),
        "num_actions": ("must be a whole number of 1 or more", lambda n: type(n) is int and n >= 1),
        "first_action": ("must be a whole number", lambda first: type(first) is int and abs(first) < 2**30),
        "delayed_reward": ("must be true or false", lambda flag: isinstance(flag, bool)),
    }
    for name, (rule, holds) in rules.items():
        if name in known and not holds(known[name]):
            raise JaxdtError(f"{source}: {name} {rule}; got {values[name]!r:.80}.")
    if "env_id" in known:
        checked_env_id(known["env_id"], source)
    if "env_kwargs" in known:
        known["env_kwargs"] = checked_env_kwargs(json.dumps(known["env_kwargs"]), known.get("env_id"), source)
    return PartialSpec(**known)


def _local(source: str) -> Path:
    path = Path(source).expanduser()
    if source and path.exists():
        return path
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) or ".." in source:
        raise JaxdtError(
            f"{source!r} does not exist; give a directory, a .safetensors, .bin or .pt file, or a hub name such as "
            "edbeeching/decision-transformer-gym-hopper-medium."
        )
    return _download(source)


def _download(name: str) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=["config.json", NORMALIZATION, *WEIGHT_FILES])
        )
    except Exception as error:  # its own kinds, and those of the network below it
        reason = one_line(error, 300)
        raise JaxdtError(
            f"{name!r} is no local path and cannot be fetched from the hub: {reason} (check the name and the network; "
            "private models need `hf auth login`)."
        ) from error


def _weights_in(directory: Path) -> Path:
    for name in WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    found = ", ".join(sorted(child.name for child in directory.iterdir())[:10]) or "nothing"
    raise JaxdtError(f"{directory} holds neither {' nor '.join(WEIGHT_FILES)}; it has {found}.")


def _original_config(tensors: Tensors, num_heads: int | None, context_length: int, path: Path) -> ModelConfig:
    if num_heads is None:
        raise JaxdtError(
            f"{path} is a state dict of the original, which does not tell its number of attention heads; "
            f"give --num-heads (num_heads=); its default is {4 if is_online(tensors) else 1}."
        )
    return config_from_tensors(tensors, num_heads, context_length, str(path))


def _known_of(source: str, beside: Path) -> PartialSpec:
    """From the file beside the weights, or from the table of Hugging Face's nine checkpoints, by name."""
    if beside.is_file():
        return read_partial_spec(read_json(beside), str(beside))
    table = json.loads(resources.files("jaxdt.interop").joinpath("hub_statistics.json").read_text(encoding="utf-8"))
    by_name = {name.split("/")[1]: values for name, values in table["models"].items()}
    path = Path(source).expanduser()
    if path.exists():
        name = (path if path.is_dir() else path.parent).resolve().name  # a copy of one, under its name
    else:
        name = source.removeprefix("edbeeching/")
    if name not in by_name:
        return PartialSpec()
    state_mean = np.array(by_name[name]["state_mean"], np.float32)
    env_id = d4rl_env_id(f"{name.removeprefix('decision-transformer-gym-')}-v2", len(state_mean))
    assert env_id is not None
    return PartialSpec(
        state_mean=state_mean,
        state_std=np.array(by_name[name]["state_std"], np.float32),
        return_scale=1000.0,
        env_id=env_id,
        targets=paper_targets(env_id),
    )


def _check_sizes(known: PartialSpec, config: ModelConfig, source: str) -> None:
    sizes = {"state_mean": config.state_dim, "state_std": config.state_dim}
    sizes |= {"action_low": config.action_dim, "action_high": config.action_dim}
    if known.num_actions not in (None, config.action_dim):
        raise JaxdtError(
            f"{source}: num_actions is {known.num_actions}, the model has {config.action_dim}; they belong to another "
            "one."
        )
    for name, size in sizes.items():
        values = getattr(known, name)
        if values is not None and values.size != size:
            raise JaxdtError(
                f"{source}: {name} has {values.size} numbers, the model {size}; they belong to another one."
            )
