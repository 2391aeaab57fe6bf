"""Train the linear HalfCheetah-v5 demo policies by Augmented Random Search (ARS V2-t).

H. Mania, A. Guy and B. Recht, "Simple random search provides a competitive approach to
reinforcement learning", 2018, https://arxiv.org/abs/1803.07055. Beyond the paper, training
episodes are short, have action noise and end with a penalty at a fall, the step size
decreases, and snapshots past the first ones average the weights: together this makes
policies that seldom fall. The shipped file was made, from the repository root, by

    python scripts/train_demo_policies.py

which took 20 minutes on two shared cores of an AMD EPYC (14 minutes of processor time;
6.2 million training steps; Gymnasium 1.4.0, MuJoCo 4.0.0, NumPy 2.4.6) and reached, over
20 episodes each: random -265, beginner 1070, medium 2868, skilled 4497, expert 6188. Equal
seeds give equal files on equal machines; elsewhere rounding may lead to other policies.
"""

import argparse
import os
import time
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple


os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import mujoco
import numpy as np


SUMMARY = __doc__.splitlines()[0]
ENV_ID, OBS_SIZE, ACTION_SIZE = "HalfCheetah-v5", 17, 6
DIRECTIONS, TOP, WEIGHT_NOISE, STEP_SIZE, AVERAGING = 32, 16, 0.03, 0.03, 0.9
HORIZON, ACTION_NOISE, FALL_PENALTY = 300, 0.15, 1000.0  # of the training episodes
LEVEL_SHARES = {"beginner": 0.2, "medium": 0.45, "skilled": 0.7}  # of the expert's return
REPORT_SEED, CHOICE_SEED, PROGRESS_SEED = 10_000, 20_000, 30_000


class Policy(NamedTuple):  # acts by clip(weights @ ((obs - mean) / std), -1, 1)
    weights: np.ndarray = np.zeros((ACTION_SIZE, OBS_SIZE))
    mean: np.ndarray = np.zeros(OBS_SIZE)
    std: np.ndarray = np.ones(OBS_SIZE)


def open_env() -> None:
    global env
    mujoco.set_mju_user_warning(lambda message: None)  # else it writes a log file
    env = gym.make(ENV_ID)


def try_policy(weights: np.ndarray, policy: Policy, seed: int) -> tuple[float, np.ndarray]:
    """Return and observations of a short, noisy episode, straight in MuJoCo; a fall ends it."""
    env.reset(seed=seed)
    base, data = env.unwrapped, env.unwrapped.data
    gain, start, cost, seen = weights / policy.std, data.qpos[0], 0.0, []
    noise = np.random.default_rng(seed).standard_normal((HORIZON, ACTION_SIZE))
    for offset in ACTION_NOISE * noise - gain @ policy.mean:
        seen.append(np.concatenate((data.qpos[1:], data.qvel)))
        data.ctrl[:] = action = (gain @ seen[-1] + offset).clip(-1.0, 1.0)
        mujoco.mj_step(base.model, data, nstep=base.frame_skip)
        cost += action @ action
        fell = abs(data.qpos[2]) > np.pi / 2
        if fell:
            break
    total = (data.qpos[0] - start) / base.dt - 0.1 * cost - FALL_PENALTY * fell
    return total, np.array(seen)


def try_direction(policy: Policy, delta: np.ndarray, seed: int) -> tuple[list, list]:
    """Returns of policy +/- delta, and count, sum and squared sum of what they observed."""
    plus, seen_plus = try_policy(policy.weights + delta, policy, seed)
    minus, seen_minus = try_policy(policy.weights - delta, policy, seed)
    seen = np.concatenate([seen_plus, seen_minus])
    return [plus, minus], [np.full(OBS_SIZE, len(seen)), seen.sum(0), np.square(seen).sum(0)]


def run_episode(policy: Policy | None, seed: int, noise: float) -> float:
    """Return of one whole Gymnasium episode; no policy means uniform random actions."""
    rng, total, done, (obs, _) = np.random.default_rng(seed), 0.0, False, env.reset(seed=seed)
    while not done:
        if policy is None:
            action = rng.uniform(-1.0, 1.0, ACTION_SIZE)
        else:
            action = (policy.weights @ ((obs - policy.mean) / policy.std)).clip(-1.0, 1.0)
            action += noise * rng.standard_normal(ACTION_SIZE)
        obs, reward, _, done, _ = env.step(action.clip(-1.0, 1.0))
        total += reward
    return total


def measure(pool: Pool, policy: Policy | None, seed: int, noises: list[float]) -> np.ndarray:
    """Mean and std of the return, over one episode for each action noise."""
    tasks = [(policy, seed + i, noise) for i, noise in enumerate(noises)]
    returns = pool.starmap(run_episode, tasks, chunksize=1)
    return np.float32([np.mean(returns), np.std(returns)])


def choose_snapshot(pool: Pool, snapshots: list, target: float) -> Policy:
    """The snapshot that lies most reliably near the target return."""
    shortlist = sorted(snapshots, key=lambda snapshot: abs(snapshot[1] - target))[:10]
    scores = [measure(pool, policy, CHOICE_SEED, [0.0, 0.1] * 20) for policy, _ in shortlist]
    return shortlist[np.argmin([abs(mean - target) + std / 2 for mean, std in scores])][0]


def save_levels(pool: Pool, snapshots: list, path: str) -> None:
    expert = choose_snapshot(pool, snapshots, target=1e5)
    best, levels = measure(pool, expert, REPORT_SEED, [0.0] * 20)[0], {"random": None}
    for name, share in LEVEL_SHARES.items():
        levels[name] = choose_snapshot(pool, snapshots, share * best)
    levels["expert"] = expert
    returns = [measure(pool, policy, REPORT_SEED, [0.0] * 20) for policy in levels.values()]
    arrays = [np.float32(field) for field in zip(*(p or Policy() for p in levels.values()))]
    fields = dict(zip(("weights", "means", "stds"), arrays))
    fields["returns"], fields["return_stds"] = np.transpose(returns)
    np.savez_compressed(path, names=list(levels), env_id=ENV_ID, **fields)
    for name, (mean, std) in zip(levels, returns):
        print(f"{name:8} {mean:6.0f} +/- {std:.0f}")


def train(pool: Pool, iterations: int, seed: int) -> list[tuple[Policy, float]]:
    """Policies along the run (later ones averaged), each with a quick measure of its return."""
    rng, began, snapshots = np.random.default_rng(seed), time.time(), []
    policy, average, seen = Policy(), Policy().weights, np.zeros((3, OBS_SIZE))
    for iteration in range(1, iterations + 1):
        deltas = rng.standard_normal((DIRECTIONS, ACTION_SIZE, OBS_SIZE))
        seeds = rng.integers(2**31, size=DIRECTIONS).tolist()
        tasks = [(policy, WEIGHT_NOISE * d, episode_seed) for d, episode_seed in zip(deltas, seeds)]
        returns, sums = map(np.array, zip(*pool.starmap(try_direction, tasks, chunksize=1)))
        top = np.argsort(-returns.max(1))[:TOP]
        slopes = (returns[top, 0] - returns[top, 1]) / (TOP * returns[top].std())
        step_size = STEP_SIZE * (1.0 - 0.9 * min(iteration, 1000) / 1000)
        weights = policy.weights + step_size * np.tensordot(slopes, deltas[top], 1)
        average = AVERAGING * average + (1.0 - AVERAGING) * weights
        seen += sums.sum(0)
        count, mean = seen[0, 0], seen[1] / seen[0]
        policy = Policy(weights, mean, np.sqrt(seen[2] / count - mean**2))
        early = iteration <= 50  # when the average would lag behind
        if iteration % (2 if early else 5) == 0:
            weights = weights if early else average
            snapshot = Policy(*map(np.float32, policy._replace(weights=weights)))
            result, std = measure(pool, snapshot, PROGRESS_SEED, [0.0] * 4 + [0.1] * 4)
            snapshots.append((snapshot, result))
        if iteration % 10 == 0:
            progress = f"{time.time() - began:5.0f} s {count / 1e6:5.2f} M steps"
            print(f"{iteration:4d} {progress}  return {result:6.0f} +/- {std:.0f}", flush=True)
    return snapshots


if __name__ == "__main__":
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=SUMMARY, formatter_class=formatter)
    parser.add_argument("--out", default="jaxdt/data/demo_policies.npz", help="file to write")
    parser.add_argument("--iterations", type=int, default=330, help="updates of the policy")
    parser.add_argument("--seed", type=int, default=1, help="seed of the whole run")
    parser.add_argument("--workers", type=int, default=2, help="processes; result stays the same")
    args = parser.parse_args()
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    with Pool(args.workers, open_env) as workers:
        save_levels(workers, train(workers, args.iterations, args.seed), args.out)
