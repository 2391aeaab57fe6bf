"""All episodes side by side in one compiled program: scans over environment steps, until the last episode ends."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree

from jaxdt.types import Box, Environment, Policy, Spec


SCAN_STEPS = 50
"""Most environment steps of one scan; so many are played at most after the last episode's end."""


class Trajectory(NamedTuple):
    """What happened at each step `T` of each episode; 0 after its end."""

    observations: Num[Array, "T b *s"] | None
    """What the action was chosen from. None of pictures, which are too large: of ten long Atari games 8 GB."""
    actions: Num[Array, "T b *a"]
    """In the environment's action space."""
    rewards: Float[Array, "T b"]
    expected: Float[Array, "T b h n"] | None = None
    """Of a policy that plans: the observations, flat, that the plan made in this step expects from this step on; NaN
    where none was made."""


FAILURES = (
    "",
    "the environment's first observation is not finite",
    "the policy's action is not finite",
    "the environment's observation or reward is not finite",
    "the sum of the environment's rewards is not finite",
)


class Episodes(NamedTuple):
    """Outcome of one rollout."""

    returns: Float[Array, " b"]
    lengths: Int[Array, " b"]
    failures: Int[Array, " b"]
    """Why an episode could not go on, an index of FAILURES; its last step is the one that failed."""
    terminated: Bool[Array, " b"]
    """Whether the environment ended the episode; else it was cut off."""
    trajectory: Trajectory | None
    """None unless recording was asked for."""
    succeeded: Bool[Any, " b"] | None = None
    """What a simulator on the host has said of each; None of others."""


Rollout = Callable[[PyTree, Int[Array, " b"], Float[Array, " b"]], Episodes]
"""`rollout(params, seeds, targets)`: episode `i` starts and draws from `seeds[i]` and aims at `targets[i]`."""


class _Carry(NamedTuple):
    env_state: PyTree
    observation: Num[Array, "b *s"]
    memory: PyTree  # the policy's
    reward: Float[Array, " b"]  # of the last action
    score: Float[Array, " b"]
    length: Int[Array, " b"]
    alive: Bool[Array, " b"]
    terminated: Bool[Array, " b"]  # by the environment
    failure: Int[Array, " b"]  # ends an episode too


def make_rollout(policy: Policy, environment: Environment, *, record: bool = False) -> Rollout:
    """A jitted rollout (the original's `evaluate_episode_rtg`, over a batch).

    An episode counts until it is first terminated or truncated, or until something in it is no longer a number. Call
    it again with other params, seeds or targets of the same number and nothing is compiled anew.
    """
    spec, most = environment.spec, environment.max_episode_steps
    num_scans = math.ceil(most / SCAN_STEPS)
    scan_steps = math.ceil(most / num_scans)

    def start(seeds: Int[Array, " b"], targets: Float[Array, " b"]) -> _Carry:
        env_state, observation = environment.reset(seeds)
        zeros = jnp.zeros(seeds.shape, jnp.float32)
        lengths = jnp.zeros(seeds.shape, jnp.int32)
        usable = _is_finite(observation)
        return _Carry(
            env_state=env_state,
            observation=observation,
            memory=policy.start(targets),
            reward=zeros,
            score=zeros,
            length=lengths,
            alive=usable,
            terminated=jnp.zeros(seeds.shape, bool),
            failure=jnp.where(usable, 0, 1),
        )

    def step(carry: _Carry, t: Int[Array, ""], params: PyTree, keys: Array) -> tuple[_Carry, Trajectory]:
        memory, action = policy.act(params, carry.memory, carry.observation, carry.reward, keys_of_step(keys, t))
        env_state, observation, reward, terminated, truncated = environment.step(carry.env_state, action)
        reward = jnp.where(carry.alive, reward, 0)
        score = carry.score + reward
        failures = [~_is_action(action, spec), ~(_is_finite(observation) & jnp.isfinite(reward)), ~jnp.isfinite(score)]
        failure = jnp.where(carry.alive, jnp.select(failures, [2, 3, 4], 0), carry.failure)
        expected = None if policy.expect is None else _where(carry.alive, policy.expect(memory))
        seen = None if sees_pictures(spec) else _where(carry.alive, carry.observation)
        happened = Trajectory(seen, _where(carry.alive, action), reward, expected)
        new = _Carry(
            env_state=env_state,
            observation=observation,
            memory=memory,
            reward=reward,
            score=score,
            length=carry.length + carry.alive,
            alive=carry.alive & ~terminated & ~truncated & (failure == 0) & (t + 1 < most),
            terminated=jnp.where(carry.alive, terminated, carry.terminated),
            failure=failure,
        )
        return new, happened

    @jax.jit
    def rollout(params: PyTree, seeds: Int[Array, " b"], targets: Float[Array, " b"]) -> Episodes:
        keys = keys_of_episodes(seeds)  # of a policy that draws nothing they are never computed

        def scan(carry: _Carry, first: Int[Array, ""]) -> tuple[_Carry, Trajectory | None]:
            def body(carry: _Carry, t: Int[Array, ""]) -> tuple[_Carry, Trajectory | None]:
                new, happened = step(carry, t, params, keys)
                return new, happened if record else None

            return jax.lax.scan(body, carry, first + jnp.arange(scan_steps))

        def goes_on(loop: tuple) -> Bool[Array, ""]:
            carry, first, _ = loop
            return jnp.any(carry.alive) & (first < most)

        def next_scan(loop: tuple) -> tuple:
            carry, first, so_far = loop
            carry, happened = scan(carry, first)
            if record:
                so_far = jax.tree.map(
                    lambda steps, new: jax.lax.dynamic_update_slice_in_dim(steps, new, first, 0), so_far, happened
                )
            return carry, first + scan_steps, so_far

        carry = start(seeds, targets)
        nothing_yet = None
        if record:
            each = jax.eval_shape(lambda carry: step(carry, carry.length[0], params, keys)[1], carry)
            nothing_yet = jax.tree.map(lambda leaf: jnp.zeros((num_scans * scan_steps, *leaf.shape), leaf.dtype), each)
        last, _, trajectory = jax.lax.while_loop(goes_on, next_scan, (carry, jnp.zeros((), jnp.int32), nothing_yet))
        if trajectory is not None:
            trajectory = jax.tree.map(lambda steps: steps[:most], trajectory)
        return Episodes(last.score, last.length, last.failure, last.terminated, trajectory)

    return rollout


def sees_pictures(spec: Spec) -> bool:
    """Whether an observation is bytes of two dimensions or more."""
    return spec.observation_dtype == "uint8" and len(spec.observation_shape) > 1


def keys_of_episodes(seeds: Int[Array, " b"]) -> Key[Array, " b"]:
    """What each episode draws its actions from: it depends on the episode's own environment seed alone."""
    # Folded once, since a pure-JAX environment begins from the seed's key itself.
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(seeds)


def keys_of_step(keys: Key[Array, " b"], step: Int[Array, ""]) -> Key[Array, " b"]:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)


def _where(alive: Bool[Array, " b"], rows: Num[Array, "b *n"]) -> Num[Array, "b *n"]:
    return jnp.where(alive.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0)


def _is_action(action: Num[Array, "b *a"], spec: Spec) -> Bool[Array, " b"]:
    """A discrete policy whose logits are not finite gives a number below the first."""
    if isinstance(spec.action, Box):
        return _is_finite(action)
    return (action >= spec.action.start) & (action < spec.action.start + spec.action.n)


def _is_finite(rows: Num[Array, "b *n"]) -> Bool[Array, " b"]:
    if not jnp.issubdtype(rows.dtype, jnp.inexact):
        return jnp.ones(len(rows), bool)
    return jnp.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
