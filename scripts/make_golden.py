"""Writes tests/golden: small models of PyTorch and what they predict, so that tests need no PyTorch.

Needs the `parity` extra: pip install -e '.[parity]' && python scripts/make_golden.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import DecisionTransformerConfig, DecisionTransformerModel


OUT = Path(__file__).parent.parent / "tests" / "golden"
SHAPE = {"state_dim": 5, "act_dim": 3, "hidden_size": 16, "n_layer": 2, "max_ep_len": 30, "n_positions": 16}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
STEPS = 4  # of a window


def make_model(**changes) -> DecisionTransformerModel:
    """Random weights, also where Hugging Face begins with zeros and ones."""
    model = DecisionTransformerModel(DecisionTransformerConfig(**SHAPE, **NO_DROPOUT, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def make_window(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two full windows and two padded ones."""
    mask = np.arange(STEPS) >= np.array([0, 0, 1, 3])[:, None]
    steps = np.where(mask, np.arange(STEPS) + np.array([[0], [7], [0], [0]]), 0)
    real = mask[..., None]
    return {
        "states": (real * rng.normal(size=(4, STEPS, 5))).astype(np.float32),
        "actions": (real * rng.uniform(-1, 1, size=(4, STEPS, 3))).astype(np.float32),
        "returns_to_go": (mask * rng.normal(size=(4, STEPS))).astype(np.float32),
        "timesteps": steps.astype(np.int32),
        "mask": mask,
    }


def predict(model: DecisionTransformerModel, window: dict[str, np.ndarray]) -> torch.Tensor:
    return model(
        states=torch.tensor(window["states"]),
        actions=torch.tensor(window["actions"]),
        returns_to_go=torch.tensor(window["returns_to_go"])[..., None],
        timesteps=torch.tensor(window["timesteps"]).long(),
        attention_mask=torch.tensor(window["mask"]).long(),
    ).action_preds


def ten_losses(model: DecisionTransformerModel, window: dict[str, np.ndarray]) -> list[float]:
    """Ten updates of the paper's recipe on one batch, warm-up over ten; `wpe`, which the original lacks, stays."""
    model.encoder.wpe.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10, 1))
    mask, losses = torch.tensor(window["mask"]), []
    for _ in range(10):
        loss = torch.mean((predict(model, window) - torch.tensor(window["actions"]))[mask] ** 2)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        warmup.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    torch.manual_seed(0)
    window = make_window(np.random.default_rng(0))
    expected = {f"window_{name}": values for name, values in window.items()}

    # As the hub's checkpoints are: a pickle, with the attention's buffers of old versions.
    model = make_model(n_head=4, n_inner=23, activation_function="gelu_new", layer_norm_epsilon=1e-3)
    expected["bin"] = predict(model, window).detach().numpy()
    tensors = model.state_dict()
    for i in range(SHAPE["n_layer"]):
        tensors[f"encoder.h.{i}.attn.bias"] = torch.tril(torch.ones(16, 16, dtype=torch.uint8))[None, None]
        tensors[f"encoder.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    (OUT / "bin").mkdir(parents=True, exist_ok=True)
    torch.save(tensors, OUT / "bin" / "pytorch_model.bin")
    (OUT / "bin" / "config.json").write_text(json.dumps(model.config.to_diff_dict(), indent=1) + "\n")

    # As current versions save: safetensors.
    model = make_model(action_tanh=False, activation_function="gelu")
    expected["safetensors"] = predict(model, window).detach().numpy()
    model.save_pretrained(OUT / "safetensors")

    # As the original's: the same model without a position table, under another prefix.
    model = make_model(n_head=2)
    with torch.no_grad():
        model.encoder.wpe.weight.zero_()
    expected["original"] = predict(model, window).detach().numpy()
    renamed = {name.replace("encoder.", "transformer."): tensor for name, tensor in model.state_dict().items()}
    del renamed["transformer.wpe.weight"]
    torch.save({name: tensor.clone() for name, tensor in renamed.items()}, OUT / "original.pt")
    expected["losses"] = np.array(ten_losses(model, window))

    np.savez_compressed(OUT / "expected.npz", **expected)


if __name__ == "__main__":
    main()
