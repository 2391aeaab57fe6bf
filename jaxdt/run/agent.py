"""A trained policy to act with, outside our own evaluation."""

import contextlib
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxdt.algorithms import make_algorithm
from jaxdt.checkpoint import (
    Which,
    damaged_checkpoints,
    find_checkpoint,
    quarantine_damaged,
)
from jaxdt.choice import EnvironmentChoice
from jaxdt.config import AlgorithmConfig, fits_float32, functions_of, numbers, whole, with_acting_options
from jaxdt.errors import JaxdtError, RunError
from jaxdt.evaluation.rollout import keys_of_episodes, keys_of_step
from jaxdt.run.directory import RunDirectory, read_record
from jaxdt.run.environment import choice_of_record, must_be_given_again
from jaxdt.run.lock import sole_process
from jaxdt.run.weights import load_params, wrong_weights
from jaxdt.types import Box, Spec


class Agent:
    """Acts in an episode, or in several side by side, asked for a target return where its algorithm takes one.

    ```python
    agent = jaxdt.Agent.load("runs/cheetah")
    agent.reset(target_return=6000.0)
    action = agent.act(observation)            # the first step
    action = agent.act(observation, reward)    # reward: what the previous action earned

    agent.reset(target_return=6000.0, episodes=8)
    actions = agent.act(observations)          # (8, *s) -> (8, *a)
    actions = agent.act(observations, rewards, begins=ended)    # True: this observation is a new episode's first
    ```

    It can be pickled, for other processes; what comes out has begun no episode, and compiles anew.
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
        self.policy = make_algorithm(config, spec).policy
        self.config = config.for_data(None)
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
        self._act = jax.jit(self._act_once)
        self._act_each = jax.jit(jax.vmap(self._act_apart, in_axes=(None, 0, 0, 0, 0, 0)))
        self._start = jax.jit(jax.vmap(lambda target: self.policy.start(target[None])))
        self._memory: Any = None
        self._several = False

    def __repr__(self) -> str:
        return f"Agent({self.config.summary}; environment {self.env_id or 'not named'}, targets {self.targets})"

    def __getstate__(self) -> dict[str, Any]:
        """What `__init__` takes, weights as NumPy's arrays."""
        for name, value in {**functions_of(self.config), "env": self.environment.env}.items():
            _check_pickles(value, name)
        return {
            "config": self.config,
            "params": jax.tree.map(np.asarray, self.params),
            "spec": self.spec,
            "env_id": self.env_id,
            "targets": self.targets,
            "environment": self.environment,
            "missing_environment": self.missing_environment,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        missing = state["missing_environment"]
        Agent.__init__(self, **{name: value for name, value in state.items() if name != "missing_environment"})
        self.missing_environment = missing

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

    def reset(self, target_return: Any = None, *, seed: int | np.integer = 0, episodes: Any = None) -> None:
        """Begins an episode that should reach `target_return`, in the environment's reward units.

        - `episodes`: begins so many, in which `act` then acts side by side; several targets begin one each.
        - `seed`: of the actions, where they are drawn at random; an episode that `evaluate` starts from this seed alone
          draws the same ones. Of several, episode `i` draws by `seed + i`.

        Raises JaxdtError without a target where the policy takes one, and with one where it takes none.
        """
        targets = self._checked_targets(target_return, None if episodes is None else whole(episodes, "episodes"))
        self._several = episodes is not None or len(targets) > 1
        self._targets = np.array(targets, np.float32)
        self._seeds = seeds_from(whole(seed, "seed"), len(targets))
        self._steps = np.zeros(len(targets), np.int32)
        self._memory = self._start(self._targets) if self._several else self.policy.start(jnp.array(self._targets))

    def act(self, observation: Any, reward: Any = 0.0, *, begins: Any = None) -> np.ndarray | np.integer:
        """The next action, in the environment's action space: a vector, or a whole number where they are discrete.

        - `observation` (*s) is the newest one and `reward` what the previous action earned; at the first step of an
          episode the reward is not used.
        - Of n episodes: observations (n, *s), rewards (n,) or one for all, and actions (n, *a).
        - `begins` (n,): True where an observation is the first of another episode, which is asked for the same target,
          draws by the next seed that no episode has had, and remembers nothing of the one before.

        Raises JaxdtError before `reset`, for observations of another shape, and for numbers that are not finite.
        """
        if any(isinstance(each, Tracer) for each in jax.tree.leaves((observation, reward, begins))):
            raise JaxdtError(
                "act remembers the episode in the agent, so jit, vmap and scan cannot trace it; got a traced array "
                "(use agent.policy there, whose start and act are pure)."
            )
        if self._memory is None:
            raise JaxdtError("no episode has begun; call agent.reset(target_return=...) first.")
        count = len(self._steps)
        earned = np.array(numbers(reward, "reward"), np.float32)
        if len(earned) not in (1, count) or not np.isfinite(earned).all():
            raise JaxdtError(f"the reward must be one finite number an episode, of {count}; got {reward!r:.80}.")
        seen = self._checked_observation(observation)
        begun = self._begin_again(begins)
        earned = np.where(self._steps > 0, earned, 0).astype(np.float32)
        if begun.any():
            self._memory = _restarted(begun, self._start(self._targets), self._memory)
        act = self._act_each if self._several else self._act
        with self.naming_wrong_weights():
            self._memory, actions = act(self.params, self._memory, seen, earned, self._seeds, self._steps)
        self._steps = self._steps + 1  # another array, since jax may still be reading this one
        actions = np.array(actions)  # a copy, which the caller may change
        self._check_actions(actions)
        return actions if self._several else actions[0]

    @contextlib.contextmanager
    def naming_wrong_weights(self) -> Iterator[None]:
        """Raises JaxdtError for what fails where the weights are not those of config and spec."""
        try:
            yield
        except (JaxdtError, RunError):
            raise
        except Exception as error:
            if (wrong := wrong_weights(self.config, self.params, self.spec)) is None:
                raise
            raise JaxdtError(
                f"params must be the weights of {self.config.name} for this config and spec, as "
                f"make_algorithm(config, spec).init(key).params are; {wrong}."
            ) from error

    def _checked_targets(self, target_return: Any, episodes: int | None) -> list[float]:
        if target_return is not None and not self.config.takes_target:
            raise JaxdtError(f"{self.config.name} is asked for no return; leave target_return={target_return} out.")
        if episodes is not None and not 1 <= episodes < 2**20:
            raise JaxdtError(f"episodes must be at least 1 and below 2**20; got {episodes}.")
        targets = [0.0] if not self.config.takes_target else []
        if target_return is not None:
            targets = list(numbers(target_return, "target_return"))
        if not targets or not all(map(fits_float32, targets)):
            raise JaxdtError(f"target_return must be a finite number; got {target_return}.")
        if episodes is not None and len(targets) not in (1, episodes):
            raise JaxdtError(f"target_return must be one, or one for each of {episodes} episodes; got {len(targets)}.")
        return targets * (episodes if episodes is not None and len(targets) == 1 else 1)

    def _checked_observation(self, observation: Any) -> Float[np.ndarray, "n *s"]:
        shape = self.spec.observation_shape
        expected = (len(self._steps), *shape) if self._several else shape
        try:
            seen = np.asarray(observation, np.float32)
        except (TypeError, ValueError) as error:
            raise JaxdtError(
                f"the observation must be an array of numbers of shape {expected}; got {observation!r:.80} (the parts "
                "of a dict follow one another by name)."
            ) from error
        if len(shape) > 1 and self.spec.observation_dtype == "uint8" and np.asarray(observation).dtype == bool:
            seen = seen * 255  # a picture of truth values, as its environment's are kept
        if seen.shape != expected:
            raise JaxdtError(f"the observation must have shape {expected}; got {seen.shape}.")
        if not np.isfinite(seen).all():
            raise JaxdtError("the observation and the reward must be finite.")
        if (
            len(shape) > 1
            and self.spec.observation_dtype == "uint8"
            and not np.array_equal(seen, seen.astype(np.uint8))
        ):
            raise JaxdtError(
                "the observation must be a picture of whole numbers from 0 to 255, as recorded; got numbers from "
                f"{seen.min():g} to {seen.max():g}."
            )
        return seen.reshape(-1, *shape)

    def _begin_again(self, begins: Any) -> Bool[np.ndarray, " n"]:
        """Which of several episodes begin anew at this step, with the seeds that they then draw by."""
        count = len(self._steps)
        if begins is None:
            return np.zeros(count, bool)
        begun = np.asarray(begins)
        if not self._several or begun.shape != (count,) or begun.dtype != bool:
            raise JaxdtError(
                "begins must be a boolean for each of several episodes, which agent.reset(..., episodes=n) begins; got "
                f"{begins!r:.80}."
            )
        begun = begun & (self._steps > 0)  # what has just begun need not begin again
        following = (int(self._seeds.max()) + np.cumsum(begun, dtype=np.int64)) % 2**31
        self._seeds = np.where(begun, following, self._seeds).astype(np.int32)
        self._steps = np.where(begun, 0, self._steps).astype(np.int32)
        return begun

    def _check_actions(self, actions: np.ndarray) -> None:
        space = self.spec.action
        if not (np.isfinite(actions).all() if isinstance(space, Box) else (actions >= space.start).all()):
            raise JaxdtError("the action is not finite: the weights overflow at this observation; train them again.")

    def _act_once(self, params: PyTree, memory: PyTree, observation: Array, reward: Array, seed: Array, step: Array):
        keys = keys_of_episodes(seed)  # of a policy that draws nothing, no part is computed
        return self.policy.act(params, memory, observation, reward, keys_of_step(keys, step[0]))

    def _act_apart(self, params: PyTree, memory: PyTree, *newest: Array):
        """In each of several episodes alone, since they may have begun at different times."""
        memory, action = self._act_once(params, memory, *(values[None] for values in newest))
        return memory, action[0]


def agent_of(run: str | os.PathLike[str] | Agent, checkpoint: Which, **acting: Any) -> Agent:
    """The agent of a run directory, with options for acting, or the one that is given as it is, with what it keeps.

    Raises JaxdtError as `Agent.load` does, and for a checkpoint of one that is given.
    """
    if not isinstance(run, Agent):
        return Agent.load(run, checkpoint, **acting)
    if checkpoint != "latest":
        raise JaxdtError(
            f"an Agent has the weights that it was loaded with; leave checkpoint (got {checkpoint!r:.40}) out, or give "
            "it to Agent.load."
        )
    return run


def _check_pickles(value: Any, name: str) -> None:
    try:
        pickle.dumps(value)
    except Exception as error:  # whatever a user's object raises
        raise JaxdtError(
            f"an agent can be pickled if its {name} can; got {value!r:.80} (define a function or class at a module's "
            "top level, or load the agent in the other process)."
        ) from error


def seeds_from(seed: int, episodes: int) -> Int[np.ndarray, " n"]:
    """Of episodes that count up from the first one's; raises JaxdtError where one would not fit in an int32."""
    if not 0 <= seed <= 2**31 - episodes:
        raise JaxdtError(f"seed must be at least 0 and seed + episodes at most 2**31; got {seed}.")
    return np.arange(seed, seed + episodes, dtype=np.int32)


@jax.jit
def _restarted(begun: Bool[Array, " n"], started: PyTree, memory: PyTree) -> PyTree:
    def choose(new: Array, old: Array) -> Array:
        return jnp.where(begun.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, started, memory)
