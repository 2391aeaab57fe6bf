"""Episodes made by rolling out a behaviour policy in a Gymnasium environment."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError, SimulationError
from jaxdt.simulator import action_space, episode_limit, make_simulator
from jaxdt.types import Box, Discrete


BehaviourPolicy = Callable[[Float[np.ndarray, " s"], np.random.Generator], Float[np.ndarray, " a"] | int]
"""`(observation, rng) -> action`, in the environment's own units: a vector, which collecting clips to the action space,
or where actions are discrete one of its numbers."""

Progress = Callable[[int, int], None]
"""`(episodes done, episodes in all)`."""


class Behaviour(NamedTuple):
    """One policy and how it is rolled out."""

    policy: BehaviourPolicy
    episodes: int
    noise: float = 0.0
    """Standard deviation of the Gaussian noise added to continuous actions, in half widths of the action space."""


def collect_episodes(
    env_id: str,
    behaviours: Sequence[Behaviour],
    *,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> EpisodeStore:
    """Rolls out each behaviour in turn; episode `j` of all starts from environment seed `seed + j`.

    Stores the actions that were executed, after noise and clipping. Raises JaxdtError for an unknown
    environment or fewer than one episode, SimulationError when an episode cannot go on.
    """
    if seed < 0:
        raise JaxdtError(f"seed must be at least 0; got {seed}.")
    for behaviour in behaviours:
        if behaviour.episodes < 1:
            raise JaxdtError(f"episodes must be at least 1; got {behaviour.episodes}.")
        if not 0 <= behaviour.noise < np.inf:
            raise JaxdtError(f"noise must be at least 0 and finite; got {behaviour.noise}.")
    simulator = make_simulator(env_id)
    plays = [behaviour for behaviour in behaviours for _ in range(behaviour.episodes)]
    columns: list[list] = [[], [], [], [], []]
    ends = []
    try:
        if isinstance(action_space(simulator), Discrete) and any(behaviour.noise for behaviour in behaviours):
            raise JaxdtError(f"noise is for continuous actions and {env_id} has discrete ones; leave it at 0.")
        for episode, behaviour in enumerate(plays):
            for column, values in zip(columns, _play(simulator, behaviour, seed, episode), strict=True):
                column.extend(values)
            ends.append(len(columns[0]))
            progress(episode + 1, len(plays))
    finally:
        simulator.close()
    return EpisodeStore.from_arrays(
        *columns, episode_ends=ends, env_id=env_id.rpartition(":")[2], source=f"episodes of {env_id}"
    )


def random_policy(space: Box | Discrete) -> BehaviourPolicy:
    """Actions uniform over the action space."""
    if isinstance(space, Discrete):
        return lambda observation, rng: int(rng.integers(space.start, space.start + space.n))
    return lambda observation, rng: rng.uniform(space.low, space.high)


def _play(simulator, behaviour: Behaviour, seed: int, episode: int) -> tuple[list, list, list, list, list]:
    space = action_space(simulator)
    # The generator of actions is apart from the environment's, which is seeded with the same number.
    rng = np.random.default_rng([seed + episode, 1])
    observations, actions, rewards, terminations, truncations = [], [], [], [], []
    observation, _ = simulator.reset(seed=seed + episode)
    for step in range(1, episode_limit(simulator) + 1):
        action = _executed(behaviour.policy(observation, rng), space, behaviour.noise, rng)
        if action is None:
            raise SimulationError(
                f"the behaviour policy gave no action of the environment in episode {episode}, step {step - 1}."
            )
        observations.append(np.asarray(observation, np.float32))
        try:
            observation, reward, terminated, truncated, _ = simulator.step(action)
        except Exception as error:  # a simulator raises what its authors liked
            raise SimulationError(
                f"the environment raised {type(error).__name__} in episode {episode}, step {step - 1}: {error}"
            ) from error
        actions.append(action)
        rewards.append(reward)
        terminations.append(bool(terminated))
        truncations.append(bool(truncated) or (step == episode_limit(simulator) and not terminated))
        if terminations[-1] or truncations[-1]:
            break
    return observations, actions, rewards, terminations, truncations


def _executed(action: Any, space: Box | Discrete, noise: float, rng: np.random.Generator) -> Any:
    """What the environment is given of a policy's action, None where it cannot be."""
    if isinstance(space, Discrete):
        return int(action) if action in range(space.start, space.start + space.n) else None
    low, high = space
    action = np.asarray(action, np.float32)
    if noise:
        action = action + noise * (high - low) / 2 * rng.standard_normal(low.shape)
    action = np.clip(action, low, high).astype(np.float32)
    return action if np.isfinite(action).all() else None
