"""The rolling context a policy acts from; shared by the compiled rollout and by `Agent`."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdt.types import Interface, Window


def empty_context(batch: int, context_length: int, state_shape: tuple[int, ...], action_dim: int) -> Window:
    """Nothing but padding, (b, t, ...)."""
    return Window(
        states=jnp.zeros((batch, context_length, *state_shape), jnp.float32),
        actions=jnp.zeros((batch, context_length, action_dim), jnp.float32),
        returns_to_go=jnp.zeros((batch, context_length), jnp.float32),
        timesteps=jnp.zeros((batch, context_length), jnp.int32),
        mask=jnp.zeros((batch, context_length), bool),
    )


def push_observation(
    context: Window,
    observation: Float[Array, "b *s"],
    return_to_go: Float[Array, " b"],
    timestep: Int[Array, ""],
    interface: Interface,
) -> Window:
    """The context one step later: everything moves left, the new step stands at the right, its action still 0.

    `observation` and `return_to_go` are the environment's own; they are normalised and scaled here.
    """
    batch = observation.shape[0]
    newest = Window(
        states=(observation - interface.state_mean[None]) / interface.state_std[None],
        actions=jnp.zeros_like(context.actions[:, 0]),
        returns_to_go=return_to_go / interface.return_scale,
        timesteps=jnp.full((batch,), timestep, jnp.int32),
        mask=jnp.ones((batch,), bool),
    )
    return Window(
        *(jnp.concatenate([old[:, 1:], new[:, None]], axis=1) for old, new in zip(context, newest, strict=True))
    )


def set_newest_action(context: Window, action: Float[Array, "b a"]) -> Window:
    """The context with the action taken at its newest step, in [-1, 1]."""
    return context._replace(actions=context.actions.at[:, -1].set(action))


def lower_return_to_go(
    return_to_go: Float[Array, " b"], reward: Float[Array, " b"], interface: Interface
) -> Float[Array, " b"]:
    """What is still to be reached after a reward; unchanged when trained on delayed rewards."""
    return return_to_go if interface.delayed_reward else return_to_go - reward


def to_action_space(action: Float[Array, "b a"], interface: Interface) -> Float[Array, "b a"]:
    """[-1, 1] mapped affinely onto the action space."""
    low, high = jnp.asarray(interface.action_low)[None], jnp.asarray(interface.action_high)[None]
    return low + (action + 1) / 2 * (high - low)
