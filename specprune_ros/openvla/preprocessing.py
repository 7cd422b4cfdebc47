"""From camera frames to what the vision towers see. Resizing runs on the host, everything else on the device."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

CROP_AREA = 0.9  # share of the area that the training crops kept
TENSORFLOW_SCALE = 255.5  # its conversion of [0, 1] to uint8 multiplies by this and truncates


def resize(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Squash a frame (H, W, 3) uint8 to (size, size, 3): Lanczos-3, antialiased, aspect ratio not kept."""
    if frame.shape[:2] == (size, size):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS))


class CenterCrop:
    """Centre crop to `CROP_AREA` of the image and back to full size, bit for bit as TensorFlow does it.

    So in float32 throughout, in the order of its `crop_and_resize`: pixels in [0, 1], columns, rows, back to uint8.
    """

    def __init__(self, size: int, device: torch.device):
        side = np.sqrt(np.float32(CROP_AREA))
        start = (1 - side) / 2
        step = (start + side - start) * (size - 1) / np.float32(size - 1)
        position = start * (size - 1) + np.arange(size, dtype=np.float32) * step
        low = np.floor(position)
        self._low, self._high = (torch.from_numpy(x.astype(np.int64)).to(device) for x in (low, np.ceil(position)))
        self._weight = torch.from_numpy(position - low).to(device)

    def __call__(self, frames: Tensor) -> Tensor:
        """(V, S, S, 3) uint8 -> (V, S, S, 3) uint8, on the frames' device."""
        pixels = frames * (1 / 255)
        left, right = pixels[:, :, self._low], pixels[:, :, self._high]
        columns = left + (right - left) * self._weight[:, None]
        top, bottom = columns[:, self._low], columns[:, self._high]
        cropped = top + (bottom - top) * self._weight[:, None, None]
        return (cropped * TENSORFLOW_SCALE).to(torch.uint8)


class Normalization:
    """uint8 pixels to the normalised channels of one tower."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device):
        mean_, std_ = torch.tensor(mean), torch.tensor(std)
        self._scale = (1 / (255 * std_))[:, None, None].to(device)
        self._shift = (mean_ / std_)[:, None, None].to(device)

    def __call__(self, frames: Tensor) -> Tensor:
        """(V, S, S, 3) uint8 -> (V, 3, S, S) float32."""
        return frames.permute(0, 3, 1, 2) * self._scale - self._shift
