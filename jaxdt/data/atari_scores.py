"""What Atari games are scored against: a random player and a human one."""

from typing import NamedTuple


class GameScores(NamedTuple):
    random: float
    """Mean return of actions drawn at random."""
    human: float
    """Mean return of a professional tester."""
    paper_targets: tuple[float, ...] | None = None
    """The return that the Decision Transformer's Table 8 asks for; the original's code says otherwise of Qbert and
    Seaquest, and its authors hold the table right (their issue 23)."""


SCORES = {
    "Alien": GameScores(227.8, 7127.7),
    "Amidar": GameScores(5.8, 1719.5),
    "Assault": GameScores(222.4, 742.0),
    "Asterix": GameScores(210.0, 8503.3),
    "Asteroids": GameScores(719.1, 47388.7),
    "Atlantis": GameScores(12850.0, 29028.1),
    "BankHeist": GameScores(14.2, 753.1),
    "BattleZone": GameScores(2360.0, 37187.5),
    "BeamRider": GameScores(363.9, 16926.5),
    "Berzerk": GameScores(123.7, 2630.4),
    "Bowling": GameScores(23.1, 160.7),
    "Boxing": GameScores(0.1, 12.1),
    "Breakout": GameScores(1.7, 30.5, (90.0,)),
    "Centipede": GameScores(2090.9, 12017.0),
    "ChopperCommand": GameScores(811.0, 7387.8),
    "CrazyClimber": GameScores(10780.5, 35829.4),
    "Defender": GameScores(2874.5, 18688.9),
    "DemonAttack": GameScores(152.1, 1971.0),
    "DoubleDunk": GameScores(-18.6, -16.4),
    "Enduro": GameScores(0.0, 860.5),
    "FishingDerby": GameScores(-91.7, -38.7),
    "Freeway": GameScores(0.0, 29.6),
    "Frostbite": GameScores(65.2, 4334.7),
    "Gopher": GameScores(257.6, 2412.5),
    "Gravitar": GameScores(173.0, 3351.4),
    "Hero": GameScores(1027.0, 30826.4),
    "IceHockey": GameScores(-11.2, 0.9),
    "Jamesbond": GameScores(29.0, 302.8),
    "Kangaroo": GameScores(52.0, 3035.0),
    "Krull": GameScores(1598.0, 2665.5),
    "KungFuMaster": GameScores(258.5, 22736.3),
    "MontezumaRevenge": GameScores(0.0, 4753.3),
    "MsPacman": GameScores(307.3, 6951.6),
    "NameThisGame": GameScores(2292.3, 8049.0),
    "Phoenix": GameScores(761.4, 7242.6),
    "Pitfall": GameScores(-229.4, 6463.7),
    "Pong": GameScores(-20.7, 14.6, (20.0,)),
    "PrivateEye": GameScores(24.9, 69571.3),
    "Qbert": GameScores(163.9, 13455.0, (2500.0,)),
    "Riverraid": GameScores(1338.5, 17118.0),
    "RoadRunner": GameScores(11.5, 7845.0),
    "Robotank": GameScores(2.2, 11.9),
    "Seaquest": GameScores(68.4, 42054.7, (1450.0,)),
    "Skiing": GameScores(-17098.1, -4336.9),
    "Solaris": GameScores(1236.3, 12326.7),
    "SpaceInvaders": GameScores(148.0, 1668.7),
    "StarGunner": GameScores(664.0, 10250.0),
    "Surround": GameScores(-10.0, 6.5),
    "Tennis": GameScores(-23.8, -8.3),
    "TimePilot": GameScores(3568.0, 5229.2),
    "Tutankham": GameScores(11.4, 167.6),
    "UpNDown": GameScores(533.4, 11693.2),
    "Venture": GameScores(0.0, 1187.5),
    "VideoPinball": GameScores(16256.9, 17667.9),
    "WizardOfWor": GameScores(563.5, 4756.5),
    "YarsRevenge": GameScores(3092.9, 54576.9),
    "Zaxxon": GameScores(32.5, 9173.3),
}
"""By ALE's name, with up to 30 no-ops at the beginning and at most half an hour: Wang et al. 2016, Dueling Network
Architectures, appendix."""
