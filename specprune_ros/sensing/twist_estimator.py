# SPDX-License-Identifier: Apache-2.0
"""End-effector velocity from stamped poses."""

import math
from bisect import bisect_left, bisect_right

import numpy as np
from scipy.spatial.transform import Rotation

from specprune_ros.arrays import Floats
from specprune_ros.pose import Pose

MIN_SAMPLES = 3  # with fewer, one jittered stamp decides
MIN_SPAN = 0.3  # of the window; a shorter span turns pose noise into speed
HISTORY = 2.0  # seconds kept, so that observations older than the newest pose find their window


class TwistEstimator:
    """Least-squares velocity over a short window: unbiased under jittered stamps and gaps, and a low-pass filter.

    Linear velocity is the slope of the position; angular velocity is the slope of the rotation vector relative to the
    window's middle pose, which is exact for a constant angular velocity.
    """

    def __init__(self, window: float, max_age: float) -> None:
        """`window`: seconds of poses that are fitted. `max_age`: the twist is unknown without a pose that recent."""
        self.window = window
        self.max_age = max_age
        self.clear()

    def clear(self) -> None:
        self._stamps: list[float] = []
        self._poses: list[Pose] = []

    def add(self, stamp: float, position: Floats, quaternion: Floats) -> bool:
        """Add a pose in the base frame: `position` (3,) m, `quaternion` (4,) xyzw, `stamp` in seconds.

        False when it was dropped: not newer than the last one, or not finite. A clock that jumped back by more than
        the window starts afresh.
        """
        position, quaternion = np.array(position, dtype=np.float64), np.array(quaternion, dtype=np.float64)
        if not (math.isfinite(stamp) and np.isfinite(position).all() and np.isfinite(quaternion).all()):
            return False
        if not quaternion.any():
            return False
        if self._stamps and stamp < self._stamps[-1] - self.window:
            self.clear()
        if self._stamps and stamp <= self._stamps[-1]:
            return False
        self._stamps.append(stamp)
        self._poses.append(Pose(position, quaternion))
        outdated = bisect_left(self._stamps, stamp - HISTORY)
        del self._stamps[:outdated], self._poses[:outdated]
        return True

    def twist(self, at: float) -> Floats | None:
        """(6,) [m/s, rad/s] in the base frame at the time `at`; None when unknown.

        The window is centred on `at` as far as newer poses are known, otherwise it ends at the newest pose, and then
        the twist is that of half a window earlier.
        """
        if not self._stamps or at - self._stamps[-1] > self.max_age:
            return None
        end = min(self._stamps[-1], at + self.window / 2)
        first, last = bisect_left(self._stamps, end - self.window), bisect_right(self._stamps, end)
        stamps = np.array(self._stamps[first:last])
        if len(stamps) < MIN_SAMPLES or stamps[-1] - stamps[0] < MIN_SPAN * self.window:
            return None
        poses = self._poses[first:last]
        times = stamps - stamps.mean()
        rotations = Rotation.from_quat([pose.quaternion for pose in poses])
        turned = (rotations * rotations[len(poses) // 2].inv()).as_rotvec()
        values = np.hstack([[pose.position for pose in poses], turned])
        result: Floats | None = times @ (values - values.mean(axis=0)) / (times @ times)
        return result
