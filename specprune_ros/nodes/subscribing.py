# SPDX-License-Identifier: Apache-2.0
"""Subscriptions whose quality of service the user can override, by `qos_overrides.<topic>.subscription.*`."""

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

    def __init__(self, node: Node, subscriptions: Sequence[Subscription]) -> None:
        """`subscriptions` may grow."""
        self._node, self._subscriptions = node, subscriptions

    def publishers(self, topic: str) -> str:
        found = {_full_name(info) for info in self._node.get_publishers_info_by_topic(topic)}
        return ", ".join(sorted(found))

    def mismatch(self, topic: str) -> str:
        for subscription in self._subscriptions:
            if subscription.topic_name != topic:
                continue
            own = type_name(subscription.msg_type)
            for info in self._node.get_publishers_info_by_topic(topic):
                if info.topic_type != own:
                    return f"{_full_name(info)} publishes {info.topic_type} on {topic}, {_other_type(own, info)}"
                compatible, _ = qos_check_compatible(info.qos_profile, subscription.qos_profile)
                if compatible == QoSCompatibility.ERROR:
                    return f"{_full_name(info)} publishes on {topic}, {_incompatible(info.qos_profile, subscription)}"
        return ""


def deaf(node: Node, publisher: Publisher) -> str:
    """Who subscribes to a publisher's topic and cannot hear it, and why; "" for nobody."""
    own = type_name(publisher.msg_type)
    for info in node.get_subscriptions_info_by_topic(publisher.topic_name):
        if info.topic_type != own:
            return f"{_full_name(info)} subscribes to {info.topic_type}, and this node publishes {own}"
        compatible, reason = qos_check_compatible(publisher.qos_profile, info.qos_profile)
        if compatible == QoSCompatibility.ERROR:
            what = reason.removeprefix("ERROR: ").rstrip(";").lower()
            return f"{_full_name(info)} subscribes with a quality of service that does not fit: {what}"
    return ""


def type_name(kind: type) -> str:
    """As ROS has it: sensor_msgs/msg/Image."""
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def _other_type(own: str, info: TopicEndpointInfo) -> str:
    transports = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}
    if own in transports and info.topic_type in transports:
        return f"and this node reads {own}; set inputs.image_transport to {transports[info.topic_type]}"
    return f"and this node reads {own}; remap it to another topic"


def _full_name(info: TopicEndpointInfo) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _incompatible(offered: QoSProfile, subscription: Subscription) -> str:
    wanted, override = subscription.qos_profile, f"qos_overrides.{subscription.topic_name}.subscription"
    if offered.reliability == ReliabilityPolicy.BEST_EFFORT and wanted.reliability != offered.reliability:
        return f"but best effort, and this node asks for reliable; set {override}.reliability to best_effort"
    if offered.durability == DurabilityPolicy.VOLATILE and wanted.durability != offered.durability:
        return f"but volatile, and this node asks for transient local; set {override}.durability to volatile"
    return f"with another quality of service than this node asks for; see {override}.*"
