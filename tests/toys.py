"""Small environments whose right answers are known."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdt
from jaxdt.types import Box, Discrete, Spec


class Drift:
    """Non-chaotic: the state moves a tenth of the way towards the action and earns minus its distance to 1."""

    max_episode_steps = 12
    state_dim = 3
    action_dim = 2

    def reset(self, key):
        state = jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0)
        return state, state

    def step(self, state, action):
        target = jnp.concatenate([action, jnp.mean(action, keepdims=True)])
        state = state + 0.1 * (target - state)
        reward = 1 - jnp.abs(state[0])
        return state, state, reward, state[1] > 0.9


DRIFT_SPEC = Spec(
    observation_shape=(3,),
    action=Box(np.array([-1.0, -3.0], np.float32), np.array([1.0, 5.0], np.float32)),
    constants={
        "state_mean": np.array([0.1, -0.2, 0.3], np.float32),
        "state_std": np.array([0.5, 2.0, 1.5], np.float32),
    },
)
"""Nothing about it is trivial: every mean, std and bound would be missed if left out."""


class Dial:
    """Each step earns the action itself: the return of `T` steps at level `x` is exactly `T * x`.

    What to do cannot be read from the state, which is constant; only the return-to-go tells.
    """

    max_episode_steps = 8
    state_dim = 2
    action_dim = 1

    def reset(self, key):
        del key
        observation = jnp.array([1.0, 0.0])
        return (), observation

    def step(self, state, action):
        return state, jnp.array([1.0, 0.0]), action[0], jnp.zeros((), bool)


def dial_episodes(episodes=64, seed=0) -> jaxdt.EpisodeStore:
    """Episodes of Dial at constant levels from -0.9 to 0.9."""
    levels = np.random.default_rng(seed).uniform(-0.9, 0.9, size=episodes)
    steps = Dial.max_episode_steps
    actions = np.repeat(levels, steps)[:, None]
    observations = np.tile([1.0, 0.0], (len(actions), 1)) + np.random.default_rng(1).normal(0, 0.01, (len(actions), 2))
    return jaxdt.EpisodeStore.from_arrays(
        observations, actions, actions[:, 0], episode_ends=steps * np.arange(1, episodes + 1)
    )


class Counter:
    """Earns a whole number each step, so that returns are the same on every machine: no rounding reaches them.

    The first action's level is what is earned, the second moves a position, which ends the episode beyond 6.
    """

    max_episode_steps = 10
    state_dim = 3
    action_dim = 2

    def reset(self, key):
        position = jnp.round(jax.random.uniform(key, (), minval=-2.0, maxval=2.0))
        return (position, jnp.zeros(())), self._observe(position, 0.0)

    def step(self, state, action):
        position, time = state
        position = position + jnp.round(2 * action[1])
        reward = jnp.round(4 * action[0])
        return (position, time + 1), self._observe(position, time + 1), reward, jnp.abs(position) > 6

    def _observe(self, position, time):
        return jnp.stack([jnp.asarray(position, jnp.float32), jnp.asarray(time, jnp.float32) / 10, jnp.ones(())])


def counter_episodes(episodes=60, seed=0) -> jaxdt.EpisodeStore:
    """Episodes of Counter, each at a level of its own, from -0.9 to 0.9."""
    rng, environment = np.random.default_rng(seed), Counter()
    columns, ends = ([], [], [], []), []
    step = jax.jit(environment.step)
    for episode in range(episodes):
        state, observation = environment.reset(jax.random.key(episode))
        level = rng.uniform(-0.9, 0.9)
        for _ in range(environment.max_episode_steps):
            action = np.array([level, rng.uniform(-0.9, 0.9)], np.float32)
            state, following, reward, done = step(state, action)
            for column, value in zip(columns, (observation, action, reward, done), strict=True):
                column.append(np.asarray(value))
            observation = following
            if done:
                break
        ends.append(len(columns[0]))
    observations, actions, rewards, terminations = map(np.asarray, columns)
    return jaxdt.EpisodeStore.from_arrays(observations, actions, rewards, terminations, episode_ends=ends)


class Buttons:
    """Each step earns the number of the button that is pressed, 5, 6 or 7, less 6; only the return-to-go tells which.

    The first episode step shows 1 in the observation, the later ones 0.
    """

    max_episode_steps = 8
    spec = Spec(observation_shape=(2,), action=Discrete(3, start=5))

    def reset(self, key):
        del key
        return jnp.zeros((), jnp.int32), jnp.array([1.0, 1.0])

    def step(self, state, action):
        reward = jnp.asarray(action - 6, jnp.float32)
        return state + 1, jnp.array([1.0, 0.0]), reward, jnp.zeros((), bool), state >= 7


def button_episodes(episodes=60, seed=0) -> jaxdt.EpisodeStore:
    """Episodes of Buttons that press one button all the time."""
    steps = Buttons.max_episode_steps
    actions = np.repeat(np.random.default_rng(seed).integers(5, 8, size=episodes), steps)
    observations = np.tile([1.0, 0.0], (len(actions), 1))
    observations[::steps, 1] = 1.0
    return jaxdt.EpisodeStore.from_arrays(
        observations, actions, actions - 6, episode_ends=steps * np.arange(1, episodes + 1)
    )


class Lights:
    """A picture shows which of three buttons is lit; pressing that one earns 1. Another is lit at each step."""

    max_episode_steps = 8
    spec = Spec(observation_shape=(6, 6), observation_dtype="uint8", action=Discrete(3))

    def reset(self, key):
        lit = jax.random.randint(key, (), 0, 3)
        return (lit, jnp.zeros((), jnp.int32)), self._show(lit)

    def step(self, state, action):
        lit, time = state
        following = (lit + 1 + time % 2) % 3
        reward = (action == lit).astype(jnp.float32)
        return (following, time + 1), self._show(following), reward, jnp.zeros((), bool), time >= 7

    def _show(self, lit):
        return jnp.where(jnp.arange(6)[None] // 2 == lit, 255, 40 * jnp.ones((6, 1))).astype(jnp.uint8)


def light_episodes(episodes=60, seed=0) -> jaxdt.EpisodeStore:
    """Episodes of Lights that press the lit button at every step, or never."""
    rng, environment = np.random.default_rng(seed), Lights()
    frames, actions, rewards = [], [], []
    for episode in range(episodes):
        state, frame = environment.reset(jax.random.key(episode))
        good = episode % 2
        for _ in range(environment.max_episode_steps):
            lit = int(state[0])
            action = lit if good else (lit + rng.integers(1, 3)) % 3
            frames.append(np.asarray(frame))
            state, frame, reward, *_ = environment.step(state, action)
            actions.append(action)
            rewards.append(float(reward))
    steps = environment.max_episode_steps
    ends = steps * np.arange(1, episodes + 1)
    return jaxdt.EpisodeStore.from_arrays(np.stack(frames), np.asarray(actions), rewards, episode_ends=ends)
