# SPDX-License-Identifier: Apache-2.0
"""The newest camera images, joint states and end-effector pose, assembled into one observation.

Messages are duck-typed and come from subscriptions or from a bag; `add_*` only store them (any thread), `assemble`
converts the chosen ones (the worker's thread).
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specprune_ros.arrays import Floats, Pixels
from specprune_ros.camera import Camera
from specprune_ros.errors import ObservationError
from specprune_ros.sensing.camera_check import CameraCheck, info_topic, of_one_topic, swapped_by_name
from specprune_ros.sensing.camera_view import CameraView
from specprune_ros.sensing.config import JOINT_STATES, TF, InputsConfig, image_input
from specprune_ros.sensing.end_effector import EndEffector, MeasuredTwist
from specprune_ros.sensing.history import History
from specprune_ros.sensing.images import resized_first, to_rgb, transformed
from specprune_ros.sensing.joints import JointInput, JointMotion
from specprune_ros.sensing.peers import Peers, UnknownPeers
from specprune_ros.sensing.proprio import end_effector_proprio
from specprune_ros.stamps import NANOSECONDS, stamp_or_arrival

A_DAY = 86400.0  # seconds; no clock that is only wrong is that far behind
OLD_STAMPS = (
    "let its driver stamp by the system clock, not from the start of the device; of a bag, play it with --clock and "
    "set use_sim_time"
)
IMAGES_KEPT = 8  # per camera, to find images of one time; 8 VGA images are 7 MB


@dataclass(frozen=True, eq=False)
class Sensed:
    """What the sensors say at one stamp."""

    stamp: int  # nanoseconds
    views: dict[str, Pixels]  # name -> (H, W, 3) uint8 RGB, as the checkpoint expects it
    proprio: Floats  # (P,) float64
    twist: Floats | None  # (6,) m/s and rad/s in the base frame; None: unknown
    twist_problem: str  # why the twist is unknown
    cameras: Mapping[str, Camera] = field(default_factory=dict)  # of the views whose place is asked for and known


class ObservationAssembler:
    """Owns the newest messages of every input, behind one lock."""

    def __init__(
        self,
        config: InputsConfig,
        topics: Mapping[str, str],
        joints_topic: str,
        end_effector: EndEffector | None,
        controlled_joints: tuple[str, ...],
        axis_angle_near: Floats,
        *,
        arrival: Callable[[], float] = time.monotonic,
        peers: Peers | None = None,
    ) -> None:
        """`topics`: camera -> the topic of its images, for messages. `joints_topic`: that of the joint states.

        `end_effector`: where pose and twist come from; None where there is none. `controlled_joints`: joints that the
        controller moves. `axis_angle_near`: (3,) see `proprio.axis_angle`. `arrival`: seconds of a steady clock.
        `peers`: those who publish the inputs, for messages.
        """
        self.config = config
        self.topics = dict(topics)
        self._end_effector = end_effector
        self._near = axis_angle_near
        self._peers = peers or UnknownPeers()
        self._arrival = arrival
        self._lock = threading.Lock()
        self.era = 0  # counts the jumps of the clock
        self._images: dict[str, History[Any]] = {camera: History(IMAGES_KEPT) for camera in config.cameras}
        self._checks = {camera: CameraCheck(topic, info_topic(topic)) for camera, topic in self.topics.items()}
        self._camera_views = {camera: CameraView(topic, info_topic(topic)) for camera, topic in self.topics.items()}
        self._frames: dict[str, str] = {}  # camera -> frame_id of its images
        self.locates_cameras = False  # whether observations say where the cameras are
        self._lost_camera = ""  # why it is not known of one
        self._proprio_joints = config.joint_names if config.proprio != "none" else ()
        self._controlled_joints = controlled_joints
        joints = {*self._proprio_joints, *controlled_joints}
        self._joints = JointInput(joints, joints_topic, peers) if joints else None

    @property
    def needs_joints(self) -> bool:
        """Whether any joint's position is part of the observation or of the control."""
        return self._joints is not None

    def add_image(self, camera: str, message: Any, now: int, era: int | None = None) -> bool:
        """Store a camera message; False when it came twice or out of order.

        `now`: nanoseconds, the stamp of a message whose driver leaves it empty; likewise below. `era`: the one in which
        it came, if that was not just now; it is dropped when the clock has jumped since.
        """
        stamp = stamp_or_arrival(message.header.stamp, now)
        with self._lock:
            if era is not None and era != self.era:
                return False
            return self._images[camera].add(stamp, message, self._arrival())

    def add_camera_info(self, camera: str, message: Any) -> None:
        self._checks[camera].on_info(message)
        self._camera_views[camera].on_info(message)

    def add_joints(self, message: Any, now: int) -> None:
        assert self._joints is not None
        stamp = stamp_or_arrival(message.header.stamp, now)
        max_ahead = int(self.config.max_age_of(JOINT_STATES) * NANOSECONDS)
        with self._lock:
            self._joints.add(message, stamp, self._arrival(), now, max_ahead)

    def assemble(self, now: int, newer_than: int | None = None) -> Sensed | None:
        """The newest complete observation; None when nothing is newer than `newer_than`. Nanoseconds.

        Raises ObservationError that says which input is missing, stale or broken, and what to do.
        """
        pose_until = self._pose_until()
        with self._lock:
            stamp = self._covered(self._newest_common_stamp(now), pose_until, now)
            if newer_than is not None and stamp <= newer_than:
                return None
            messages = {camera: self._image_near(camera, stamp) for camera in self.config.cameras}
            joints = self._proprio_positions(stamp)
        self._frames = {camera: message.header.frame_id for camera, (_, message) in messages.items()}
        views = {camera: self._view(camera, *found) for camera, found in messages.items()}
        proprio, measured = self._motion(stamp, joints)
        return Sensed(stamp, views, proprio, measured.twist, measured.problem, self._located(messages))

    def _located(self, messages: Mapping[str, tuple[int, Any]]) -> dict[str, Camera]:
        """The cameras at the stamps of their images, those that are known."""
        cameras: dict[str, Camera] = {}
        self._lost_camera = ""
        if not self.locates_cameras:
            return cameras
        skew = self._skew(TF)
        for name, (stamp, message) in messages.items():
            try:
                if self._end_effector is None:
                    raise ObservationError("pruning.history_motion tf needs inputs.base_frame and ee_frame")
                view, transform = self._camera_views[name], self.config.transform_of(name)
                cameras[name] = view.camera(message.header.frame_id, transform, self._end_effector, stamp, skew)
            except ObservationError as error:
                self._lost_camera = self._lost_camera or str(error)
        return cameras

    def _view(self, camera: str, stamp: int, message: Any) -> Pixels:
        frame = to_rgb(message, self.topics[camera])
        self._checks[camera].on_frame(frame, stamp)
        return resized_first(transformed(frame, self.config.transform_of(camera)), self.config.resize_first)

    def set_joint_motions(self, motions: Mapping[str, JointMotion]) -> None:
        """How the controlled joints can move: what contradicts it is not believed."""
        with self._lock:
            if self._joints:
                self._joints.set_motions(motions)

    def set_adopting(self, adopting: bool) -> None:
        """See `JointInput.set_adopting`."""
        with self._lock:
            if self._joints:
                self._joints.set_adopting(adopting)

    def tell(self, moves: bool) -> None:
        """Whether the controlled joints are told to move."""
        with self._lock:
            if self._joints:
                self._joints.tell(moves, self._arrival())

    def vouch(self) -> None:
        """Motion was enabled by somebody who sees the arm: what contradicted the measured joints is forgotten."""
        with self._lock:
            if self._joints:
                self._joints.forget_contradictions(self._arrival())

    def measured_joints(self, now: int) -> Floats:
        """(J,) newest positions of the controlled joints, rad, fit to make a command from.

        Raises ObservationError when one is missing, stale, not finite, or contradicts itself.
        """
        age = int(self.config.max_age_of(JOINT_STATES) * NANOSECONDS)
        with self._lock:
            if self._joints is None:
                return np.zeros(0)
            return self._joints.settled_positions(self._controlled_joints, now, age, self._arrival())

    def measured_joint_velocities(self) -> Floats:
        """(J,) of the controlled joints, rad/s, as they were a moment before the newest positions."""
        with self._lock:
            return np.zeros(0) if self._joints is None else self._joints.velocities(self._controlled_joints)

    def _proprio_positions(self, stamp: int) -> Floats:
        """Of the joints in the proprio."""
        if self._joints is None:
            return np.zeros(0)
        return self._joints.positions(self._proprio_joints, stamp, self._skew(JOINT_STATES), self._arrival())

    def newest_stamps(self) -> dict[str, int | None]:
        """`image_input` or `JOINT_STATES` -> stamp of its newest sample, nanoseconds, None when it is missing."""
        with self._lock:
            stamps = {image_input(camera): history.newest_stamp for camera, history in self._images.items()}
            if self._joints:
                stamps[JOINT_STATES] = self._joints.newest_stamp()
        return stamps

    def ages(self, now: int) -> dict[str, tuple[float, float]]:
        """Topic -> age of its newest sample, nan when there is none, and the oldest acceptable one; seconds."""
        names = {image_input(camera): topic for camera, topic in self.topics.items()}
        if self._joints:
            names[JOINT_STATES] = self._joints.topic
        return {
            names[name]: (math.nan if stamp is None else (now - stamp) / NANOSECONDS, self.config.max_age_of(name))
            for name, stamp in self.newest_stamps().items()
        }

    def newest_common_stamp(self, now: int) -> int:
        """The stamp that `assemble` would take, nanoseconds. Raises ObservationError as it does for the cameras."""
        pose_until = self._pose_until()
        with self._lock:
            return self._covered(self._newest_common_stamp(now), pose_until, now)

    def problem(self, now: int) -> str:
        """Why there is no complete set of camera images, "" when there is one."""
        try:
            with self._lock:
                self._newest_common_stamp(now)
        except ObservationError as error:
            return str(error)
        return ""

    def oddity(self) -> str:
        """What is odd about a camera whose images are used, "" for nothing."""
        problems = [*of_one_topic(self.topics), *swapped_by_name(self._frames)]
        problems += [check.problem(self.config.frozen_after) for check in self._checks.values()]
        return next(filter(None, [*problems, self._lost_camera]), "")

    def _newest_common_stamp(self, now: int) -> int:
        """The stamp of the camera that lags behind most.

        A camera with a max_skew of its own is waited for only where the others are further ahead than that.
        """
        newest_stamps, bounds = [], []
        for camera, history in self._images.items():
            newest = history.newest_stamp
            if newest is None:
                raise ObservationError(
                    self._peers.mismatch(self.topics[camera])
                    or f"no image on {self.topics[camera]} yet; start the camera or remap ~/image_{camera} to its topic"
                )
            age, allowed = (now - newest) / NANOSECONDS, self.config.max_age_of(image_input(camera))
            if age > allowed:
                raise ObservationError(
                    f"newest image on {self.topics[camera]} is {age:.2f} s old (inputs.max_age "
                    f"{allowed:g} s); {OLD_STAMPS if age > A_DAY else 'check the camera, or the clock of its machine'}"
                )
            if -age > self.config.max_skew_of(image_input(camera)):
                raise ObservationError(
                    f"image on {self.topics[camera]} is stamped {-age:.2f} s in the future; synchronise the clocks, "
                    "or set use_sim_time on every node"
                )
            newest_stamps.append(newest)
            bounds.append(newest + int(self.config.own_skew_of(image_input(camera)) * NANOSECONDS))
        return min(*bounds, max(newest_stamps))

    def _skew(self, name: str) -> int:
        """Nanoseconds."""
        return int(self.config.max_skew_of(name) * NANOSECONDS)

    def _pose_until(self) -> int | None:
        """Until when the pose in the proprio is known, nanoseconds; None when there is none in it, or it is unknown."""
        if self._end_effector is None or self.config.proprio != "end_effector":
            return None
        return self._end_effector.covered_until(self._skew(TF))

    def _covered(self, stamp: int, pose_until: int | None, now: int) -> int:
        """`stamp`, or that of an older image which a joint or a pose that comes more seldom covers already.

        Nanoseconds. `stamp` as well when that image would be too old: then the input that lacks says so.
        """
        bounds = [] if pose_until is None else [pose_until]
        joints = self._joints.newest_stamp(self._proprio_joints) if self._joints and self._proprio_joints else None
        if joints is not None:
            bounds.append(joints + self._skew(JOINT_STATES))
        if not bounds or stamp <= min(bounds):
            return stamp
        older = [history.newest_until(min(bounds)) for history in self._images.values()]
        covered = min((found for found in older if found is not None), default=None)
        if covered is None or None in older or now - covered > self.config.max_age * NANOSECONDS:
            return stamp
        return covered

    def _image_near(self, camera: str, stamp: int) -> tuple[int, Any]:
        found = self._images[camera].nearest(stamp)
        assert found is not None  # _newest_common_stamp has seen one, under the same lock
        apart, allowed = abs(found[0] - stamp) / NANOSECONDS, self.config.max_skew_of(image_input(camera))
        if apart > allowed:
            raise ObservationError(
                f"image on {self.topics[camera]} is {apart:.3f} s apart from the other cameras' "
                f"(inputs.max_skew {allowed:g} s); check its rate"
            )
        return found

    def _motion(self, stamp: int, joints: Floats) -> tuple[Floats, MeasuredTwist]:
        """Proprio and twist."""
        if self._end_effector is None:
            return joints, MeasuredTwist(None, "no end effector frame is configured")
        skew = self._skew(TF)
        twist = self._end_effector.twist(stamp, skew)
        if self.config.proprio != "end_effector":
            return joints, twist
        pose = self._end_effector.pose(stamp, skew)
        return end_effector_proprio(pose.position, pose.quaternion, joints, self._near), twist

    def rates(self) -> dict[str, float]:
        """Topic -> messages per second."""
        now = self._arrival()
        with self._lock:
            rates = {self.topics[camera]: history.rate(now) for camera, history in self._images.items()}
            if self._joints:
                rates[self._joints.topic] = self._joints.rate(now)
        return rates

    def silence(self, topic: str) -> str:
        """Why nothing is heard on a topic of `rates`, and what to do."""
        return self._peers.mismatch(topic) or "nothing received; start its publisher, or remap it"

    def slow_joints(self) -> str:
        """Why the joints of the proprio hold up the images, and what to set; "" when they come often enough."""
        now = self._arrival()
        with self._lock:
            if self._joints is None or not self._proprio_joints:
                return ""
            name, rate = self._joints.slowest(self._proprio_joints, now)
        skew = self.config.max_skew_of(JOINT_STATES)
        if rate == 0.0 or rate >= 1 / (2 * skew):
            return ""
        advice = "publish it faster"
        if not self._controlled_joints:  # those must not get that old
            limits = [f"joint_states.max_skew={1 / (2 * rate) * 1.2:.2f}"]
            limits += [f"joint_states.max_age={1.2 / rate:.2f}"] * (1.2 / rate > self.config.max_age_of(JOINT_STATES))
            advice += f", or set inputs.own_limits [{', '.join(limits)}]"
        effect = "images between are passed over and chunks come later"
        return f"joint {name} comes at {rate:.1f} Hz, so that {effect}; {advice}"

    def dropped(self) -> int:
        """Images that came twice or out of order."""
        with self._lock:
            return sum(history.dropped for history in self._images.values())

    def clear(self) -> None:
        """Forget every message: the clock jumped."""
        with self._lock:
            self.era += 1
            for history in self._images.values():
                history.clear()
            if self._joints:
                self._joints.clear()
