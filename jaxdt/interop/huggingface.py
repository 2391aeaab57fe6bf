"""Hugging Face's `DecisionTransformerConfig` and ours."""

from typing import Any

from jaxdt.config import ModelConfig
from jaxdt.errors import JaxdtError


FIELDS: dict[str, tuple[str, Any]] = {
    "state_dim": ("state_dim", 17),
    "act_dim": ("action_dim", 4),
    "hidden_size": ("width", 128),
    "max_ep_len": ("max_episode_length", 4096),
    "n_layer": ("num_layers", 3),
    "n_head": ("num_heads", 1),
    "n_inner": ("mlp_width", None),
    "activation_function": ("activation", "relu"),
    "action_tanh": ("action_tanh", True),
    "layer_norm_epsilon": ("layer_norm_epsilon", 1e-5),
    "embd_pdrop": ("embedding_dropout", 0.1),
    "attn_pdrop": ("attention_dropout", 0.1),
    "resid_pdrop": ("residual_dropout", 0.1),
}
"""Their field: ours, and their default. Every other field of theirs cannot change an action, or is in UNSUPPORTED."""

UNSUPPORTED: dict[str, Any] = {
    "add_cross_attention": False,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "scale_attn_weights": True,
}
"""Their fields that change what the model computes, with the only value that we compute."""

_ALIASES = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
_MIN_POSITIONS = 1024  # of their position table, three tokens a step; only its first row is ever used


def config_from_huggingface(values: Any, context_length: int, source: str) -> ModelConfig:
    """Our shape of the model that a `config.json` describes; it does not know the context length.

    Raises JaxdtError naming a field that has the wrong type or that we do not support.
    """
    if not isinstance(values, dict):
        raise JaxdtError(f"{source} must be a JSON object; got {type(values).__name__}.")
    kind = values.get("model_type", "decision_transformer")
    if kind != "decision_transformer":
        raise JaxdtError(f"{source} describes a model of type {kind!r:.80}; only decision_transformer can be imported.")
    for name, supported in UNSUPPORTED.items():
        if values.get(name, supported) != supported:
            raise JaxdtError(f"{source} has {name}={values[name]!r:.80}, which is not supported; only {supported} is.")
    ours: dict[str, Any] = {"context_length": context_length}
    for theirs, (name, default) in FIELDS.items():
        value = values.get(theirs, values.get(_ALIASES.get(theirs, theirs), default))
        ours[name] = _checked(value, default, f"{source}: {theirs}")
    if ours["activation"] not in ("relu", "gelu", "gelu_new"):
        raise JaxdtError(
            f"{source} has activation_function={ours['activation']!r:.80}, which is not supported; only relu, gelu and "
            "gelu_new are."
        )
    try:
        return ModelConfig(**ours)
    except JaxdtError as error:
        raise JaxdtError(f"{source}: {error}") from error


def config_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of our model."""
    theirs = {name: getattr(config, ours) for name, (ours, _) in FIELDS.items()}
    return {
        "architectures": ["DecisionTransformerModel"],
        "model_type": "decision_transformer",
        **theirs,
        **UNSUPPORTED,
        "n_positions": num_positions(config),
        "vocab_size": 1,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
    }


def num_positions(config: ModelConfig) -> int:
    """Rows of Hugging Face's position table: at least one a token."""
    return max(_MIN_POSITIONS, 3 * config.context_length)


def _checked(value: Any, default: Any, where: str) -> Any:
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,), type(None): (int, type(None))}[type(default)]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise JaxdtError(f"{where} has the wrong type; got {value!r:.80}.")
    try:
        return float(value) if isinstance(default, float) else value
    except OverflowError as error:
        raise JaxdtError(f"{where} must be a number within float64's range; got {value!r:.80}.") from error
