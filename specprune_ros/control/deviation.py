# SPDX-License-Identifier: Apache-2.0
"""How far the arm's motion has left the plan."""

import numpy as np
from scipy.spatial.transform import Rotation

from specprune_ros.arrays import Floats
from specprune_ros.pose import Pose


def integrate(pose: Pose, twist: Floats, period: float) -> Pose:
    """`pose` after moving with `twist` (6,) m/s, rad/s, both in the base frame, for `period` seconds."""
    turn = Rotation.from_rotvec(twist[3:] * period)
    return Pose(pose.position + twist[:3] * period, (turn * pose.rotation).as_quat())


class PoseDeviation:
    """Follows the plan's increments from the pose in which the plan began, and compares with the measured pose."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._expected: Pose | None = None
        self._plan: float | None = None

    def update(self, plan: float, twist: Floats, pose: Pose, period: float) -> tuple[float, float]:
        """Distance (m) and angle (rad) between `pose` and where the plan should have brought the arm by now.

        `plan`: stamp of the running chunk; a new one starts from `pose`. `twist` (6,): what the plan asks for from now
        on, for `period` seconds, before limits.
        """
        if self._expected is None or plan != self._plan:
            self._expected, self._plan = pose, plan
        distance = float(np.linalg.norm(pose.position - self._expected.position))
        angle = float((pose.rotation * self._expected.rotation.inv()).magnitude())
        self._expected = integrate(self._expected, twist, period)
        return distance, angle
