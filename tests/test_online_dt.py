"""The Online Decision Transformer: its authors' numbers, its distributions, its temperature and how it acts."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdt.algorithms.distributions import squashed_gaussian
from jaxdt.algorithms.temperature import mean_of_real
from jaxdt.config import OnlineDTConfig, OptimizerConfig
from jaxdt.interop.names import config_from_tensors, params_from_tensors
from jaxdt.models import build_model
from jaxdt.types import Discrete, Window
from tests.conftest import tiny_model
from tests.toys import DRIFT_SPEC


GOLDEN = np.load(Path(__file__).parent / "golden" / "online.npz")
SHAPE = json.loads(str(GOLDEN["config"]))
MODEL = tiny_model(state_dim=None, action_dim=None, timestep_embedding=False, context_length=6)
LAMB = OptimizerConfig(update_rule="lamb", learning_rate=1e-2, warmup_steps=2, weight_decay=1e-3)
CONFIG = OnlineDTConfig(return_scale=10.0, acting_context_length=2, model=MODEL, optimizer=LAMB)
DISCRETE = dataclasses.replace(DRIFT_SPEC, action=Discrete(3, start=5))


def original(ordering: str):
    """Its tensors, and the batch that they were given."""
    tensors = {name.split("/param/")[1]: GOLDEN[name] for name in GOLDEN if name.startswith(f"{ordering}/param/")}
    names = ("states", "actions", "returns_to_go", "timesteps", "mask")
    window = Window(*(GOLDEN[f"{ordering}/{name}"] for name in names))
    return tensors, window._replace(timesteps=window.timesteps.astype(np.int32), mask=window.mask.astype(bool))


@pytest.mark.parametrize("ordering", ["ordering0", "ordering1"])
def test_an_imported_model_gives_the_originals_distribution(ordering):
    tensors, window = original(ordering)
    config = config_from_tensors(tensors, SHAPE["num_heads"], SHAPE["context_length"], "golden")
    assert config.timestep_embedding == (ordering == "ordering1")
    params, dropped = params_from_tensors(tensors, config, "golden")
    assert (
        dropped
        == sorted(f"{name}.{part}" for name in ("predict_return", "predict_state") for part in ("bias", "weight"))
        + ["transformer.wte.weight"]
        or "embed_timestep.weight" in dropped
    )
    _, apply = build_model(config, gaussian=True)
    with jax.default_matmul_precision("highest"):
        found = squashed_gaussian(apply(params, window))
    real = window.mask
    for name, values in {"loc": found.mean, "std": jnp.exp(found.log_std), "mean_action": found.mode()}.items():
        np.testing.assert_allclose(values[real], GOLDEN[f"{ordering}/{name}"][real], rtol=1e-5, atol=1e-5)
    likelihood = mean_of_real(found.log_prob(jnp.asarray(window.actions)), jnp.asarray(real))
    assert float(likelihood) == pytest.approx(float(GOLDEN[f"{ordering}/log_likelihood"]), rel=1e-5)
