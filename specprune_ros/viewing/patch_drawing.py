# SPDX-License-Identifier: Apache-2.0
"""Kept patches drawn on a frame."""

import cv2
import numpy as np
from numpy.typing import NDArray

PRUNED_BRIGHTNESS = 0.3
PRUNED_TINT = np.array([8, 11, 44], np.uint8)  # dark blue, which grey and black objects do not have


def draw_kept(
    frame: NDArray[np.uint8], kept: NDArray[np.integer], patch_grid: tuple[int, int], crop: float
) -> NDArray[np.uint8]:
    """The frame with everything dark and blue but the patches that were kept.

    `frame`: (H, W, 3) uint8 RGB. `kept`: (K,) indices, row-major in `patch_grid` (rows, columns). `crop`: share of
    each side that the policy sees, centred; what lies outside is dimmed.
    """
    height, width = frame.shape[:2]
    mask = np.zeros(patch_grid, np.uint8)
    mask.flat[kept] = 1
    seen_height, seen_width = round(height * crop), round(width * crop)
    top, left = (height - seen_height) // 2, (width - seen_width) // 2
    bright = np.zeros((height, width, 1), bool)
    seen = cv2.resize(mask, (seen_width, seen_height), interpolation=cv2.INTER_NEAREST)
    bright[top : top + seen_height, left : left + seen_width, 0] = seen
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None]
    return np.where(bright, frame, (grey * PRUNED_BRIGHTNESS).astype(np.uint8) + PRUNED_TINT)
