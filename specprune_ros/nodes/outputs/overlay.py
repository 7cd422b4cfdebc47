# SPDX-License-Identifier: Apache-2.0
"""The patches that the last layer still sees, drawn on the frame that the policy saw."""

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from specprune_ros.control.takeover import InCharge
from specprune_ros.nodes.stamps import to_stamp
from specprune_ros.policy import ActionChunk
from specprune_ros.sensing.assembler import Sensed
from specprune_ros.viewing.patch_drawing import draw_kept


class Overlay:
    """Publishes `~/overlay/<camera>`, in the orientation that the checkpoint sees; drawn only while someone looks."""

    def __init__(self, node: Node, cameras: tuple[str, ...], patch_grid: tuple[int, int], crop: float) -> None:
        """`patch_grid`: rows and columns of patches. `crop`: share of each side that the policy sees, centred."""
        self._node, self._grid, self._crop = node, patch_grid, crop
        self._publishers: dict[str, Publisher] = {
            camera: node.create_publisher(Image, f"~/overlay/{camera}", qos_profile_sensor_data) for camera in cameras
        }

    def publish(self, sensed: Sensed, chunk: ActionChunk, in_charge: InCharge) -> None:
        for view, (camera, publisher) in enumerate(self._publishers.items()):
            if publisher.get_subscription_count() == 0:
                continue
            kept = chunk.pruning.kept_final[view]
            frame = draw_kept(sensed.views[camera], kept, self._grid, self._crop)
            text = f"{chunk.pruning.mode} {len(kept)}/{chunk.pruning.patches[view]} {chunk.seconds * 1e3:.0f} ms"
            text += " person" if in_charge == InCharge.PERSON else ""
            cv2.putText(frame, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.putText(frame, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
            publisher.publish(_message(frame, sensed.stamp, camera))

    def destroy(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)


def _message(frame: np.ndarray, stamp: int, camera: str) -> Image:
    message = Image(height=frame.shape[0], width=frame.shape[1], encoding="rgb8", step=frame.shape[1] * 3)
    message.header.stamp = to_stamp(stamp)
    message.header.frame_id = camera
    message.data = frame.tobytes()
    return message
