"""Train the linear HalfCheetah-v5 demo policies by Augmented Random Search (ARS V2-t)."""

import argparse
import os
import time
from multiprocessing import Pool
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import mujoco
import numpy as np

ENV_ID, OBS_SIZE, ACTION_SIZE = "HalfCheetah-v5", 17, 6
DIRECTIONS, TOP, WEIGHT_NOISE, STEP_SIZE, AVERAGING = 32, 16, 0.03, 0.03, 0.9
HORIZON, ACTION_NOISE, FALL_PENALTY = 300, 0.15, 1000.0
LEVEL_SHARES = {"beginner": 0.2, "medium": 0.45, "skilled": 0.7}  # of the expert's return
REPORT_SEED, CHOICE_SEED, PROGRESS_SEED = 10_000, 20_000, 30_000


class Policy(NamedTuple):  # acts by clip(weights @ ((obs - mean) / std), -1, 1)
    weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray


START = Policy(np.zeros((ACTION_SIZE, OBS_SIZE)), np.zeros(OBS_SIZE), np.ones(OBS_SIZE))


def open_env() -> None:
    global env
    mujoco.set_mju_user_warning(lambda message: None)  # else it writes a log file
    env = gym.make(ENV_ID)


def try_policy(policy: Policy, seed: int) -> tuple[float, np.ndarray]:
    """Return and observations of a short, noisy episode, straight in MuJoCo; a fall ends it."""
    env.reset(seed=seed)
    base, data = env.unwrapped, env.unwrapped.data
    gain, start, cost, penalty, seen = policy.weights / policy.std, data.qpos[0], 0.0, 0.0, []
    noise = np.random.default_rng(seed).standard_normal((HORIZON, ACTION_SIZE))
    for offset in ACTION_NOISE * noise - gain @ policy.mean:
        seen.append(np.concatenate((data.qpos[1:], data.qvel)))
        data.ctrl[:] = action = (gain @ seen[-1] + offset).clip(-1.0, 1.0)
        mujoco.mj_step(base.model, data, nstep=base.frame_skip)
        cost += action @ action
        if abs(data.qpos[2]) > np.pi / 2:
            penalty = FALL_PENALTY
            break
    return (data.qpos[0] - start) / base.dt - 0.1 * cost - penalty, np.array(seen)


def try_direction(policy: Policy, delta: np.ndarray, seed: int) -> tuple[list, list]:
    """Returns of policy +/- delta, and count, sum and squared sum of what they observed."""
    trials = [try_policy(policy._replace(weights=policy.weights + d), seed) for d in (delta, -delta)]
    returns, seen = [trial[0] for trial in trials], np.concatenate([trial[1] for trial in trials])
    return returns, [np.full(OBS_SIZE, len(seen)), seen.sum(0), np.square(seen).sum(0)]


def measure_return(policy: Policy, seed: int, noise: float) -> float:
    """Return of one Gymnasium episode with action noise (infinite: uniform random actions)."""
    rng, total, done, (obs, _) = np.random.default_rng(seed), 0.0, False, env.reset(seed=seed)
    while not done:
        action = policy.weights @ ((obs - policy.mean) / policy.std)
        action = action.clip(-1.0, 1.0) + noise * rng.standard_normal(ACTION_SIZE)
        if noise == np.inf:
            action = rng.uniform(-1.0, 1.0, ACTION_SIZE)
        obs, reward, terminated, truncated, _ = env.step(action.clip(-1.0, 1.0))
        total, done = total + reward, terminated or truncated
    return total


def measure(pool: Pool, policy: Policy, seed: int, noises: list[float]) -> tuple[float, float]:
    """Mean and std of the return over one episode for each noise."""
    tasks = [(policy, seed + i, noise) for i, noise in enumerate(noises)]
    returns = pool.starmap(measure_return, tasks, chunksize=1)
    return np.mean(returns), np.std(returns)


def choose_snapshot(pool: Pool, snapshots: list, target: float) -> Policy:
    """The snapshot that lies most reliably near the target return."""
    shortlist = sorted(snapshots, key=lambda snapshot: abs(snapshot[1] - target))[:8]
    scores = [measure(pool, policy, CHOICE_SEED, [0.0, 0.1] * 8) for policy, _ in shortlist]
    return shortlist[np.argmin([abs(mean - target) + std for mean, std in scores])][0]


def save_levels(pool: Pool, snapshots: list, path: str) -> None:
    expert = choose_snapshot(pool, snapshots, target=1e5)
    best, levels = measure(pool, expert, REPORT_SEED, [0.0] * 20)[0], {"random": START}
    for name, share in LEVEL_SHARES.items():
        levels[name] = choose_snapshot(pool, snapshots, share * best)
    levels["expert"] = expert
    noises = {name: [np.inf if name == "random" else 0.0] * 20 for name in levels}
    measured = [measure(pool, levels[name], REPORT_SEED, noises[name]) for name in levels]
    columns = [*map(np.stack, zip(*levels.values())), *np.array(measured, np.float32).T]
    fields = dict(zip(("weights", "means", "stds", "returns", "return_stds"), columns))
    np.savez_compressed(path, names=list(levels), env_id=ENV_ID, **fields)
    for name, (mean, std) in zip(levels, measured):
        print(f"{name:8} {mean:6.0f} +/- {std:.0f}")


def train(pool: Pool, iterations: int, seed: int) -> list[tuple[Policy, float]]:
    """Averaged policies along the run, each with a quick measure of its return."""
    rng, began, snapshots = np.random.default_rng(seed), time.time(), []
    policy, average, seen = START, START.weights, np.zeros((3, OBS_SIZE))
    for iteration in range(1, iterations + 1):
        deltas = rng.standard_normal((DIRECTIONS, ACTION_SIZE, OBS_SIZE))
        seeds = rng.integers(2**31, size=DIRECTIONS).tolist()
        tasks = [(policy, WEIGHT_NOISE * delta, seed) for delta, seed in zip(deltas, seeds)]
        returns, sums = map(np.array, zip(*pool.starmap(try_direction, tasks, chunksize=1)))
        top = np.argsort(-returns.max(1))[:TOP]
        slopes = (returns[top, 0] - returns[top, 1]) / (TOP * returns[top].std())
        step_size = STEP_SIZE * (1.0 - 0.9 * iteration / iterations)
        weights = policy.weights + step_size * np.tensordot(slopes, deltas[top], 1)
        average = AVERAGING * average + (1.0 - AVERAGING) * weights
        seen += sums.sum(0)
        count, mean = seen[0, 0], seen[1] / seen[0]
        policy = Policy(weights, mean, np.sqrt(seen[2] / count - mean**2))
        if iteration < 50 or iteration % 5 == 0:
            snapshot = Policy(*(np.float32(array) for array in (average, *policy[1:])))
            mean_return, std = measure(pool, snapshot, PROGRESS_SEED, [0.0, 0.1] * 4)
            snapshots.append((snapshot, mean_return))
        if iteration % 10 == 0:
            clock = f"{time.time() - began:5.0f} s {count / 1e6:6.2f} M steps"
            print(f"{iteration:5d} {clock}  return {mean_return:6.0f} +/- {std:.0f}", flush=True)
    return snapshots


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", default="jaxdt/data/demo_policies.npz", help="file to write")
    parser.add_argument("--iterations", type=int, default=600, help="updates of the policy")
    parser.add_argument("--seed", type=int, default=1, help="seed of the whole run")
    parser.add_argument("--workers", type=int, default=2, help="processes; same result with any")
    args = parser.parse_args()
    with Pool(args.workers, open_env) as worker_pool:
        save_levels(worker_pool, train(worker_pool, args.iterations, args.seed), args.out)
