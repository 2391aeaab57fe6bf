"""The rounds of online fine-tuning that are played: each in a file of its own, written once and never played again."""

import collections
import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from jaxdt.config import PRESETS, AlgorithmConfig, FinetuneConfig
from jaxdt.config.checks import as_json_or_none
from jaxdt.data.episodes import EpisodeStore
from jaxdt.data.formats.npz import load_npz
from jaxdt.data.replay import FAILED_TRIES, best_episodes, with_newer
from jaxdt.errors import JaxdtError, SimulationError
from jaxdt.evaluation.evaluator import Evaluator
from jaxdt.evaluation.rollout import Episodes, sees_pictures
from jaxdt.files import remove_unfinished, writing
from jaxdt.loggers import append_line, cut_lines, read_lines
from jaxdt.types import Spec


MOST_TRIES = 3
"""Of a round whose environment fails, before fine-tuning stops."""


class Exploration:
    """Rounds of episodes whose actions are drawn, in `directory`: `round-000001.npz` and so on, and `failures.jsonl`.

    A file has the environment's own units, so `load_episodes` reads it, or the whole directory. What a round begins
    from depends on the seed, its number and the number of its tries alone, and lies apart from evaluation's seeds.
    """

    def __init__(
        self,
        directory: Path,
        config: FinetuneConfig,
        evaluator: Evaluator,
        as_trained: Callable[[EpisodeStore], EpisodeStore],
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        only_one: bool = False,
    ):
        """`evaluator` records; `as_trained(store)`: its episodes in the units that training takes.

        `env_kwargs`: how its environment was made, for who reads the files.
        `only_one`: there can be one simulator only, which is not made again where it has failed.
        """
        self._directory, self._config = directory, config
        self._evaluator, self._as_trained, self._only_one = evaluator, as_trained, only_one
        self._env_kwargs = env_kwargs
        self.failures = directory / FAILED_TRIES
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            remove_unfinished(directory)
        read_failures(self.failures)  # or says what is wrong
        cut_lines(self.failures, 2**62)  # or a line would be written behind half a one

    def path(self, number: int) -> Path:
        return self._directory / f"round-{number:06}.npz"

    def failed_tries_until(self, number: int) -> int:
        """Tries of rounds up to `number` whose environment failed; no episode of theirs is kept or counted."""
        return sum(record["round"] <= number for record in read_failures(self.failures))

    def episodes(self, number: int, params: PyTree, step: int) -> EpisodeStore:
        """Round `number`, from 1 on, played with `params` after update `step` if it has no file yet; as recorded.

        Raises SimulationError where its environment fails again and again.
        """
        if not self.path(number).exists():
            self._play(number, params, step).save(self.path(number))
        return self._read(number)  # what was just played too: all that is known is what the file says

    def _read(self, number: int) -> EpisodeStore:
        """Without warnings of how its environment was made, which is known here."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* was recorded with keyword arguments that a file may not give")
            return load_npz(self.path(number))

    def join(self, replay: EpisodeStore, *rounds: EpisodeStore) -> EpisodeStore:
        """The replay with the episodes of rounds behind it."""
        return with_newer(replay, *map(self._as_trained, rounds), capacity=self._config.replay_capacity)

    def replay_after(self, number: int, data: EpisodeStore) -> tuple[EpisodeStore, int]:
        """What is trained on after round `number`, and the environment steps so far; 0: the best of the data."""
        capacity = self._config.replay_capacity
        newest: collections.deque[EpisodeStore] = collections.deque(
            maxlen=math.ceil(capacity / self._config.episodes_per_round)
        )
        steps = 0
        for each in range(1, number + 1):
            if not self.path(each).exists():
                raise JaxdtError(
                    f"{self.path(each)} is missing, and later rounds trained on it; restore it from a copy."
                )
            newest.append(self._read(each))
            steps += newest[-1].num_steps
        return self.join(best_episodes(data, capacity), *newest), steps

    def _play(self, number: int, params: PyTree, step: int) -> EpisodeStore:
        target, episodes = self._config.exploration_target, self._config.episodes_per_round
        before = self.failed_tries_until(number) - self.failed_tries_until(number - 1)
        reason = ""
        for i in range(before, before + MOST_TRIES):
            seed = first_environment_seed(self._config.seed, number, i, episodes)
            try:
                played = self._evaluator.run_episodes(params, [target], episodes, seed)
            except SimulationError as error:
                reason = str(error).rstrip(".")
                append_line(self.failures, {"step": step, "round": number, "try": i, "failed": reason})
                warnings.warn(f"exploring round {number} failed and is tried again: {reason}", stacklevel=2)
                if not self._only_one:
                    self._evaluator.close()
                continue
            env_id = self._evaluator.environment.env_id
            return recorded(played, env_id, f"round {number}", env_kwargs=self._env_kwargs)
        raise SimulationError(
            f"exploring round {number} failed {MOST_TRIES} times in a row, the last time so: {reason}"
        )


def read_failures(path: Path) -> list[dict[str, Any]]:
    """A record a try that failed, with `step` and `round` among others; raises JaxdtError where the file is damaged."""
    records = read_lines(path)
    for number, record in enumerate(records, start=1):
        for name in ("step", "round"):
            if type(record.get(name)) is not int:
                raise JaxdtError(
                    f"{path} is damaged: {name} of line {number} must be a whole number; got {record.get(name)!r:.40} "
                    "(remove that line)."
                )
    return records


def that_explores(config: AlgorithmConfig) -> Any:
    """The same algorithm with a policy that draws its actions."""
    return dataclasses.replace(config, sampling="sample")


def check_explores(config: AlgorithmConfig, spec: Spec, run: str) -> None:
    """Raises JaxdtError where a run's policy cannot draw actions, with what can, or sees what is not recorded."""
    if sees_pictures(spec):
        raise JaxdtError(
            f"the policy of {run} sees pictures, which are not recorded while it plays, so it cannot train on episodes "
            f"of its own; go on with recorded ones: jaxdt train PRESET --init {run} --dataset FILE."
        )
    if not _draws(config, spec):
        able = [name for name, preset in PRESETS.items() if _draws(preset.algorithm, spec)]
        fix = f"train one whose policy does ({', '.join(able)})" if able else "no preset draws actions of this kind yet"
        raise JaxdtError(
            f"the policy of {run} ({config.name}) predicts one action and draws none, so it cannot explore; {fix}."
        )


def _draws(config: Any, spec: Spec) -> bool:
    if "sampling" not in config.acting_options:
        return False
    try:
        that_explores(config).for_data(None).check_spec(spec)  # of a preset, choices may be left to the data
    except JaxdtError:
        return False
    return True


def first_environment_seed(seed: int, number: int, tried: int, episodes: int) -> int:
    """From 2**30 on, where no evaluation's seeds begin; episodes count up from it and stay below 2**31."""
    drawn = np.random.SeedSequence([seed, number, tried]).generate_state(1, np.uint64)[0]
    return int(2**30 + int(drawn) % (2**30 - episodes))


def seed_of_batches(seed: int, number: int) -> int:
    """Of the batches of round `number`."""
    return int(np.random.SeedSequence([seed, number]).generate_state(2, np.uint64)[1])


def recorded(
    played: Episodes, env_id: str | None, source: str, *, env_kwargs: Mapping[str, Any] | None = None
) -> EpisodeStore:
    """The episodes of a rollout that recorded, in the environment's units.

    `env_kwargs`: how that is made, with its limit as `max_episode_steps`; what is no JSON is not remembered.
    """
    assert played.trajectory is not None
    assert played.trajectory.observations is not None
    lengths, ends = np.asarray(played.lengths), np.cumsum(np.asarray(played.lengths))

    def end_to_end(values: Any) -> np.ndarray:
        values = np.asarray(values)
        return np.concatenate([values[:length, i] for i, length in enumerate(lengths)])

    terminations = np.zeros(ends[-1], bool)
    terminations[ends - 1] = np.asarray(played.terminated)
    observations, actions, rewards = map(end_to_end, played.trajectory[:3])
    known = None if env_id is None or env_kwargs is None else dict(env_kwargs)
    return EpisodeStore.from_arrays(
        observations,
        actions,
        rewards,
        terminations,
        episode_ends=ends,
        env_id=env_id,
        env_kwargs=as_json_or_none(known, "env_kwargs"),
        source=source,
    )
