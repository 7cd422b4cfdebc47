# SPDX-License-Identifier: Apache-2.0
"""Frames as JPEG files."""

import cv2
import numpy as np
from numpy.typing import NDArray


def encoded(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """(H, W, 3) RGB uint8 -> (N,) the bytes of a JPEG file. `quality`: 0 to 100."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(data, np.uint8)
