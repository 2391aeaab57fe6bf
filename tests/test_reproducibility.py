"""What the README says of reproducibility; that two processes train to the same bits is in test_killing.py."""

import numpy as np

from jaxdt.simulator import make_simulator


def cheetah(change_of_first_action: float) -> np.ndarray:
    """Observations of fifty random steps from the same seeds."""
    simulator = make_simulator("HalfCheetah-v5")
    simulator.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, size=(50, 6))
    actions[0, 0] += change_of_first_action
    observations = np.stack([simulator.step(action)[0] for action in actions])
    simulator.close()
    return observations


def test_mujoco_repeats_itself_and_makes_much_of_little():
    whole, again, changed = cheetah(0.0), cheetah(0.0), cheetah(1e-6)
    np.testing.assert_array_equal(again, whole)
    difference = np.abs(changed - whole).max(axis=1)
    print(f"after 20 steps {difference[19]:.2g}, after 50 {difference[49]:.2g}")
    assert difference[19] > 1e-5
    assert difference[49] > 1e-3
