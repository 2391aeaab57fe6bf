"""Atari games side by side on ALE's threads, each as it is alone. Loads no jax."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxdt.atari import AtariGame, seeds_for_ale
from jaxdt.pools.simulators import EpisodeError
from jaxdt.simulator import usable_cores


_LEAST_HALF = 4
"""Fewest games of a half that is worth a thread: two halves of five made a third more steps a second than ten."""


class AtariPool:
    """Episodes of `game`, which is not stepped itself.

    ALE steps all of them always: those that ended begin anew and go on, doing nothing, unseen.
    """

    together = True

    def __init__(self, game: AtariGame):
        self._game = game
        self._emulators: Any = None

    def reset(self, seeds: Int[np.ndarray, " b"], observations: UInt8[np.ndarray, "b y x"]) -> None:
        try:
            if self._emulators is None or self._emulators.num_envs != len(seeds):
                self._emulators = self._game.emulators(len(seeds), threads=usable_cores())
            observations[:] = self._game.seen(self._emulators.reset(seed=seeds_for_ale(np.asarray(seeds)))[0])
        except Exception as error:
            raise EpisodeError(0, error) from error

    def step(
        self,
        alive: Int[np.ndarray, " alive"],
        actions: Int[np.ndarray, " b"],
        observations: UInt8[np.ndarray, "b y x"],
        rewards: Float[np.ndarray, " b"],
        ended: Bool[np.ndarray, "2 b"],
    ) -> None:
        if not len(alive):  # a rollout may go on for some steps after the last end
            return
        playable = np.zeros(len(actions), np.int32)
        # ALE waits for ever for the emulator of an action that there is not; who steps this complains of such before.
        playable[alive] = np.clip(actions[alive], 0, self._game.num_actions - 1)
        try:
            screens, earned, terminated, truncated, _ = self._emulators.step(playable)
            observations[alive] = self._game.seen(screens[alive])
        except Exception as error:
            raise EpisodeError(next(iter(alive.tolist()), 0), error) from error
        rewards[alive] = earned[alive]
        ended[:, alive] = terminated[alive], truncated[alive]

    def another(self, episodes: int) -> "AtariPool | None":
        return AtariPool(self._game) if episodes >= _LEAST_HALF else None

    def close(self) -> None:
        """The emulators stay: ten take a second to make, and each reset by a seed begins anew."""
