# SPDX-License-Identifier: Apache-2.0
"""Camera messages to upright RGB frames. Messages are duck-typed: DDS and a bag make classes of their own.

Decoded with OpenCV alone: the builds of cv_bridge disagree about padding, Bayer and YUV.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from specprune_ros.arrays import Pixels
from specprune_ros.errors import ObservationError

MAX_PIXELS = 64_000_000  # more than a robot's camera has; a megabyte may decode to gigabytes, for a minute
MIN_SIDE = 16  # pixels; anything smaller is not a picture of a scene

# How a frame is turned into what the checkpoint saw in training.
TRANSFORMS = {
    "none": lambda frame: frame,
    "rotate_180": lambda frame: frame[::-1, ::-1],
    "flip_horizontal": lambda frame: frame[:, ::-1],
    "flip_vertical": lambda frame: frame[::-1],
}


@dataclass(frozen=True)
class Encoding:
    """How an encoding of sensor_msgs/image_encodings becomes RGB."""

    channels: int  # bytes per pixel of a row; (H, W) without an axis for 1
    to_rgb: Callable[[Pixels], Pixels]
    even: bool = False  # width, and with `planes` height, are multiples of 2
    planes: bool = False  # the rows of the image are followed by half as many rows of colour


def _converted(pixels: NDArray[Any], code: int) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def _by(code: int) -> Callable[[Pixels], Pixels]:
    return lambda pixels: _converted(pixels, code)


# OpenCV names a Bayer order by the second and third pixel of the second row: rggb is its BG.
ENCODINGS = {
    "rgb8": Encoding(3, np.ascontiguousarray),
    "bgr8": Encoding(3, _by(cv2.COLOR_BGR2RGB)),
    "rgba8": Encoding(4, _by(cv2.COLOR_RGBA2RGB)),
    "bgra8": Encoding(4, _by(cv2.COLOR_BGRA2RGB)),
    "mono8": Encoding(1, _by(cv2.COLOR_GRAY2RGB)),
    "bayer_rggb8": Encoding(1, _by(cv2.COLOR_BayerBG2RGB)),
    "bayer_bggr8": Encoding(1, _by(cv2.COLOR_BayerRG2RGB)),
    "bayer_gbrg8": Encoding(1, _by(cv2.COLOR_BayerGR2RGB)),
    "bayer_grbg8": Encoding(1, _by(cv2.COLOR_BayerGB2RGB)),
    "yuv422": Encoding(2, _by(cv2.COLOR_YUV2RGB_UYVY), even=True),
    "uyvy": Encoding(2, _by(cv2.COLOR_YUV2RGB_UYVY), even=True),
    "yuv422_yuy2": Encoding(2, _by(cv2.COLOR_YUV2RGB_YUYV), even=True),
    "yuyv": Encoding(2, _by(cv2.COLOR_YUV2RGB_YUYV), even=True),
    "nv12": Encoding(1, _by(cv2.COLOR_YUV2RGB_NV12), even=True, planes=True),
    "nv21": Encoding(1, _by(cv2.COLOR_YUV2RGB_NV21), even=True, planes=True),
}
UNORDERED = re.compile(r"8UC[1-4]?")
JPEG, MARKER, START_OF_SCAN, END_OF_IMAGE = b"\xff\xd8", b"\xff", b"\xff\xda", b"\xff\xd9"
OTHER_DEPTH = re.compile(r"mono16|(rgb|bgr)a?16|bayer_\w{4}16|8SC[1-4]?|(16|32|64)[USF]C[1-4]?")


def to_rgb(message: Any, topic: str) -> Pixels:
    """A sensor_msgs/Image or CompressedImage, or one that is decoded already, as (H, W, 3) uint8 RGB.

    Raises ObservationError that names the topic for what is not a colour or grey picture of 8 bits, a size that does
    not fit the data, or compressed data that does not decode.
    """
    if hasattr(message, "frame"):
        result: Pixels = message.frame
        return result
    frame = _decompressed(message, topic) if hasattr(message, "format") else _raw(message, topic)
    if min(frame.shape[:2]) < MIN_SIDE:
        size = f"{frame.shape[1]}x{frame.shape[0]}"
        raise ObservationError(f"image on {topic} is only {size} pixels; check the camera's resolution")
    return frame


def transformed(frame: Pixels, transform: str) -> Pixels:
    """(H, W, 3) -> (H, W, 3), contiguous. `transform` is a key of TRANSFORMS."""
    return np.ascontiguousarray(TRANSFORMS[transform](frame))


def resized_first(frame: Pixels, side: int) -> Pixels:
    """(H, W, 3) -> (side, side, 3) by Pillow's bicubic, as a robot's client may do it; 0 leaves it."""
    if not side or frame.shape[:2] == (side, side):
        return frame
    return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC))


def _raw(message: Any, topic: str) -> Pixels:
    encoding = _encoding(message.encoding, topic)
    height, width, step, data = message.height, message.width, message.step, message.data
    rows = _rows(encoding, height, step, len(data))
    if rows is None or not len(data) or not width:
        raise ObservationError(
            f"image on {topic} has {len(data)} bytes for height {height} x step {step} and width {width}; the driver "
            "sends broken images"
        )
    row = width * encoding.channels
    if step < row:
        raise ObservationError(
            f"image on {topic} has step {step}, less than the {row} bytes of {width} {message.encoding} pixels"
        )
    if encoding.even and (width % 2 or (encoding.planes and rows % 3)):
        raise ObservationError(
            f"image on {topic} is {width} pixels wide in {message.encoding}, which shares colours between neighbours; "
            "set an even resolution"
        )
    pixels = np.frombuffer(data, np.uint8).reshape(rows, step)[:, :row]
    if encoding.channels > 1:
        pixels = pixels.reshape(rows, width, encoding.channels)
    return encoding.to_rgb(np.ascontiguousarray(pixels))


def _rows(encoding: Encoding, height: int, step: int, size: int) -> int | None:
    """Rows of bytes in the data, None when it is not whole rows. Planes are counted into the height, or not."""
    counts = (height, height * 3 // 2) if encoding.planes else (height,)
    return next((rows for rows in counts if rows * step == size), None)


def _encoding(name: str, topic: str) -> Encoding:
    if name in ENCODINGS:
        return ENCODINGS[name]
    if OTHER_DEPTH.fullmatch(name):
        raise ObservationError(f"image on {topic} is {name}, not a colour picture of 8 bits; publish rgb8 or bgr8")
    if UNORDERED.fullmatch(name):
        raise ObservationError(f"image on {topic} is {name}, which does not say its colours; publish rgb8 or bgr8")
    raise ObservationError(f"image on {topic} has unknown encoding {name[:40]!r}; publish rgb8, bgr8 or mono8")


def _decompressed(message: Any, topic: str) -> Pixels:
    said = f"compressed image on {topic} (format {message.format[:40]!r})"
    source, _, coded = message.format.partition(";")
    source = source.strip()
    if OTHER_DEPTH.fullmatch(source):
        raise ObservationError(f"{said} is not a colour picture of 8 bits; publish rgb8 or bgr8 as jpeg or png")
    data = bytes(message.data)
    if _cut_short(data):
        raise ObservationError(f"{said} is cut short; check the camera, its cable and its driver")
    if _is_huge(data):
        raise ObservationError(f"{said} has more than {MAX_PIXELS // 10**6} million pixels; check the camera's driver")
    try:
        # Unchanged: with its own depth, and as it lies on the sensor, whatever its EXIF data say.
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        frame = None
    if frame is None:
        raise ObservationError(f"{said} does not decode; publish jpeg or png")
    if frame.dtype != np.uint8:
        raise ObservationError(f"{said} has {frame.dtype.itemsize * 8} bits; publish rgb8 or bgr8 as jpeg or png")
    if frame.ndim == 2 or frame.shape[2] == 1:
        # The mosaic of a sensor is compressed as it is.
        return ENCODINGS[source if source.startswith("bayer_") and source in ENCODINGS else "mono8"].to_rgb(
            np.asarray(frame, np.uint8)
        )
    # compressed_image_transport's rule: "rgb8; jpeg compressed rgb8" was written without bringing it to OpenCV's order.
    bgr = not coded or "compressed bgr" in coded
    if frame.shape[2] == 4:
        return _converted(frame, cv2.COLOR_BGRA2RGB if bgr else cv2.COLOR_RGBA2RGB)
    return _converted(frame, cv2.COLOR_BGR2RGB) if bgr else np.asarray(frame, np.uint8)


def _is_huge(data: bytes) -> bool:
    """Whether it has more than `MAX_PIXELS`, by its header alone."""
    try:
        width, height = Image.open(io.BytesIO(data)).size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except Exception:  # of several kinds: Pillow does not know it, and OpenCV may
        return False
    return width * height > MAX_PIXELS


def _cut_short(data: bytes) -> bool:
    """Whether it is a JPEG without its end, of which the OpenCV of Ubuntu 24.04 fills the rest with anything.

    The end is looked for after the header: a thumbnail in there has one of its own.
    """
    if not data.startswith(JPEG):
        return False
    at = len(JPEG)
    while data[at : at + 1] == MARKER and data[at : at + 2] != START_OF_SCAN:
        filled = data[at + 1 : at + 2] == MARKER
        at += 1 if filled else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(END_OF_IMAGE, at) < 0
