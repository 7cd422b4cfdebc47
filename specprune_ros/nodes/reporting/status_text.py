# SPDX-License-Identifier: Apache-2.0
"""`~/status`: how it goes in one line for people, at every inference and while there is none; for rqt and terminals."""

from rclpy.node import Node
from std_msgs.msg import String

from specprune_ros.nodes.subscribing import LATCHED
from specprune_ros.policy import ActionChunk


class StatusText:
    """Owns the publisher. Safe to use from any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(String, "~/status", LATCHED)

    def publish(self, line: str) -> None:
        """Late listeners get the last line as well."""
        self._publisher.publish(String(data=line))

    def destroy(self) -> None:
        self._node.destroy_publisher(self._publisher)


def inference_text(chunk: ActionChunk, age: float) -> str:
    """What an inference was like. `age`: of its observation when the chunk was ready, seconds."""
    report = chunk.pruning
    kept, patches = sum(map(len, report.kept_final)), sum(report.patches)
    return (
        f"{report.mode} ({report.reason}): {kept} of {patches} patches kept, inference {chunk.seconds * 1e3:.0f} ms, "
        f"observation {age * 1e3:.0f} ms old"
    )
