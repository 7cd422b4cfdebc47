"""From camera frames to what the vision towers see. Resizing runs on the host, everything else on the device."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

CROP_AREA = 0.9  # share of the area that the training crops kept
TENSORFLOW_ROUNDING = 255.5 / 255  # its conversion of [0, 1] to uint8 scales by 255.5 and truncates


def resize(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Squash a frame (H, W, 3) uint8 to (size, size, 3): Lanczos-3, antialiased, aspect ratio not kept."""
    if frame.shape[:2] == (size, size):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS))


class CenterCrop:
    """Centre crop to `CROP_AREA` of the image and back to full size, as TensorFlow's `crop_and_resize` samples it."""

    def __init__(self, size: int, device: torch.device):
        side = math.sqrt(CROP_AREA)
        position = (1 - side) / 2 * (size - 1) + torch.arange(size) * side
        low = position.floor()
        self._low = low.long().to(device)
        self._high = (low + 1).clamp(max=size - 1).long().to(device)
        self._weight = (position - low).to(device)

    def __call__(self, frames: Tensor) -> Tensor:
        """(V, S, S, 3) uint8 -> (V, S, S, 3) uint8, on the frames' device."""
        rows = torch.lerp(frames[:, self._low].float(), frames[:, self._high].float(), self._weight[:, None, None])
        pixels = torch.lerp(rows[:, :, self._low], rows[:, :, self._high], self._weight[:, None])
        return (pixels * TENSORFLOW_ROUNDING).to(torch.uint8)


class Normalization:
    """uint8 pixels to the normalised channels of one tower."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device):
        mean_, std_ = torch.tensor(mean), torch.tensor(std)
        self._scale = (1 / (255 * std_))[:, None, None].to(device)
        self._shift = (mean_ / std_)[:, None, None].to(device)

    def __call__(self, frames: Tensor) -> Tensor:
        """(V, S, S, 3) uint8 -> (V, 3, S, S) float32."""
        return frames.permute(0, 3, 1, 2) * self._scale - self._shift
