"""Between what an environment gives and takes and the numbers that networks see."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Num, PyTree

from jaxdt.algorithms.distributions import Categorical, chosen
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.statistics import STD_EPSILON
from jaxdt.types import Box, Policy, Spec, Transitions


def measure(store: EpisodeStore, *, scaled: bool = True, epsilon: float = STD_EPSILON) -> dict[str, np.ndarray]:
    """Mean of the observations and standard deviation + `epsilon`, before any filter, as the original does.

    Not `scaled`: 0 and 1, which leave observations as they are.
    """
    mean, std = store.statistics
    if not scaled:
        return {"state_mean": np.zeros_like(mean), "state_std": np.ones_like(std)}
    return {"state_mean": mean, "state_std": std if epsilon == STD_EPSILON else std - STD_EPSILON + epsilon}


def normalize(observation: Num[Array, "b *s"], spec: Spec) -> Float[Array, "b *s"]:
    return (observation - spec.constants["state_mean"][None]) / spec.constants["state_std"][None]


def choose_action(
    prediction: Float[Array, "b n"], spec: Spec, *, temperature: float | None, keys: Key[Array, " b"] | None
) -> Num[Array, "b *a"]:
    """The action in the network's terms: the prediction itself, or of logits the likeliest or a drawn one.

    - `temperature`: divides the logits before one is drawn with the episode's key; None: the likeliest.
    - Logits that are not finite choose -1, which no environment takes.
    """
    if isinstance(spec.action, Box):
        return prediction
    action = chosen(Categorical(prediction), temperature, keys)
    return jnp.where(jnp.isfinite(prediction).all(axis=-1), action, -1).astype(jnp.int32)


def action_error(
    prediction: Float[Array, "*b n"], actions: Num[Array, "..."], mask: Bool[Array, "*b"]
) -> Float[Array, ""]:
    """Mean over real steps of the distance of each of an action's numbers; of logits, the share whose likeliest errs.

    `prediction`: actions in [-1, 1], or logits of discrete ones; `actions`: (*b, n), or (*b) of discrete ones; `mask`:
    True at real steps.
    """
    if jnp.issubdtype(actions.dtype, jnp.floating):
        errors = jnp.mean(jnp.abs(prediction - actions), axis=-1)
    else:
        errors = jnp.argmax(prediction, axis=-1) != actions
    return jnp.sum(errors * mask) / jnp.maximum(jnp.sum(mask), 1)


def memoryless_policy(
    predict: Callable[[PyTree[Array], Float[Array, "b *s"]], Float[Array, "b a"]], spec: Spec
) -> Policy:
    """Acts by `predict(params, states)`, in [-1, 1], on what it sees alone; it is asked for no return."""

    def act(
        params: PyTree, memory: tuple[()], observation: Num[Array, "b *s"], reward: Float[Array, " b"], keys: Any
    ) -> tuple[tuple[()], Float[Array, "b a"]]:
        del reward, keys
        return memory, to_environment(predict(params, normalize(observation, spec)), spec)

    return Policy(lambda targets: (), act)


def memoryless_validation(
    predict: Callable[[PyTree[Array], Float[Array, "b *s"]], Float[Array, "b a"]], spec: Spec
) -> Callable[[PyTree[Array], Transitions], dict[str, Array]]:
    """How far the actions of such a policy are from those of held-out transitions."""

    def validate(params: PyTree[Array], batch: Transitions) -> dict[str, Array]:
        predicted = predict(params, normalize(batch.observations, spec))
        return {"action_error": action_error(predicted, batch.actions, jnp.ones(predicted.shape[:1], bool))}

    return validate


def to_environment(action: Num[Array, "b *a"], spec: Spec) -> Num[Array, "b *a"]:
    """[-1, 1] mapped affinely onto the action space; 0 ... n-1 onto the environment's own numbers."""
    if isinstance(spec.action, Box):
        low, high = jnp.asarray(spec.action.low)[None], jnp.asarray(spec.action.high)[None]
        return jnp.clip(low + (action + 1) / 2 * (high - low), low, high)  # rounding may pass a bound
    return action + spec.action.start
