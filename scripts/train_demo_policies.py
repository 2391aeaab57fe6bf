"""Train the linear HalfCheetah-v5 demo policies by Augmented Random Search (ARS V2-t).

Mania, Guy and Recht, "Simple random search provides a competitive approach to
reinforcement learning", 2018, https://arxiv.org/abs/1803.07055.
"""

import argparse
import os
import time
from multiprocessing import Pool
from typing import NamedTuple


os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import mujoco
import numpy as np


ENV_ID, EPISODE_STEPS, OBS_SIZE, ACTION_SIZE = "HalfCheetah-v5", 1000, 17, 6
LEVEL_SHARES = {"beginner": 0.2, "medium": 0.45, "skilled": 0.7}  # of the expert's return
SHORTLIST_SIZE, UNREACHABLE = 10, 20_000.0
REPORT_SEED, CHOICE_SEED, QUICK_SEED = 10_000, 20_000, 30_000
OPTIONS = [
    ("--iterations", 400, "updates of the policy"),
    ("--seed", 0, "seed of the whole run"),
    ("--workers", 2, "worker processes (no influence on the result)"),
    ("--directions", 32, "random directions an iteration"),
    ("--top", 4, "best directions used for the update"),
    ("--step-size", 0.02, "size of the update"),
    ("--noise", 0.03, "std of the random directions"),
    ("--snapshot-every", 2, "iterations between measured snapshots"),
    ("--save-every", 100, "iterations between writes of the levels so far"),
]


class Policy(NamedTuple):
    """Deterministic linear policy: clip(weights @ ((obs - mean) / std), -1, 1)."""

    weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def act(self, obs: np.ndarray) -> np.ndarray:
        return (self.weights @ ((obs - self.mean) / self.std)).clip(-1.0, 1.0)


START = Policy(np.zeros((6, 17), "f4"), np.zeros(17, "f4"), np.ones(17, "f4"))


def open_env() -> None:
    """Give this process its own environment, without MuJoCo's log file."""
    global env
    mujoco.set_mju_user_warning(lambda message: None)
    env = gym.make(ENV_ID)


def roll_out_fast(policy: Policy, seed: int) -> tuple[float, np.ndarray]:
    """Return and observations of one training episode, stepping MuJoCo without the wrappers."""
    env.reset(seed=seed)
    base, model, data = env.unwrapped, env.unwrapped.model, env.unwrapped.data
    gain, start, control_cost = policy.weights / policy.std, data.qpos[0], 0.0
    offset, observations = -gain @ policy.mean, np.empty((EPISODE_STEPS, OBS_SIZE))
    for obs in observations:
        obs[:8], obs[8:] = data.qpos[1:], data.qvel
        data.ctrl[:] = action = (gain @ obs + offset).clip(-1.0, 1.0)
        mujoco.mj_step(model, data, nstep=base.frame_skip)
        control_cost += action @ action
    return (data.qpos[0] - start) / base.dt - 0.1 * control_cost, observations


def try_direction(policy: Policy, delta: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    """Returns of policy +/- delta, and the sums and squared sums of what they observed."""
    plus, seen_plus = roll_out_fast(policy._replace(weights=policy.weights + delta), seed)
    minus, seen_minus = roll_out_fast(policy._replace(weights=policy.weights - delta), seed)
    seen = np.concatenate([seen_plus, seen_minus])
    return np.array([plus, minus]), seen.sum(0), np.square(seen).sum(0)


def measure_return(policy: Policy | None, seed: int, noise: float) -> float:
    """Return of one Gymnasium episode; no policy means uniform random actions."""
    rng, total, done = np.random.default_rng(seed), 0.0, False
    obs, _ = env.reset(seed=seed)
    while not done:
        action = rng.uniform(-1.0, 1.0, ACTION_SIZE) if policy is None else policy.act(obs)
        action = (action + noise * rng.standard_normal(ACTION_SIZE)).clip(-1.0, 1.0)
        obs, reward, terminated, truncated, _ = env.step(action)
        total, done = total + reward, terminated or truncated
    return total


def measure_returns(pool: Pool, policy: Policy | None, seed: int, clean: int, noisy: int = 0):
    """Mean and std of the return over `clean` plain episodes and `noisy` with action noise."""
    tasks = [(policy, seed + i, 0.1 * (i >= clean)) for i in range(clean + noisy)]
    returns = pool.starmap(measure_return, tasks, chunksize=1)
    return float(np.mean(returns)), float(np.std(returns))


def choose_snapshot(pool: Pool, snapshots: list, target: float) -> int:
    """Index of the snapshot that lies most reliably near the target return."""
    shortlist = sorted(range(len(snapshots)), key=lambda i: abs(snapshots[i][1] - target))
    misses = {}
    for index in shortlist[:SHORTLIST_SIZE]:
        mean, std = measure_returns(pool, snapshots[index][0], CHOICE_SEED, 10, 10)
        misses[index] = abs(mean - target) + std
    return min(misses, key=misses.get)


def save_levels(pool: Pool, snapshots: list, path: str) -> None:
    """Choose the levels among the snapshots, measure them and write them."""
    best = choose_snapshot(pool, snapshots, UNREACHABLE)
    targets = {name: share * snapshots[best][1] for name, share in LEVEL_SHARES.items()}
    chosen = {n: snapshots[choose_snapshot(pool, snapshots[: best + 1], t)][0] for n, t in targets.items()}
    levels = {"random": None, **chosen, "expert": snapshots[best][0]}
    measured = [measure_returns(pool, policy, REPORT_SEED, 20) for policy in levels.values()]
    stacked = [np.stack(arrays) for arrays in zip(*(policy or START for policy in levels.values()))]
    columns = [*stacked, *np.array(measured, np.float32).T]
    fields = dict(zip(("weights", "means", "stds", "returns", "return_stds"), columns))
    np.savez_compressed(path, names=np.array(list(levels)), env_id=ENV_ID, **fields)
    for name, (mean, std) in zip(levels, measured):
        print(f"  {name:8} {mean:7.0f} +/- {std:.0f}", flush=True)


def train(args: argparse.Namespace) -> None:
    """Run ARS V2-t, keeping a measured snapshot every few iterations."""
    rng, began, policy, snapshots = np.random.default_rng(args.seed), time.time(), START, []
    seen_sum, seen_squares, steps = np.zeros(OBS_SIZE), np.zeros(OBS_SIZE), 0
    with Pool(args.workers, open_env) as pool:
        for iteration in range(1, args.iterations + 1):
            deltas = rng.standard_normal((args.directions, ACTION_SIZE, OBS_SIZE))
            seeds = rng.integers(2**31, size=args.directions).tolist()
            tasks = [(policy, args.noise * d, s) for d, s in zip(deltas, seeds)]
            returns, sums, squares = map(np.array, zip(*pool.starmap(try_direction, tasks, 1)))
            top = np.argsort(-returns.max(1))[: args.top]
            slopes = (returns[top, 0] - returns[top, 1]) / (args.top * returns[top].std())
            weights = policy.weights + args.step_size * np.tensordot(slopes, deltas[top], 1)
            steps += 2 * args.directions * EPISODE_STEPS
            seen_sum, seen_squares = seen_sum + sums.sum(0), seen_squares + squares.sum(0)
            mean = seen_sum / steps
            policy = Policy(weights, mean, np.sqrt(seen_squares / steps - mean**2))
            if iteration % args.snapshot_every == 0:
                snapshot = Policy(*(array.astype(np.float32) for array in policy))
                mean_return, std = measure_returns(pool, snapshot, QUICK_SEED, 4, 4)
                snapshots.append((snapshot, mean_return))
                clock = f"{time.time() - began:5.0f} s {steps / 1e6:6.2f} M steps"
                print(f"{iteration:5d} {clock}  return {mean_return:6.0f} +/- {std:.0f}", flush=True)
            if iteration % args.save_every == 0 or iteration == args.iterations:
                save_levels(pool, snapshots, args.out)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", default="jaxdt/data/demo_policies.npz", help="file to write")
    for name, default, text in OPTIONS:
        parser.add_argument(name, type=type(default), default=default, help=text)
    return parser.parse_args()


if __name__ == "__main__":
    train(parse_args())
