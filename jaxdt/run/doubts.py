"""What fits together and is probably not meant: a warning each, before training begins."""

import warnings
from typing import Any

import numpy as np

from jaxdt.config import PRESETS, TrainConfig, flatten
from jaxdt.data.actions import seem_mapped
from jaxdt.data.checks import shortened
from jaxdt.data.episodes import EpisodeStore
from jaxdt.types import Box, Spec


FEW_UPDATES = 1000
"""Below it a recipe of so many passes has hardly begun."""


def doubt_observations_and_returns(config: TrainConfig, store: EpisodeStore, spec: Spec) -> None:
    """Observations that never change, and what the method itself doubts of returns; not of weights that are there."""
    if config.init is not None:
        return
    doubt = config.algorithm.doubt_returns(store.returns)
    if doubt is not None:
        _warn(doubt)
    constant, std = store.constant_observations, spec.constants.get("state_std")
    if len(constant) and std is not None and std[constant].min() < 1e-2:
        _warn(
            f"observations {shortened(constant)} are constant in the data and divided by {std[constant].min():g}: "
            "where they change after all, the policy sees huge numbers; constant_std=1 (--constant-std 1) leaves them "
            "small."
        )


def doubt_length_of_episodes(config: TrainConfig, store: EpisodeStore, environment: Any) -> None:
    """Steps beyond a model's table of timesteps share its last row; `environment`: an Environment, or None."""
    choices = flatten(config.algorithm)
    if config.init is not None or not choices.get("model.timestep_embedding", True):
        return  # the weights' table stays as it is, or there is none
    known = choices.get("model.max_episode_length", choices.get("max_episode_length"))
    longest = int(store.lengths.max())
    played = 0 if environment is None else environment.max_episode_steps
    if known is None or max(longest, played) <= known:
        return
    all_steps = max(longest, played)
    beyond = float(np.maximum(store.lengths - known, 0).sum()) / store.num_steps
    data = f"those of the data have up to {longest} ({beyond:.1%} of all steps lie beyond)" if longest > known else ""
    name = "" if environment is None or played <= known else f"those of {environment.name} may have {played}"
    _warn(
        f"the model tells the first {known} steps of an episode apart, and {' and '.join(filter(None, (data, name)))}; "
        f"max_episode_length={all_steps} (--max-episode-length {all_steps}) tells all."
    )


def doubt_targets(config: TrainConfig, given: TrainConfig, store: EpisodeStore) -> None:
    """Targets of `config` that were not `given`, and lie beyond the data's returns by over a tenth of their range."""
    preset = PRESETS.get(config.preset)
    is_own = given.targets is not None and (preset is None or given.targets != preset.targets)
    if is_own or not config.targets or isinstance(config.targets, str):
        return
    low, high = float(store.returns.min()), float(store.returns.max())
    reach = 0.1 * ((high - low) or abs(high) or 1.0)
    far = [target for target in config.targets if not low - reach <= target <= high + reach]
    if far:
        _warn(
            f"the data's returns go from {low:g} to {high:g}, and the preset asks for "
            f"{', '.join(f'{target:g}' for target in far)}; targets='auto' (--targets auto) asks for the best "
            "of the data."
        )


def doubt_number_of_updates(config: TrainConfig, num_episodes: int) -> None:
    """Passes of one window an episode are few updates where there are few episodes."""
    if config.passes is not None and config.steps is not None and config.steps < FEW_UPDATES:
        _warn(
            f"{config.passes} passes over {num_episodes} episodes are {config.steps} updates, which is few (the "
            "tutorial's passes over a thousand episodes are 1,920); steps= (--steps) gives their number."
        )


def doubt_warmup(config: TrainConfig) -> None:
    """A learning rate that is still rising when training ends."""
    warmup, steps = config.algorithm.optimizer.warmup_steps, config.steps
    preset = PRESETS.get(config.preset)
    if preset is not None and (preset.steps, preset.algorithm.optimizer.warmup_steps) == (steps, warmup):
        return  # as its authors have it: the Online Decision Transformer goes on rising in the environment
    if warmup and steps is not None and steps < warmup:
        _warn(
            f"the learning rate rises for {warmup} updates, and there are {steps}: it gets to {steps / warmup:.2g} of "
            f"what it should be; try warmup_steps={steps // 10} (--warmup-steps {steps // 10})."
        )


def doubt_units_of_actions(config: TrainConfig, store: EpisodeStore, spec: Spec) -> None:
    """Actions that touch -1 or 1 and never pass them may be in the models' units, not in a wider space's own."""
    if config.normalized_actions or store.as_models_take_them:
        return
    seem = seem_mapped(store.actions, spec.action)
    if seem is not None:
        _warn(f"{seem}; where they were recorded in [-1, 1], say normalized_actions=True (--normalized-actions).")


def doubt_bounds_of_actions(spec: Spec) -> None:
    """Of a spec that no environment gave: they are the data's own where actions pass -1 or 1."""
    if not isinstance(spec.action, Box):
        return
    wide = np.flatnonzero((np.abs([*spec.action]) != 1).any(axis=0))
    if len(wide):
        low, high = spec.action.low[wide].min(), spec.action.high[wide].max()
        _warn(
            f"no environment says the bounds of actions, and numbers {shortened(wide)} pass -1 or 1: the data's lowest "
            f"and highest are taken for bounds, {low:g} to {high:g} of all these, and the policy acts between them."
        )


def doubt_terminations(config: TrainConfig, store: EpisodeStore) -> None:
    """Episodes that the environment may have ended, and whose last steps are left out."""
    if not config.algorithm.draws_single_steps or store.terminations.any():
        return
    last = store.offsets[1:] - 1
    total = float(np.abs(store.rewards).sum(dtype=np.float64))
    share = float(np.abs(store.rewards[last]).sum(dtype=np.float64)) / total if total else 0.0
    if len(set(store.lengths.tolist())) > 1 or share > 2 * len(last) / store.num_steps:
        _warn(
            "all episodes of the data were cut off, and none was ended by the environment (terminations), so that "
            f"{config.algorithm.name} learns nothing of an end, and leaves out the last step of each, with "
            f"{share:.1%} of all reward; if falls or goals are among them, give terminations, true there."
        )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=5)
