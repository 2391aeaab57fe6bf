"""D4RL's reference returns (its `infos.py`), by environment name; the same for all versions."""

import numpy as np
from jaxtyping import Float


REFERENCE_RETURNS = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "pen": (96.262799, 3076.8331),
    "door": (-56.512833, 2880.5693),
    "hammer": (-274.856578, 12794.1348),
    "relocate": (-6.425911, 4233.8778),
}
"""Mean return of a random and of an expert policy."""

_GYMNASIUM_NAMES = {
    "AdroitHandPen": "pen",
    "AdroitHandDoor": "door",
    "AdroitHandHammer": "hammer",
    "AdroitHandRelocate": "relocate",
}


def reference_name(env_id: str | None) -> str | None:
    """D4RL's name for a Gymnasium id of any version, None where D4RL has no reference for it."""
    if env_id is None:
        return None
    name = env_id.rsplit("-v", 1)[0]
    name = _GYMNASIUM_NAMES.get(name, name.lower())
    return name if name in REFERENCE_RETURNS else None


def normalized_score(env_id: str | None, returns: Float[np.ndarray, " e"]) -> Float[np.ndarray, " e"] | None:
    """100 * (return - random) / (expert - random), None where D4RL has no reference (Fu et al. 2020)."""
    name = reference_name(env_id)
    if name is None:
        return None
    random, expert = REFERENCE_RETURNS[name]
    return 100 * (np.asarray(returns, np.float64) - random) / (expert - random)
