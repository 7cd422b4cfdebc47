"""Camera messages to upright RGB frames. Messages are duck-typed: DDS and a bag make classes of their own."""

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from cv_bridge import CvBridge

from specprune_ros.errors import ObservationError

MIN_SIDE = 16  # pixels; anything smaller is not a picture of a scene
BYTES_PER_PIXEL = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}

# How a frame is turned into what the checkpoint saw in training.
TRANSFORMS = {
    "none": lambda frame: frame,
    "rotate_180": lambda frame: frame[::-1, ::-1],
    "flip_horizontal": lambda frame: frame[:, ::-1],
    "flip_vertical": lambda frame: frame[::-1],
}

_bridge = CvBridge()


def to_rgb(message: Any, topic: str) -> np.ndarray:
    """A sensor_msgs/Image or CompressedImage as (H, W, 3) uint8 RGB.

    Raises ObservationError that names the topic for an unknown encoding, a size that does not fit the data, or
    compressed data that does not decode.
    """
    frame = _decompressed(message, topic) if hasattr(message, "format") else _raw(message, topic)
    if min(frame.shape[:2]) < MIN_SIDE:
        size = f"{frame.shape[1]}x{frame.shape[0]}"
        raise ObservationError(f"image on {topic} is only {size} pixels; check the camera's resolution")
    return frame


def transformed(frame: np.ndarray, transform: str) -> np.ndarray:
    """(H, W, 3) -> (H, W, 3), contiguous. `transform` is a key of TRANSFORMS."""
    return np.ascontiguousarray(TRANSFORMS[transform](frame))


def _raw(message: Any, topic: str) -> np.ndarray:
    height, width, step, data = message.height, message.width, message.step, message.data
    if len(data) != height * step or not data:
        raise ObservationError(
            f"image on {topic} has {len(data)} bytes for height {height} x step {step}; the driver sends broken images"
        )
    row = width * BYTES_PER_PIXEL.get(message.encoding, 1)
    if step < row:
        raise ObservationError(
            f"image on {topic} has step {step}, less than the {row} bytes of {width} {message.encoding} pixels"
        )
    if message.encoding in BYTES_PER_PIXEL and step > row:
        message = _without_padding(message, row)
    try:
        frame = _bridge.imgmsg_to_cv2(message, "rgb8")
    except Exception as error:  # cv_bridge raises KeyError, TypeError, cv2.error or CvBridgeError, by its build
        raise ObservationError(
            f"image on {topic} has unknown encoding {message.encoding[:40]!r}; publish rgb8, bgr8 or mono8"
        ) from error
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape != (height, width, 3):
        raise ObservationError(
            f"image on {topic} has encoding {message.encoding[:40]!r} of another depth; publish rgb8 or bgr8"
        )
    return frame


def _without_padding(message: Any, row: int) -> Any:
    """The same image with rows of `row` bytes: not every build of cv_bridge looks at `step`."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)[:, :row]
    return SimpleNamespace(
        header=message.header,
        height=message.height,
        width=message.width,
        encoding=message.encoding,
        is_bigendian=message.is_bigendian,
        step=row,
        data=rows.tobytes(),
    )


def _decompressed(message: Any, topic: str) -> np.ndarray:
    try:
        frame = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        frame = None
    if frame is None:
        raise ObservationError(
            f"compressed image on {topic} (format {message.format[:40]!r}) does not decode; publish jpeg or png"
        )
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
