# SPDX-License-Identifier: Apache-2.0
"""What is odd about cameras whose images can still be used: one picture for ever, no colours, another size, swapped."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from specprune_ros.arrays import Pixels
from specprune_ros.stamps import NANOSECONDS

COMPRESSED = "/compressed"  # what image_transport appends to the name of a topic
SPARSE = 4  # every how many pixels colours are looked for
GREY = 4  # of 255, between the colours of a grey pixel: what compression adds


class CameraCheck:
    """One camera. `on_info` runs on the executor's thread, `on_frame` on the worker's; `problem` may run on any."""

    def __init__(self, topic: str, info_topic: str) -> None:
        self._topic, self._info_topic = topic, info_topic
        self._calibrated: tuple[int, int] | None = None  # width and height, pixels
        self._size: tuple[int, int] | None = None
        self._frame: Pixels | None = None
        self._grey = False
        self._first = self._last = 0  # stamps of the first and last frame with the same content, nanoseconds

    def on_info(self, message: Any) -> None:
        """Remember the size of the images that a sensor_msgs/CameraInfo belongs to: its region of interest, binned."""
        width, height = message.roi.width or message.width, message.roi.height or message.height
        size = width // (message.binning_x or 1), height // (message.binning_y or 1)
        self._calibrated = size if all(size) else None  # zero: the driver does not know

    def on_frame(self, frame: Pixels, stamp: int) -> None:
        """Compare a frame (H, W, 3) with the one before. `stamp`: nanoseconds."""
        self._size = frame.shape[1], frame.shape[0]
        if self._frame is None or stamp < self._last or not np.array_equal(frame, self._frame):
            self._frame, self._first = frame, stamp
            few = frame[::SPARSE, ::SPARSE].astype(np.int16)
            self._grey = bool((few.max(axis=2) - few.min(axis=2)).max() <= GREY)
        self._last = stamp

    def problem(self, frozen_after: float) -> str:
        """One line, "" when nothing is odd. `frozen_after`: seconds of one picture; 0 never asks."""
        if self._calibrated and self._size and self._calibrated != self._size:
            (width, height), (wide, high) = self._size, self._calibrated
            return (
                f"image on {self._topic} is {width}x{height}, but {self._info_topic} says {wide}x{high}; check the "
                "remapping and the camera's resolution"
            )
        if self._grey:
            return (
                f"image on {self._topic} has no colours, and the checkpoint saw colours in training; check the "
                "camera's format"
            )
        unchanged = (self._last - self._first) / NANOSECONDS
        if 0 < frozen_after < unchanged:
            return (
                f"image on {self._topic} has been the same picture for {unchanged:.1f} s (inputs.frozen_after "
                f"{frozen_after:g} s); restart the camera"
            )
        return ""


def of_one_topic(topics: Mapping[str, str]) -> list[str]:
    """What is wrong with views that read the same topic, a line each. `topics`: view -> topic."""
    found = []
    for view, topic in topics.items():
        same = [name for name, other in topics.items() if other == topic and name != view]
        if same:
            found.append(f"the views {view} and {same[0]} read the same topic {topic}; check the remapping")
    return found


def swapped_by_name(frames: Mapping[str, str]) -> list[str]:
    """What is wrong with views whose images name another view, a line each. `frames`: view -> frame_id."""
    found = []
    for view, frame in frames.items():
        other = [name for name in frames if name != view and name in frame.lower()]
        if other and view not in frame.lower():
            found.append(
                f"the view {view} gets images whose frame_id is {frame}, which names the view {other[0]}; the cameras "
                "may be swapped: check the remapping"
            )
    return found


def info_topic(image_topic: str) -> str:
    """Where a driver publishes the CameraInfo of an image topic: beside it (image_transport's convention)."""
    return image_topic.removesuffix(COMPRESSED).rpartition("/")[0] + "/camera_info"
