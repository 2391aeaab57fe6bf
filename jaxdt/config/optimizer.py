"""How weights are updated."""

import dataclasses
import math
from typing import Literal

from tyro.conf import Suppress

from jaxdt.config.checks import at_least, one_of, within
from jaxdt.errors import JaxdtError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, or LAMB, with a linear warm-up."""

    update_rule: Literal["adamw", "lamb"] = "adamw"
    """lamb: AdamW's step of each array is made as long as the array itself, before the learning rate."""
    learning_rate: float | None = 1e-4
    """Step size after the warm-up; None: the one that the method's authors tuned for the data set."""
    warmup_steps: int | None = 10_000
    """Updates over which the learning rate rises linearly from 0; None: `warmup-fraction` of all."""
    warmup_fraction: float = 0.1
    """Share of all updates, where `warmup-steps` is None."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up; linear, cosine: falls to 0 at the last update, and the warm-up starts at 0 exactly."""
    total_steps: Suppress[int | None] = None
    """Where a falling schedule ends; None: taken from the run's steps."""
    weight_decay: float | None = 1e-4
    """Decoupled decay, multiplied by the learning rate; None: the one that was tuned for the data set."""
    decay_biases: bool = True
    """Decay every parameter; otherwise not the biases and LayerNorms, which in a network of one's own are the arrays
    called bias, scale, b, offset, beta or gamma."""
    beta1: float = 0.9
    """Adam's decay rate of the mean gradient."""
    beta2: float = 0.999
    """Adam's decay rate of the mean squared gradient."""
    epsilon: float = 1e-8
    """Adam's term against division by zero."""
    max_grad_norm: float | None = 0.25
    """Gradients are scaled down to this global norm; None: they are not."""

    def __post_init__(self):
        for name in ("warmup_steps", "total_steps"):
            if getattr(self, name) is not None:
                at_least(self, name, 0)
        one_of(self, "update_rule", ("adamw", "lamb"))
        one_of(self, "schedule", ("constant", "linear", "cosine"))
        within(self, "warmup_fraction", 0.0, 1.0)
        for name in ("learning_rate", "weight_decay", "epsilon"):
            if getattr(self, name) is not None:
                within(self, name, 0.0, math.inf)
        if self.update_rule == "lamb" and not self.decay_biases:
            raise JaxdtError("update_rule='lamb' treats all arrays alike; leave decay_biases on.")
        for name in ("beta1", "beta2"):
            within(self, name, 0.0, 1.0)
        if self.max_grad_norm is not None and not 0 < self.max_grad_norm < math.inf:
            raise JaxdtError(
                f"max_grad_norm must be above 0 and finite; got {self.max_grad_norm} (None switches clipping off)."
            )

    @classmethod
    def adam(cls, learning_rate: float) -> "OptimizerConfig":
        """Adam at a constant rate, without warm-up, decay or clipping."""
        return cls(learning_rate=learning_rate, warmup_steps=0, weight_decay=0.0, max_grad_norm=None)

    def for_steps(self, steps: int) -> "OptimizerConfig":
        """The same with warm-up and end as numbers, for a run of `steps` updates.

        Raises JaxdtError where rate or decay are left to the data set, and the method has none for it.
        """
        if self.learning_rate is None or self.weight_decay is None:
            raise JaxdtError(
                "learning_rate and weight_decay must be numbers here; got "
                f"{self.learning_rate} and {self.weight_decay} (a method that was tuned for single data sets, such as "
                "online-dt, finds them itself)."
            )
        warmup, total = self.warmup_steps, self.total_steps
        if warmup is None:
            warmup = math.ceil(self.warmup_fraction * steps)
        if self.schedule != "constant" and total is None:
            total = steps
        return dataclasses.replace(self, warmup_steps=warmup, total_steps=total)

    @property
    def last_step(self) -> int | None:
        """The update at which the learning rate is 0; None: it never is."""
        return None if self.schedule == "constant" else self.total_steps
