# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from specprune_ros.control.deviation import PoseDeviation, integrate
from specprune_ros.pose import IDENTITY, Pose

PERIOD = 0.05
TWIST = np.array([0.2, 0, 0, 0, 0, 1.0])


def test_an_arm_that_follows_does_not_deviate():
    deviation, pose = PoseDeviation(), IDENTITY
    for _ in range(20):
        assert deviation.update(1.0, TWIST, pose, PERIOD) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
        pose = integrate(pose, TWIST, PERIOD)


def test_an_arm_that_is_stuck_deviates_by_the_plans_motion():
    deviation = PoseDeviation()
    results = [deviation.update(1.0, TWIST, IDENTITY, PERIOD) for _ in range(5)]
    np.testing.assert_allclose(results, [(0.01 * k, 0.05 * k) for k in range(5)], atol=1e-9)


def test_a_new_chunk_or_a_hold_starts_from_where_the_arm_is():
    deviation = PoseDeviation()
    for _ in range(5):
        deviation.update(1.0, TWIST, IDENTITY, PERIOD)
    assert deviation.update(1.2, TWIST, IDENTITY, PERIOD) == (0, 0)
    elsewhere = Pose(np.ones(3), IDENTITY.quaternion)
    deviation.clear()
    assert deviation.update(1.2, TWIST, elsewhere, PERIOD) == (0, 0)
