# SPDX-License-Identifier: Apache-2.0
"""Trajectory messages of one point, which replaces the one before it."""

from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from specprune_ros.control.adapters import TrajectoryPoint
from specprune_ros.nodes.stamps import to_duration


def trajectory(point: TrajectoryPoint, header: Header) -> JointTrajectory:
    """Its stamp stays zero, which means: start now."""
    message = JointTrajectoryPoint(
        positions=point.positions.tolist(), time_from_start=to_duration(point.time_from_start)
    )
    return JointTrajectory(header=Header(frame_id=header.frame_id), joint_names=list(point.names), points=[message])
