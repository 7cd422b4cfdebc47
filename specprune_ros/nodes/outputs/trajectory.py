# SPDX-License-Identifier: Apache-2.0
"""Trajectory messages: of one point, or of a whole chunk. Each replaces the one before it."""

from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from specprune_ros.control.adapters import TrajectoryPoint
from specprune_ros.control.chunk_trajectory import ChunkTrajectory
from specprune_ros.nodes.stamps import to_duration, to_stamp
from specprune_ros.stamps import NANOSECONDS


def trajectory(point: TrajectoryPoint, header: Header) -> JointTrajectory:
    """Its stamp stays zero, which means: start now."""
    message = JointTrajectoryPoint(
        positions=point.positions.tolist(), time_from_start=to_duration(point.time_from_start)
    )
    return JointTrajectory(header=Header(frame_id=header.frame_id), joint_names=list(point.names), points=[message])


def whole(chunk: ChunkTrajectory, names: tuple[str, ...], frame: str, *, velocities: bool) -> JointTrajectory:
    """Its stamp says when its first point is due, so that it does not matter when the message arrives."""
    points = [
        JointTrajectoryPoint(
            positions=knot.positions.tolist(),
            velocities=knot.velocities.tolist() if velocities else [],
            time_from_start=to_duration(index * chunk.period),
        )
        for index, knot in enumerate(chunk.knots)
    ]
    header = Header(stamp=to_stamp(round(chunk.start * NANOSECONDS)), frame_id=frame)
    return JointTrajectory(header=header, joint_names=list(names), points=points)
