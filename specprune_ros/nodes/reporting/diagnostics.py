# SPDX-License-Identifier: Apache-2.0
"""/diagnostics: what works, what does not, and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

PERIOD = 0.1  # seconds; how soon a change is told
HEARTBEAT = 10  # periods; how often everything is told anyway
QOS = QoSProfile(depth=10)

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass
class Status:
    """One line of the diagnostics, with its values."""

    name: str
    message: str
    level: bytes = OK
    values: dict[str, object] = field(default_factory=dict)


class Diagnostics:
    """Publishes every second, and at once when a level changes. Its timer does not depend on the ROS clock."""

    def __init__(self, node: Node, collect: Callable[[], list[Status]]) -> None:
        """`collect` is called on the executor's thread."""
        self._node, self._collect = node, collect
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", QOS)
        self._levels: list[tuple[str, bytes]] = []
        self._periods = HEARTBEAT  # the first time everything is told
        self._timer = node.create_timer(PERIOD, self.update, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def update(self) -> None:
        """Publish when it is due or something changed."""
        statuses = self._collect()
        levels = [(status.name, status.level) for status in statuses]
        self._periods += 1
        if levels == self._levels and self._periods < HEARTBEAT:
            return
        self._levels, self._periods = levels, 0
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [self._message(status) for status in statuses]
        self._publisher.publish(message)

    def _message(self, status: Status) -> DiagnosticStatus:
        node = self._node.get_fully_qualified_name().lstrip("/")
        values = [KeyValue(key=key, value=_text(value)) for key, value in status.values.items()]
        return DiagnosticStatus(
            level=status.level,
            name=f"{node}: {status.name}",
            message=status.message,
            hardware_id=node,
            values=values,
        )


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
