"""The Atari games of the Arcade Learning Environment, and the ids that name them. Loads no library."""

import re
import sys
from typing import Any


_NAMES = """
Adventure AirRaid Alien Amidar Assault Asterix Asteroids Atlantis Atlantis2 Backgammon BankHeist BasicMath BattleZone
BeamRider Berzerk Blackjack Bowling Boxing Breakout Carnival Casino Centipede ChopperCommand CrazyClimber Crossbow
Darkchambers Defender DemonAttack DonkeyKong DoubleDunk Earthworld ElevatorAction Enduro Entombed Et FishingDerby
FlagCapture Freeway Frogger Frostbite Galaxian Gopher Gravitar Hangman HauntedHouse Hero HumanCannonball IceHockey
Jamesbond JourneyEscape Kaboom Kangaroo KeystoneKapers KingKong Klax Koolaid Krull KungFuMaster LaserGates LostLuggage
MarioBros MiniatureGolf MontezumaRevenge MrDo MsPacman NameThisGame Othello Pacman Phoenix Pitfall Pitfall2 Pong Pooyan
PrivateEye Qbert Riverraid RoadRunner Robotank Seaquest SirLancelot Skiing Solaris SpaceInvaders SpaceWar StarGunner
Superman Surround Tennis Tetris TicTacToe3D TimePilot Trondead Turmoil Tutankham UpNDown Venture VideoCheckers
VideoChess VideoCube VideoPinball WizardOfWor WordZapper YarsRevenge Zaxxon
"""
GAMES = frozenset(_NAMES.split())
"""As Gymnasium's ids call them."""

GREY_PICTURE = (84, 84)
"""Height and width of what a player is shown of a screen, since Mnih et al. (2015)."""

_IDS = (
    r"(?:ale_py:)?ALE/(\w+?)(?:-v5)?",  # namespace and module name no others
    r"(\w+?)(?:NoFrameskip|Deterministic)(?:-v[04])?",
    r"(\w+)-v[04]",
)


def game_of(env_id: str) -> str | None:
    """The game that an id names, such as `Pong` for `ALE/Pong-v5` and `PongNoFrameskip-v4`; None for other ids.

    An id says no more than the game: how it is played, keyword arguments say. One that somebody has registered with
    Gymnasium for an environment of another package is theirs.
    """
    gymnasium: Any = sys.modules.get("gymnasium")
    registered = getattr(gymnasium, "registry", {}).get(env_id)
    if registered is not None and not str(registered.entry_point).startswith("ale_py"):
        return None
    for form in _IDS:
        match = re.fullmatch(form, env_id)
        if match and (match[1] in GAMES or "ALE/" in env_id):  # newer versions may have more games
            return match[1]
    return None


def settings_of_registered(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Of the keyword arguments that ALE's environments are registered with, those that say how a game is played.

    Which game it is the id says, and that a screen is seen follows from the data.
    """
    return {name: value for name, value in kwargs.items() if name not in ("game", "obs_type") and value is not None}
