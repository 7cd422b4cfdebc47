"""Pose and twist of the end effector at the stamp of an observation, from TF."""

import time
from typing import Protocol

import numpy as np

from specprune_ros.errors import ObservationError
from specprune_ros.pose import Pose
from specprune_ros.sensing.history import History
from specprune_ros.sensing.stamps import NANOSECONDS
from specprune_ros.sensing.twist_estimator import TwistEstimator

WINDOW = NANOSECONDS * 15 // 100  # over which the twist is measured: three periods of a 20 Hz TF publisher
SAMPLES = 7  # poses within the window
STAMPS_KEPT = 50  # for the rate


class Transforms(Protocol):
    """Where transforms are looked up. `refused` counts those that could not be stored; `last_refusal` says why."""

    refused: int
    last_refusal: str

    def lookup(self, target: str, source: str, stamp: int | None) -> tuple[np.ndarray, np.ndarray, int]:
        """Pose of frame `source` in frame `target` at `stamp` (nanoseconds; None: the newest common time).

        Returns position (3,) m, quaternion (4,) xyzw, stamp. Raises ObservationError.
        """
        ...

    def clear(self) -> None:
        """Forget timed transforms: the clock jumped."""
        ...


class EndEffector:
    """The chain `base_frame` -> `ee_frame`."""

    def __init__(self, transforms: Transforms, base_frame: str, ee_frame: str) -> None:
        self._transforms, self.base_frame, self.ee_frame = transforms, base_frame, ee_frame
        self._seen: History[None] = History(STAMPS_KEPT)

    def pose(self, stamp: int, max_skew: int) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) m and unit quaternion (4,) xyzw at `stamp`, or the newest at most `max_skew` older.

        Nanoseconds. Raises ObservationError that names the frames.
        """
        return self._pose(self._usable(stamp, max_skew))

    def twist(self, stamp: int, max_skew: int) -> tuple[np.ndarray | None, str]:
        """((6,) m/s and rad/s in the base frame, "") or (None, why it is unknown).

        The poses are sampled from the buffer, evenly and interpolated, so the result depends neither on TF's rate
        nor on which buffer holds it.
        """
        try:
            end = self._usable(stamp, max_skew)
            estimator = TwistEstimator(WINDOW / NANOSECONDS, max_skew / NANOSECONDS)
            for sample in range(SAMPLES):
                time = end - WINDOW + sample * WINDOW // (SAMPLES - 1)
                estimator.add((time - stamp) / NANOSECONDS, *self._pose(time))
        except ObservationError as error:
            return None, str(error)
        return estimator.twist(0.0), ""

    def newest(self) -> Pose | None:
        """The newest pose, None when it is unknown."""
        try:
            position, quaternion, _ = self._transforms.lookup(self.base_frame, self.ee_frame, None)
        except ObservationError:
            return None
        return Pose(position, quaternion)

    def newest_stamp(self) -> int | None:
        """Time of the newest pose, nanoseconds; 0 for static ones; None when it is unknown."""
        try:
            stamp = self._transforms.lookup(self.base_frame, self.ee_frame, None)[2]
        except ObservationError:
            return None
        if stamp and stamp != self._seen.newest_stamp:
            self._seen.add(stamp, None, time.monotonic())
        return stamp

    def rate(self) -> float:
        """New poses per second as `newest_stamp` saw them, so at most as many as it was asked; 0 for static ones."""
        return self._seen.rate(time.monotonic())

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
