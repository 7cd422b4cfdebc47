"""Subscriptions whose quality of service the user can override, by `qos_overrides.<topic>.subscription.*`."""

from collections.abc import Callable
from copy import copy
from typing import Any

from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from specprune_ros.errors import ConfigError

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # the last message waits for late listeners


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


def publishers_of(node: Node, topic: str) -> str:
    """The names of the nodes that publish on a topic, with commas."""
    found = {f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in node.get_publishers_info_by_topic(topic)}
    return ", ".join(sorted(found))
