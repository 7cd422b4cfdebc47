# SPDX-License-Identifier: Apache-2.0
"""`~/path`: where the newest chunk would take the end effector, in the colour of its mode. Runs on the worker's thread.

Only increments of the end effector have a known path; where joint positions lead depends on the arm's kinematics.
"""

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import Point
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from specprune_ros.control.action_space import ActionSpace
from specprune_ros.control.path import predicted_path
from specprune_ros.errors import ObservationError
from specprune_ros.nodes.stamps import to_duration, to_stamp
from specprune_ros.policy import ActionChunk
from specprune_ros.sensing.end_effector import EndEffector
from specprune_ros.viewing.mode_colors import MODE_COLORS

QOS = QoSProfile(depth=1)
LINE, STEP = 0.004, 0.01  # m, width of the path and size of a step
CLOSED = "#17181c"  # a step that asks for a closed gripper
NOT_SENT = 0.35  # opacity of a path that nothing follows, because motion is off or in a dry run
LASTS = 2.0  # durations of a chunk until its path disappears


class PathPublisher:
    """Owns the publisher; computes only while somebody looks."""

    def __init__(self, node: Node, space: ActionSpace, end_effector: EndEffector, max_skew: Callable[[], int]) -> None:
        """`max_skew`: by which the pose may be older than the observation, nanoseconds."""
        self._node, self._space, self._end_effector, self._max_skew = node, space, end_effector, max_skew
        self._publisher = node.create_publisher(MarkerArray, "~/path", QOS)

    def publish(self, chunk: ActionChunk, stamp: int, sent: bool) -> None:
        """`stamp`: of the chunk's observation, nanoseconds. `sent`: whether the arm is to follow it."""
        if self._publisher.get_subscription_count() == 0:
            return
        try:
            start = self._end_effector.pose(stamp, self._max_skew())
        except ObservationError:
            return  # /diagnostics tells it; the last path disappears
        dt = self._space.config.step_duration
        points = [Point(x=x, y=y, z=z) for x, y, z in predicted_path(chunk.actions, self._space, start, dt).tolist()]
        opacity = 1.0 if sent else NOT_SENT
        line = self._marker("path", Marker.LINE_STRIP, LINE, stamp, len(chunk.actions) * dt)
        line.points, line.color = points, color_of(MODE_COLORS[chunk.pruning.mode], opacity)
        steps = self._marker("steps", Marker.SPHERE_LIST, STEP, stamp, len(chunk.actions) * dt)
        steps.points = points[1:]
        steps.colors = [
            color_of(MODE_COLORS[chunk.pruning.mode] if self._opened(action) else CLOSED, opacity)
            for action in chunk.actions
        ]
        self._publisher.publish(MarkerArray(markers=[line, steps]))

    def _opened(self, action: np.ndarray) -> bool:
        """Whether a step asks for every gripper to be more open than closed."""
        return bool((self._space.openings(action) > 0.5).all())

    def _marker(self, name: str, kind: int, size: float, stamp: int, seconds: float) -> Marker:
        marker = Marker(header=Header(stamp=to_stamp(stamp), frame_id=self._end_effector.base_frame))
        marker.ns, marker.type, marker.action = name, kind, Marker.ADD
        marker.pose.orientation.w = 1.0
        marker.scale.x = marker.scale.y = marker.scale.z = size
        marker.lifetime = to_duration(LASTS * seconds)
        return marker

    def destroy(self) -> None:
        self._node.destroy_publisher(self._publisher)


def color_of(code: str, opacity: float) -> ColorRGBA:
    """From #rrggbb."""
    red, green, blue = (int(code[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return ColorRGBA(r=red, g=green, b=blue, a=opacity)


def open_path(
    node: Node, space: ActionSpace, end_effector: EndEffector | None, max_skew: Callable[[], int]
) -> PathPublisher | None:
    """None, with the reason in the log, where the path is not known."""
    if not space.config.delta:
        node.get_logger().info("no ~/path: where joint positions lead is not known without the arm's kinematics")
        return None
    if end_effector is None:
        node.get_logger().info("no ~/path: it needs inputs.base_frame and inputs.ee_frame")
        return None
    return PathPublisher(node, space, end_effector, max_skew)
