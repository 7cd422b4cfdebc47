# SPDX-License-Identifier: Apache-2.0
"""What drives the arm, by `controller.output`: `~/twist`, `~/target_pose` or `~/joint_trajectory`."""

from typing import Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.adapters import (
    STOP,
    TargetPose,
    joint_hold,
    joint_point,
)
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.nodes.outputs.trajectory import trajectory, whole
from specprune_ros.nodes.stamps import to_stamp
from specprune_ros.pose import Pose

QOS = QoSProfile(depth=1)


class Commands(Protocol):
    """One kind of output. All calls come from the executor's thread."""

    publisher: LifecyclePublisher

    def configure(self, config: ControllerConfig) -> None:
        """Use changed live fields."""
        ...

    def forget(self) -> None:
        """The arm may be anywhere: motion was off."""
        ...

    def move(self, motion: Motion, pose: Pose | None, header: Header) -> None: ...

    def hold(self, pose: Pose | None, header: Header, first: bool) -> None:
        """Hold the arm; `first` of a series of holds. `pose`: where it is, None when that is unknown."""
        ...


class TwistCommands:
    """Velocities of the end effector in the base frame, every tick; zero when the arm holds."""

    def __init__(self, node: LifecycleNode) -> None:
        self.publisher = node.create_lifecycle_publisher(TwistStamped, "~/twist", QOS)

    def configure(self, config: ControllerConfig) -> None:
        pass

    def forget(self) -> None:
        pass

    def move(self, motion: Motion, pose: Pose | None, header: Header) -> None:
        assert motion.twist is not None
        self._publish(motion.twist, header)

    def hold(self, pose: Pose | None, header: Header, first: bool) -> None:
        self._publish(STOP, header)

    def _publish(self, twist: np.ndarray, header: Header) -> None:
        message = TwistStamped(header=header)
        linear, angular = message.twist.linear, message.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, twist)
        self.publisher.publish(message)


class PoseCommands:
    """Target poses of the end effector in the base frame, every tick; where it was when the arm holds."""

    def __init__(self, node: LifecycleNode, arm: Arm) -> None:
        self.publisher = node.create_lifecycle_publisher(PoseStamped, "~/target_pose", QOS)
        self._arm = arm
        self._target = TargetPose(arm.space.config)

    def configure(self, config: ControllerConfig) -> None:
        self._target.config = config

    def forget(self) -> None:
        self._target = TargetPose(self._target.config)

    def move(self, motion: Motion, pose: Pose | None, header: Header) -> None:
        assert motion.twist is not None and pose is not None
        target = self._target.advance(motion.twist, pose, self._arm.limits, idle=bool(self._arm.effect))
        self._publish(target, header)

    def hold(self, pose: Pose | None, header: Header, first: bool) -> None:
        target = self._target.hold(pose)
        if target is not None:
            self._publish(target, header)

    def _publish(self, target: Pose, header: Header) -> None:
        message = PoseStamped(header=header)
        p, q = message.pose.position, message.pose.orientation
        p.x, p.y, p.z = map(float, target.position)
        q.x, q.y, q.z, q.w = map(float, target.quaternion)
        self.publisher.publish(message)


class TrajectoryCommands:
    """Trajectories of whole chunks, or of one point in every tick; one to come to rest when the arm holds."""

    def __init__(self, node: LifecycleNode, arm: Arm) -> None:
        self.publisher = node.create_lifecycle_publisher(JointTrajectory, "~/joint_trajectory", QOS)
        self._arm = arm

    def configure(self, config: ControllerConfig) -> None:
        pass  # read from the arm every time

    def forget(self) -> None:
        pass  # the arm knows

    def move(self, motion: Motion, pose: Pose | None, header: Header) -> None:
        assert motion.joints is not None and motion.joint_velocities is not None
        config = self._arm.space.config
        if config.whole_chunks:
            self._move_by(motion, header)
            return
        point = joint_point(motion.joints, motion.joint_velocities, config, self._arm.limits, self._arm.continuous)
        self.publisher.publish(trajectory(point, header))

    def _move_by(self, motion: Motion, header: Header) -> None:
        if motion.trajectory is not None:
            config = self._arm.space.config
            velocities = config.trajectory_velocities
            message = whole(motion.trajectory, config.joint_names, header.frame_id, velocities=velocities)
            self.publisher.publish(message)

    def hold(self, pose: Pose | None, header: Header, first: bool) -> None:
        if first and self._arm.stop is not None:
            self.publisher.publish(trajectory(joint_hold(self._arm.stop, self._arm.space.config), header))


def open_commands(node: LifecycleNode, arm: Arm) -> Commands | None:
    """The output that the configuration asks for; None for action_chunk, where the receiver executes the chunks."""
    output = arm.space.config.output
    if output == "twist":
        return TwistCommands(node)
    if output == "pose":
        return PoseCommands(node, arm)
    if output == "joint_trajectory":
        return TrajectoryCommands(node, arm)
    return None


def header_of(frame: str, now: int) -> Header:
    return Header(stamp=to_stamp(now), frame_id=frame)
