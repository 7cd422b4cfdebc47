"""Pose and twist of the end effector at the stamp of an observation, from TF."""

from typing import Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from specprune_ros.errors import ObservationError
from specprune_ros.nodes.stamps import NANOSECONDS

WINDOW = NANOSECONDS // 10  # over which the twist is measured: two periods of a 20 Hz TF publisher
SAMPLES = 5  # poses within the window


class Transforms(Protocol):
    """Where transforms are looked up."""

    def lookup(self, target: str, source: str, stamp: int | None) -> tuple[np.ndarray, np.ndarray, int]:
        """Pose of frame `source` in frame `target` at `stamp` (nanoseconds; None: the newest common time).

        Returns position (3,) m, quaternion (4,) xyzw, stamp. Raises ObservationError.
        """
        ...


class EndEffector:
    """The chain `base_frame` -> `ee_frame`."""

    def __init__(self, transforms: Transforms, base_frame: str, ee_frame: str) -> None:
        self._transforms, self.base_frame, self.ee_frame = transforms, base_frame, ee_frame

    def pose(self, stamp: int, max_skew: int) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) m and unit quaternion (4,) xyzw at `stamp`, or the newest at most `max_skew` older.

        Nanoseconds. Raises ObservationError that names the frames.
        """
        return self._pose(self._usable(stamp, max_skew))

    def twist(self, stamp: int, max_skew: int) -> tuple[np.ndarray | None, str]:
        """((6,) m/s and rad/s in the base frame, "") or (None, why it is unknown)."""
        try:
            end = self._usable(stamp, max_skew)
            times = np.linspace(end - WINDOW, end, SAMPLES).astype(np.int64)
            poses = [self._pose(int(time)) for time in times]
        except ObservationError as error:
            return None, str(error)
        return fitted_twist((times - end) / NANOSECONDS, *map(np.array, zip(*poses, strict=True))), ""

    def _usable(self, stamp: int, max_skew: int) -> int:
        """`stamp`, or the time of the newest transform where that has not arrived yet."""
        newest = self._transforms.lookup(self.base_frame, self.ee_frame, None)[2]
        if newest == 0 or newest >= stamp:  # 0: a chain of static transforms alone
            return stamp
        if stamp - newest > max_skew:
            raise ObservationError(
                f"TF {self.base_frame} -> {self.ee_frame} is {(stamp - newest) / NANOSECONDS:.2f} s older than the "
                "images; check robot_state_publisher and the clocks"
            )
        return newest

    def _pose(self, stamp: int) -> tuple[np.ndarray, np.ndarray]:
        position, quaternion, _ = self._transforms.lookup(self.base_frame, self.ee_frame, stamp)
        if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
            raise ObservationError(f"TF {self.base_frame} -> {self.ee_frame} is not finite; check its publisher")
        return position, quaternion


def fitted_twist(times: np.ndarray, positions: np.ndarray, quaternions: np.ndarray) -> np.ndarray:
    """(6,) m/s and rad/s in the frame of the poses: the least-squares slope over `times` (n,), seconds.

    `positions`: (n, 3) m. `quaternions`: (n, 4) xyzw. The slope over several poses averages the noise of single ones.
    """
    rotations = Rotation.from_quat(quaternions)
    turned = (rotations * rotations[-1].inv()).as_rotvec()  # on the left: axes of the base frame
    centred = times - times.mean()
    return centred @ np.hstack([positions, turned]) / (centred @ centred)
