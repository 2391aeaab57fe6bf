"""Distributions of actions, each at `b` places or at one.

`mode` is the likeliest action, `sample(key)` a drawn one, `log_prob(action)` the natural logarithm of its probability
or density, and `entropy(key)` in nats, drawn where there is no formula for it. `tempered(temperature)` is the one whose
log_prob is divided by it, a squashed Gaussian's before it is squashed: below 1 narrower, above 1 wider.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, PRNGKeyArray

from jaxdt.errors import JaxdtError


LOG_STD_RANGE = (-5.0, 2.0)
"""Of a squashed Gaussian, before it is squashed."""
LARGEST_ACTION = 1 - 1e-6
"""Recorded actions are brought within it: at 1 a squashed Gaussian has no density."""


class Gaussian(NamedTuple):
    """Of vectors whose numbers are independent of one another."""

    mean: Float[Array, "*b a"]
    log_std: Float[Array, "*b a"]

    def mode(self) -> Float[Array, "*b a"]:
        return self.mean

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*b a"]:
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def log_prob(self, action: Float[Array, "*b a"]) -> Float[Array, "*b"]:
        standardized = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * jnp.square(standardized) - self.log_std - 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self, key: PRNGKeyArray | None = None) -> Float[Array, "*b"]:
        del key
        return jnp.sum(self.log_std + 0.5 * (1 + math.log(2 * math.pi)), axis=-1)

    def tempered(self, temperature: float) -> "Gaussian":
        return self._replace(log_std=self.log_std + 0.5 * math.log(temperature))


class SquashedGaussian(NamedTuple):
    """The hyperbolic tangent of a Gaussian: vectors within (-1, 1)."""

    mean: Float[Array, "*b a"]
    log_std: Float[Array, "*b a"]

    def mode(self) -> Float[Array, "*b a"]:
        """Of the Gaussian, squashed; the squashed density may have its peak elsewhere."""
        return jnp.tanh(self.mean)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*b a"]:
        return jnp.tanh(Gaussian(*self).sample(key))

    def log_prob(self, action: Float[Array, "*b a"]) -> Float[Array, "*b"]:
        return self._log_prob_before(jnp.arctanh(jnp.clip(action, -LARGEST_ACTION, LARGEST_ACTION)))

    def entropy(self, key: PRNGKeyArray) -> Float[Array, "*b"]:
        """What one action that is drawn says of it."""
        return -self._log_prob_before(Gaussian(*self).sample(key))

    def tempered(self, temperature: float) -> "SquashedGaussian":
        return SquashedGaussian(*Gaussian(*self).tempered(temperature))

    def _log_prob_before(self, drawn: Float[Array, "*b a"]) -> Float[Array, "*b"]:
        """Of what is squashed; the logarithm of the slope of tanh in a form that large numbers leave finite."""
        log_slope = 2 * (math.log(2) - drawn - jax.nn.softplus(-2 * drawn))
        return Gaussian(*self).log_prob(drawn) - jnp.sum(log_slope, axis=-1)


class Categorical(NamedTuple):
    """Of whole numbers from 0 on."""

    logits: Float[Array, "*b n"]

    def mode(self) -> Int[Array, "*b"]:
        return jnp.argmax(self.logits, axis=-1)

    def sample(self, key: PRNGKeyArray) -> Int[Array, "*b"]:
        return jax.random.categorical(key, self.logits)

    def log_prob(self, action: Int[Array, "*b"]) -> Float[Array, "*b"]:
        return jnp.take_along_axis(jax.nn.log_softmax(self.logits), action[..., None], axis=-1)[..., 0]

    def entropy(self, key: PRNGKeyArray | None = None) -> Float[Array, "*b"]:
        del key
        log_probs = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)

    def tempered(self, temperature: float) -> "Categorical":
        return Categorical(self.logits / temperature)


Distribution = Gaussian | SquashedGaussian | Categorical


def squashed_gaussian(prediction: Float[Array, "*b two_a"]) -> SquashedGaussian:
    """Of a last layer's means and, after them, numbers that a tangent brings between the bounds of log std."""
    mean, unbounded = jnp.split(prediction, 2, axis=-1)
    low, high = LOG_STD_RANGE
    return SquashedGaussian(mean, low + (high - low) / 2 * (jnp.tanh(unbounded) + 1))


def chosen(distribution: Distribution, temperature: float | None, keys: Key[Array, " b"] | None) -> Num[Array, "b *a"]:
    """An action of each of `b` episodes: drawn by its own key at a temperature; None: the mode.

    Raises JaxdtError where there are no keys to draw by.
    """
    if temperature is None:
        return distribution.mode()
    if keys is None:
        raise JaxdtError("sampling='sample' draws actions and needs keys; give them, or use sampling='greedy'.")
    return jax.vmap(lambda one, key: one.sample(key))(distribution.tempered(temperature), keys)
