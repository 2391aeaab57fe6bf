"""Evaluating a trained policy, and rendering what it does."""

import contextlib
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdt.checkpoint import Which
from jaxdt.config import Context, ModelConfig
from jaxdt.data.d4rl import normalized_score, reference_name
from jaxdt.errors import JaxdtError, SimulationError
from jaxdt.evaluation.context import policy_of_seeds
from jaxdt.evaluation.environments import GymnasiumEnvironment, JaxEnvironment, VectorizedEnvironment
from jaxdt.evaluation.rollout import TROUBLES, Played, make_rollout
from jaxdt.evaluation.video import render_episode
from jaxdt.models import Apply, Params
from jaxdt.progress import Progress
from jaxdt.run.agent import Agent, make_policy
from jaxdt.types import Evaluation, Interface


class Player:
    """Plays batches of episodes; compiles once for each number of episodes.

    `training_seeds`: of the models that play side by side, whose params are stacked; (): one model, not stacked.
    `progress` may be replaced at any time.
    """

    def __init__(
        self,
        config: ModelConfig,
        apply: Apply,
        interface: Interface,
        environment: str | JaxEnvironment,
        *,
        context: Context = "exact",
        record: bool = False,
        training_seeds: Sequence[int] = (),
        progress: Progress | None = None,
    ):
        self._training_seeds = training_seeds
        self._env_id = environment if isinstance(environment, str) else None
        self._name = environment if isinstance(environment, str) else type(environment).__name__
        self.progress = progress or Progress()
        if isinstance(environment, str):
            self._environment = GymnasiumEnvironment(environment, on_step=lambda step: self.progress.advance(step))
        else:
            self._environment = VectorizedEnvironment(environment)
        _check_sizes(self._environment, config, environment)
        policy = make_policy(config, apply, interface, context)
        self._rollout = make_rollout(
            policy_of_seeds(policy, len(training_seeds)) if training_seeds else policy,
            self._environment,
            interface,
            max_episode_length=config.max_episode_length,
            record=record,
        )

    def play(self, params: Params, targets: Sequence[float], episodes: int, seed: int) -> Played:
        """Every target's `episodes` in one batch, target by target; episode `j` starts from `seed + j`.

        Of several models all targets of the first come first, from the same environment seeds. Raises
        SimulationError naming the first step at which an episode could not go on.
        """
        models = len(self._training_seeds) or 1
        seeds = np.tile(np.arange(seed, seed + episodes, dtype=np.int32), models * len(targets))
        asked = np.tile(np.repeat(np.asarray(targets, np.float32), episodes), models)

        def name(i: int) -> str:
            trained = f"seed {self._training_seeds[i * models // len(asked)]}, " if self._training_seeds else ""
            return f"{trained}target {asked[i]:g}, episode {i % episodes}"

        batch = f"{f'{models} seeds x ' if models > 1 else ''}{len(targets)} targets x {episodes} episodes"
        self.progress.start(f"evaluate {batch}", self._environment.max_episode_steps, "step")
        try:
            played = jax.block_until_ready(self._rollout(params, jnp.asarray(seeds), jnp.asarray(asked)))
        except jax.errors.JaxRuntimeError as error:  # a callback in the environment raised, or memory ran out
            lines = str(error).splitlines() or [""]
            reason = lines[-1] if "Traceback" in str(error) else lines[0]
            raise SimulationError(f"{self._name} could not be played: {reason}") from error
        finally:
            self.progress.stop()
        if isinstance(self._environment, GymnasiumEnvironment):
            self._environment.raise_failure(name)
        failed = np.flatnonzero(played.troubles)
        if len(failed):
            last = np.maximum(np.asarray(played.lengths)[failed] - 1, 0)
            i, step = int(failed[np.argmin(last)]), last.min()
            raise SimulationError(f"{self._name}, {name(i)}, step {step}: {TROUBLES[played.troubles[i]]}.")
        return played

    def evaluate(self, params: Params, targets: Sequence[float], episodes: int, seed: int) -> list[Evaluation]:
        """One Evaluation a target, in the order given."""
        return self.evaluate_each(params, targets, episodes, seed)[0]

    def evaluate_each(
        self, params: Params, targets: Sequence[float], episodes: int, seed: int
    ) -> list[list[Evaluation]]:
        """Of each model one Evaluation a target, in the order given."""
        played = self.play(params, targets, episodes, seed)
        returns = np.asarray(played.returns, np.float64).reshape(-1, len(targets), episodes)
        lengths = np.asarray(played.lengths).reshape(-1, len(targets), episodes)
        return [
            [
                Evaluation(
                    target=float(target),
                    returns=of_model[i],
                    lengths=steps[i],
                    normalized=normalized_score(self._env_id, of_model[i]),
                    reference=reference_name(self._env_id),
                )
                for i, target in enumerate(targets)
            ]
            for of_model, steps in zip(returns, lengths, strict=True)
        ]

    def close(self) -> None:
        if isinstance(self._environment, GymnasiumEnvironment):
            self._environment.close()


def evaluate(
    run: str | os.PathLike[str] | Agent,
    env: str | JaxEnvironment | None = None,
    targets: Sequence[float] | None = None,
    episodes: int = 10,
    seed: int = 0,
    *,
    checkpoint: Which = "latest",
    context: Context | None = None,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Plays `episodes` episodes at each target return, all side by side, and reports every target.

    - `run`: a run directory or an Agent. `env`: a Gymnasium id or a JaxEnvironment; default: the run's.
    - `targets`: in the environment's reward units; default: the run's.
    - `context`: `exact` reads every window anew; `cached` computes each token once, many times faster, and is slightly
      another policy once an episode is longer than the context; default: the Agent's, `exact` for a run directory.
    - Episode `j` of every target starts from environment seed `seed + j`, so the same call gives the same result.

    An Agent keeps what was compiled for it last: called again with the same Gymnasium id and context, and as many
    targets and episodes, nothing is compiled anew. Raises JaxdtError for input that does not fit, SimulationError when
    an episode cannot go on.
    """
    agent = run if isinstance(run, Agent) else Agent.load(run, checkpoint)
    environment, targets = _choose(agent, env, targets, episodes, seed)
    context = context or agent.context
    kept = _take_player(agent, environment, context)
    player = kept.player
    player.progress = progress or Progress()
    try:
        return player.evaluate(agent.params, targets, episodes, seed)
    finally:
        player.close()
        player.progress = Progress()
        if isinstance(environment, str):
            agent.players[:] = [kept]


def render_videos(
    agent: Agent,
    directory: Path,
    env: str | None = None,
    targets: Sequence[float] | None = None,
    seed: int = 0,
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """One `.mp4` a target: the episode that starts from `seed`, played and then replayed before a camera.

    Raises JaxdtError naming what to install when the machine cannot render or encode.
    """
    environment, targets = _choose(agent, env, targets, 1, seed)
    if not isinstance(environment, str):
        raise JaxdtError("videos are rendered by Gymnasium; give its environment id.")
    player = Player(
        agent.config,
        agent.apply,
        agent.interface,
        environment,
        context=agent.context,
        record=True,
        progress=progress,
    )
    try:
        played = player.play(agent.params, targets, 1, seed)
    finally:
        player.close()
    assert played.trajectory is not None
    actions, lengths = np.asarray(played.trajectory.actions), np.asarray(played.lengths)
    paths = video_paths(directory, targets)
    for i, path in enumerate(paths):
        render_episode(path, environment, seed, actions[: lengths[i], i], progress=progress)
    return paths


def video_paths(directory: Path, targets: Sequence[float]) -> list[Path]:
    """Where the video of each target is."""
    return [directory / f"target-{target:.12g}.mp4" for target in targets]


class _Kept(NamedTuple):
    asked: tuple[Any, ...]
    """Environment and context, which must be equal for the player to fit."""
    made_of: tuple[Any, ...]
    """What it was compiled from, which must be the same objects."""
    player: Player


def _take_player(agent: Agent, environment: str | JaxEnvironment, context: Context) -> _Kept:
    """The one that this agent keeps, if it fits; while it is in use another thread makes its own.

    None is kept for a JaxEnvironment, whose attributes may have changed since it was compiled.
    """
    asked = (environment, context)
    made_of = (agent.config, agent.apply, agent.interface, _registered(environment))
    with contextlib.suppress(IndexError):
        kept = agent.players.pop()
        if asked == kept.asked and all(map(operator.is_, made_of, kept.made_of)):
            return kept
    return _Kept(asked, made_of, Player(agent.config, agent.apply, agent.interface, environment, context=context))


def _registered(environment: str | JaxEnvironment) -> Any:
    """What Gymnasium makes of an id; registering it again gives another one."""
    if not isinstance(environment, str):
        return None
    import gymnasium

    return gymnasium.registry.get(environment)


def _choose(
    agent: Agent, env: str | JaxEnvironment | None, targets: Sequence[float] | None, episodes: int, seed: int
) -> tuple[str | JaxEnvironment, Sequence[float]]:
    environment = env if env is not None else agent.env_id
    if environment is None:
        raise JaxdtError(
            "the run names no environment of Gymnasium's own; give one with env= (--env), such as HalfCheetah-v5."
        )
    targets = targets if targets is not None else agent.targets
    if not len(targets):
        raise JaxdtError("the run names no target returns; give them with targets= (--targets).")
    if not np.isfinite(np.asarray(targets, np.float64)).all():
        raise JaxdtError(f"targets must be finite; got {list(targets)}.")
    if episodes < 1:
        raise JaxdtError(f"episodes must be at least 1; got {episodes}.")
    if not 0 <= seed < 2**31 - episodes:
        raise JaxdtError(f"seed must be at least 0 and seed + episodes below 2**31; got {seed}.")
    return environment, targets


def _check_sizes(environment: Any, config: ModelConfig, name: Any) -> None:
    for field, of_model in (("state_dim", config.state_dim), ("action_dim", config.action_dim)):
        of_environment = getattr(environment, field)
        if of_environment != of_model:
            what = "observations" if field == "state_dim" else "actions"
            raise JaxdtError(
                f"the {what} of {name} have {of_environment} numbers, those of the model {of_model}; "
                "choose the environment that the data were recorded in."
            )
