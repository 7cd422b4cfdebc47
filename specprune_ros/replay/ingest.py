# SPDX-License-Identifier: Apache-2.0
"""From a bag's messages to observations, through the live node's own assembler.

The live node assembles an observation when an image wakes its worker, from what has arrived by then. Here that moment
is `SETTLE` after the image, or earlier when another image comes, which wakes the worker, too: the other inputs of that
stamp are there then, whatever the order in which a recorder wrote them.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from specprune_ros.errors import ObservationError
from specprune_ros.pose import Pose
from specprune_ros.replay.bag import BagMessage
from specprune_ros.replay.settings import Settings
from specprune_ros.replay.topics import Topics
from specprune_ros.sensing.assembler import ObservationAssembler, Sensed
from specprune_ros.sensing.config import JOINT_STATES, TF
from specprune_ros.sensing.end_effector import EndEffector
from specprune_ros.sensing.transforms import BufferedTransforms
from specprune_ros.stamps import NANOSECONDS, Stamp, from_stamp

SETTLE = NANOSECONDS // 50  # 20 ms
JUMP = NANOSECONDS // 1000  # a clock that goes back by more was set back, as for the node
DISORDER = NANOSECONDS  # a recorder's clock that is less behind: messages of files that overlap


@dataclass(frozen=True, eq=False)
class Seen:
    """One observation of the bag, or the reason why the node would have had none."""

    time: int  # when the bag had it complete, nanoseconds of the recorder's clock
    instruction: str
    sensed: Sensed | None = None
    pose: Pose | None = None  # of the end effector in the base frame
    joints: np.ndarray | None = None  # (J,) positions of the controlled joints, rad
    refusal: str = ""
    restarted: bool = False  # the clock went back since the one before


class Watch(Protocol):
    """Who looks at the messages on their way: the audit of the recording."""

    def on_message(self, name: str, message: BagMessage, stamp: int, now: int) -> None: ...

    def on_jump(self, time: int, back: int) -> None: ...


class Ingest:
    """Feeds an assembler. Nanoseconds everywhere."""

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        axis_angle_near: np.ndarray,
        watch: Watch,
        instruction: str = "",
        locates_cameras: bool = False,
        told: Iterable[tuple[int, str]] = (),
    ) -> None:
        """`axis_angle_near`: (3,) see `proprio.axis_angle`. `instruction`: replaces the recorded one.

        `locates_cameras`: whether observations say where the cameras are. `told`: (stamp, instruction) of recorded
        chunks whose instruction is another than that of the one before, by whatever way the node was told.
        """
        inputs = settings.inputs
        self._settings, self._topics, self._watch = settings, topics, watch
        self._fixed_instruction = bool(instruction)
        self._told = [] if instruction else list(told)
        first = self._told[0][1] if self._told else ""
        self._instruction = instruction or settings.node.instruction or first
        self._seconds = 0.0  # the recorder's clock
        self._transforms = BufferedTransforms(clock=lambda: self._seconds)
        self.end_effector = None
        if inputs.base_frame and inputs.ee_frame:
            self.end_effector = EndEffector(self._transforms, inputs.base_frame, inputs.ee_frame)
        self.assembler = ObservationAssembler(
            inputs,
            topics.images,
            topics.joints or JOINT_STATES,
            self.end_effector,
            settings.controller.joint_names,
            axis_angle_near,
            arrival=lambda: self._seconds,
        )
        self.assembler.locates_cameras = locates_cameras
        self._cameras: dict[str, list[str]] = {}
        for camera, topic in topics.images.items():
            self._cameras.setdefault(topic, []).append(camera)
        self._simulated = settings.use_sim_time and bool(topics.clock)
        self._stamped = settings.use_sim_time and not topics.clock  # no clock: the newest stamp is the time
        self._now = 0
        self._waiting: set[str] = set()  # topics whose image waits to be assembled
        self._due = 0
        self._last: int | None = None
        self._restarted = False
        self._known: int | None = None  # stamp of the end effector's newest pose

    def observations(
        self, messages: Iterable[BagMessage], wanted: Callable[[int], bool] = lambda stamp: True, start: int = 0
    ) -> Iterator[Seen]:
        """Observations in the order of the bag. Those of a stamp that is not `wanted` are skipped unassembled.

        Before the time `start`, messages are only stored.
        """
        for message in messages:
            yield from self._flushed(message, wanted, start)
            self._feed(message)
        yield from self._assembled(wanted, start)

    def _flushed(self, message: BagMessage, wanted: Callable[[int], bool], start: int) -> Iterator[Seen]:
        if self._waiting and (message.time > self._due or message.topic in self._waiting):
            yield from self._assembled(wanted, start)
        elif self._waiting and message.topic in self._cameras:
            waiting = set(self._waiting)
            for seen in self._assembled(wanted, start):
                if seen.sensed is not None:  # else this camera may be what lacks
                    yield seen
            self._waiting = waiting

    def _assembled(self, wanted: Callable[[int], bool], start: int) -> Iterator[Seen]:
        if not self._waiting:
            return
        self._waiting.clear()
        time = self._due - SETTLE
        if time < start:
            with contextlib.suppress(ObservationError):
                self._last = self.assembler.newest_common_stamp(self._now)  # is not caught up with
            return
        try:
            stamp = self.assembler.newest_common_stamp(self._now)
            if (self._last is not None and stamp <= self._last) or not wanted(stamp):
                return
            while self._told and self._told[0][0] <= stamp:
                self._instruction = self._told.pop(0)[1]
            if not self._instruction.strip():
                raise ObservationError("no instruction; publish it on ~/instruction or set the parameter instruction")
            sensed = self.assembler.assemble(self._now, self._last)
        except ObservationError as error:
            yield Seen(time, self._instruction, refusal=str(error))
            return
        if sensed is not None:
            self._last = sensed.stamp
            restarted, self._restarted = self._restarted, False
            pose, joints = self._pose(sensed.stamp), self._joints(sensed.stamp)
            yield Seen(time, self._instruction, sensed, pose, joints, restarted=restarted)

    def _pose(self, stamp: int) -> Pose | None:
        if self.end_effector is None:
            return None
        try:
            return self.end_effector.pose(stamp, int(self._settings.inputs.max_skew_of(TF) * NANOSECONDS))
        except ObservationError:
            return None

    def _joints(self, stamp: int) -> np.ndarray | None:
        if not self._settings.controller.joint_names:
            return None
        try:
            return self.assembler.measured_joints(stamp)
        except ObservationError:
            return None

    def _feed(self, message: BagMessage) -> None:
        topics, content = self._topics, message.message
        self._seconds = message.time / NANOSECONDS
        if not self._simulated and not self._stamped:
            late = 0 <= self._now - message.time < DISORDER
            self._advance(self._now if late else message.time, message.time)
        if message.topic == topics.clock:
            if self._simulated:
                self._advance(from_stamp(content.clock), message.time)
        elif message.topic in self._cameras:
            self._add_image(message)
        elif message.topic in topics.infos.values():
            for camera, topic in topics.infos.items():
                if topic == message.topic:
                    self.assembler.add_camera_info(camera, content)
        elif message.topic == topics.joints:
            stamp = self._stamp(content.header.stamp, message.time)
            self._watch.on_message(JOINT_STATES, message, from_stamp(content.header.stamp), self._now)
            self.assembler.add_joints(content, stamp)
        elif message.topic in topics.tf or message.topic in topics.tf_static:
            static = message.topic in topics.tf_static
            stamps = [from_stamp(transform.header.stamp) for transform in content.transforms]
            if stamps and not static:
                self._stamp(content.transforms[-1].header.stamp, message.time)
            self._transforms.add(content, static, self._now)
            self._watch_tf(message, static, max(stamps, default=0))
        elif message.topic == topics.instruction and not self._fixed_instruction and content.data.strip():
            self._instruction = content.data

    def _watch_tf(self, message: BagMessage, static: bool, newest: int) -> None:
        """TF is watched as the node uses it: by when the end effector's pose is known anew.

        Other frames have publishers with delays and rates of their own.
        """
        if static or self.end_effector is None:
            return
        known = self.end_effector.covered_until(0)
        if known is not None and known != self._known:
            self._watch.on_message(TF, message, known if newest else 0, self._now)
        self._known = known

    def _add_image(self, message: BagMessage) -> None:
        stamp = self._stamp(message.message.header.stamp, message.time)
        for camera in self._cameras[message.topic]:
            self._watch.on_message(camera, message, from_stamp(message.message.header.stamp), self._now)
            if self.assembler.add_image(camera, message.message, stamp):
                self._waiting.add(message.topic)
                self._due = message.time + SETTLE

    def _stamp(self, stamp: Stamp, time: int) -> int:
        """The node's time, which a message without a stamp gets; without a clock, stamps advance it."""
        if self._stamped:
            own = from_stamp(stamp)
            # A stamp far behind is a recording that started over; one a little behind is an input with more delay.
            if own > self._now or self._now - own > NANOSECONDS:
                self._advance(own, time)
        return self._now

    def _advance(self, now: int, time: int) -> None:
        if now < self._now - JUMP:
            self._watch.on_jump(time, self._now - now)
            self.assembler.clear()
            self._transforms.clear()
            self._last = None
            self._restarted = True
            self._waiting.clear()
        self._now = now
