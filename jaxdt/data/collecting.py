"""Episodes made by rolling out a behaviour policy in a Gymnasium environment."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from jaxdt import stepping
from jaxdt.choice import DEFAULT_LIMIT, EnvironmentChoice, no_time_limit
from jaxdt.config import whole
from jaxdt.config.checks import as_json_or_none
from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError, SimulationError
from jaxdt.simulator import action_space, episode_limit, make_simulator, registered_id, spec_of, with_version
from jaxdt.types import Box, Discrete


BehaviourPolicy = Callable[[Num[np.ndarray, "*s"], np.random.Generator], Float[np.ndarray, " a"] | int]
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
    seed: int | np.integer = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: Any = None,
    progress: Progress = lambda done, total: None,
) -> EpisodeStore:
    """Rolls out each behaviour in turn; episode `j` of all starts from environment seed `seed + j`.

    - `env_kwargs`: what the environment's constructor is given beside.
    - `max_episode_steps`: after which an episode is cut off; None: the environment's own limit, or where it has none
      1000, with a warning.

    Stores the actions that were executed, after noise and clipping. Raises JaxdtError for an unknown
    environment or fewer than one episode, SimulationError when an episode cannot go on.
    """
    seed = whole(seed, "seed")
    if max_episode_steps is not None:
        max_episode_steps = whole(max_episode_steps, "max_episode_steps")
        if max_episode_steps < 1:
            raise JaxdtError(f"max_episode_steps must be at least 1; got {max_episode_steps}.")
    if seed < 0:
        raise JaxdtError(f"seed must be at least 0; got {seed}.")
    for behaviour in behaviours:
        if behaviour.episodes < 1:
            raise JaxdtError(f"episodes must be at least 1; got {behaviour.episodes}.")
        if not 0 <= behaviour.noise < np.inf:
            raise JaxdtError(f"noise must be at least 0 and finite; got {behaviour.noise}.")
    env_id = with_version(env_id)
    simulator = make_simulator(
        EnvironmentChoice(env=env_id, kwargs=env_kwargs, max_episode_steps=max_episode_steps, parallel=1)
    )
    limit = max_episode_steps or episode_limit(simulator)
    plays = [behaviour for behaviour in behaviours for _ in range(behaviour.episodes)]
    columns: list[list] = [[], [], [], [], []]
    ends, cut_off = [], 0
    try:
        if isinstance(action_space(simulator), Discrete) and any(behaviour.noise for behaviour in behaviours):
            raise JaxdtError(f"noise is for continuous actions and {env_id} has discrete ones; leave it at 0.")
        for episode, behaviour in enumerate(plays):
            recorded, was_cut = _play(simulator, behaviour, seed, episode, limit or DEFAULT_LIMIT)
            cut_off += was_cut
            for column, values in zip(columns, recorded, strict=True):
                column.extend(values)
            ends.append(len(columns[0]))
            progress(episode + 1, len(plays))
    finally:
        simulator.close()
    if cut_off and limit is None:
        warnings.warn(no_time_limit(env_id, cut_off, len(plays), DEFAULT_LIMIT), stacklevel=2)
    limited = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    return EpisodeStore.from_arrays(
        *columns,
        episode_ends=ends,
        env_id=registered_id(env_id),
        env_kwargs=as_json_or_none({**(env_kwargs or {}), **limited}, "env_kwargs"),
        source=f"episodes of {env_id}",
    )


def random_policy(space: Box | Discrete) -> BehaviourPolicy:
    """Actions uniform over the action space."""
    if isinstance(space, Discrete):
        return lambda observation, rng: int(rng.integers(space.start, space.start + space.n))
    return lambda observation, rng: rng.uniform(space.low, space.high)


def _play(simulator: Any, behaviour: Behaviour, seed: int, episode: int, limit: int) -> tuple[tuple[list, ...], bool]:
    """The columns, and whether the episode was cut off at the limit."""
    space, dtype = action_space(simulator), spec_of(simulator).observation_dtype
    # The generator of actions is apart from the environment's, which is seeded with the same number.
    rng = np.random.default_rng([seed + episode, 1])
    observations, actions, rewards, terminations, truncations = [], [], [], [], []
    terminated = truncated = False
    with _blaming(episode, 0):
        observation = stepping.reset(simulator, seed + episode)
    for step in range(1, limit + 1):
        action = _executed(behaviour.policy(observation, rng), space, behaviour.noise, rng)
        if action is None:
            raise SimulationError(
                f"the behaviour policy gave no action of the environment in episode {episode}, step {step - 1}."
            )
        # Copies: an environment may write into its own array and into the one that it is given.
        observations.append(np.array(observation, dtype))
        actions.append(np.array(action) if isinstance(space, Box) else action)
        with _blaming(episode, step - 1):
            observation, reward, terminated, truncated = stepping.step(simulator, action)
        rewards.append(reward)
        terminations.append(terminated)
        truncations.append(truncated)
        if terminated or truncated:
            break
    else:
        truncations[-1] = True
    was_cut = not (terminated or truncated)
    return (observations, actions, rewards, terminations, truncations), was_cut


@contextlib.contextmanager
def _blaming(episode: int, step: int) -> Iterator[None]:
    try:
        yield
    except stepping.BadStep as error:
        raise SimulationError(f"the environment cannot be played: {error} (episode {episode}, step {step}).") from error
    except (Exception, SystemExit) as error:  # a simulator raises what its authors liked
        raise SimulationError(
            f"the environment raised {type(error).__name__} in episode {episode}, step {step}: {error}"
        ) from error


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
