# SPDX-License-Identifier: Apache-2.0
"""Subscriptions whose quality of service the user can override, by `qos_overrides.<topic>.subscription.*`."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from specprune_ros.errors import ConfigError

# Names of nodes that subscribe to anything and move nothing: the recorder, command line, plots and pictures of ROS.
ONLOOKERS = ("rosbag2_recorder", "_ros2cli", "rqt_", "plotjuggler", "rviz", "foxglove_bridge", "specprune_watch")
LOOK_AGAIN = 0.5  # seconds
CLOCK = "/clock"
VOLATILE = QoSProfile(depth=10)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # the last message waits for late listeners
# For the latched one of two subscriptions: rclpy would warn of publishers that the volatile one hears.
SILENT = SubscriptionEventCallbacks(use_default_callbacks=False)


def subscribe(node: Node, kind: type, topic: str, callback: Callable[[Any], None], default: QoSProfile) -> Subscription:
    """Subscribe with the quality of service `default`, or with what the user's parameters make of it.

    Raises ConfigError for an override that ROS does not know.
    """
    qos = copy(default)  # rclpy writes the overrides into it, and `default` is shared
    try:
        return node.create_subscription(
            kind, topic, callback, qos, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
    except (RuntimeError, ParameterException) as error:
        raise ConfigError(
            f"qos_overrides.{node.resolve_topic_name(topic)}.subscription: {error}; history is keep_last or keep_all, "
            "depth a number, reliability reliable or best_effort"
        ) from error


def backlog(subscription: Subscription) -> Iterator[Any]:
    """The messages that wait behind the one that a callback was just given, oldest first. On the executor's thread.

    The executor hands out one message of a topic per turn. Where they come faster, as on a busy machine or from a
    driver at 1 kHz, the queue would stay full, and the newest one a queue's length old for ever.
    """
    for _ in range(subscription.qos_profile.depth):
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, False)
        if taken is None:
            return
        yield taken[0]


class TopicPeers:
    """Who publishes on the topics of some subscriptions, by what discovery has found. See `sensing.peers`."""

    def __init__(
        self, node: Node, subscriptions: Sequence[Subscription], remedy: str = "remap it to another topic"
    ) -> None:
        """`subscriptions` may grow. `remedy`: against messages of another type."""
        self._node, self._subscriptions, self._remedy = node, subscriptions, remedy

    def publishers(self, topic: str) -> str:
        found = {full_name(info) for info in self._node.get_publishers_info_by_topic(topic)}
        return ", ".join(sorted(found))

    def mismatch(self, topic: str) -> str:
        for subscription in self._subscriptions:
            if subscription.topic_name != topic:
                continue
            own = type_name(subscription.msg_type)
            for info in self._node.get_publishers_info_by_topic(topic):
                if info.topic_type != own:
                    return f"{full_name(info)} publishes {info.topic_type} on {topic}, {self._other_type(own, info)}"
                compatible, _ = qos_check_compatible(info.qos_profile, subscription.qos_profile)
                if compatible == QoSCompatibility.ERROR:
                    return f"{full_name(info)} publishes on {topic}, {_incompatible(info.qos_profile, subscription)}"
        return ""

    def _other_type(self, own: str, info: TopicEndpointInfo) -> str:
        transports = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}
        if own in transports and info.topic_type in transports:
            return f"and this node reads {own}; set inputs.image_transport to {transports[info.topic_type]}"
        return f"and this node reads {own}; {self._remedy}"


class Listeners:
    """Who listens to what moves the arm, but for those who record or show it. Cheap enough for every control period."""

    def __init__(self, node: Node, publisher: Publisher) -> None:
        self._node, self._publisher = node, publisher
        self._matched, self._looked_at = 0, -math.inf
        self.onlookers: list[str] = []  # names of those who only look, at the last `count`

    def count(self) -> int:
        """How many could move the arm. Asks who they are when somebody comes or goes, and twice a second."""
        matched, now = self._publisher.get_subscription_count(), time.monotonic()
        if matched != self._matched or (matched and now - self._looked_at > LOOK_AGAIN):
            self._matched, self._looked_at = matched, now
            self.onlookers = sorted(self._find_onlookers()) if matched else []
        return max(matched - len(self.onlookers), 0)

    def _find_onlookers(self) -> Iterator[str]:
        own = type_name(self._publisher.msg_type)
        for info in self._node.get_subscriptions_info_by_topic(self._publisher.topic_name):
            # One that cannot hear is not among the matched.
            hears = info.topic_type == own and info.qos_profile.durability != DurabilityPolicy.TRANSIENT_LOCAL
            if info.node_name.startswith(ONLOOKERS) and hears:
                yield full_name(info)


def deaf(node: Node, publisher: Publisher) -> str:
    """Who subscribes to a publisher's topic and cannot hear it, and why; "" for nobody."""
    own = type_name(publisher.msg_type)
    for info in node.get_subscriptions_info_by_topic(publisher.topic_name):
        if info.node_name.startswith(ONLOOKERS):
            continue
        if info.topic_type != own:
            return f"{full_name(info)} subscribes to {info.topic_type}, and this node publishes {own}"
        compatible, reason = qos_check_compatible(publisher.qos_profile, info.qos_profile)
        if compatible == QoSCompatibility.ERROR:
            what = reason.removeprefix("ERROR: ").rstrip(";").lower()
            return f"{full_name(info)} subscribes with a quality of service that does not fit: {what}"
    return ""


def clock_problem(node: Node) -> str:
    """What is wrong with the publishers of simulated time; "" for nothing, or in wall time."""
    if not node.get_clock().ros_time_is_active:
        return ""
    topic = node.resolve_topic_name(CLOCK)
    found = sorted({full_name(info) for info in node.get_publishers_info_by_topic(CLOCK)})
    if not found:
        return (
            f"use_sim_time is true and nobody publishes {topic}; start the simulator, or set use_sim_time to false on "
            "a real arm"
        )
    return f"{' and '.join(found)} publish {topic}, so that time jumps; leave one of them" if found[1:] else ""


def type_name(kind: type) -> str:
    """As ROS has it: sensor_msgs/msg/Image."""
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def full_name(info: TopicEndpointInfo) -> str:
    """Of the node that an endpoint belongs to."""
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _incompatible(offered: QoSProfile, subscription: Subscription) -> str:
    wanted, override = subscription.qos_profile, f"qos_overrides.{subscription.topic_name}.subscription"
    where = "in the parameter file"  # it is read at the start only
    if offered.reliability == ReliabilityPolicy.BEST_EFFORT and wanted.reliability != offered.reliability:
        return f"but best effort, and this node asks for reliable; set {override}.reliability to best_effort {where}"
    if offered.durability == DurabilityPolicy.VOLATILE and wanted.durability != offered.durability:
        return f"but volatile, and this node asks for transient local; set {override}.durability to volatile {where}"
    return f"with another quality of service than this node asks for; see {override}.*"
