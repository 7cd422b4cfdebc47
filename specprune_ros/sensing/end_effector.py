# SPDX-License-Identifier: Apache-2.0
"""Pose and twist of the end effector at the stamp of an observation, from TF."""

import contextlib
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from specprune_ros.arrays import Floats
from specprune_ros.errors import ObservationError
from specprune_ros.pose import Pose
from specprune_ros.sensing.history import History
from specprune_ros.sensing.track import SPEED_MARGIN, UNSEEN, Track
from specprune_ros.sensing.twist_estimator import TwistEstimator
from specprune_ros.stamps import NANOSECONDS

WINDOW = NANOSECONDS * 15 // 100  # over which the twist is measured: three periods of a 20 Hz TF publisher
SAMPLES = 7  # poses within the window
STAMPS_KEPT = 50  # for the rate
NOISE, ANGLE_NOISE = 0.01, 0.03  # m and rad, of a measured pose


@dataclass(frozen=True, eq=False)
class StampedPose:
    """A pose at a time."""

    pose: Pose
    stamp: int | None  # nanoseconds; None: it is the same at all times, every link came on /tf_static


@dataclass(frozen=True, eq=False)
class MeasuredTwist:
    """A velocity of the end effector, or why there is none."""

    twist: Floats | None  # (6,) m/s and rad/s in the base frame; None: unknown
    problem: str = ""


@dataclass(frozen=True)
class PoseMotion:
    """How fast the end effector can move."""

    speed: float  # m/s
    angular_speed: float  # rad/s
    silence: float = UNSEEN  # seconds after which it holds when it is not seen
    braking: float = 0.0  # seconds in which it comes to rest then

    def possible(self, before: Pose, after: Pose, seconds: float) -> bool:
        """Whether the end effector can be at `after` that many seconds after `before`."""
        distance = float(np.linalg.norm(after.position - before.position))
        angle = float((after.rotation * before.rotation.inv()).magnitude())
        return (
            distance <= SPEED_MARGIN * self.speed * seconds + NOISE
            and angle <= SPEED_MARGIN * self.angular_speed * seconds + ANGLE_NOISE
        )


class Transforms(Protocol):
    """Where transforms are looked up. `refused` counts those that could not be stored; `last_refusal` says why."""

    refused: int
    last_refusal: str

    def lookup(self, target: str, source: str, stamp: int | None) -> StampedPose:
        """Pose of frame `source` in frame `target` at `stamp` (nanoseconds; None: the newest common time).

        Raises ObservationError.
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
        self._track: Track[Pose] | None = None

    def pose(self, stamp: int, max_skew: int) -> Pose:
        """The pose at `stamp`, or the newest at most `max_skew` older.

        Nanoseconds. Raises ObservationError that names the frames.
        """
        return self.pose_of(self.ee_frame, stamp, max_skew)

    def pose_of(self, frame: str, stamp: int, max_skew: int) -> Pose:
        """The same of any other frame, such as a camera's, in the base frame."""
        return self._pose(self._usable(stamp, max_skew, frame), frame)

    def twist(self, stamp: int, max_skew: int) -> MeasuredTwist:
        """The velocity at `stamp`, or at most `max_skew` earlier. Nanoseconds.

        The poses are sampled from the buffer, evenly and interpolated, so the result depends neither on TF's rate
        nor on which buffer holds it.
        """
        try:
            end = self._usable(stamp, max_skew)
            estimator = TwistEstimator(WINDOW / NANOSECONDS, max_skew / NANOSECONDS)
            for sample in range(SAMPLES):
                time = end - WINDOW + sample * WINDOW // (SAMPLES - 1)
                pose = self._pose(time)
                estimator.add((time - stamp) / NANOSECONDS, pose.position, pose.quaternion)
        except ObservationError as error:
            return MeasuredTwist(None, str(error))
        return MeasuredTwist(estimator.twist(0.0))

    def covered_until(self, max_skew: int) -> int | None:
        """The newest stamp at which the pose is known but for `max_skew`, nanoseconds; None: at any, or at none."""
        try:
            newest = self._transforms.lookup(self.base_frame, self.ee_frame, None).stamp
        except ObservationError:
            return None
        return None if newest is None else newest + max_skew

    def newest(self) -> StampedPose | None:
        """The newest pose, None when it is unknown."""
        try:
            found = self._transforms.lookup(self.base_frame, self.ee_frame, None)
        except ObservationError:
            return None
        if found.stamp is not None and found.stamp != self._seen.newest_stamp:
            self._seen.add(found.stamp, None, time.monotonic())
        return found

    # Poses that become commands, on the executor's thread

    def set_motion(self, motion: PoseMotion) -> None:
        """How fast the arm can move: what contradicts it is not believed by `settled`."""
        if self._track is None:
            self._track = Track(motion.possible)
        self._track.possible, self._track.silence, self._track.braking = motion.possible, motion.silence, motion.braking
        self._motion = motion

    def set_adopting(self, adopting: bool) -> None:
        """Whether poses that no motion explains may be believed after a while: not while the arm is moved."""
        if self._track is not None:
            self._track.adopts = adopting

    def tell(self, moves: bool) -> None:
        """Whether the arm is told to move."""
        if self._track is not None:
            self._track.tell(moves, time.monotonic())

    def vouch(self) -> None:
        """Motion was enabled by somebody who sees the arm: what contradicted the measured pose is forgotten."""
        with contextlib.suppress(ObservationError):
            self.settled()  # nobody has looked while the node was inactive
        if self._track is not None and self._track.contradiction(time.monotonic()):
            self._track.clear()

    def clear(self) -> None:
        """The clock jumped."""
        if self._track is not None:
            self._track.clear()

    def settled(self) -> Pose:
        """The newest pose, fit to make a command from; ask in every control period.

        Raises ObservationError when it is unknown, or contradicts itself faster than the arm moves.
        """
        found = self._transforms.lookup(self.base_frame, self.ee_frame, None)
        track, now, frames = self._track, time.monotonic(), f"TF {self.base_frame} -> {self.ee_frame}"
        if track is None or found.stamp is None:
            return found.pose
        if track.last is None or found.stamp != track.last.stamp:
            track.add(found.stamp, found.pose, now)
        contradiction = track.contradiction(now)
        if contradiction is not None:
            apart = float(np.linalg.norm(contradiction.other.position - contradiction.believed.position))
            angle = float((contradiction.other.rotation * contradiction.believed.rotation.inv()).magnitude())
            raise ObservationError(
                f"{frames} jumps by {apart:.3f} m and {angle:.3f} rad, faster than limits.max_speed "
                f"{self._motion.speed:g} m/s and max_angular_speed {self._motion.angular_speed:g} rad/s; leave one "
                "publisher of every frame, or call ~/enable if the arm really moved"
            )
        if not track.settled(now):
            raise ObservationError(f"{frames} is listened to for a second before it is used")
        return found.pose

    def rate(self) -> float:
        """New poses per second as `newest` saw them, so at most as many as it was asked; 0 for static ones."""
        return self._seen.rate(time.monotonic())

    def _usable(self, stamp: int, max_skew: int, frame: str = "") -> int:
        """`stamp`, or the time of the newest transform where that has not arrived yet."""
        frame = frame or self.ee_frame
        newest = self._transforms.lookup(self.base_frame, frame, None).stamp
        if newest is None or newest >= stamp:
            return stamp
        if stamp - newest > max_skew:
            raise ObservationError(
                f"TF {self.base_frame} -> {frame} is {(stamp - newest) / NANOSECONDS:.2f} s older than the "
                "images; check robot_state_publisher and the clocks"
            )
        return newest

    def _pose(self, stamp: int, frame: str = "") -> Pose:
        frame = frame or self.ee_frame
        pose = self._transforms.lookup(self.base_frame, frame, stamp).pose
        if not (np.isfinite(pose.position).all() and np.isfinite(pose.quaternion).all()):
            raise ObservationError(f"TF {self.base_frame} -> {frame} is not finite; check its publisher")
        return pose
