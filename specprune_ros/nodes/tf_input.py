"""Transforms from /tf and /tf_static: tf2_ros where it is installed, otherwise a buffer of our own with its results."""

import importlib.util
import math
import time
from typing import NoReturn

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from specprune_ros.control.transform_buffer import TransformBuffer, TransformError
from specprune_ros.errors import ObservationError
from specprune_ros.nodes.end_effector import Transforms
from specprune_ros.nodes.stamps import NANOSECONDS, from_stamp

TF_QOS = QoSProfile(depth=100)
TF_STATIC_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)

LOOP_PAUSE = 1.0  # seconds; longer than the period of any TF publisher


def open_transforms(node: Node) -> Transforms:
    """Subscribe to TF with what this machine has."""
    return Tf2Transforms(node) if importlib.util.find_spec("tf2_ros") else BufferedTransforms(node)


class BufferedTransforms:
    """Our own buffer. Filled on the executor's thread, read from any."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._buffer = TransformBuffer()
        self._loop_guard = LoopGuard()
        self.refused = 0
        self.last_refusal = ""
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", lambda message: self._add(message, False), TF_QOS),
            node.create_subscription(TFMessage, "/tf_static", lambda message: self._add(message, True), TF_STATIC_QOS),
        ]

    def _add(self, message: TFMessage, static: bool) -> None:
        now = self._node.get_clock().now().nanoseconds / NANOSECONDS
        for transform in message.transforms:
            try:
                self._buffer.set_transform(
                    transform.header.frame_id,
                    transform.child_frame_id,
                    from_stamp(transform.header.stamp) / NANOSECONDS,
                    *_arrays(transform),
                    static=static,
                    now=now,
                )
            except TransformError as error:
                self.refused += 1
                self.last_refusal = str(error)

    def lookup(self, target: str, source: str, stamp: int | None) -> tuple[np.ndarray, np.ndarray, int]:
        """See `end_effector.Transforms.lookup`."""
        self._loop_guard.check()
        try:
            found = self._buffer.lookup(target, source, None if stamp is None else stamp / NANOSECONDS)
        except TransformError as error:
            self._loop_guard.fail(self, f"TF: {error}", error)
        nanoseconds = 0 if found.stamp is None else math.floor(found.stamp * NANOSECONDS)
        return found.pose.position, found.pose.quaternion, nanoseconds

    def clear(self) -> None:
        self._buffer.clear()

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)


class Tf2Transforms:
    """The buffer of tf2_ros."""

    def __init__(self, node: Node) -> None:
        import tf2_ros

        self._error = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._loop_guard = LoopGuard()
        self.refused = 0  # tf2 logs what it refuses itself
        self.last_refusal = ""

    def lookup(self, target: str, source: str, stamp: int | None) -> tuple[np.ndarray, np.ndarray, int]:
        """See `end_effector.Transforms.lookup`."""
        self._loop_guard.check()
        try:
            found = self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp or 0))
        except self._error as error:
            reason = str(error).splitlines()[0]
            self._loop_guard.fail(self, f"TF: {reason}; check the publishers and names of TF", error)
        return *_arrays(found), from_stamp(found.header.stamp)

    def clear(self) -> None:
        self._buffer.clear()

    def destroy(self) -> None:
        self._listener.unregister()


class LoopGuard:
    """Answers for a buffer in which a loop was found, until `LOOP_PAUSE` has shown what is published now.

    A loop stays in the buffer after its publisher is gone, so the buffer is emptied. Without the pause, every emptied
    buffer would give answers until the loop is complete again.
    """

    def __init__(self) -> None:
        self._ends = -math.inf
        self._message = ""

    def check(self) -> None:
        """Raises ObservationError during the pause."""
        if time.monotonic() < self._ends:
            raise ObservationError(self._message)

    def fail(self, transforms: Transforms, message: str, error: Exception) -> NoReturn:
        """Raises ObservationError with `message`, and starts the pause if `error` is a loop."""
        if "loop" in str(error):
            self._ends, self._message = time.monotonic() + LOOP_PAUSE, message
            transforms.clear()
        raise ObservationError(message) from error


def _arrays(transform: TransformStamped) -> tuple[np.ndarray, np.ndarray]:
    """Position (3,) m and quaternion (4,) xyzw."""
    t, q = transform.transform.translation, transform.transform.rotation
    return np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w])
