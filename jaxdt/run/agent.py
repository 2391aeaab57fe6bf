"""A trained policy to act with, outside our own evaluation."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxdt.algorithms import make_algorithm
from jaxdt.checkpoint import (
    Which,
    damaged_checkpoints,
    find_checkpoint,
    load_checkpoint,
    quarantine_damaged,
    stored_shapes,
)
from jaxdt.choice import EnvironmentChoice
from jaxdt.config import AlgorithmConfig, fits_float32, flatten, number, whole
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.rollout import keys_of_episodes, keys_of_step
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.environment import choice_of_record, must_be_given_again
from jaxdt.run.lock import sole_process
from jaxdt.types import Box, Spec


class Agent:
    """Acts in one episode at a time, asked for a target return where its algorithm takes one.

    ```python
    agent = jaxdt.Agent.load("runs/cheetah")
    agent.reset(target_return=6000.0)
    action = agent.act(observation)            # the first step
    action = agent.act(observation, reward)    # reward: what the previous action earned
    ```
    """

    def __init__(
        self,
        config: AlgorithmConfig,
        params: PyTree,
        spec: Spec,
        *,
        env_id: str | None = None,
        targets: Sequence[float | None] | None = None,
        environment: EnvironmentChoice | None = None,
    ):
        self.config = config
        """Of the algorithm; `acting_with` gives an agent with other acting options."""
        self.params = params
        self.spec = spec
        self.env_id = env_id
        self.environment = environment or EnvironmentChoice(env=env_id)
        """What `evaluate` plays in where it is given no other."""
        self.missing_environment = must_be_given_again(env_id, None) if env_id is None else None
        """Why it cannot, for people; None where it can."""
        self.targets: tuple[float | None, ...] = tuple(targets or ()) if config.takes_target else (None,)
        """Target returns the run was evaluated at; (None,) where the policy is asked for none."""
        self.kept_evaluators: list[Any] = []
        """The one that `evaluate` keeps, with what it compiled."""
        self.policy = make_algorithm(config, spec).policy
        self._act = jax.jit(self._act_once)
        self._memory: Any = None
        self._seed, self._steps = 0, 0

    def __repr__(self) -> str:
        return f"Agent({self.config.summary}; environment {self.env_id or 'not named'}, targets {self.targets})"

    @classmethod
    def load(cls, run_dir: str | os.PathLike[str], checkpoint: Which = "latest", **acting: Any) -> "Agent":
        """The agent of a run directory; raises JaxdtError when it holds no run or no such checkpoint.

        `acting`: options of its algorithm for acting, such as `context="cached"`, `sampling="sample"` or
        `temperature=0.5`; default: the run's.
        """
        run = RunDirectory(run_dir)
        record = read_record(run)
        damaged = damaged_checkpoints(run.checkpoints)
        if damaged:
            with contextlib.suppress(JaxdtError, OSError), sole_process(run.path):  # not of a live or read-only run
                quarantine_damaged(run.checkpoints)
        step = find_checkpoint(run.checkpoints, checkpoint, damaged=damaged)
        config = with_acting_options(record.config.algorithm, **acting)
        config.check_spec(record.spec)
        params = load_params(run, step, config, record.spec)
        missing = must_be_given_again(record.config.env, record.config.env_kwargs)
        agent = cls(
            config,
            params,
            record.spec,
            env_id=record.env_id if missing is None else None,
            targets=record.config.evaluation_targets,
            environment=choice_of_record(record),
        )
        agent.missing_environment = missing
        return agent

    def acting_with(self, **options: Any) -> "Agent":
        """An agent of the same weights with other acting options; itself where they are what it has."""
        config = with_acting_options(self.config, **options)
        if config == self.config:
            return self
        environment = self.environment
        agent = Agent(config, self.params, self.spec, env_id=self.env_id, targets=self.targets, environment=environment)
        agent.missing_environment = self.missing_environment
        return agent

    def reset(self, target_return: Any = None, *, seed: int | np.integer = 0) -> None:
        """Begins an episode that should reach `target_return`, in the environment's reward units.

        `seed`: of the actions, where they are drawn at random; an episode that `evaluate` starts from this seed alone
        draws the same ones. Raises JaxdtError without a target where the policy takes one, and with one where it takes
        none.
        """
        if target_return is not None:
            target_return = number(target_return, "target_return")
        if self.config.takes_target and (target_return is None or not fits_float32(target_return)):
            raise JaxdtError(f"target_return must be a finite number; got {target_return}.")
        if not self.config.takes_target and target_return is not None:
            raise JaxdtError(f"{self.config.name} is asked for no return; leave target_return={target_return} out.")
        self._memory = self.policy.start(jnp.full((1,), target_return or 0.0, jnp.float32))
        self._seed, self._steps = whole(seed, "seed"), 0

    def act(self, observation: Any, reward: Any = 0.0) -> Float[np.ndarray, " a"] | np.integer:
        """The next action, in the environment's action space: a vector, or a whole number where they are discrete.

        `observation` (*s) is the newest one and `reward` what the previous action earned; at the first step
        of an episode the reward is not used. Raises JaxdtError before `reset`, for an observation of another
        shape, and for numbers that are not finite.
        """
        if self._memory is None:
            raise JaxdtError("no episode has begun; call agent.reset(target_return=...) first.")
        reward = number(reward, "reward")
        try:
            observation = np.asarray(observation, np.float32)
        except (TypeError, ValueError) as error:
            raise JaxdtError(
                f"the observation must be an array of numbers of shape {self.spec.observation_shape}; got "
                f"{observation!r:.80} (the parts of a dict follow one another by name)."
            ) from error
        if observation.shape != self.spec.observation_shape:
            raise JaxdtError(f"the observation must have shape {self.spec.observation_shape}; got {observation.shape}.")
        if not (np.isfinite(observation).all() and np.isfinite(reward)):
            raise JaxdtError("the observation and the reward must be finite.")
        earned = np.array([reward if self._steps else 0.0], np.float32)
        place = np.array([self._seed, self._steps], np.int32)
        self._memory, actions = self._act(self.params, self._memory, observation[None], earned, place)
        self._steps += 1
        action, space = np.array(actions)[0], self.spec.action  # a copy, which the caller may change
        if not (np.isfinite(action).all() if isinstance(space, Box) else action >= space.start):
            raise JaxdtError("the action is not finite: the weights overflow at this observation; train them again.")
        return action

    def _act_once(self, params: PyTree, memory: PyTree, observation: Array, reward: Array, place: Array):
        seed, step = place
        keys = keys_of_episodes(seed[None])  # of a policy that draws nothing, no part is computed
        return self.policy.act(params, memory, observation, reward, keys_of_step(keys, step))


def with_acting_options(config: AlgorithmConfig, **options: Any) -> AlgorithmConfig:
    """The config with the options that are not None; raises JaxdtError for one that its algorithm does not have."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in config.acting_options:
            raise JaxdtError(
                f"{config.name} has no acting option {name}; it has {', '.join(config.acting_options) or 'none'}."
            )
    chosen = dataclasses.replace(config, **given)
    if "temperature" in given and not chosen.draws_actions:
        raise JaxdtError(
            f"temperature={given['temperature']} changes nothing with sampling='greedy'; add sampling='sample', or "
            "leave it out."
        )
    return chosen


def load_params(run: RunDirectory, step: int, config: AlgorithmConfig, spec: Spec) -> PyTree:
    """The weights of a checkpoint; raises JaxdtError where they do not fit the config or are not finite."""
    stored = stored_shapes(run.checkpoints, step, "params")
    layers = max((v for name, v in flatten(config).items() if name.endswith("num_layers")), default=0)
    if layers > len(stored):  # building so many would take minutes
        raise JaxdtError(f"{run.config} is damaged: num_layers is {layers}; the checkpoint has {len(stored)} arrays.")
    try:
        algorithm = make_algorithm(config, spec)
    except JaxdtError as error:
        raise JaxdtError(f"{run.config} is damaged: {error}") from error
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0)).params
    params = load_checkpoint(run.checkpoints, step, params=shapes)["params"]
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(params)):
        raise JaxdtError(f"checkpoint {run.checkpoints / str(step)} has weights that are not finite; use another.")
    return params
