"""Simulators on the host, one an episode: what an environment's callbacks step. Loads no jax."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from jaxdt.simulator import make_simulator


class EpisodeError(Exception):
    """What a simulator raised, and in which episode of the batch."""

    def __init__(self, episode: int, error: Exception):
        super().__init__(f"the environment raised {type(error).__name__}: {error}")
        self.episode = episode


@runtime_checkable
class Pool(Protocol):
    """As many simulators as there are seeds at the last reset. Raises nothing but EpisodeError."""

    def reset(self, seeds: Int[np.ndarray, " b"], observations: Float[np.ndarray, "b *s"]) -> None:
        """Begins episode `i` from `seeds[i]` alone, and fills `observations`."""
        ...

    def step(
        self,
        alive: Int[np.ndarray, " alive"],
        actions: Num[np.ndarray, "b *a"],
        observations: Float[np.ndarray, "b *s"],
        rewards: Float[np.ndarray, " b"],
        ended: Bool[np.ndarray, "2 b"],
    ) -> None:
        """One step of the episodes `alive`, ascending: fills their observations, rewards, and whether they ended.

        `ended` is whether terminated, and whether truncated. No other episode is touched.
        """
        ...

    def close(self) -> None:
        """Lets go of the simulators; the next reset makes new ones."""
        ...


class SimulatorPool:
    """Any of Gymnasium's simulators, one after the other in one thread."""

    def __init__(self, env_id: str, first: Any):
        self._env_id = env_id
        self.simulators: list[Any] = [first]

    def reset(self, seeds: Int[np.ndarray, " b"], observations: Float[np.ndarray, "b *s"]) -> None:
        i = 0
        try:
            for i, seed in enumerate(seeds):
                if i == len(self.simulators):
                    self.simulators.append(make_simulator(self._env_id))
                observation = self.simulators[i].reset(seed=int(seed))[0]
                if np.shape(observation) != observations[i].shape:
                    raise ValueError(f"its observation has shape {np.shape(observation)}, not {observations[i].shape}")
                observations[i] = observation
        except Exception as error:  # a simulator raises what its authors liked
            raise EpisodeError(i, error) from error

    def step(
        self,
        alive: Int[np.ndarray, " alive"],
        actions: Num[np.ndarray, "b *a"],
        observations: Float[np.ndarray, "b *s"],
        rewards: Float[np.ndarray, " b"],
        ended: Bool[np.ndarray, "2 b"],
    ) -> None:
        i = 0
        try:
            for i in alive.tolist():
                observation, reward, terminated, truncated, _ = self.simulators[i].step(actions[i])
                with np.errstate(over="ignore"):
                    observations[i], rewards[i] = observation, reward
                ended[:, i] = bool(terminated), bool(truncated)
        except Exception as error:  # a simulator raises what its authors liked
            raise EpisodeError(i, error) from error

    def close(self) -> None:
        while self.simulators:
            self.simulators.pop().close()
