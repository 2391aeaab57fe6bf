"""Simulators on the host, one an episode: what an environment's callbacks step. Loads no jax."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

from jaxdt import stepping
from jaxdt.errors import JaxdtError
from jaxdt.simulator import make_simulator


_ONE_BY_ONE = (
    "where there can be only one, play the episodes one by one with --parallel-environments 1 (parallel_environments=1)"
)


class EpisodeError(Exception):
    """What a simulator raised or returned wrongly, and in which episode of the batch."""

    def __init__(self, episode: int, error: BaseException):
        says = f"the environment raised {type(error).__name__}: {error}"
        if isinstance(error, stepping.BadStep | JaxdtError):  # our own sentence
            says = str(error).rstrip(".")
        super().__init__(says)
        self.episode = episode


@runtime_checkable
class Pool(Protocol):
    """As many simulators as there are seeds at the last reset. Raises nothing but EpisodeError."""

    together: bool
    """Whether many are sooner stepped side by side than one after the other."""

    def reset(self, seeds: Int[np.ndarray, " b"], observations: Shaped[np.ndarray, "b *s"]) -> None:
        """Begins episode `i` from `seeds[i]` alone, and fills `observations`."""
        ...

    def step(
        self,
        alive: Int[np.ndarray, " alive"],
        actions: Num[np.ndarray, "b *a"],
        observations: Shaped[np.ndarray, "b *s"],
        rewards: Float[np.ndarray, " b"],
        ended: Bool[np.ndarray, "2 b"],
    ) -> None:
        """One step of the episodes `alive`, ascending: fills their observations, rewards, and whether they ended.

        `ended` is whether terminated, and whether truncated. No other episode is touched.
        """
        ...

    def another(self, episodes: int) -> "Pool | None":
        """One of the same simulators, for another thread to step so many at the same time.

        None: they allow no such thing, or so few are stepped as soon by one.
        """
        ...

    def close(self) -> None:
        """Lets go of the simulators, unless they are slow to make and begin anew by a seed; it may be reset again."""
        ...


class SimulatorPool:
    """Any of Gymnasium's simulators, one after the other in one thread."""

    together = False

    def __init__(self, environment: Any, first: Any):
        """`environment`: what `make_simulator` takes, of which `first` was made."""
        self._environment = environment
        self.simulators: list[Any] = [first]
        self.succeeded = np.zeros(0, bool)
        """Of each episode since the last reset whether a step's info has called it a success."""
        self.says_success = False
        """Whether any info ever said so, or that it was none."""

    def reset(self, seeds: Int[np.ndarray, " b"], observations: Shaped[np.ndarray, "b *s"]) -> None:
        i = 0
        self.succeeded = np.zeros(len(seeds), bool)
        try:
            for i, seed in enumerate(seeds):
                if i == len(self.simulators):
                    self.simulators.append(self._one_more())
                observations[i] = stepping.reset(self.simulators[i], int(seed))
        except (Exception, SystemExit) as error:  # a simulator raises what its authors liked
            raise EpisodeError(i, error) from error

    def step(
        self,
        alive: Int[np.ndarray, " alive"],
        actions: Num[np.ndarray, "b *a"],
        observations: Shaped[np.ndarray, "b *s"],
        rewards: Float[np.ndarray, " b"],
        ended: Bool[np.ndarray, "2 b"],
    ) -> None:
        i = 0
        try:
            for i in alive.tolist():
                observation, reward, *flags, success = stepping.step(self.simulators[i], actions[i])
                if success is not None:
                    self.says_success = True
                    self.succeeded[i] |= success
                with np.errstate(over="ignore"):
                    observations[i], rewards[i] = observation, reward
                ended[:, i] = flags
        except (Exception, SystemExit) as error:  # a simulator raises what its authors liked
            raise EpisodeError(i, error) from error

    def another(self, episodes: int) -> None:
        """Who wrote the simulators may not have thought of threads."""

    def _one_more(self) -> Any:
        try:
            simulator = make_simulator(self._environment)
        except JaxdtError as error:
            if not self.simulators:
                raise
            raise JaxdtError(f"{str(error).rstrip('.')}; {_ONE_BY_ONE}.") from error
        if any(simulator.unwrapped is other.unwrapped for other in self.simulators):
            raise JaxdtError(f"two episodes were given one and the same object; {_ONE_BY_ONE}.")
        return simulator

    def close(self) -> None:
        while self.simulators:
            self.simulators.pop().close()
