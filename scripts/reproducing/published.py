"""D4RL scores that others have published for its nine MuJoCo sets of version 2; `±` is as they give it."""

import itertools
from typing import Literal, get_args


Quality = Literal["medium-expert", "medium", "medium-replay"]
D4RL_SETS = tuple(
    (name, quality) for quality, name in itertools.product(get_args(Quality), ("halfcheetah", "hopper", "walker2d"))
)
"""In the order of the Decision Transformer's Table 2, and of the rows of scores below."""


def _by_set(*scores: str) -> dict[tuple[str, str], str]:
    return dict(zip(D4RL_SETS, scores, strict=True))


SCORES = {
    "DT": _by_set(
        *("86.8 ± 1.3", "107.6 ± 1.8", "108.1 ± 0.2"),
        *("42.6 ± 0.1", "67.6 ± 1.0", "74.0 ± 1.4"),
        *("36.6 ± 0.8", "82.7 ± 7.0", "66.6 ± 3.0"),
    ),
    "BC": _by_set("59.9", "79.6", "36.6", "43.1", "63.9", "77.3", "4.3", "27.6", "36.9"),
    "10% BC": _by_set("-", "-", "-", "42.9", "65.9", "78.8", "40.8", "70.6", "70.4"),
    "10% BC (CORL)": _by_set(
        *("90.1 ± 2.5", "111.2 ± 1.0", "108.7 ± 0.3"),
        *("42.5 ± 0.7", "55.5 ± 7.3", "67.3 ± 5.2"),
        *("23.6 ± 7.0", "70.4 ± 8.7", "54.4 ± 6.3"),
    ),
    "TD3+BC": _by_set(
        *("90.8 ± 6.0", "101.2 ± 9.1", "110.0 ± 0.4"),
        *("48.1 ± 0.2", "60.4 ± 3.5", "82.7 ± 4.8"),
        *("44.8 ± 0.6", "64.4 ± 21.5", "85.6 ± 4.0"),
    ),
    "IQL": _by_set(
        *("94.7 ± 0.5", "107.4 ± 7.8", "111.7 ± 0.9"),
        *("48.3 ± 0.2", "67.5 ± 3.8", "80.9 ± 3.2"),
        *("44.5 ± 0.2", "97.4 ± 6.4", "82.2 ± 3.0"),
    ),
    "ReBRAC": _by_set(
        *("103.8 ± 3.0", "109.5 ± 2.3", "111.9 ± 0.4"),
        *("64.0 ± 0.7", "102.3 ± 0.2", "85.8 ± 0.8"),
        *("51.2 ± 0.3", "95.0 ± 6.5", "84.3 ± 2.3"),
    ),
}
"""By method's name, then by set. CORL's %BC is of the newest state and the best tenth of the episodes (`bc-corl
--best-fraction 0.1 --best-fraction-of episodes`), the other of 20 states and the best tenth of the steps."""

_CORL = "CORL's README, last scores"
SOURCES = {
    "DT": "Chen et al. 2021, Table 2",
    "BC": "Chen et al. 2021, Table 2",
    "10% BC": "Chen et al. 2021, Table 3",
    "10% BC (CORL)": _CORL,
    "TD3+BC": _CORL,
    "IQL": _CORL,
    "ReBRAC": _CORL,
}
