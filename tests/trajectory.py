"""What the tests of the Trajectory Transformer share: the original's own numbers, in our names."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdt.models.trajectory_transformer import build_trajectory_model


GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "trajectory.npz"))
"""Made by the original's program on random weights and random input, float32."""
CONFIG = json.loads(str(GOLDEN["config"]))
EDGES = np.asarray(GOLDEN["thresholds"], np.float32)
BINS = CONFIG["bins"]
ROW = CONFIG["observation_dim"] + CONFIG["action_dim"] + 2


def ours(prefix: str) -> dict:
    """The original's tensors as our parameters, or gradients."""

    def named(name: str) -> np.ndarray:
        return GOLDEN[f"{prefix}/{name}"]

    def linear(*names: str) -> dict:
        kernel = np.concatenate([named(f"{name}.weight").T for name in names], axis=1)
        return {"kernel": kernel, "bias": np.concatenate([named(f"{name}.bias") for name in names])}

    def norm(name: str) -> dict:
        return {"scale": named(f"{name}.weight"), "bias": named(f"{name}.bias")}

    def block(at: str) -> dict:
        return {
            "attention_norm": norm(f"{at}.ln1"),
            "query": linear(f"{at}.attn.query"),
            "key_value": linear(f"{at}.attn.key", f"{at}.attn.value"),
            "attention_out": linear(f"{at}.attn.proj"),
            "mlp_norm": norm(f"{at}.ln2"),
            "mlp_in": linear(f"{at}.mlp.0"),
            "mlp_out": linear(f"{at}.mlp.2"),
        }

    params = {
        "token_table": named("tok_emb.weight"),
        "position_table": named("pos_emb")[0],
        "blocks": {f"block_{i}": block(f"blocks.{i}") for i in range(CONFIG["num_layers"])},
        "final_norm": norm("ln_f"),
        "head": {"kernel": named("head.weight").transpose(0, 2, 1)},
    }
    return jax.tree.map(jnp.asarray, params)


def model_of(**changes):
    sizes = {name: CONFIG[name] for name in ("bins", "transitions", "width", "num_layers", "num_heads")}
    return build_trajectory_model(**{**sizes, "row": ROW, "dropout": 0.0, **changes})
