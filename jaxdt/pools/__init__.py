"""Many simulators on the host, stepped together where that is sooner: what evaluates and collects. Loads no jax."""

from typing import Any

from jaxdt.games import game_of
from jaxdt.pools.mujoco import proved_pool
from jaxdt.pools.simulators import EpisodeError as EpisodeError, Pool as Pool, SimulatorPool as SimulatorPool


def make_pool(environment: Any, simulator: Any) -> Pool:
    """What gives the numbers of this simulator, and soonest.

    `environment`: what `make_simulator` takes, of which `simulator` was made; that one is closed or becomes the pool's.
    """
    if game_of(getattr(simulator.spec, "id", "")) is not None:
        from jaxdt.atari import AtariGame  # which loads gymnasium
        from jaxdt.pools.atari import AtariPool

        if type(simulator) is AtariGame:
            return AtariPool(simulator)
    pool = proved_pool(simulator)
    if pool is None:
        return SimulatorPool(environment, simulator)
    simulator.close()
    return pool
