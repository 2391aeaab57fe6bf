"""D4RL's environments: its names, its reference returns, and the returns that the paper asks for; of games too."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdt.data.atari_scores import SCORES as GAMES
from jaxdt.games import game_of
from jaxdt.simulator import gymnasium_id


class D4RLTask(NamedTuple):
    name: str
    """Gymnasium's, without version."""
    random: float
    """Mean return of a random policy (D4RL's `infos.py`), the same for all versions."""
    expert: float
    observation_size: int | None = None
    """Numbers in an observation of the datasets of version 2, None where there are none."""
    paper_targets: tuple[float, ...] | None = None
    """Returns that the original's `gym/experiment.py` asks for."""


ENVIRONMENTS = {
    "halfcheetah": D4RLTask("HalfCheetah", -280.178953, 12135.0, 17, (6000.0, 12000.0)),
    "hopper": D4RLTask("Hopper", -20.272305, 3234.3, 11, (1800.0, 3600.0)),
    "walker2d": D4RLTask("Walker2d", 1.629008, 4592.3, 17, (2500.0, 5000.0)),
    "ant": D4RLTask("Ant", -325.6, 3879.7, 27),
    "pen": D4RLTask("AdroitHandPen", 96.262799, 3076.8331),
    "door": D4RLTask("AdroitHandDoor", -56.512833, 2880.5693),
    "hammer": D4RLTask("AdroitHandHammer", -274.856578, 12794.1348),
    "relocate": D4RLTask("AdroitHandRelocate", -6.425911, 4233.8778),
}
"""By D4RL's name."""

_BY_GYMNASIUM_NAME = {environment.name.lower(): name for name, environment in ENVIRONMENTS.items()}
QUALITIES = "random|medium|expert|medium-replay|medium-expert|full-replay"


def d4rl_env_id(name: str | None, state_dim: int) -> str | None:
    """The Gymnasium id for a name such as `halfcheetah-expert-v2`; None where it has another observation size."""
    match = re.fullmatch(rf"(\w+?)-(?:{QUALITIES})-v2", name or "")
    environment = ENVIRONMENTS.get(match[1]) if match else None
    if environment is None or environment.observation_size != state_dim:
        return None
    return f"{environment.name}-v4"  # keeps the model of D4RL's version 2; 5 does not


def old_time_limit(path: str) -> int | None:
    """Steps after which episodes were cut off in one of D4RL's files older than `timeouts`, by its name."""
    names = "|".join(name for name, task in ENVIRONMENTS.items() if task.observation_size is not None)
    qualities = rf"{QUALITIES}|mixed".replace("-", "[-_]")
    is_old = re.fullmatch(
        rf"(?:{names})[-_](?:{qualities})(?:-v[01])?\.hdf5", path.replace("\\", "/").rsplit("/", 1)[-1]
    )
    return 1000 if is_old else None


_OTHER_RETURNS = ("reward_clipping", "episodic_life")


def reference_name(env_id: str | None) -> str | None:
    """D4RL's name for an environment of any version, or a game's, such as `Pong`; None where no reference is known."""
    game = game_of(gymnasium_id(env_id or ""))
    if game is not None:
        return game if game in GAMES else None
    return _BY_GYMNASIUM_NAME.get(gymnasium_id(env_id or "").rsplit("-v", 1)[0].lower())


def normalized_score(
    env_id: str | None, returns: Float[np.ndarray, " e"], env_kwargs: Mapping[str, Any] | None = None
) -> Float[np.ndarray, " e"] | None:
    """100 * (return - random) / (best - random), None where no reference is known.

    `best` is D4RL's expert (Fu et al. 2020), of games a human (the paper's section 4.1). Of a game whose rewards are
    clipped, or that ends with a life, none is known.
    """
    name = reference_name(env_id)
    if name is None or (name in GAMES and any((env_kwargs or {}).get(each) for each in _OTHER_RETURNS)):
        return None
    if name in GAMES:
        random, best, _ = GAMES[name]
    else:
        _, random, best, *_ = ENVIRONMENTS[name]
    return 100 * (np.asarray(returns, np.float64) - random) / (best - random)


def score_name(reference: str | None) -> str:
    """What `normalized_score` is called where that is its reference."""
    return "gamer-normalised score" if reference in GAMES else "D4RL score"


def paper_targets(env_id: str) -> tuple[float, ...] | None:
    """The returns that the paper asks for, lowest first; None for environments that it does not use."""
    name = reference_name(env_id)
    return None if name is None else (GAMES.get(name) or ENVIRONMENTS[name]).paper_targets
