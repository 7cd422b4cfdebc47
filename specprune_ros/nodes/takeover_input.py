# SPDX-License-Identifier: Apache-2.0
"""The topic by which a person takes over: `takeover.topic`."""

from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import TwistStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from specprune_ros.control.takeover import TakeoverConfig
from specprune_ros.errors import ConfigError
from specprune_ros.nodes.subscribing import TopicPeers, subscribe

MESSAGES = {"twist": TwistStamped, "joint_trajectory": JointTrajectory, "joint_state": JointState}
OWN = ("~/twist", "~/target_pose", "~/joint_trajectory", "~/gripper")


class TakeoverInput:
    """Owns the subscription. What the messages say does not matter."""

    def __init__(self, node: LifecycleNode, config: TakeoverConfig, on_message: Callable[[], None]) -> None:
        """Raises ConfigError for a topic that this node publishes: it would take over from itself."""
        self._node = node
        self._subscriptions: list[Any] = []
        self._peers = TopicPeers(node, self._subscriptions, "let the device publish that, or set takeover.message")
        try:
            self.topic = node.resolve_topic_name(config.topic) if config.topic else ""
        except RuntimeError as error:  # RCLError, which names a source file
            raise ConfigError(
                f"takeover.topic '{config.topic}' is no name of a topic, which has letters, digits, _ and /"
            ) from error
        if self.topic and self.topic in [node.resolve_topic_name(name) for name in OWN]:
            raise ConfigError(
                f"takeover.topic {self.topic} is one that this node publishes; let the device publish on a topic of "
                "its own, and relay that one to the arm's controller"
            )
        if self.topic:
            kind = MESSAGES[config.message]
            self._subscriptions.append(
                subscribe(node, kind, config.topic, lambda message: on_message(), qos_profile_sensor_data)
            )

    def problem(self) -> str:
        """Why the device that is there is not heard, and what to do; "" when it is, or when there is none."""
        mismatch = self._peers.mismatch(self.topic)
        return f"takeover.topic is not heard: {mismatch}" if mismatch else ""

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
