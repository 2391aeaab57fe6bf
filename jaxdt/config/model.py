"""The transformer's shape.

The defaults are the paper's gym recipe (Chen et al. 2021, appendix A; the original's `gym/experiment.py`).
"""

import dataclasses
from typing import Literal

from tyro.conf import Suppress

from jaxdt.config.checks import at_least, at_most, inherited, one_of, within
from jaxdt.errors import JaxdtError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the transformer (paper section 3)."""

    state_dim: Suppress[int | None] = None
    """Length of an observation; None: taken from the data."""
    action_dim: Suppress[int | None] = None
    """Length of a continuous action; None: taken from the data."""
    num_actions: Suppress[int | None] = None
    """How many discrete actions there are; then `action_dim` stays None."""
    context_length: int = 20
    """Environment steps the policy sees; three tokens each."""
    max_episode_length: int = 1000
    """Number of timestep embeddings; later steps share the last one."""
    timestep_embedding: bool | None = True
    """Add to each token what was learned of its timestep; otherwise the model knows of order by causality alone.
    None: as the method's authors chose for the data set."""
    width: int = 128
    """Size of a token's embedding."""
    num_layers: int = 3
    """Transformer blocks."""
    num_heads: int = 1
    """Attention heads; must divide the width."""
    mlp_width: int | None = None
    """Hidden units of a block's MLP; None: four times the width."""
    activation: Literal["relu", "gelu", "gelu_new"] = "relu"
    """Of the MLP; gelu is the exact one, gelu_new its tanh approximation."""
    action_tanh: bool = True
    """Squash predicted continuous actions into [-1, 1]."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in every LayerNorm but the embedding's, which keeps 1e-5 (Hugging Face's rule)."""
    initialization: Literal["original", "huggingface"] = "original"
    """Of the weights; original: PyTorch's defaults around a GPT-2; huggingface: N(0, 0.02), less by depth."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computations; the weights, the optimiser and the loss are float32 in either case."""
    rematerialize: bool = False
    """Compute each block anew in the backward pass instead of keeping what it computed: less memory, more time."""
    scan_layers: bool = False
    """Loop over all blocks but the last instead of compiling each by itself: a deep model compiles sooner, and on a CPU
    too `rematerialize` then saves memory."""
    embedding_dropout: float = 0.1
    """Probability of dropping an element after the embedding LayerNorm."""
    attention_dropout: float = 0.1
    """Probability of dropping an attention weight."""
    residual_dropout: float = 0.1
    """Probability of dropping an element of what a block adds to its input."""

    def __post_init__(self):
        for name in ("context_length", "max_episode_length", "width", "num_layers", "num_heads"):
            at_least(self, name, 1)
        for name in ("state_dim", "action_dim", "num_actions", "mlp_width"):
            if getattr(self, name) is not None:
                at_least(self, name, 1)
        sizes = ("state_dim", "action_dim", "num_actions", "max_episode_length", "width", "num_layers", "mlp_width")
        for name in sizes:
            at_most(self, name, 2**24)
        at_most(self, "context_length", 4096)
        if self.width % self.num_heads:
            raise JaxdtError(
                f"width must be divisible by num_heads; got width={self.width}, num_heads={self.num_heads}."
            )
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            within(self, name, 0.0, 1.0)
        if not 0 < self.layer_norm_epsilon < 1:
            raise JaxdtError(f"layer_norm_epsilon must be above 0 and below 1; got {self.layer_norm_epsilon}.")
        one_of(self, "activation", ("relu", "gelu", "gelu_new"))
        one_of(self, "initialization", ("original", "huggingface"))
        one_of(self, "dtype", ("float32", "bfloat16"))


_HOW_IT_IS_TRAINED = (
    *("context_length", "dtype", "rematerialize", "scan_layers"),
    *("embedding_dropout", "attention_dropout", "residual_dropout"),
)
"""Fields that the same weights may have other values of; the others are their shape and what is computed."""


def model_of_weights(given: ModelConfig, trained: ModelConfig, default: ModelConfig) -> ModelConfig:
    """`given` for the weights of another, whose shape they keep.

    Raises JaxdtError where `given` asks for another shape, which is neither theirs nor that of `default`.
    """
    shape = tuple(f.name for f in dataclasses.fields(given) if f.name not in _HOW_IT_IS_TRAINED)
    given = dataclasses.replace(given, initialization=trained.initialization)  # they are drawn already
    return inherited(given, trained, shape, default)
