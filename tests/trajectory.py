"""What the tests of the Trajectory Transformer share: the original's own numbers, in our names."""

from pathlib import Path

import numpy as np


GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "trajectory.npz"))
"""Made by the original's program on random weights and random input, float32."""
