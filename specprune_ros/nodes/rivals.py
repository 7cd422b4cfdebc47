# SPDX-License-Identifier: Apache-2.0
"""Other policy nodes that publish on the topic that moves this node's arm: under another name, or in another namespace.

One that stands by is fine. Two that drive pull the arm to and fro.
"""

import time
from collections.abc import Iterator
from contextlib import suppress

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription

from specprune_ros.control.takeover import InCharge
from specprune_ros.msg import PruningStats
from specprune_ros.nodes.subscribing import VOLATILE, full_name, type_name

DRIVES_FOR = 3.0  # seconds that a rival counts as driving after an inference that said so


class Rivals:
    """Listens to their statistics, which say who is in charge there. Belongs to the executor's thread."""

    def __init__(self, node: Node, publisher: Publisher) -> None:
        """`publisher`: of what moves the arm."""
        self._node, self._publisher = node, publisher
        self._heard: dict[str, Subscription] = {}  # node -> its statistics
        self._drove: dict[str, float] = {}  # node -> when it last said that it drives, seconds of a steady clock

    def look(self) -> None:
        """Who is there now."""
        found = dict(self._find())
        for gone in set(self._heard) - set(found):
            self._node.destroy_subscription(self._heard.pop(gone))
            self._drove.pop(gone, None)
        for name in set(found) - set(self._heard):
            self._heard[name] = self._node.create_subscription(
                PruningStats, found[name], lambda message, name=name: self._on_stats(name, message), VOLATILE
            )

    @property
    def names(self) -> list[str]:
        """All of them."""
        return sorted(self._heard)

    @property
    def problem(self) -> str:
        """Which one drives the arm, and what to do; "" when none does."""
        now = time.monotonic()
        driving = [name for name, at in self._drove.items() if now - at < DRIVES_FOR]
        if not driving:
            return ""
        return (
            f"{driving[0]} drives the same arm by {self._publisher.topic_name}; switch its motion off, or remap one "
            "of the two to its own arm"
        )

    def destroy(self) -> None:
        for subscription in self._heard.values():
            self._node.destroy_subscription(subscription)

    def _on_stats(self, name: str, message: PruningStats) -> None:
        if message.in_charge == InCharge.POLICY:
            self._drove[name] = time.monotonic()
        else:
            self._drove.pop(name, None)

    def _find(self) -> Iterator[tuple[str, str]]:
        """Every one's name, and the topic of its statistics."""
        for info in self._node.get_publishers_info_by_topic(self._publisher.topic_name):
            name = full_name(info)
            if name == self._node.get_fully_qualified_name():
                continue
            with suppress(RuntimeError):  # RCLError: it has just ended, or the graph does not know its name yet
                topics = self._node.get_publisher_names_and_types_by_node(info.node_name, info.node_namespace)
                yield from ((name, topic) for topic, types in topics if type_name(PruningStats) in types)
