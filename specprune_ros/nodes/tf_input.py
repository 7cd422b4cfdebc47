"""Transforms from /tf and /tf_static: tf2_ros where it is installed, otherwise a buffer of our own with its results."""

import importlib.util
from functools import partial
from typing import Protocol

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from specprune_ros.sensing.end_effector import Transforms
from specprune_ros.sensing.stamps import from_stamp
from specprune_ros.sensing.transforms import BufferedTransforms, LoopGuard, arrays

TF_QOS = QoSProfile(depth=100)
TF_STATIC_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class TransformSource(Transforms, Protocol):
    """Transforms that come from subscriptions."""

    def destroy(self) -> None: ...


def open_transforms(node: Node) -> TransformSource:
    """Subscribe to TF with what this machine has."""
    return Tf2Transforms(node) if importlib.util.find_spec("tf2_ros") else SubscribedTransforms(node)


class SubscribedTransforms(BufferedTransforms):
    """Our own buffer, filled on the executor's thread."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", partial(self._on_tf, False), TF_QOS),
            node.create_subscription(TFMessage, "/tf_static", partial(self._on_tf, True), TF_STATIC_QOS),
        ]

    def _on_tf(self, static: bool, message: TFMessage) -> None:
        self.add(message, static, self._node.get_clock().now().nanoseconds)

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
        return *arrays(found), from_stamp(found.header.stamp)

    def clear(self) -> None:
        self._buffer.clear()

    def destroy(self) -> None:
        self._listener.unregister()
