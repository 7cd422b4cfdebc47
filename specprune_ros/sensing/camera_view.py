# SPDX-License-Identifier: Apache-2.0
"""Where a view's camera is at the stamp of an image, and how it projects, from CameraInfo and TF."""

from typing import Any

import numpy as np

from specprune_ros.arrays import Floats
from specprune_ros.camera import Camera
from specprune_ros.errors import ObservationError
from specprune_ros.sensing.end_effector import EndEffector

# What `inputs.camera_transforms` does to places in an image, x and y from 0 to 1.
TRANSFORMED = {
    "none": np.eye(3),
    "rotate_180": np.array([[-1.0, 0, 1], [0, -1, 1], [0, 0, 1]]),
    "flip_horizontal": np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]]),
    "flip_vertical": np.array([[1.0, 0, 0], [0, -1, 1], [0, 0, 1]]),
}


class CameraView:
    """One camera. `on_info` runs on the executor's thread, `camera` on the worker's."""

    def __init__(self, topic: str, info_topic: str) -> None:
        self._topic, self._info_topic = topic, info_topic
        self._intrinsics: Floats | None = None

    def on_info(self, message: Any) -> None:
        """Remember the pinhole of a sensor_msgs/CameraInfo, without its distortion, in parts of the image's size.

        Its pixels have their centres at whole numbers, and its region of interest is what the image shows.
        """
        width, height = message.roi.width or message.width, message.roi.height or message.height
        matrix = np.array(message.k, dtype=np.float64).reshape(3, 3)
        if not (width and height and np.isfinite(matrix).all() and matrix[0, 0] and matrix[1, 1]):
            self._intrinsics = None  # the driver does not know
            return
        offset = np.array([[1.0, 0, 0.5 - message.roi.x_offset], [0, 1, 0.5 - message.roi.y_offset], [0, 0, 1]])
        self._intrinsics = np.diag([1 / width, 1 / height, 1]) @ offset @ matrix

    def camera(self, frame: str, transform: str, end_effector: EndEffector, stamp: int, max_skew: int) -> Camera:
        """Of an image of the optical frame `frame`, to which `transform` is done. Nanoseconds.

        Raises ObservationError that says what is missing.
        """
        if self._intrinsics is None:
            raise ObservationError(
                f"{self._info_topic} has no calibration, and pruning.history_motion tf needs it; calibrate the camera"
            )
        if not frame:
            raise ObservationError(f"images on {self._topic} have no frame_id, and pruning.history_motion tf needs it")
        pose = end_effector.pose_of(frame, stamp, max_skew)
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = pose.rotation.as_matrix(), pose.position
        return Camera(TRANSFORMED[transform] @ self._intrinsics, matrix)
