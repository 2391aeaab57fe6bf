"""The Online Decision Transformer (Zheng, Zhang and Grover 2022): a distribution of actions in place of a point."""

from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Key, Num, PRNGKeyArray, PyTree

from jaxdt.algorithms import normalization
from jaxdt.algorithms.decision_transformer import transformer_policy, windows_of, with_sizes
from jaxdt.algorithms.distributions import Categorical, SquashedGaussian, chosen, squashed_gaussian
from jaxdt.algorithms.normalization import action_error, choose_action
from jaxdt.algorithms.temperature import EntropyUpdate, Fit, initial_state, mean_of_real
from jaxdt.config import OnlineDTConfig
from jaxdt.data.episodes import EpisodeStore
from jaxdt.models import Apply, build_model
from jaxdt.types import Algorithm, Box, Policy, Spec, Window


def measure(config: OnlineDTConfig, store: EpisodeStore) -> dict[str, np.ndarray]:
    """What states are normalised by."""
    del config
    return normalization.measure(store)


def make(config: OnlineDTConfig, spec: Spec) -> Algorithm:
    """Raises JaxdtError where config and spec do not fit together."""
    config.check_spec(spec)
    init, apply = build_model(with_sizes(config.model, spec), gaussian=True)
    return Algorithm(
        init=lambda key: initial_state(init(key), config.optimizer),
        update=EntropyUpdate(partial(fit_window, apply, spec), config.optimizer, target_entropy(spec)),
        policy=_policy(config, spec),
        sampler=partial(windows_of, config, spec),
        validate=partial(_validate, apply, spec),
    )


def target_entropy(spec: Spec) -> float:
    """Minus the number of an action's numbers; of discrete actions 0, from above which the temperature only falls."""
    return -float(len(spec.action.low)) if isinstance(spec.action, Box) else 0.0


def distribution_of(prediction: Float[Array, "*b n"], spec: Spec) -> SquashedGaussian | Categorical:
    return squashed_gaussian(prediction) if isinstance(spec.action, Box) else Categorical(prediction)


def fit_window(apply: Apply, spec: Spec, policy: PyTree, window: Window, key: PRNGKeyArray) -> Fit:
    """Negative log-likelihood and entropy, of whole actions, over real steps only."""
    dropout_key, entropy_key = jax.random.split(key)
    distribution = distribution_of(apply(policy, window, key=dropout_key), spec)
    loss = -mean_of_real(distribution.log_prob(window.actions), window.mask)
    entropy = mean_of_real(distribution.entropy(entropy_key), window.mask)
    return Fit(loss, entropy, {"negative_log_likelihood": loss})


def _validate(apply: Apply, spec: Spec, params: PyTree, window: Window) -> dict[str, Float[Array, ""]]:
    """Without the bonus for entropy."""
    prediction = apply(params["policy"], window)
    distribution = distribution_of(prediction, spec)
    loss = -mean_of_real(distribution.log_prob(window.actions), window.mask)
    likeliest = distribution.mode() if isinstance(spec.action, Box) else prediction
    return {"loss": loss, "action_error": action_error(likeliest, window.actions, window.mask)}


def _policy(config: OnlineDTConfig, spec: Spec) -> Policy:
    """Reads `acting_context_length` steps and nothing else: a window of fewer steps is that of the same, padded."""

    def choose(prediction: Float[Array, "b n"], keys: Key[Array, " b"] | None) -> Num[Array, "b *a"]:
        if isinstance(spec.action, Box):
            return chosen(squashed_gaussian(prediction), config.drawing_temperature, keys)
        return choose_action(prediction, spec, temperature=config.drawing_temperature, keys=keys)

    policy = transformer_policy(config.acting, spec, choose=choose, gaussian=True)
    return Policy(policy.start, lambda params, *seen: policy.act(params["policy"], *seen))
