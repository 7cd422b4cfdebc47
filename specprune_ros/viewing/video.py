# SPDX-License-Identifier: Apache-2.0
"""Frames to an MP4 file that every player opens."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

QUALITY = 20  # constant rate factor of H.264: 18 looks lossless, 28 is small


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], rate: float) -> int:
    """Write (H, W, 3) uint8 RGB frames of one size, H and W even, at `rate` Hz; returns their number.

    Without frames no file is written.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        return 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(QUALITY)}
        for frame in chain([first], iterator):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
        return stream.frames
