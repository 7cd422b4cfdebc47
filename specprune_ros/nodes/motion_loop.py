# SPDX-License-Identifier: Apache-2.0
"""The control loop: every period one command, or a hold with its reason. Runs on the executor's thread, on a timer.

It never waits for an inference; chunks come in from the worker's thread through `submit`.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from std_msgs.msg import Header

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.control.command import NATURAL_HOLDS, Hold, HoldReason, Receipt, Refusal
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.control.replan import Replanner
from specprune_ros.control.takeover import InCharge, Takeover
from specprune_ros.errors import ObservationError
from specprune_ros.nodes.outputs.commands import header_of, open_commands
from specprune_ros.nodes.outputs.gripper import open_gripper
from specprune_ros.pose import Pose
from specprune_ros.sensing.assembler import ObservationAssembler
from specprune_ros.sensing.config import JOINT_STATES, TF
from specprune_ros.sensing.end_effector import EndEffector, PoseMotion
from specprune_ros.sensing.joints import JointMotion
from specprune_ros.stamps import NANOSECONDS


@dataclass(frozen=True, eq=False)
class Measured:
    """Where the arm is, fit to make a command from."""

    pose: Pose | None = None  # of the end effector in the base frame
    joints: np.ndarray | None = None  # (J,) rad
    problem: str = ""  # why neither is known


class MotionLoop:
    """Owns the arm's control state and the command publishers."""

    def __init__(
        self,
        node: LifecycleNode,
        arm: Arm,
        replanner: Replanner,
        sensors: ObservationAssembler,
        end_effector: EndEffector | None,
        takeover: Takeover,
        *,
        dry_run: bool,
        watch_tf: bool,
        mode: Callable[[], str],
        on_stop: Callable[[], None],
        on_due: Callable[[], None],
    ) -> None:
        """`dry_run`: see `set_dry_run`. `watch_tf`: whether the arm holds without TF. `mode`: the pruning mode that the
        measured motion asks for.

        `on_stop`: a running plan was broken off. `on_due`: the next inference should start.
        """
        self.arm, self.replanner = arm, replanner
        self._node, self._sensors, self._end_effector = node, sensors, end_effector
        self.takeover = takeover
        self._mode, self._on_stop, self._on_due = mode, on_stop, on_due
        self._watch_tf = watch_tf
        # The gripper first: it may be refused, and then nothing else is open.
        self._gripper = open_gripper(node, self._config) if self._config.output != "action_chunk" else None
        self._commands = open_commands(node, arm)
        self.dry_run = dry_run
        self._yields = False  # nothing is sent: a person is in charge, or has let go and no motion followed yet
        self.result: Motion | Hold = Hold(HoldReason.DISABLED)
        self.measured = Measured()  # at the last tick
        self.latency = 0.0  # seconds from observation to chunk, expected
        self._continuous: Collection[str] = ()
        self._believed: np.ndarray | None = None  # m/s, rad/s, and rad/s of every joint: what measured motion may be
        self._generous = False  # whether that is more than the limits, until the arm rests
        self._braking = 0  # nanoseconds that the arm may take to come to rest
        self._moved = 0  # when it was told to move last, nanoseconds
        self.clear_counts()

    def clear_counts(self) -> None:
        self.pauses = 0  # times that a chunk ended before the next one came
        self.late = 0  # chunks that were over when they came
        self.trajectories = 0  # of whole chunks, sent
        self.trajectory_seconds = 0.0  # from when the newest was sent to where it rests
        self.holds: Counter[str] = Counter()  # reason -> times that something forbade motion
        self.limits_hit: Counter[str] = Counter()  # limit -> ticks

    def configure(self, controller: ControllerConfig) -> None:
        """Use the live fields of a changed configuration."""
        self.arm.configure(controller)
        if self._commands is not None:
            self._commands.configure(controller)
        if self._gripper is not None:
            self._gripper.config = controller

    @property
    def _config(self) -> ControllerConfig:
        return self.arm.space.config

    @property
    def sends_chunks(self) -> bool:
        """Whether the arm's controller gets whole chunks as trajectories."""
        return self._config.whole_chunks

    @property
    def publisher(self) -> LifecyclePublisher | None:
        """What drives the arm; None when the receiver of the chunks does."""
        return self._commands.publisher if self._commands is not None else None

    @property
    def gripper_problem(self) -> str:
        """Why the grippers do not obey; "" when that is not known."""
        return self._gripper.problem() if self._gripper is not None else ""

    @property
    def effect_problem(self) -> str:
        """What the arm does not do although it is commanded; "" when it obeys."""
        return self.arm.effect if self.arm.drives else ""

    @property
    def enabled(self) -> bool:
        return self.arm.executor.enabled

    @property
    def moves(self) -> bool:
        """Whether the arm may be moved."""
        return self.in_charge == InCharge.POLICY

    @property
    def forbidden(self) -> bool:
        """Whether something forbids motion that motion was switched on for, from any thread."""
        result = self.result  # once: the next tick may replace it
        return isinstance(result, Hold) and result.reason not in NATURAL_HOLDS

    @property
    def in_charge(self) -> InCharge:
        """Who moves the arm, from any thread."""
        if self.arm.executor.taken or self.takeover.person:
            return InCharge.PERSON
        return InCharge.POLICY if self.enabled and not self.dry_run else InCharge.NOBODY

    def enable(self, now: int) -> None:
        """Allow motion, by chunks whose observation is newer than `now`, nanoseconds. What moves already goes on.

        The grippers' opening is sent again.
        """
        if self._gripper:
            self._gripper.forget()
        if self.enabled and (not isinstance(self.result, Hold) or self.arm.coasts(now / NANOSECONDS)):
            return
        if not self.enabled:
            self._forget_sent()
        self._sensors.vouch()
        if self._end_effector is not None:
            self._end_effector.vouch()
        self.arm.enable(since=now / NANOSECONDS)

    def stop(self, now: int) -> None:
        """Forbid motion and hold at once."""
        was_enabled = self.enabled
        self.arm.executor.stop()
        if not was_enabled:
            return
        try:
            self.tick(now)
        except Exception:  # whatever is wrong with a tick, the arm is told to hold
            if self._commands is not None and not self.dry_run and not self._yields:
                self.arm.hold(self.measured.joints)
                self._commands.hold(self.measured.pose, self._header(now), first=True)
            raise
        finally:
            self._on_stop()

    def set_dry_run(self, dry_run: bool, now: int) -> None:
        """In a dry run everything is computed and published, and nothing moves."""
        changed, moved, self.dry_run = dry_run != self.dry_run, self.moves, dry_run
        if moved and dry_run:
            if self._commands is not None:
                measured = self._measure(now)
                self.arm.hold(measured.joints)
                self._commands.hold(measured.pose, self._header(now), first=True)
            self._on_stop()
        if changed:  # what was sent before, or a dry run computed, is not where the arm is
            self._forget_sent()
            self.arm.forget()

    def _forget_sent(self) -> None:
        """The arm may be anywhere, and so the grippers."""
        if self._gripper:
            self._gripper.forget()
        if self._commands is not None:
            self._commands.forget()

    def submit(self, actions: np.ndarray, stamp: int, now: int) -> Receipt:
        """Offer a chunk (C, A), from the worker's thread. Nanoseconds."""
        age = (now - stamp) / NANOSECONDS
        self.latency = age if not self.latency else 0.8 * self.latency + 0.2 * age
        receipt = self.arm.executor.submit(actions, stamp / NANOSECONDS, self._config.step_duration, now / NANOSECONDS)
        if receipt.refusal in (Refusal.EXPIRED, Refusal.TOO_OLD):
            self.late += 1
        return receipt

    def start_over(self, now: int) -> None:
        """Hold because the clock jumped to `now`, nanoseconds; the first chunk after that may be executed."""
        self.tick(now)
        if self.forbidden:
            self.result = Hold(HoldReason.NO_CHUNK)

    def tick(self, now: int) -> None:
        """One control period, at `now` nanoseconds."""
        self._feed_watchdog(now)
        self._change_hands(now)
        measured = self.measured = self._measure(now)
        if self._yields:
            self._follow(now)
        before, coasting = self.result, self.arm.coasts(now / NANOSECONDS)
        self.arm.drives = self._commands is not None and not self.dry_run
        self.result = self.arm.tick(now / NANOSECONDS, measured.pose, measured.joints, measured.problem)
        if isinstance(self.result, Hold):
            self._hold(self.result, before, coasting, measured.pose, now)
            if self._generous and self._rests(now):
                self.set_motions(self._continuous)
        else:
            self._yields = False
            self._move(self.result, measured.pose, now)
        motion = None if isinstance(self.result, Hold) else self.result
        moves = motion is not None or coasting
        if moves:
            self._moved = now
        self._sensors.tell(moves)
        if self._end_effector is not None:
            self._end_effector.tell(moves)
        if self.replanner.due(motion, self._mode(), self.latency):
            self._on_due()

    def _change_hands(self, now: int) -> None:
        """A person takes over, or lets go: then the arm goes on by the next observation."""
        executor, person = self.arm.executor, self.takeover.person
        if person and not executor.taken:
            executor.take_over()
        elif executor.taken and not person:
            executor.give_back(now / NANOSECONDS)

    def _follow(self, now: int) -> None:
        """Somebody else moves the arm: be ready to go on from where it is, as it moves."""
        self._forget_sent()
        twist = velocities = None
        if not self._config.delta:
            velocities = self._sensors.measured_joint_velocities()
        elif self._end_effector is not None:
            twist = self._end_effector.twist(now, int(self._sensors.config.max_age_of(TF) * NANOSECONDS)).twist
        self.arm.forget(twist, velocities)

    def _measure(self, now: int) -> Measured:
        """Where the arm is, as far as a command may be made from it."""
        adopting = self._yields or not self.moves
        try:
            if not self._config.delta:
                self._sensors.set_adopting(adopting)
                return Measured(joints=self._sensors.measured_joints(now))
            if self._end_effector is not None:
                self._end_effector.set_adopting(adopting)
                return Measured(pose=self._end_effector.settled())
        except ObservationError as error:
            return Measured(problem=str(error))
        return Measured()

    def measured_problem(self, now: int) -> str:
        """Why no command can be made from what is measured of the arm; "" when one can. `now`: nanoseconds."""
        return self._measure(now).problem if self._commands is not None else ""

    def set_motions(self, continuous: Collection[str]) -> None:
        """What of the measured motion is believed, by the limits, and by which joints are `continuous`."""
        self.arm.set_continuous(continuous)
        self._continuous = continuous
        if self._commands is None:
            return
        limits, names = self.arm.limits, self._config.joint_names
        asked = np.array([limits.max_speed, limits.max_angular_speed])
        if not self._config.delta:
            asked = np.concatenate([asked, np.broadcast_to(limits.max_joint_speed, len(names))])
        # An arm that is told to move more slowly needs a while for it, and does not lie meanwhile.
        believed, self._braking = asked, self._braking_time(limits)
        if self._believed is not None and not self._rests(self._node.get_clock().now().nanoseconds):
            believed = np.maximum(asked, self._believed)
        self._believed, self._generous = believed, bool((believed > asked).any())
        if not self._config.delta:
            silence = self._sensors.config.max_age_of(JOINT_STATES)
            braking = believed[2:] / limits.max_joint_acceleration
            self._sensors.set_joint_motions(
                {
                    name: JointMotion(float(speed), name in continuous, silence, float(seconds))
                    for name, speed, seconds in zip(names, believed[2:], braking, strict=True)
                }
            )
        if self._end_effector is not None:
            accelerations = np.array([limits.max_acceleration, limits.max_angular_acceleration])
            silence, longest = self._sensors.config.max_age_of(TF), float((believed[:2] / accelerations).max())
            self._end_effector.set_motion(PoseMotion(float(believed[0]), float(believed[1]), silence, longest))

    def _rests(self, now: int) -> bool:
        """Whether the arm has had the time to come to rest, at `now` nanoseconds."""
        return not 0 <= now - self._moved <= self._braking

    def _braking_time(self, limits: LimitsConfig) -> int:
        """From what was believed, in nanoseconds, and half a second for an arm that lags."""
        if self._believed is None:
            return 0
        accelerations = [limits.max_acceleration, limits.max_angular_acceleration]
        if not self._config.delta:
            joints = np.broadcast_to(limits.max_joint_acceleration, len(self._config.joint_names))
            accelerations = [*accelerations, *joints]
        return round((0.5 + float((self._believed / accelerations).max())) * NANOSECONDS)

    def _feed_watchdog(self, now: int) -> None:
        stamps = self._sensors.newest_stamps()
        if self._end_effector is not None:
            newest = self._end_effector.newest()  # counted for its rate although nothing may depend on it
            if self._watch_tf and newest is not None:
                stamps[TF] = now if newest.stamp is None else newest.stamp  # static transforms never get old
            elif self._watch_tf:
                stamps[TF] = None
        for name, stamp in stamps.items():
            if stamp is None:
                self.arm.watchdog.lost(name)
            else:
                self.arm.watchdog.feed(name, stamp / NANOSECONDS)

    def _move(self, motion: Motion, pose: Pose | None, now: int) -> None:
        if self._commands is None:
            return  # whoever executes the chunks has limits of its own
        self.limits_hit.update(motion.limits_hit)
        if self.dry_run:
            return
        header = self._header(now)
        self._commands.move(motion, pose, header)
        if motion.trajectory is not None:
            self.trajectories += 1
            self.trajectory_seconds = motion.trajectory.end - now / NANOSECONDS
        if self._gripper:
            self._gripper.move(motion.openings, header)

    def _hold(self, hold: Hold, before: Motion | Hold, coasting: bool, pose: Pose | None, now: int) -> None:
        first = not isinstance(before, Hold) or (coasting and hold.reason != HoldReason.CHUNK_FINISHED)
        another = not isinstance(before, Hold) or before.reason != hold.reason
        if first and hold.reason == HoldReason.CHUNK_FINISHED:
            self.pauses += 1
        if another and hold.reason not in NATURAL_HOLDS:
            self.holds[hold.reason] += 1
        if first and hold.reason not in NATURAL_HOLDS:
            self._on_stop()
        if self._gripper:
            self._gripper.look()
        sends = not self.dry_run and not self._yields and (first or self.enabled)
        if self._commands is not None and sends:
            self._commands.hold(pose, self._header(now), first)
        self._yields = self.arm.executor.taken or (self._yields and self.enabled)
        if self.dry_run:
            self.arm.forget()  # others move the arm

    def _header(self, now: int) -> Header:
        frame = self._end_effector.base_frame if self._end_effector else ""
        return header_of(frame, now)

    def destroy(self) -> None:
        if self._commands is not None:
            self._node.destroy_lifecycle_publisher(self._commands.publisher)
        if self._gripper is not None:
            self._gripper.destroy()
