"""All episodes side by side in one compiled loop over environment steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxdt.evaluation.context import lower_return_to_go, make_turn, to_action_space
from jaxdt.evaluation.environments import Environment
from jaxdt.types import Interface, Policy


class Trajectory(NamedTuple):
    """What happened at each step `T` of each episode; 0 after its end."""

    observations: Float[Array, "T b s"]
    """What the action was chosen from."""
    actions: Float[Array, "T b a"]
    """In the environment's action space."""
    rewards: Float[Array, "T b"]


TROUBLES = (
    "",
    "the environment's first observation is not finite",
    "the policy's action is not finite",
    "the environment's observation or reward is not finite",
    "the sum of the environment's rewards is not finite",
)


class Played(NamedTuple):
    """Outcome of one rollout."""

    returns: Float[Array, " b"]
    lengths: Int[Array, " b"]
    troubles: Int[Array, " b"]
    """Why an episode could not go on, an index of TROUBLES; its last step is the one that failed."""
    trajectory: Trajectory | None
    """None unless recording was asked for."""


Rollout = Callable[[PyTree, Int[Array, " b"], Float[Array, " b"]], Played]
"""`rollout(params, seeds, targets)`: episode `i` starts from `seeds[i]` and aims at the return `targets[i]`."""


class _Carry(NamedTuple):
    env_state: PyTree
    observation: Float[Array, "b s"]
    memory: PyTree  # the policy's
    returns_to_go: Float[Array, " b"]  # in the environment's units
    score: Float[Array, " b"]
    length: Int[Array, " b"]
    alive: Bool[Array, " b"]
    trouble: Int[Array, " b"]  # ends an episode too


class _Loop(NamedTuple):
    carry: _Carry
    t: Int[Array, ""]
    trajectory: Trajectory | None


def make_rollout(
    policy: Policy,
    environment: Environment,
    interface: Interface,
    *,
    max_episode_length: int,
    record: bool = False,
) -> Rollout:
    """A jitted rollout (the original's `evaluate_episode_rtg`, over a batch).

    The target is lowered by each reward; an episode counts until it is first done, or until something in it is no
    longer a number. Later timesteps than `max_episode_length - 1` share the last timestep embedding. Call it again
    with other params, seeds or targets of the same number and nothing is compiled anew.
    """

    def start(seeds: Int[Array, " b"], targets: Float[Array, " b"]) -> _Carry:
        env_state, observation = environment.reset(seeds)
        b = seeds.shape[0]
        zeros = jnp.zeros((b,), jnp.float32)
        lengths = jnp.zeros((b,), jnp.int32)
        usable = _finite(observation)
        trouble = jnp.where(usable, 0, 1)
        return _Carry(env_state, observation, policy.start(b), targets, zeros, lengths, usable, trouble)

    def act(carry: _Carry, t: Int[Array, ""], params: PyTree) -> tuple[_Carry, Trajectory]:
        timestep = jnp.minimum(t, max_episode_length - 1)
        turn = make_turn(carry.observation, carry.returns_to_go, timestep, interface)
        memory, action = policy.act(params, carry.memory, turn)
        executed = to_action_space(action, interface)
        env_state, observation, reward, done = environment.step(carry.env_state, executed)
        reward = jnp.where(carry.alive, reward, 0)
        score = carry.score + reward
        troubles = [~_finite(executed), ~(_finite(observation) & jnp.isfinite(reward)), ~jnp.isfinite(score)]
        trouble = jnp.where(carry.alive, jnp.select(troubles, [2, 3, 4], 0), carry.trouble)
        happened = Trajectory(
            jnp.where(carry.alive[:, None], carry.observation, 0),
            jnp.where(carry.alive[:, None], executed, 0),
            reward,
        )
        new = _Carry(
            env_state=env_state,
            observation=observation,
            memory=memory,
            returns_to_go=lower_return_to_go(carry.returns_to_go, reward, interface),
            score=score,
            length=carry.length + carry.alive,
            alive=carry.alive & ~done & (trouble == 0),
            trouble=trouble,
        )
        return new, happened

    def nothing_yet(carry: _Carry) -> Trajectory:
        b, steps = carry.score.shape[0], environment.max_episode_steps
        return Trajectory(
            jnp.zeros((steps, *carry.observation.shape), carry.observation.dtype),
            jnp.zeros((steps, b, environment.action_dim)),
            jnp.zeros((steps, b)),
        )

    @jax.jit
    def rollout(params: PyTree, seeds: Int[Array, " b"], targets: Float[Array, " b"]) -> Played:
        def goes_on(loop: _Loop) -> Bool[Array, ""]:
            return jnp.any(loop.carry.alive) & (loop.t < environment.max_episode_steps)

        def step(loop: _Loop) -> _Loop:
            carry, happened = act(loop.carry, loop.t, params)
            so_far = loop.trajectory
            if so_far is not None:
                so_far = jax.tree.map(lambda steps, new: steps.at[loop.t].set(new), so_far, happened)
            return _Loop(carry, loop.t + 1, so_far)

        first = start(seeds, targets)
        # A scan would have to skip the steps after the last episode's end, which copies the policy's memory each time.
        loop = _Loop(first, jnp.zeros((), jnp.int32), nothing_yet(first) if record else None)
        last, _, trajectory = jax.lax.while_loop(goes_on, step, loop)
        return Played(last.score, last.length, last.trouble, trajectory)

    return rollout


def _finite(rows: Float[Array, "b *n"]) -> Bool[Array, " b"]:
    return jnp.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
