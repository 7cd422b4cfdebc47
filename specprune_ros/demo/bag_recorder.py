# SPDX-License-Identifier: Apache-2.0
"""A node that writes a bag with what a replay needs, where there is no `ros2 bag`."""

from functools import partial
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage

from specprune_ros.msg import ActionChunk, PruningStats
from specprune_ros.recording.bag_writer import BagWriter
from specprune_ros.stamps import from_stamp

COMPRESSED = "sensor_msgs/msg/CompressedImage"
JPEG_QUALITY = 90
DEPTH = 500  # messages that wait for the writer
NAMES = {
    Clock: "rosgraph_msgs/msg/Clock",
    JointState: "sensor_msgs/msg/JointState",
    String: "std_msgs/msg/String",
    TFMessage: "tf2_msgs/msg/TFMessage",
    ActionChunk: "specprune_ros/msg/ActionChunk",
    PruningStats: "specprune_ros/msg/PruningStats",
    Image: "sensor_msgs/msg/Image",
}


class BagRecorder(Node):
    """Records on the thread that spins it. Times are those of its clock, simulated if `simulated`."""

    def __init__(
        self,
        writer: BagWriter,
        images: list[str],
        instruction: str,
        policy: str,
        *,
        simulated: bool,
        compress: bool,
        **kwargs: Any,
    ) -> None:
        """`images`: topics of sensor_msgs/Image. `compress`: as JPEG, on the topic that image_transport would use.

        `instruction`: the topic. `policy`: the policy node's full name. `kwargs` go to the node.
        """
        super().__init__("bag_recorder", parameter_overrides=[Parameter("use_sim_time", value=simulated)], **kwargs)
        self._writer = writer
        if simulated:
            self._record(Clock, "/clock")
        for topic in images:
            if compress:
                best_effort = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
                self.create_subscription(Image, topic, partial(self._compress, topic), best_effort)
                writer.add_topic(f"{topic}/compressed", COMPRESSED)
            else:
                self._record(Image, topic, reliable=False)
        self._record(JointState, self.resolve_topic_name("joint_states"))
        self._record(TFMessage, "/tf")
        self._record(TFMessage, "/tf_static", latched=True)
        self._record(String, instruction, latched=True)
        self._record(ActionChunk, f"{policy}/action_chunk")
        self._record(PruningStats, f"{policy}/pruning")

    def _record(self, kind: type, topic: str, *, reliable: bool = True, latched: bool = False) -> None:
        qos = QoSProfile(
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        self._writer.add_topic(topic, NAMES[kind])
        self.create_subscription(kind, topic, partial(self._write, topic, NAMES[kind]), qos, raw=True)

    def _write(self, topic: str, kind: str, data: bytes) -> None:
        self._writer.write_raw(topic, kind, self._now(), data)

    def _compress(self, topic: str, message: Image) -> None:
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        types = self._writer.types.types
        stamp = types["builtin_interfaces/msg/Time"](message.header.stamp.sec, message.header.stamp.nanosec)
        header = types["std_msgs/msg/Header"](stamp, message.header.frame_id)
        compressed = types[COMPRESSED](header, "rgb8; jpeg compressed bgr8", data[1])
        time = max(self._now(), from_stamp(message.header.stamp))
        self._writer.write(f"{topic}/compressed", COMPRESSED, time, compressed)

    def _now(self) -> int:
        return self.get_clock().now().nanoseconds
