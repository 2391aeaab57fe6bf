"""What stands between episodes and a policy; shared by the compiled rollout and by `Agent`."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxdt.seeds import over_seeds
from jaxdt.types import Interface, Policy, Turn, Window


BLOCK = 32
"""Most windows that a CPU reads at once; more would leave its caches."""


def window_policy(
    answer: Callable[[PyTree, Window], Float[Array, "b a"]],
    context_length: int,
    state_shape: tuple[int, ...],
    action_dim: int,
) -> Policy:
    """A policy that remembers the last `context_length` steps and reads all of them anew at each.

    `answer(params, window)`: the action at each window's newest step.
    """

    def start(batch: int) -> Window:
        return _empty_context(batch, context_length, state_shape, action_dim)

    def act(params: PyTree, context: Window, turn: Turn) -> tuple[Window, Float[Array, "b a"]]:
        context = _push_turn(context, turn)
        action = _in_blocks(partial(answer, params), context)
        return context._replace(actions=context.actions.at[:, -1].set(action)), action

    return Policy(start, act)


def _in_blocks(answer: Callable[[Window], Float[Array, "b a"]], context: Window) -> Float[Array, "b a"]:
    """`answer(context)`, on a CPU in blocks of equal size one after the other; windows of zeros fill the last up."""
    batch = context.mask.shape[0]
    count = math.ceil(batch / BLOCK) if jax.default_backend() == "cpu" else 1
    if count == 1:
        return answer(context)
    size = math.ceil(batch / count)

    def blocks(leaf: Array) -> Array:
        padded = jnp.pad(leaf, [(0, count * size - batch)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(count, size, *leaf.shape[1:])

    actions = jax.lax.map(answer, Window(*map(blocks, context)))
    return actions.reshape(count * size, -1)[:batch]


def policy_of_seeds(policy: Policy, seeds: int) -> Policy:
    """One policy of the models of several seeds, whose params are stacked; each acts in its share of the batch.

    The first seed's share comes first, and all are as large.
    """

    def start(batch: int) -> PyTree:
        memory = policy.start(batch // seeds)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (seeds, *leaf.shape)), memory)

    def act(params: PyTree, memory: PyTree, turn: Turn) -> tuple[PyTree, Float[Array, "b a"]]:
        def act_in_share(params: PyTree, memory: PyTree, states: Array, returns_to_go: Array):
            return policy.act(params, memory, Turn(states, returns_to_go, turn.timestep))

        shares = (rows.reshape(seeds, -1, *rows.shape[1:]) for rows in (turn.states, turn.returns_to_go))
        memory, actions = over_seeds(act_in_share)(params, memory, *shares)
        return memory, actions.reshape(-1, actions.shape[-1])

    return Policy(start, act)


def make_turn(
    observation: Float[Array, "b *s"], return_to_go: Float[Array, " b"], timestep: Int[Array, ""], interface: Interface
) -> Turn:
    """`observation` and `return_to_go` are the environment's own; they are normalised and scaled here."""
    states = (observation - interface.state_mean[None]) / interface.state_std[None]
    return Turn(states, return_to_go / interface.return_scale, timestep)


def _empty_context(batch: int, context_length: int, state_shape: tuple[int, ...], action_dim: int) -> Window:
    """Nothing but padding, (b, t, ...)."""
    return Window(
        states=jnp.zeros((batch, context_length, *state_shape), jnp.float32),
        actions=jnp.zeros((batch, context_length, action_dim), jnp.float32),
        returns_to_go=jnp.zeros((batch, context_length), jnp.float32),
        timesteps=jnp.zeros((batch, context_length), jnp.int32),
        mask=jnp.zeros((batch, context_length), bool),
    )


def _push_turn(context: Window, turn: Turn) -> Window:
    """The context one step later: everything moves left, the new step stands at the right, its action still 0."""
    batch = turn.states.shape[0]
    newest = Window(
        states=turn.states,
        actions=jnp.zeros_like(context.actions[:, 0]),
        returns_to_go=turn.returns_to_go,
        timesteps=jnp.full((batch,), turn.timestep, jnp.int32),
        mask=jnp.ones((batch,), bool),
    )
    return Window(
        *(jnp.concatenate([old[:, 1:], new[:, None]], axis=1) for old, new in zip(context, newest, strict=True))
    )


def lower_return_to_go(
    return_to_go: Float[Array, " b"], reward: Float[Array, " b"], interface: Interface
) -> Float[Array, " b"]:
    """What is still to be reached after a reward; unchanged when trained on delayed rewards."""
    return return_to_go if interface.delayed_reward else return_to_go - reward


def to_action_space(action: Float[Array, "b a"], interface: Interface) -> Float[Array, "b a"]:
    """[-1, 1] mapped affinely onto the action space."""
    low, high = jnp.asarray(interface.action_low)[None], jnp.asarray(interface.action_high)[None]
    return low + (action + 1) / 2 * (high - low)
