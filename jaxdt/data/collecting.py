"""Episodes made by rolling out a behaviour policy in a Gymnasium environment."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num, Shaped

from jaxdt import stepping
from jaxdt.choice import DEFAULT_LIMIT, EnvironmentChoice, no_time_limit
from jaxdt.config import whole
from jaxdt.config.checks import as_json_or_none
from jaxdt.data.episodes import EpisodeStore
from jaxdt.errors import JaxdtError, SimulationError
from jaxdt.pools import EpisodeError, Pool, make_pool
from jaxdt.simulator import episode_limit, make_simulator, registered_id, spec_of, with_version
from jaxdt.types import Box, Discrete, Spec


BehaviourPolicy = Callable[[Shaped[np.ndarray, "*s"], np.random.Generator], Float[np.ndarray, " a"] | int]
"""`(observation, rng) -> action`, in the environment's own units: a vector, which collecting clips to the action space,
or where actions are discrete one of its numbers. Where simulators are stepped together (games of ALE, tasks on MuJoCo's
threads) it acts in several episodes of its behaviour in turn: one that remembers something needs a Behaviour of one
episode."""

_TOGETHER = 16
"""Episodes that are played side by side where simulators are stepped together: HalfCheetah's steps are as fast as with
64, and progress is told four times as often."""

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
    if not behaviours:
        raise JaxdtError("behaviours must be at least one; got none.")
    if not 0 <= seed < 2**62:
        raise JaxdtError(f"seed must be at least 0 and below 2^62; got {seed}.")
    for behaviour in behaviours:
        if behaviour.episodes < 1:
            raise JaxdtError(f"episodes must be at least 1; got {behaviour.episodes}.")
        if not 0 <= behaviour.noise < np.inf:
            raise JaxdtError(f"noise must be at least 0 and finite; got {behaviour.noise}.")
    env_id = with_version(env_id)
    choice = EnvironmentChoice(env=env_id, kwargs=env_kwargs, max_episode_steps=max_episode_steps, parallel=1)
    recorded, is_limited = _record(choice, behaviours, seed, progress)
    if recorded.cut_off and not is_limited:
        warnings.warn(no_time_limit(env_id, recorded.cut_off, len(recorded.lengths), DEFAULT_LIMIT), stacklevel=2)
    return EpisodeStore.from_arrays(
        *recorded.columns,
        episode_ends=np.cumsum(recorded.lengths),
        env_id=registered_id(env_id),
        env_kwargs=as_json_or_none(choice.made_with, "env_kwargs"),
        source=f"episodes of {env_id}",
    )


def random_policy(space: Box | Discrete) -> BehaviourPolicy:
    """Actions uniform over the action space."""
    if isinstance(space, Discrete):
        return lambda observation, rng: int(rng.integers(space.start, space.start + space.n))
    return lambda observation, rng: rng.uniform(space.low, space.high)


class _Player(NamedTuple):
    """Who plays one episode."""

    behaviour: Behaviour
    episode: int
    seed: int
    """The environment's."""
    rng: np.random.Generator

    def act(self, observation: Shaped[np.ndarray, "*s"], space: Box | Discrete) -> Any:
        """Not clipped yet; a discrete action is None where there is no such one."""
        action: Any = self.behaviour.policy(observation, self.rng)
        if isinstance(space, Discrete):
            return int(action) if action in range(space.start, space.start + space.n) else None
        action, noise = np.asarray(action, np.float32), self.behaviour.noise
        if noise:
            action = action + noise * (space.high - space.low) / 2 * self.rng.standard_normal(space.low.shape)
        return action


class _Recorded(NamedTuple):
    """Episodes one after the other."""

    columns: list[np.ndarray]
    """Observations, actions, rewards, terminations and truncations, each with a row a step."""
    lengths: Int[np.ndarray, " b"]
    cut_off: int
    """Episodes that were over at the limit, and not for the environment."""


def _record(
    choice: EnvironmentChoice, behaviours: Sequence[Behaviour], seed: int, progress: Progress
) -> tuple[_Recorded, bool]:
    """All episodes, and whether anybody named a limit of their steps."""
    opened: Any = make_simulator(choice)
    try:
        limit = choice.max_episode_steps or episode_limit(opened)
        spec = spec_of(opened)
        if isinstance(spec.action, Discrete) and any(behaviour.noise for behaviour in behaviours):
            raise JaxdtError(f"noise is for continuous actions and {choice.env} has discrete ones; leave it at 0.")
        # The environment's own, whatever its space says: a policy sees what it would see alone.
        try:
            seen = np.array(stepping.reset(opened, seed))
        except (Exception, SystemExit) as error:  # a simulator raises what its authors liked
            raise _failure(EpisodeError(0, error), error, 0, 0) from error
        opened = pool = make_pool(choice, opened)
        plays = [behaviour for behaviour in behaviours for _ in range(behaviour.episodes)]
        # Generators of actions are apart from the environment's, which are seeded with the same numbers.
        players = [_Player(plays[j], j, seed + j, np.random.default_rng([seed + j, 1])) for j in range(len(plays))]
        parts: list[_Recorded] = []
        done = 0

        def ended(episodes: int) -> None:
            nonlocal done
            for _ in range(episodes):
                done += 1
                progress(done, len(players))

        at_once = _TOGETHER if pool.together else 1
        for first in range(0, len(players), at_once):
            some = players[first : first + at_once]
            parts.append(_play(pool, some, spec, seen, limit or DEFAULT_LIMIT, ended))
    finally:
        opened.close()
    columns = [np.concatenate(column) for column in zip(*(part.columns for part in parts), strict=True)]
    lengths, cut_off = np.concatenate([part.lengths for part in parts]), sum(part.cut_off for part in parts)
    return _Recorded(columns, lengths, cut_off), limit is not None


def _play(
    pool: Pool,
    players: list[_Player],
    spec: Spec,
    seen: Shaped[np.ndarray, "*s"],
    limit: int,
    on_end: Callable[[int], None],
) -> _Recorded:
    """Plays their episodes side by side.

    - `seen`: an observation of the environment's own type; `spec` has the one in which observations are recorded.
    - `on_end(episodes)`: is told when so many more are over.
    """
    count = len(players)
    observations, rewards, ended = np.stack([seen] * count), np.zeros(count), np.zeros((2, count), bool)
    if is_whole := seen.dtype.kind in "biu" and np.dtype(spec.observation_dtype).kind == "f":
        observations = observations.astype(np.float64)  # perhaps only the first is of whole numbers
    actions = np.zeros((count, *spec.action_shape), spec.action_dtype)
    alive, acting, steps = np.arange(count), players, []
    try:
        pool.reset(np.array([player.seed for player in players]), observations)
        while acting and len(steps) < limit:
            before = observations[alive]
            is_whole = is_whole and np.array_equal(before, np.trunc(before))
            told = before.astype(seen.dtype) if is_whole else before
            actions[alive] = _chosen(acting, told, spec.action, len(steps))
            pool.step(alive, actions.copy(), observations, rewards, ended)  # which an environment may write into
            flags = ended[:, alive]
            steps.append(
                (alive, before.astype(spec.observation_dtype, copy=False), actions[alive], rewards[alive], *flags)
            )
            if flags.any():
                alive = alive[~flags.any(axis=0)]
                on_end(len(acting) - len(alive))
                acting = [players[i] for i in alive.tolist()]
    except EpisodeError as error:
        raise _failure(error, error.__cause__, players[error.episode].episode, len(steps)) from error
    if acting:
        *_, terminated, truncated = steps[-1]
        truncated |= ~terminated
        on_end(len(acting))
    owners, *columns = (np.concatenate(column) for column in zip(*steps, strict=True))
    order = np.argsort(owners, kind="stable")  # episode after episode
    return _Recorded([column[order] for column in columns], np.bincount(owners, minlength=count), len(acting))


def _failure(error: EpisodeError, cause: BaseException | None, episode: int, step: int) -> SimulationError:
    said = "the environment cannot be played: " if isinstance(cause, stepping.BadStep) else ""
    return SimulationError(f"{said}{error} (episode {episode}, step {step}).")


def _chosen(
    players: list[_Player], observations: Shaped[np.ndarray, "b *s"], space: Box | Discrete, step: int
) -> Num[np.ndarray, "b *a"]:
    """What the environment is given; raises SimulationError where a policy gave nothing of the kind."""
    wanted = [player.act(observation, space) for player, observation in zip(players, observations, strict=True)]
    if isinstance(space, Discrete):
        bad, actions = [action is None for action in wanted], np.array(wanted)
    else:
        rows = np.zeros((len(wanted), *space.low.shape))
        for i, action in enumerate(wanted):
            rows[i] = action
        actions = np.clip(rows, space.low, space.high).astype(np.float32)
        bad = [not np.isfinite(action).all() for action in actions]
    if any(bad):
        raise SimulationError(
            f"the behaviour policy gave no action of the environment in episode {players[bad.index(True)].episode}, "
            f"step {step}."
        )
    return actions
