# SPDX-License-Identifier: Apache-2.0
"""From motion to the plain numbers of controller messages. No ROS types here."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from specprune_ros.arrays import Floats
from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.deviation import integrate
from specprune_ros.control.effect import IDLE_LEAD, IDLE_LEAD_ANGLE
from specprune_ros.control.joint_limiter import JointStop
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.pose import Pose

STOP = np.zeros(6)  # the twist of a hold


@dataclass(frozen=True, eq=False)
class TrajectoryPoint:
    """A trajectory_msgs/JointTrajectory of one point, which replaces the one before it."""

    names: tuple[str, ...]
    positions: Floats  # (J,) rad, or the gripper controller's unit
    time_from_start: float  # seconds


@dataclass(frozen=True)
class GripperGoal:
    """The numbers of a control_msgs/GripperCommand."""

    position: float  # in the gripper controller's unit
    max_effort: float  # N


class TargetPose:
    """Integrates twists to a target pose in the base frame, for Cartesian position and impedance controllers."""

    def __init__(self, config: ControllerConfig) -> None:
        self.config = config
        self._target: Pose | None = None
        self._measured: Pose | None = None  # when it was advanced last
        self._held = False

    def advance(self, twist: Floats, measured: Pose, limits: LimitsConfig, *, idle: bool = False) -> Pose:
        """The target after one period of `twist` (6,), at most the maximum lead away from the `measured` pose.

        An arm that lags behind would follow a target through a wall of the workspace: it stays inside, or where the arm
        is already. `idle`: the arm does not obey, and may be let go at any moment; the target stays close to it.
        """
        start = measured if self._target is None or self._held else self._target
        target = self._leashed(integrate(start, twist, self.config.period), measured, idle)
        low = np.minimum(limits.workspace_min, measured.position)
        high = np.maximum(limits.workspace_max, measured.position)
        self._target, self._held = Pose(np.clip(target.position, low, high), target.quaternion), False
        self._measured = measured
        return self._target

    def hold(self, measured: Pose | None) -> Pose | None:
        """The pose to stay at: where the arm was when the hold began. None when that was never known.

        When somebody has moved the arm farther than the maximum lead, the pose to stay at is where it is now.
        """
        here = measured or self._measured
        moved = measured is not None and self._held and not self._is_near(measured)
        if here is not None and (moved or not self._held):
            self._target, self._held = here, True
        return self._target

    def _is_near(self, here: Pose) -> bool:
        assert self._target is not None
        lead = float(np.linalg.norm(self._target.position - here.position))
        turn = float((self._target.rotation * here.rotation.inv()).magnitude())
        return lead <= self.config.max_lead and turn <= self.config.max_lead_angle

    def _leashed(self, target: Pose, measured: Pose, idle: bool) -> Pose:
        longest, widest = self.config.max_lead, self.config.max_lead_angle
        if idle:
            longest, widest = min(longest, IDLE_LEAD), min(widest, IDLE_LEAD_ANGLE)
        lead = target.position - measured.position
        turn = (target.rotation * measured.rotation.inv()).as_rotvec()
        lead = _at_most(lead, longest)
        turn = _at_most(turn, widest)
        return Pose(measured.position + lead, (Rotation.from_rotvec(turn) * measured.rotation).as_quat())


def joint_point(
    joints: Floats,
    velocities: Floats,
    controller: ControllerConfig,
    limits: LimitsConfig,
    continuous: Floats | bool = False,
) -> TrajectoryPoint:
    """A point that passes `joints` (J,) at the end of this control period and goes on with `velocities` (J,) rad/s.

    It lies `trajectory_time` ahead, so that the arm does not stop when the next point is late, and inside the joint
    ranges, which `continuous` (J,) ones don't have; or where the joint is already, for it comes back slowly. It has no
    velocities: joint_trajectory_controller refuses a last point that still moves.
    """
    beyond = joints + velocities * (controller.trajectory_time - controller.period)
    low, high = np.minimum(limits.joint_min, joints), np.maximum(limits.joint_max, joints)
    inside = np.where(continuous, beyond, np.clip(beyond, low, high))
    return TrajectoryPoint(controller.joint_names, inside, controller.trajectory_time)


def joint_hold(stop: JointStop, controller: ControllerConfig) -> TrajectoryPoint:
    """Come to rest."""
    return TrajectoryPoint(controller.joint_names, stop.positions, max(stop.seconds, controller.trajectory_time))


def gripper_commands(openings: Floats, controller: ControllerConfig) -> list[GripperGoal]:
    """One command per gripper, from the openings (G,) 0 closed .. 1 open."""
    positions = _gripper_positions(openings, controller)
    return [GripperGoal(float(position), controller.gripper_max_effort) for position in positions]


def gripper_point(openings: Floats, controller: ControllerConfig) -> TrajectoryPoint:
    """All gripper joints, gripper after gripper, from the openings (G,) 0 closed .. 1 open."""
    joints_each = len(controller.gripper_joint_names) // len(controller.gripper_dimensions)
    positions = np.repeat(_gripper_positions(openings, controller), joints_each)
    return TrajectoryPoint(controller.gripper_joint_names, positions, controller.trajectory_time)


def _gripper_positions(openings: Floats, controller: ControllerConfig) -> Floats:
    closed, opened = controller.gripper_closed_position, controller.gripper_open_position
    return closed + openings * (opened - closed)


def _at_most(vector: Floats, longest: float) -> Floats:
    length = float(np.linalg.norm(vector))
    return vector if length <= longest else vector * (longest / length)
