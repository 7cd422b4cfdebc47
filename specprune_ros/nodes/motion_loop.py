"""The control loop: every period one command, or a hold with its reason. Runs on the executor's thread, on a timer.

It never waits for an inference; chunks come in from the worker's thread through `submit`.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.control.command import Hold, HoldReason, Receipt, Refusal
from specprune_ros.control.replan import Replanner
from specprune_ros.nodes.outputs.commands import header_of, open_commands
from specprune_ros.nodes.outputs.gripper import open_gripper
from specprune_ros.pose import Pose
from specprune_ros.sensing.assembler import ObservationAssembler
from specprune_ros.sensing.config import TF
from specprune_ros.sensing.end_effector import EndEffector
from specprune_ros.sensing.stamps import NANOSECONDS

# Holds that end a plan by themselves, so that whoever executes the published chunks needs no word of them.
NATURAL_HOLDS = (HoldReason.DISABLED, HoldReason.NO_CHUNK, HoldReason.CHUNK_FINISHED, HoldReason.CHUNK_NOT_STARTED)


class MotionLoop:
    """Owns the arm's control state and the command publishers."""

    def __init__(
        self,
        node: LifecycleNode,
        arm: Arm,
        replanner: Replanner,
        sensors: ObservationAssembler,
        end_effector: EndEffector | None,
        *,
        watch_tf: bool,
        mode: Callable[[], str],
        on_stop: Callable[[], None],
        on_due: Callable[[], None],
    ) -> None:
        """`watch_tf`: whether the arm holds without TF. `mode`: the pruning mode that the measured motion asks for.

        `on_stop`: a running plan was broken off. `on_due`: the next inference should start.
        """
        self.arm, self.replanner = arm, replanner
        self._node, self._sensors, self._end_effector = node, sensors, end_effector
        self._mode, self._on_stop, self._on_due = mode, on_stop, on_due
        self._watch_tf = watch_tf
        self._config: ControllerConfig = arm.space.config
        self._commands = open_commands(node, arm)
        self._gripper = open_gripper(node, self._config) if self._commands is not None else None
        self.dry_run = False
        self.result: Motion | Hold = Hold(HoldReason.DISABLED)
        self.latency = 0.0  # seconds from observation to chunk, expected
        self.clear_counts()

    def clear_counts(self) -> None:
        self.pauses = 0  # times that a chunk ended before the next one came
        self.late = 0  # chunks that were over when they came
        self.holds: Counter[str] = Counter()  # reason -> times that something forbade motion
        self.limits_hit: Counter[str] = Counter()  # limit -> ticks

    def configure(self, controller: ControllerConfig) -> None:
        """Use the live fields of a changed configuration."""
        self._config = self.arm.space.config = controller
        if self._commands is not None:
            self._commands.configure(controller)
        if self._gripper is not None:
            self._gripper.config = controller

    @property
    def publisher(self) -> LifecyclePublisher | None:
        """What drives the arm; None when the receiver of the chunks does."""
        return self._commands.publisher if self._commands is not None else None

    @property
    def gripper_problem(self) -> str:
        """Why the grippers do not obey; "" when that is not known."""
        return self._gripper.problem() if self._gripper is not None else ""

    @property
    def enabled(self) -> bool:
        return self.arm.executor.enabled

    @property
    def moves(self) -> bool:
        """Whether the arm may move."""
        return self.enabled and not self.dry_run

    def enable(self, now: int) -> None:
        """Allow motion, by chunks whose observation is newer than `now`, nanoseconds."""
        if self._gripper:
            self._gripper.forget()
        self.arm.executor.enable(since=now / NANOSECONDS)

    def stop(self, now: int) -> None:
        """Forbid motion and hold at once."""
        was_enabled = self.enabled
        self.arm.executor.stop()
        if was_enabled:
            self.tick(now)
            self._on_stop()

    def set_dry_run(self, dry_run: bool, now: int) -> None:
        """In a dry run everything is computed and published, and nothing moves."""
        moved, self.dry_run = self.moves, dry_run
        if moved and dry_run:
            if self._commands is not None:
                self._commands.hold(self._pose(), self._joints(now), self._header(now), first=True)
            self._on_stop()

    def submit(self, actions: np.ndarray, stamp: int, now: int) -> Receipt:
        """Offer a chunk (C, A), from the worker's thread. Nanoseconds."""
        age = (now - stamp) / NANOSECONDS
        self.latency = age if not self.latency else 0.8 * self.latency + 0.2 * age
        receipt = self.arm.executor.submit(actions, stamp / NANOSECONDS, self._config.step_duration, now / NANOSECONDS)
        if receipt.refusal in (Refusal.EXPIRED, Refusal.TOO_OLD):
            self.late += 1
        return receipt

    def tick(self, now: int) -> None:
        """One control period, at `now` nanoseconds."""
        self._feed_watchdog(now)
        pose, joints = self._pose(), self._joints(now)
        before = self.result
        self.result = self.arm.tick(now / NANOSECONDS, pose, joints)
        if isinstance(self.result, Hold):
            self._hold(self.result, before, pose, joints, now)
        else:
            self._move(self.result, pose, now)
        motion = None if isinstance(self.result, Hold) else self.result
        if self.replanner.due(motion, self._mode(), self.latency):
            self._on_due()

    def _pose(self) -> Pose | None:
        return self._end_effector.newest() if self._end_effector is not None and self._config.delta else None

    def _joints(self, now: int) -> np.ndarray | None:
        return None if self._config.delta else self._sensors.measured_joints(now)

    def _feed_watchdog(self, now: int) -> None:
        stamps = self._sensors.newest_stamps()
        if self._end_effector is not None:
            newest = self._end_effector.newest_stamp()  # counted for its rate although nothing may depend on it
            if self._watch_tf:
                stamps[TF] = newest
        for name, stamp in stamps.items():
            if stamp is None:
                self.arm.watchdog.lost(name)
            else:
                self.arm.watchdog.feed(name, (stamp or now) / NANOSECONDS)  # 0: static transforms never get old

    def _move(self, motion: Motion, pose: Pose | None, now: int) -> None:
        self.limits_hit.update(motion.limits_hit)
        if self._commands is None or self.dry_run:
            return
        header = self._header(now)
        self._commands.move(motion, pose, header)
        if self._gripper:
            self._gripper.move(motion.openings, header)

    def _hold(self, hold: Hold, before: Motion | Hold, pose: Pose | None, joints: np.ndarray | None, now: int) -> None:
        first = not isinstance(before, Hold)
        another = not isinstance(before, Hold) or before.reason != hold.reason
        if first and hold.reason == HoldReason.CHUNK_FINISHED:
            self.pauses += 1
        if another and hold.reason not in NATURAL_HOLDS:
            self.holds[hold.reason] += 1
        if first and hold.reason not in NATURAL_HOLDS:
            self._on_stop()
        if self._commands is not None and not self.dry_run and (first or self.enabled):
            self._commands.hold(pose, joints, self._header(now), first)

    def _header(self, now: int):
        frame = self._end_effector.base_frame if self._end_effector else ""
        return header_of(frame, now)

    def destroy(self) -> None:
        if self._commands is not None:
            self._node.destroy_lifecycle_publisher(self._commands.publisher)
        if self._gripper is not None:
            self._gripper.destroy()
