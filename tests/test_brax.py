"""The adapter of scripts/usage.md for environments of another library."""

import re
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdt
from jaxdt.algorithms.decision_transformer import with_sizes
from jaxdt.types import Box, Spec
from tests.conftest import tiny_algorithm


PAGE = Path(__file__).parent.parent / "scripts" / "usage.md"


@pytest.mark.parity
def test_the_adapter_plays_brax():
    [example] = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "brax" in code]
    ones = np.ones(1, np.float32)
    constants = {"state_mean": np.zeros(4, np.float32), "state_std": np.ones(4, np.float32)}
    spec = Spec(observation_shape=(4,), action=Box(-ones, ones), constants=constants)
    config = tiny_algorithm(embedding_dropout=0.0)
    init, _ = jaxdt.build_model(with_sizes(config.model, spec))
    agent = jaxdt.Agent(config, init(jax.random.key(0)), spec)
    names = {"jaxdt": jaxdt, "agent": agent}
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        warnings.simplefilter("ignore")  # Brax's own code is freer than ours
        exec(example, names)
    [result] = names["results"]
    assert result.lengths.min() > 1  # it stands for a while
    assert result.lengths.max() < 1000  # and falls, since nothing was learned
    np.testing.assert_array_equal(result.returns, result.lengths)  # a step earns 1
