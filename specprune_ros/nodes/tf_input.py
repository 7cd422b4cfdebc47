# SPDX-License-Identifier: Apache-2.0
"""Transforms from /tf and /tf_static: tf2_ros where it is installed, otherwise a buffer of our own with its results."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Protocol

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from specprune_ros.errors import ObservationError
from specprune_ros.nodes.stamps import to_stamp
from specprune_ros.nodes.subscribing import SILENT, TopicPeers, backlog, subscribe
from specprune_ros.pose import Pose
from specprune_ros.sensing.end_effector import StampedPose, Transforms
from specprune_ros.sensing.transform_buffer import TransformError, check_transform
from specprune_ros.sensing.transforms import BufferedTransforms, LoopGuard, arrays
from specprune_ros.stamps import NANOSECONDS, from_stamp, stamp_or_arrival

TF_QOS = QoSProfile(depth=100)
TF_STATIC_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class TransformSource(Transforms, Protocol):
    """Transforms that come from subscriptions."""

    def destroy(self) -> None: ...


def open_transforms(node: Node) -> TransformSource:
    """Subscribe to TF with what this machine has."""
    return Tf2Transforms(node) if importlib.util.find_spec("tf2_ros") else SubscribedTransforms(node)


class TransformSubscriptions:
    """/tf and /tf_static of a node."""

    def __init__(self, node: Node, add: Callable[[TFMessage, bool, int], None]) -> None:
        """`add(message, static, now)` is called on the executor's thread; `now`: nanoseconds."""
        self._node, self._add = node, add
        self._heard = False
        self._subscriptions = [
            subscribe(node, TFMessage, "/tf", partial(self._on_tf, False), TF_QOS),
            node.create_subscription(
                TFMessage, "/tf_static", partial(self._on_tf, True), TF_STATIC_QOS, event_callbacks=SILENT
            ),
            # Of a publisher that is not latched at least what comes from now on.
            node.create_subscription(TFMessage, "/tf_static", partial(self._on_tf, True), TF_QOS),
        ]
        self._peers = TopicPeers(node, self._subscriptions[:1])

    def mismatch(self) -> str:
        """Why nothing was ever heard on /tf, as far as that is known; "" otherwise."""
        return "" if self._heard else self._peers.mismatch(self._subscriptions[0].topic_name)

    def _on_tf(self, static: bool, message: TFMessage) -> None:
        self._heard = self._heard or not static
        waiting = () if static else backlog(self._subscriptions[0])
        for one in (message, *waiting):
            self._add(one, static, self._node.get_clock().now().nanoseconds)

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)


class SubscribedTransforms(BufferedTransforms):
    """Our own buffer."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._subscriptions = TransformSubscriptions(node, self.add)

    def lookup(self, target: str, source: str, stamp: int | None) -> StampedPose:
        """See `end_effector.Transforms.lookup`."""
        try:
            return super().lookup(target, source, stamp)
        except ObservationError as error:
            raise ObservationError(self._subscriptions.mismatch() or str(error)) from error

    def destroy(self) -> None:
        self._subscriptions.destroy()


class Tf2Transforms:
    """The buffer of tf2_ros, fed by ourselves: its listener would keep transforms without a stamp at time zero."""

    def __init__(self, node: Node) -> None:
        import tf2_ros

        self._error = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer()
        self._loop_guard = LoopGuard()
        self._static: set[str] = set()  # frames that came on /tf_static
        self.refused = 0  # beside what tf2 refuses and logs itself
        self.last_refusal = ""
        self._subscriptions = TransformSubscriptions(node, self.add)

    def add(self, message: TFMessage, static: bool, now: int) -> None:
        """See `BufferedTransforms.add`."""
        for transform in message.transforms:
            parent, child = transform.header.frame_id, transform.child_frame_id
            stamp = stamp_or_arrival(transform.header.stamp, now)
            try:  # tf2 would only log it, or keep what pushes all good data out of its cache
                check_transform(
                    parent, child, stamp / NANOSECONDS, *arrays(transform), None if static else now / NANOSECONDS
                )
            except TransformError as error:
                self._refuse(str(error))
                continue
            if static:
                self._static.add(child)
                self._buffer.set_transform_static(transform, "/tf_static")
                continue
            if child in self._static:
                self._refuse(f"TF: {child} is on /tf and on /tf_static; leave one of its publishers")
                self._loop_guard.block(self.last_refusal)  # tf2 would keep the static one, which never gets old
                continue
            transform.header.stamp = to_stamp(stamp)
            self._buffer.set_transform(transform, "/tf")

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self.last_refusal = why

    def lookup(self, target: str, source: str, stamp: int | None) -> StampedPose:
        """See `end_effector.Transforms.lookup`."""
        self._loop_guard.check()
        try:
            found = self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp or 0))
        except self._error as error:
            reason = str(error).splitlines()[0]
            message = f"TF: {reason}; check the publishers and names of TF"
            if "loop" in reason:  # tf2 has one exception for this and for frames that are not connected
                self._loop_guard.block(message)
                self.clear()
            raise ObservationError(self._subscriptions.mismatch() or message) from error
        # Zero is tf2's answer for a chain of static transforms; none that came on /tf has it here.
        return StampedPose(Pose(*arrays(found)), from_stamp(found.header.stamp) or None)

    def clear(self) -> None:
        self._buffer.clear()

    def destroy(self) -> None:
        self._subscriptions.destroy()
