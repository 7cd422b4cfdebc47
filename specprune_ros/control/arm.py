"""One control tick: from the running chunk to motion within the limits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from specprune_ros.control.action_space import ActionSpace, ControllerConfig
from specprune_ros.control.cartesian_limiter import CartesianLimiter, Limited
from specprune_ros.control.command import Command, Hold, HoldReason
from specprune_ros.control.deviation import PoseDeviation
from specprune_ros.control.executor import ChunkExecutor, ExecutorConfig
from specprune_ros.control.gripper import GripperDebounce
from specprune_ros.control.joint_limiter import JointLimiter
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.control.watchdog import Watchdog
from specprune_ros.errors import ConfigError
from specprune_ros.pose import Pose


@dataclass(frozen=True, eq=False)
class Motion:
    """What the arm does during one control period."""

    twist: np.ndarray | None  # (6,) m/s, rad/s in the base frame, within limits; None for joint-space policies
    joints: np.ndarray | None  # (J,) rad to reach after the period, within limits; None for end-effector policies
    joint_velocities: np.ndarray | None  # (J,) rad/s
    openings: np.ndarray  # (G,) 0 closed .. 1 open
    limits_hit: tuple[str, ...]  # names of the limits that changed the motion
    deviation: float  # m between the arm and the plan; 0 for joint-space policies
    deviation_angle: float  # rad between the arm, or its worst joint, and the plan
    command: Command


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
        self._joints = JointLimiter(limits, controller.period)
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
    def openings(self) -> np.ndarray | None:
        """(G,) the openings commanded last, which a hold keeps; None before the first."""
        return self._gripper.state

    def tick(self, now: float, pose: Pose | None = None, joints: np.ndarray | None = None) -> Motion | Hold:
        """What to do in [now, now + period].

        `pose`: of the end effector in the base frame, needed by end-effector policies. `joints`: (J,) measured
        positions, rad, in the order of `controller.joint_names`, needed by joint-space policies.
        """
        command = self.executor.step(now)
        if isinstance(command, Hold):
            return self._hold(command)
        if self.space.config.delta:
            return self._cartesian_motion(command, now, pose)
        return self._joint_motion(command, now, joints)

    def _cartesian_motion(self, command: Command, now: float, pose: Pose | None) -> Motion | Hold:
        if pose is None or not np.isfinite([*pose.position, *pose.quaternion]).all():
            return self._hold(Hold(HoldReason.POSE_UNKNOWN, "the end effector's pose is missing or not finite"))
        wanted = self.space.twist(command.action, command.dt, pose.rotation)
        deviation, angle = self._deviation.update(command.stamp, wanted, pose, self._period)
        limited = self._cartesian.apply(wanted, pose.position)
        if limited.hold:
            return self._violated(limited)
        openings = self._gripper.update(self.space.openings(command.action), now)
        return Motion(limited.value, None, None, openings, limited.hit, deviation, angle, command)

    def _joint_motion(self, command: Command, now: float, joints: np.ndarray | None) -> Motion | Hold:
        wanted = self.space.joints(command.action)
        if joints is None or joints.shape != wanted.shape or not np.isfinite(joints).all():
            return self._hold(Hold(HoldReason.JOINTS_UNKNOWN, "a joint's position is missing or not finite"))
        limited = self._joints.apply(wanted, joints)
        if limited.hold:
            return self._violated(limited)
        angle = float(np.abs(wanted - joints).max())
        openings = self._gripper.update(self.space.openings(command.action), now)
        return Motion(None, limited.value, self._joints.velocity, openings, limited.hit, 0.0, angle, command)

    def _violated(self, limited: Limited) -> Hold:
        return self._hold(Hold(HoldReason.LIMIT, ", ".join(limited.hit)))

    def _hold(self, hold: Hold) -> Hold:
        self._cartesian.reset()
        self._joints.reset()
        self._gripper.interrupt()
        self._deviation.clear()
        return hold
