# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to the cameras and joint states of one observation.

Callbacks (executor thread) only store messages; compressed images are decoded in a thread per camera.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState

from specprune_ros.errors import ConfigError
from specprune_ros.nodes.subscribing import TopicPeers, backlog, subscribe
from specprune_ros.sensing.assembler import ObservationAssembler
from specprune_ros.sensing.camera_check import COMPRESSED, info_topic
from specprune_ros.sensing.config import InputsConfig, image_input
from specprune_ros.sensing.decoder import NewestDecoder
from specprune_ros.sensing.end_effector import EndEffector

JOINT_STATES_QOS = QoSProfile(depth=50)


class Inputs:
    """Owns the subscriptions and feeds `assembler`. `on_image` is called for every new image."""

    def __init__(
        self,
        node: Node,
        config: InputsConfig,
        end_effector: EndEffector | None,
        controlled_joints: tuple[str, ...],
        axis_angle_near: np.ndarray,
        on_image: Callable[[], None],
    ) -> None:
        """See `ObservationAssembler` for what is not the node's.

        Raises ConfigError for an override of the quality of service that ROS does not know; then nothing stays open.
        """
        self._node, self._on_image = node, on_image
        self._subscriptions: list[Any] = []
        self._decoders: dict[str, NewestDecoder] = {}
        try:
            topics = {camera: self._subscribe_camera(camera, config) for camera in config.cameras}
            self.assembler = ObservationAssembler(
                config,
                topics,
                node.resolve_topic_name("joint_states"),
                end_effector,
                controlled_joints,
                axis_angle_near,
                peers=TopicPeers(node, self._subscriptions),
            )
            self._open(config, topics)
        except ConfigError:
            self.destroy()
            raise

    def _open(self, config: InputsConfig, topics: Mapping[str, str]) -> None:
        """What comes beside the images: decoders, calibrations, joint states."""
        node = self._node
        for camera, topic in topics.items():
            if config.image_transport == "compressed":
                self._decoders[camera] = NewestDecoder(topic, partial(self._store_image, camera))
            store = partial(self.assembler.add_camera_info, camera)
            self._subscriptions.append(
                node.create_subscription(CameraInfo, info_topic(topic), store, qos_profile_sensor_data)
            )
        if self.assembler.needs_joints:
            self._joints = subscribe(node, JointState, "joint_states", self._add_joints, JOINT_STATES_QOS)
            self._subscriptions.append(self._joints)

    def _subscribe_camera(self, camera: str, config: InputsConfig) -> str:
        """Returns the topic."""
        compressed = config.image_transport == "compressed"
        kind = CompressedImage if compressed else Image
        topic = f"~/{image_input(camera)}"
        if compressed:
            topic = self._compressed_topic(topic)
        store = partial(self._add_image, camera)
        subscription = subscribe(self._node, kind, topic, store, qos_profile_sensor_data)
        self._subscriptions.append(subscription)
        return subscription.topic_name

    def _compressed_topic(self, base: str) -> str:
        """The name to subscribe to: a remapping of the base topic, as image_transport's, holds for it too."""
        node, own = self._node, base + COMPRESSED
        remapped = node.resolve_topic_name(base)
        given = node.resolve_topic_name(own) != node.resolve_topic_name(own, only_expand=True)
        if given or remapped == node.resolve_topic_name(base, only_expand=True):
            return own
        return remapped if remapped.endswith(COMPRESSED) else remapped + COMPRESSED

    def _now(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _add_image(self, camera: str, message: Image | CompressedImage) -> None:
        decoder = self._decoders.get(camera)
        if decoder:
            decoder.put(message, self._now(), self.assembler.era)
        else:
            self._store_image(camera, message, self._now())

    def _store_image(self, camera: str, message: Any, now: int, era: int | None = None) -> None:
        """Of a compressed image: on its decoder's thread."""
        if self.assembler.add_image(camera, message, now, era):
            self._on_image()

    def _add_joints(self, message: JointState) -> None:
        for one in (message, *backlog(self._joints)):
            self.assembler.add_joints(one, self._now())

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for decoder in self._decoders.values():
            decoder.close()
