"""The Trajectory Transformer's policy: it plans, and does the first that it has planned."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, PyTree

from jaxdt.algorithms.beam_search import Draws, Past, Plan, append, make_planner
from jaxdt.algorithms.normalization import to_environment
from jaxdt.algorithms.tokens import decode, encode
from jaxdt.config import TrajectoryTransformerConfig
from jaxdt.config.trajectory_transformer import num_action_tokens, row_size
from jaxdt.errors import JaxdtError
from jaxdt.models import TrajectoryModel
from jaxdt.types import Box, Policy, Spec


class Memory(NamedTuple):
    """What has happened, as tokens, and what is planned."""

    window: Int[Array, "b c row"]
    """The last whole transitions, from the left on; a value's token may be any, since nothing attends to it."""
    steps: Int[Array, ""]
    """Of the episodes, which began together."""
    observation: Int[Array, "b observation"]
    """The last one."""
    plan: Int[Array, "b h row"]
    """The last one: its transitions, the first of which has the real observation."""
    worth: Float[Array, " b"]
    """Of the last plan; not finite where the weights overflow."""


def make_policy(config: TrajectoryTransformerConfig, spec: Spec, model: TrajectoryModel) -> Policy:
    """Plans at every `plan_every`-th step; what an episode's plan draws depends on its own key alone."""
    choices = None if isinstance(spec.action, Box) else spec.action.n
    plan = make_planner(config, model, jnp.asarray(spec.constants["edges"]), num_action_tokens(spec), choices=choices)
    policy = PlanningPolicy(config, spec, plan)
    return Policy(policy.start, policy.act, policy.expect)


class PlanningPolicy:
    """What is remembered and done, whoever plans."""

    def __init__(
        self, config: TrajectoryTransformerConfig, spec: Spec, plan: Callable[[PyTree[Array], Past, Draws], Plan]
    ):
        assert config.horizon
        edges = jnp.asarray(spec.constants["edges"])
        self.config, self.spec, self.horizon = config, spec, config.horizon
        self.num_actions, self.row = num_action_tokens(spec), row_size(spec)
        self.num_observed = self.row - self.num_actions - 2
        self.observed, self.acted, self.earned = jnp.split(edges, [self.num_observed, self.row - 2], axis=1)
        self.plan = plan

    def start(self, targets: Float[Array, " b"]) -> Memory:
        def nothing(*shape: int) -> Int[Array, "..."]:
            return jnp.zeros((targets.shape[0], *shape), jnp.int32)

        return Memory(
            window=nothing(self.config.context_transitions - 1, self.row),
            steps=jnp.zeros((), jnp.int32),
            observation=nothing(self.num_observed),
            plan=nothing(self.horizon, self.row),
            worth=jnp.zeros(targets.shape[0]),
        )

    def act(
        self,
        params: PyTree[Array],
        memory: Memory,
        observation: Num[Array, "b *s"],
        reward: Float[Array, " b"],
        keys: Key[Array, " b"] | None,
    ) -> tuple[Memory, Num[Array, "b *a"]]:
        memory = self._look(memory, observation, reward)
        turn = memory.steps % self.config.plan_every
        if self.config.plan_every == 1:
            memory = self._replan(params, memory, keys)
        else:
            memory = jax.lax.cond(turn == 0, lambda: self._replan(params, memory, keys), lambda: memory)
        action = _as_action(self._planned(memory, turn), jnp.isfinite(memory.worth), self.spec)
        return memory._replace(steps=memory.steps + 1), to_environment(action, self.spec)

    def expect(self, memory: Memory) -> Float[Array, "b h s"]:
        """Observations that the plan of the last step expects, as `Policy` says."""
        made = (memory.steps - 1) % self.config.plan_every == 0
        return jnp.where(made, decode(memory.plan[..., : self.num_observed], self.observed), jnp.nan)

    def _look(self, memory: Memory, observation: Num[Array, "b *s"], reward: Float[Array, " b"]) -> Memory:
        """With the transition that is now whole, and the new observation."""
        last = self._planned(memory, (memory.steps - 1) % self.config.plan_every)
        earned = encode(reward[:, None], self.earned[:, :1])
        transition = jnp.concatenate([memory.observation, encode(last, self.acted), earned, 0 * earned], axis=1)
        window, _ = append(memory.window, jnp.clip(memory.steps - 1, 0, memory.window.shape[1]), transition)
        window = jnp.where(memory.steps > 0, window, memory.window)
        flat = observation.reshape(observation.shape[0], -1).astype(jnp.float32)
        return memory._replace(window=window, observation=encode(flat, self.observed))

    def _planned(self, memory: Memory, turn: Int[Array, ""]) -> Float[Array, "b a"]:
        """What the plan has at a turn, as numbers."""
        transition = jax.lax.dynamic_index_in_dim(memory.plan, turn, axis=1, keepdims=False)
        return decode(transition[:, self.num_observed : -2], self.acted)

    def _replan(self, params: PyTree[Array], memory: Memory, keys: Key[Array, " b"] | None) -> Memory:
        count = jnp.minimum(memory.steps, memory.window.shape[1])
        past = Past(memory.window, count, memory.observation)
        best = self.plan(params, past, _draws(self.config, self.num_actions, self.num_observed, keys))
        return memory._replace(plan=best.tokens, worth=best.worth)


def _as_action(numbers: Float[Array, "b a"], usable: Array, spec: Spec) -> Num[Array, "b *a"]:
    """As networks give them; none that an environment takes where the plan is of no worth that is a number."""
    if isinstance(spec.action, Box):
        return jnp.where(usable[:, None], numbers, jnp.nan)
    chosen = jnp.clip(jnp.round(numbers[:, 0]).astype(jnp.int32), 0, spec.action.n - 1)
    return jnp.where(usable, chosen, -1)


def _draws(config: TrajectoryTransformerConfig, num_actions: int, num_observed: int, keys: Array | None) -> Draws:
    if not config.draws_actions:
        return Draws(None, None)
    if keys is None:
        raise JaxdtError("a plan's tokens are drawn, which needs keys; give them, or action_top_k=1.")
    assert config.horizon
    assert config.beam_width
    each = (config.horizon, num_actions, config.beam_width, config.expansion)
    follow = (config.horizon, num_observed, config.beam_width)

    def draw(shape: tuple[int, ...], stream: int) -> Float[Array, "..."]:
        draw_one = partial(jax.random.uniform, shape=shape)
        return jax.vmap(lambda key: draw_one(jax.random.fold_in(key, stream)), out_axes=2)(keys)

    return Draws(
        None if config.action_top_k == 1 else draw(each, 0), None if config.observation_top_k == 1 else draw(follow, 1)
    )
