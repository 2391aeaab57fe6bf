"""From the `config.json` of earlier versions to that of this one: JSON in, JSON out."""

from typing import Any


def from_format_1(document: dict[str, Any]) -> dict[str, Any]:
    """Format 1 knew Decision Transformers only; what stood between policy and environment was called `interface`.

    Raises whatever Python does where the document is damaged.
    """
    config, interface = dict(document["config"]), dict(document["interface"])
    config["algorithm"] = {
        "name": "decision-transformer",
        "return_scale": interface["return_scale"],
        "context": config.pop("eval_context", "exact"),
        "model": config.pop("model"),
        "optimizer": config.pop("optimizer"),
    }
    del config["return_scale"]
    spec = {
        "observation_shape": _shape(interface["state_mean"]),
        "observation_dtype": "float32",
        "action": {"low": interface["action_low"], "high": interface["action_high"]},
        "constants": {"state_mean": interface["state_mean"], "state_std": interface["state_std"]},
        "delayed_reward": interface["delayed_reward"],
    }
    return {"format": 2, "config": config, "spec": spec, "data": document["data"], "made_with": document["made_with"]}


def _shape(values: Any) -> list[int]:
    """Of nested lists."""
    shape = []
    while isinstance(values, list):
        shape.append(len(values))
        values = values[0]
    return shape
