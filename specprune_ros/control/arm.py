# SPDX-License-Identifier: Apache-2.0
"""One control tick: from the running chunk to motion within the limits."""

import copy
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from specprune_ros.angles import FULL_TURN, beside
from specprune_ros.arrays import Floats
from specprune_ros.control.action_space import ActionSpace, ControllerConfig
from specprune_ros.control.cartesian_limiter import CartesianLimiter, Limited
from specprune_ros.control.chunk_trajectory import FEW_KNOTS, ChunkTrajectory, roll_out, starting
from specprune_ros.control.command import Command, Hold, HoldReason
from specprune_ros.control.deviation import PoseDeviation
from specprune_ros.control.effect import IDLE_LEAD_ANGLE, MotionEffect
from specprune_ros.control.executor import ChunkExecutor, ExecutorConfig
from specprune_ros.control.gripper import GripperDebounce
from specprune_ros.control.joint_limiter import JointDoubt, JointLimiter, JointStop
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.control.watchdog import Watchdog
from specprune_ros.errors import ConfigError
from specprune_ros.pose import Pose

ROUNDING = 1e-6  # rad


@dataclass(frozen=True, eq=False)
class Motion:
    """What the arm does during one control period."""

    twist: Floats | None  # (6,) m/s, rad/s in the base frame, within limits; None: joint space, or no pose
    joints: Floats | None  # (J,) rad to reach after the period, within limits; None for end-effector policies
    joint_velocities: Floats | None  # (J,) rad/s
    openings: Floats  # (G,) 0 closed .. 1 open
    limits_hit: tuple[str, ...]  # names of the limits that changed the motion
    deviation: float  # m between the arm and the plan; 0 for joint-space policies
    deviation_angle: float  # rad between the arm, or its worst joint, and the plan
    command: Command
    trajectory: ChunkTrajectory | None = None  # to be followed from now on; None: the one before it, or there are none


class Arm:
    """Owns the executor, the watchdog and the limiters. `tick` has one caller; the executor is safe to share.

    A hold stops at once, without a braking ramp: the arm's controller ramps down, and safety comes before comfort.
    """

    def __init__(
        self,
        action_dim: int,
        controller: ControllerConfig,
        limits: LimitsConfig,
        execution: ExecutorConfig,
        max_ages: Mapping[str, float] | None = None,
    ) -> None:
        """`max_ages`: watched input -> oldest acceptable age, seconds; feed them to `watchdog`.

        Raises ConfigError when the configuration does not fit the checkpoint's `action_dim` numbers.
        """
        self.space = ActionSpace(controller, action_dim)
        self.watchdog = Watchdog(max_ages or {})
        self.executor = ChunkExecutor(
            action_dim,
            controller.period,
            delta=controller.delta,
            discrete=controller.gripper_dimensions,
            config=execution,
            watchdog=self.watchdog,
        )
        self._period = controller.period
        self._cartesian = CartesianLimiter(limits, controller.period)
        self._joints = JointLimiter(limits, controller.period, controller.max_lead_angle)
        self._trajectory: ChunkTrajectory | None = None  # that the arm follows
        self._rules: tuple[object, ...] = ()  # that it was made by
        self._stop: JointStop | None = None
        self._late = False  # whether the joints catch up with a plan that has begun without them
        self._seen = False  # whether the end effector's pose was ever known
        self._effect = MotionEffect()
        self.drives = True  # whether the motion is sent to the arm, so that it should be seen; may be replaced
        self._gripper = GripperDebounce(limits.gripper_debounce, controller.gripper_binary)
        self._deviation = PoseDeviation()
        self.limits = limits

    @property
    def limits(self) -> LimitsConfig:
        return self._cartesian.config

    @limits.setter
    def limits(self, limits: LimitsConfig) -> None:
        """Takes effect at the next tick. Raises ConfigError when they are for another number of joints."""
        self.check_limits(limits)
        self._cartesian.config = self._joints.config = limits
        self._gripper.seconds = limits.gripper_debounce

    def check_limits(self, limits: LimitsConfig) -> None:
        """Raises ConfigError when they are for another number of joints. Changes nothing."""
        joints = len(self.space.config.joint_names)
        if not self.space.config.delta and limits.joint_count not in (None, joints):
            raise ConfigError(f"limits of joints have {limits.joint_count} numbers for {joints} controller.joint_names")

    @property
    def continuous(self) -> Floats:
        """(J,) which of the controlled joints turn without end and are allowed to."""
        return np.broadcast_to(self._joints.continuous, len(self.space.config.joint_names))

    def set_continuous(self, names: Collection[str]) -> None:
        """Joints that turn without end, so that their angles are compared on the circle.

        One whose limits span less than a turn does not turn without end here. Takes effect at the next tick.
        """
        if self.space.config.delta:
            return  # nothing is computed with joints, and limits may be for any number of them
        span = np.broadcast_to(
            np.array(self.limits.joint_max) - np.array(self.limits.joint_min), len(self.space.config.joint_names)
        )
        endless = [
            name in names and turn >= FULL_TURN for name, turn in zip(self.space.config.joint_names, span, strict=True)
        ]
        self._joints.continuous = np.array(endless, dtype=bool)
        self.executor.circular = [dimension for dimension, turns in zip(self.space.arm, endless, strict=False) if turns]

    def configure(self, controller: ControllerConfig) -> None:
        """Use the live fields of a changed configuration."""
        self.space.config = controller
        self._joints.max_lead = controller.max_lead_angle

    def enable(self, since: float = -math.inf) -> None:
        """Allow motion from where the arm is, by chunks whose observation is not older than `since`."""
        self.forget()
        self._effect.clear()
        self.executor.enable(since)

    def forget(self, twist: Floats | None = None, velocities: Floats | None = None) -> None:
        """Nothing commands the arm: it may be anywhere, and the next motion starts from where it is.

        `twist` (6,) m/s, rad/s in the base frame, `velocities` (J,) rad/s: how somebody else moves it, which the next
        motion takes up; None: not at all.
        """
        self._cartesian.reset(twist)
        self._joints.forget(velocities)
        self._gripper.forget()
        self._effect.interrupt()
        self._stop = self._trajectory = None

    def hold(self, joints: Floats | None = None) -> None:
        """Start from rest at the next motion; `joints` (J,) rad: where they are measured, None when that is unknown."""
        self._cartesian.reset()
        self._stop = self._joints.hold(joints)
        self._trajectory = None
        self._gripper.interrupt()
        self._deviation.clear()

    @property
    def stop(self) -> JointStop | None:
        """Where the joints come to rest since the last hold began; None for end-effector policies, or when unknown."""
        return self._stop

    @property
    def effect(self) -> str:
        """What the arm does not do although it is told to, in one line; "" when it obeys."""
        return self._effect.problem

    @property
    def openings(self) -> Floats | None:
        """(G,) the openings commanded last, which a hold keeps; None before the first."""
        return self._gripper.state

    def tick(
        self, now: float, pose: Pose | None = None, joints: Floats | None = None, problem: str = ""
    ) -> Motion | Hold:
        """What to do in [now, now + period].

        `pose`: of the end effector in the base frame, needed by end-effector policies. `joints`: (J,) measured
        positions, rad, in the order of `controller.joint_names`, needed by joint-space policies. `problem`: why the
        one that is needed is None.
        """
        if joints is not None and (len(joints) != len(self.space.config.joint_names) or not np.isfinite(joints).all()):
            joints, problem = None, "a joint's position is not finite"
        if pose is not None and not np.isfinite([*pose.position, *pose.quaternion]).all():
            pose, problem = None, "the end effector's pose is not finite"
        if self._trajectory is not None and joints is not None:
            self._joints.follow(self._trajectory.at(now), joints)
        result = self._result(now, pose, joints, problem)
        if isinstance(result, Hold):
            self._hold(result, joints)
        return result

    def coasts(self, now: float) -> bool:
        """Whether a trajectory that was given out still brings the arm to rest, or moves it."""
        return self._trajectory is not None and now < self._trajectory.end

    def _hold(self, hold: Hold, joints: Floats | None) -> None:
        if self._trajectory is None or hold.reason != HoldReason.CHUNK_FINISHED:
            self.hold(joints)
        else:
            self._stop = None  # the trajectory comes to rest by itself
            self._gripper.interrupt()

    def _result(self, now: float, pose: Pose | None, joints: Floats | None, problem: str) -> Motion | Hold:
        command = self.executor.step(now)
        if isinstance(command, Hold):
            told = problem if command.reason == HoldReason.STALE_INPUT else ""  # refused measurements get old, too
            return Hold(command.reason, f"{command.detail}; {told}") if told else command
        if self._effect.problem and self.drives and self.space.config.on_no_effect == "hold":
            return Hold(HoldReason.NO_EFFECT, f"{self._effect.problem}; then call ~/enable")
        if self.space.config.delta:
            if pose is not None:
                self._seen = True
                return self._cartesian_motion(command, now, pose)
            if self.space.config.output == "action_chunk" and not self._seen:  # who executes the chunks knows it
                openings = self._gripper.update(self.space.openings(command.action), now)
                return Motion(None, None, None, openings, (), 0.0, 0.0, command)
            return Hold(HoldReason.POSE_UNKNOWN, problem or "the end effector's pose is missing")
        if joints is None:
            return Hold(HoldReason.JOINTS_UNKNOWN, problem or "a joint's position is missing")
        return self._joint_motion(command, now, joints)

    def _cartesian_motion(self, command: Command, now: float, pose: Pose) -> Motion | Hold:
        wanted = self.space.twist(command.action, command.dt, pose.rotation)
        deviation, angle = self._deviation.update(command.stamp, wanted, pose, self._period)
        limited = self._cartesian.apply(wanted, pose.position)
        if limited.hold:
            return _violated(limited)
        if self.drives:
            self._effect.of_twist(now, self._free(limited.value, pose) * self._period, pose)
        openings = self._gripper.update(self.space.openings(command.action), now)
        return Motion(limited.value, None, None, openings, limited.hit, deviation, angle, command)

    def _free(self, twist: Floats, pose: Pose) -> Floats:
        """What of a twist (6,) has to be seen: a target pose ends at a wall, and the arm before it."""
        if self.space.config.output != "pose":
            return twist
        near = self.space.config.max_lead
        blocked = (twist[:3] > 0) & (np.array(self.limits.workspace_max) - pose.position < near)
        blocked |= (twist[:3] < 0) & (pose.position - np.array(self.limits.workspace_min) < near)
        return np.concatenate([np.where(blocked, 0.0, twist[:3]), twist[3:]])

    def _draw_in(self, joints: Floats) -> None:
        """Keep the target close to joints that do not obey: whoever stopped them may let them go at any moment."""
        allowed = self.space.config.max_lead_angle
        if self._effect.problem and self.drives:
            allowed = min(allowed, IDLE_LEAD_ANGLE)
            if self._joints.ahead(joints) > allowed + ROUNDING:
                self._joints.forget()
                self._trajectory = None
        self._joints.max_lead = allowed

    def _joint_motion(self, command: Command, now: float, joints: Floats) -> Motion | Hold:
        received = self.space.config.output == "action_chunk"
        if received:
            self._joints.forget()  # whoever executes the chunks moves the arm, at speeds of its own
        self._draw_in(joints)
        wanted = self.space.joints(command.action)
        doubt = self._joints.doubt(wanted, joints)
        if doubt is not None:
            return self._refuse(doubt)
        if self.space.config.whole_chunks:
            return self._followed(command, now, wanted, joints)
        if self._joints.velocity is None:
            self._late = True
            if not received and self._joints.jumps(wanted, joints, now - command.stamp):
                return Hold(HoldReason.LIMIT, "joint_speed")
        limited = self._joints.apply(wanted, joints, catching_up=self._late)
        if limited.hold:
            return _violated(limited)
        self._late = self._late and "joint_speed" in limited.hit
        angle = float(np.abs(beside(wanted, joints, self._joints.continuous) - joints).max())
        velocity = self._joints.velocity
        assert velocity is not None
        if self.drives:
            self._effect.of_joints(now, velocity * self._period, joints, self.space.config.joint_names, self.continuous)
        openings = self._gripper.update(self.space.openings(command.action), now)
        return Motion(None, limited.value, velocity, openings, limited.hit, 0.0, angle, command)

    def _followed(self, command: Command, now: float, wanted: Floats, joints: Floats) -> Motion | Hold:
        """Motion by the trajectory of the chunk, which is made anew when the plan changes or the arm falls behind."""
        before, continuous = self._trajectory, self._joints.continuous
        if before is None:
            limited = copy.copy(self._joints).apply(wanted, joints, catching_up=True)
            if limited.hold:
                return _violated(limited)
        if before is None or before.plan is not command.plan or self._obsolete(before, now, joints):
            self._trajectory = self._rolled_out(command, now, joints)
        running = self._trajectory
        assert running is not None
        if now >= running.holds_at and running.hold is not None:
            return running.hold
        here, then = running.at(now), running.at(now + self._period)
        self._joints.follow(then, joints)
        velocities = (then.positions - here.positions) / self._period
        if self.drives:
            self._effect.of_joints(now, velocities * self._period, joints, self.space.config.joint_names, continuous)
        return Motion(
            None,
            then.positions,
            velocities,
            self._gripper.update(self.space.openings(command.action), now),
            running.hits[min(running.index(now) + 1, len(running.hits) - 1)],
            0.0,
            float(np.abs(beside(wanted, joints, continuous) - joints).max()),
            command,
            running if running is not before else None,
        )

    def _rolled_out(self, command: Command, now: float, joints: Floats) -> ChunkTrajectory:
        running, limiter, lead = self._trajectory, self._joints, self.space.config.trajectory_time
        obsolete = running is not None and self._obsolete(running, now, joints)
        self._rules = self._current_rules()
        if running is None or now >= running.end:
            limiter.begin(joints)
            at = limiter.target if running is None else running.knots[-1]
            begin = starting(at, command.plan, now, 0.0 if at.velocities.any() else lead, self._period)
        else:
            begin = running.part(now, 0.0 if obsolete else lead)
        if obsolete:
            few = roll_out(limiter, command.plan, self.space.joints, begin, joints, self._refuse, FEW_KNOTS)
            if few.leashed:
                return few
        return roll_out(limiter, command.plan, self.space.joints, begin, joints, self._refuse)

    def _obsolete(self, running: ChunkTrajectory, now: float, joints: Floats) -> bool:
        """Whether it must not be followed any longer: the limits changed, or the arm does not keep up."""
        if any(new is not old for new, old in zip(self._current_rules(), self._rules, strict=True)):
            return True
        if not running.index(now):
            return False  # it is new
        if running.leashed:
            return True
        told = running.at(now).positions
        behind = np.abs(beside(joints, told, self._joints.continuous) - told)
        return bool((behind > self._joints.max_lead).any())

    def _current_rules(self) -> tuple[object, ...]:
        return self._joints.config, self._joints.max_lead, self._joints.continuous

    def _refuse(self, doubt: JointDoubt) -> Hold:
        return Hold(HoldReason.ARM_MOVED, f"joint {self.space.config.joint_names[doubt.joint]} {doubt.reason}")


def _violated(limited: Limited) -> Hold:
    return Hold(HoldReason.LIMIT, ", ".join(limited.hit))
