import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdt
from jaxdt.algorithms.decision_transformer import window_policy
from jaxdt.evaluation.environments import VectorizedEnvironment
from jaxdt.evaluation.rollout import make_rollout
from jaxdt.models import build_model
from jaxdt.types import Window
from tests.conftest import tiny_model
from tests.toys import DRIFT_SPEC, Drift


CONFIG = tiny_model(max_episode_length=10)  # shorter than Drift's 12 steps: the last embedding is shared
ALGORITHM = jaxdt.DecisionTransformerConfig(return_scale=4.0, model=CONFIG)


@pytest.fixture(scope="module")
def policy_and_params():
    init, apply = build_model(CONFIG)
    params = jax.tree.map(lambda leaf: leaf * 3, jax.jit(init)(jax.random.key(0)))
    return jax.jit(lambda params, window: apply(params, window)[:, -1]), params


def rollout_of(policy, spec=DRIFT_SPEC, environment=None, **options):
    acting = window_policy(ALGORITHM, lambda params, window, newest_only: policy(params, window)[:, None], spec)
    return make_rollout(acting, VectorizedEnvironment(environment or Drift()), **options)


def python_loop(policy, params, seed, target, spec=DRIFT_SPEC):
    """One episode as the original plays it: growing history, cropped to K, left-padded with zeros."""
    environment, k = Drift(), CONFIG.context_length
    state, observation = environment.reset(jax.random.key(seed))
    states, actions, returns, score, happened = [], [], [target], 0.0, []
    for t in range(environment.max_episode_steps):
        states.append((np.asarray(observation) - spec.constants["state_mean"]) / spec.constants["state_std"])
        actions.append(np.zeros(2, np.float32))
        real = min(k, t + 1)

        def padded(values, shape=(), real=real):
            return np.concatenate([np.zeros((k - real, *shape), np.float32), np.array(values[-real:], np.float32)])[
                None
            ]

        window = Window(
            states=padded(states, (3,)),
            actions=padded(actions, (2,)),
            returns_to_go=padded(np.array(returns) / ALGORITHM.return_scale),
            timesteps=padded([min(i, CONFIG.max_episode_length - 1) for i in range(t + 1)]).astype(np.int32),
            mask=np.arange(k)[None] >= k - real,
        )
        actions[-1] = np.asarray(policy(params, window))[0]
        executed = spec.action.low + (actions[-1] + 1) / 2 * (spec.action.high - spec.action.low)
        happened.append(executed)
        state, observation, reward, done = environment.step(state, jnp.asarray(executed))
        score += float(reward)
        returns.append(returns[-1] - (0.0 if spec.delayed_reward else float(reward)))
        if done:
            break
    return score, t + 1, np.array(happened), bool(done)


@pytest.mark.parametrize("block", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4))])
def test_a_cpu_reads_windows_in_blocks_to_the_same_actions(policy_and_params, monkeypatch, block):
    policy, params = policy_and_params
    sizes = []

    def counting(params, window):
        sizes.append(len(window.mask))
        return policy(params, window)

    seeds, targets = jnp.arange(7), jnp.linspace(-5.0, 20.0, 7)
    whole = rollout_of(policy, record=True)(params, seeds, targets)
    monkeypatch.setattr("jaxdt.algorithms.decision_transformer.BLOCK", block)
    played = rollout_of(counting, record=True)(params, seeds, targets)
    assert set(sizes) == {block}
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5), played, whole)


@pytest.mark.parametrize("delayed", [False, True])
def test_the_compiled_loop_equals_a_python_loop(policy_and_params, delayed):
    policy, params = policy_and_params
    spec = dataclasses.replace(DRIFT_SPEC, delayed_reward=delayed)
    seeds, targets = np.array([3, 4, 3], np.int32), np.array([6.0, 6.0, -20.0], np.float32)
    played = rollout_of(policy, spec, record=True)(params, seeds, targets)
    lengths = []
    for i, (seed, target) in enumerate(zip(seeds, targets, strict=True)):
        score, length, actions, done = python_loop(policy, params, int(seed), float(target), spec)
        lengths.append(length)
        assert (int(played.lengths[i]), bool(played.terminated[i])) == (length, done)
        np.testing.assert_allclose(played.returns[i], score, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(played.trajectory.actions[:length, i], actions, rtol=1e-4, atol=1e-5)


def test_an_episode_does_not_depend_on_its_neighbours(policy_and_params):
    policy, params = policy_and_params
    rollout = rollout_of(policy)
    together = rollout(params, np.array([1, 2, 3], np.int32), np.array([5.0, 5.0, 1.0], np.float32))
    alone = rollout(params, np.array([3], np.int32), np.array([1.0], np.float32))
    np.testing.assert_allclose(together.returns[2:], alone.returns, rtol=1e-5, atol=1e-6)


def test_the_same_seeds_give_the_same_result(policy_and_params):
    policy, params = policy_and_params
    rollout = rollout_of(policy)
    first, second, other = (rollout(params, np.array([seed], np.int32), np.ones(1, np.float32)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.returns, second.returns)
    assert not np.array_equal(first.returns, other.returns)


class EndsEarly(Drift):
    """Each step earns 1; done after step 3 (seed 0) or 2 (seed 1), then done again and again, earning on."""

    def reset(self, key):
        return jax.random.key_data(key)[1].astype(jnp.int32), jnp.zeros(3)

    def step(self, state, action):
        return state + 1, jnp.zeros(3), jnp.ones(()), state >= 2


def test_only_the_first_episode_counts(policy_and_params):
    policy, params = policy_and_params
    played = rollout_of(policy, environment=EndsEarly(), record=True)(
        params, np.arange(2, dtype=np.int32), np.ones(2, np.float32)
    )
    np.testing.assert_array_equal(played.returns, [3.0, 2.0])
    np.testing.assert_array_equal(played.lengths, [3, 2])
    np.testing.assert_array_equal(played.terminated, [True, True])
    np.testing.assert_array_equal(played.trajectory.rewards.sum(axis=0), [3.0, 2.0])


def test_scans_with_nobody_alive_are_skipped(policy_and_params, monkeypatch):
    monkeypatch.setattr("jaxdt.evaluation.rollout.SCAN_STEPS", 5)  # so three scans of four steps fill Drift's twelve
    _, params = policy_and_params
    asked = []

    def counting(params, window):
        jax.debug.callback(lambda _: asked.append(1), window.mask[0, 0], ordered=True)
        return jnp.zeros((window.mask.shape[0], 2))

    rollout = rollout_of(counting, environment=EndsEarly())
    jax.block_until_ready(rollout(params, np.zeros(2, np.int32), np.ones(2, np.float32)))
    jax.effects_barrier()
    assert len(asked) == 4


def test_new_targets_and_params_compile_nothing(policy_and_params):
    policy, params = policy_and_params
    rollout = rollout_of(policy)
    rollout(params, np.arange(2, dtype=np.int32), np.ones(2, np.float32))
    rollout(jax.tree.map(lambda leaf: leaf * 0.5, params), np.arange(2, dtype=np.int32) + 5, -np.ones(2, np.float32))
    assert rollout._cache_size() == 1
