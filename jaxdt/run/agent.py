"""A trained policy to act with, outside our own evaluation."""

import contextlib
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxdt.checkpoint import (
    Which,
    damaged_checkpoints,
    find_checkpoint,
    load_checkpoint,
    set_damaged_aside,
    stored_shapes,
)
from jaxdt.config import Context, ModelConfig
from jaxdt.errors import JaxdtError
from jaxdt.evaluation.context import lower_return_to_go, make_turn, to_action_space, window_policy
from jaxdt.models import Apply, Params, build_model, cached_policy
from jaxdt.run.directory import RunDirectory, environment_of_record, read_record
from jaxdt.run.lock import sole_process
from jaxdt.types import Interface, Policy, Window


class Agent:
    """Acts in one episode at a time, asked for a target return.

    ```python
    agent = jaxdt.Agent.load("runs/cheetah")
    agent.reset(target_return=6000.0)
    action = agent.act(observation)            # the first step
    action = agent.act(observation, reward)    # reward: what the previous action earned
    ```
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        interface: Interface,
        *,
        env_id: str | None = None,
        targets: tuple[float, ...] = (),
        context: Context = "exact",
    ):
        self.config = config
        """The model's shape."""
        self.params = params
        """Weights, for `build_model(config)`'s `apply`."""
        self.interface = interface
        self.env_id = env_id
        self.targets = targets
        """Target returns the run was evaluated at."""
        self.apply: Apply
        _, self.apply = build_model(config)
        self._advance = jax.jit(self._advance_one_step)
        self.context: Context = context
        """How it reads its context: every window anew, or from keys and values it keeps."""
        self._policy = make_policy(config, self.apply, interface, context)
        self.players: list[Any] = []
        """The one that `evaluate` keeps, with what it compiled."""
        self._memory: Any = None
        self._return_to_go: Any = None
        self._timestep = -1

    @classmethod
    def load(
        cls, run_dir: str | os.PathLike[str], checkpoint: Which = "latest", *, context: Context = "exact"
    ) -> "Agent":
        """The agent of a run directory; raises JaxdtError when it holds no run or no such checkpoint.

        `context`: `cached` computes three tokens an action instead of three for every step of the context, and is
        slightly another policy once an episode is longer than the context.
        """
        run = RunDirectory(run_dir)
        record = read_record(run)
        damaged = damaged_checkpoints(run.checkpoints)
        if damaged:
            with contextlib.suppress(JaxdtError, OSError), sole_process(run.path):  # not of a live or read-only run
                set_damaged_aside(run.checkpoints)
        step = find_checkpoint(run.checkpoints, checkpoint, damaged=damaged)
        _check_depth(record.model, stored_shapes(run.checkpoints, step, "params"), run)
        init, _ = build_model(record.model)
        shapes = jax.eval_shape(init, jax.random.key(0))
        params = load_checkpoint(run.checkpoints, step, params=shapes)["params"]
        if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(params)):
            raise JaxdtError(f"checkpoint {run.checkpoints / str(step)} has weights that are not finite; use another.")
        return cls(
            record.model,
            params,
            record.interface,
            env_id=environment_of_record(record),
            targets=record.config.targets or (),
            context=context,
        )

    @property
    def state_mean(self) -> Float[np.ndarray, "*s"]:
        return self.interface.state_mean

    @property
    def state_std(self) -> Float[np.ndarray, "*s"]:
        """Standard deviation + 1e-6 of the training observations."""
        return self.interface.state_std

    @property
    def return_scale(self) -> float:
        return self.interface.return_scale

    def reset(self, target_return: float) -> None:
        """Begins an episode that should reach `target_return`, in the environment's reward units."""
        if not np.isfinite(target_return):
            raise JaxdtError(f"target_return must be finite; got {target_return}.")
        self._memory = self._policy.start(1)
        self._return_to_go = jnp.full((1,), target_return, jnp.float32)
        self._timestep = -1

    def act(self, observation: Any, reward: float = 0.0) -> Float[np.ndarray, " a"]:
        """The next action, in the environment's action space.

        `observation` (s,) is the newest one and `reward` what the previous action earned; at the first step
        of an episode the reward is not used. Raises JaxdtError before `reset`, for an observation of another
        shape, and for numbers that are not finite.
        """
        if self._memory is None:
            raise JaxdtError("the agent has no target yet; call agent.reset(target_return=...) first.")
        observation = np.asarray(observation, np.float32)
        if observation.shape != self.interface.state_mean.shape:
            raise JaxdtError(
                f"the observation must have shape {self.interface.state_mean.shape}; got {observation.shape}."
            )
        if not (np.isfinite(observation).all() and np.isfinite(reward)):
            raise JaxdtError("the observation and the reward must be finite.")
        self._timestep += 1
        earned = np.array([reward if self._timestep else 0.0], np.float32)
        timestep = np.int32(min(self._timestep, self.config.max_episode_length - 1))
        self._memory, self._return_to_go, action = self._advance(
            self.params, self._memory, self._return_to_go, observation[None], earned, timestep
        )
        if not np.isfinite(action := np.asarray(action)[0]).all():
            raise JaxdtError("the action is not finite: the weights overflow at this observation; train them again.")
        return action

    def _advance_one_step(
        self,
        params: PyTree,
        memory: PyTree,
        return_to_go: Float[Array, " b"],
        observation: Float[Array, "b *s"],
        reward: Float[Array, " b"],
        timestep: Int[Array, ""],
    ) -> tuple[PyTree, Float[Array, " b"], Float[Array, "b a"]]:
        return_to_go = lower_return_to_go(return_to_go, reward, self.interface)
        turn = make_turn(observation, return_to_go, timestep, self.interface)
        memory, action = self._policy.act(params, memory, turn)
        return memory, return_to_go, to_action_space(action, self.interface)


def _check_depth(config: ModelConfig, stored: dict[str, tuple], run: RunDirectory) -> None:
    """Before the model is built, which takes minutes if a damaged config asks for many layers."""
    layers = len({name.split("/")[1] for name in stored if name.startswith("blocks/")})
    if layers != config.num_layers:
        raise JaxdtError(f"{run.config} is damaged: num_layers is {config.num_layers}; the checkpoint has {layers}.")


def make_policy(config: ModelConfig, apply: Apply, interface: Interface, context: Context = "exact") -> Policy:
    """How the model acts: from its whole window at each step, or from keys and values it keeps."""
    if context == "cached":
        return cached_policy(config)
    assert config.action_dim is not None

    def answer(params: Params, window: Window) -> Float[Array, "b a"]:
        return apply(params, window, newest_only=True)[:, 0]

    return window_policy(answer, config.context_length, interface.state_mean.shape, config.action_dim)
