# SPDX-License-Identifier: Apache-2.0
"""From camera frames to what the vision towers see, on the model's device."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CROP_AREA = 0.9  # share of the area that the training crops kept
TENSORFLOW_SCALE = 255.5  # its conversion of [0, 1] to uint8 multiplies by this and truncates
LANCZOS = 3  # lobes
FEW_BITS_DO = 2  # times as large as the result is a frame for which torch's 16-bit weights are exact enough
TORCH_HAS_LANCZOS = torch.__version__ >= "2.13"  # older ones refuse the mode
BANDS = 7  # of a resizing matrix on a CPU; with 4 to 14 the time is about the same, with 1 three times as long


def seen_side(center_crop: bool) -> float:
    """Share of each side of a view, around its middle, that the towers see."""
    return math.sqrt(CROP_AREA) if center_crop else 1.0


def resize(frame: Tensor, size: int) -> Tensor:
    """Squash a frame (H, W, 3) uint8 on a CPU to (size, size, 3): Lanczos-3, antialiased, aspect ratio not kept.

    As Pillow does it, in a tenth of its time for 640 x 480. Torch's weights have fewer bits: the result is within 1 of
    255 for frames at least `FEW_BITS_DO` times as large. In smaller ones a pixel in a million is 2 off.
    """
    if frame.shape[:2] == (size, size):
        return frame
    planes = frame.permute(2, 0, 1)[None]
    return F.interpolate(planes, (size, size), mode="lanczos", antialias=True)[0].permute(1, 2, 0)


def resizes_exactly(frame: tuple[int, int], size: int, device: torch.device) -> bool:
    """Whether `resize` is within 1 of Pillow for frames (H, W); others go through `LanczosProducts`."""
    large = min(frame) >= FEW_BITS_DO * size
    return frame == (size, size) or (device.type == "cpu" and TORCH_HAS_LANCZOS and large)


class LanczosProducts:
    """The same for frames of one size, as two matrix products: for a GPU, on which torch has no Lanczos for uint8, for
    an older torch, and for frames that get larger or not much smaller.

    Across first, then down. Pillow limits what lies between to 0..255, so this does too, and rounds it, which this
    does not: then a result can never be more than 1 off. A CPU leaves out most of the zeros beside the diagonals.
    """

    def __init__(self, height: int, width: int, size: int, device: torch.device):
        self._size = size
        bands = BANDS if device.type == "cpu" else 1
        rows, columns = lanczos_matrix(height, size).to(device), lanczos_matrix(width, size).to(device)
        self._rows = _bands(rows, bands)
        self._columns = [(used, band.t().contiguous()) for used, band in _bands(columns, bands)]

    def __call__(self, frame: Tensor) -> Tensor:
        """(H, W, 3) uint8 -> (size, size, 3) uint8, on the device."""
        height, width, channels = frame.shape
        lines = frame.permute(0, 2, 1).float().reshape(height * channels, width)
        across = torch.cat([lines[:, used] @ band for used, band in self._columns], dim=1)
        narrow = across.clamp_(0, 255).view(height, channels * self._size)
        small = torch.cat([band @ narrow[used] for used, band in self._rows]).add_(0.5).clamp_(0, 255)
        return small.view(self._size, channels, self._size).transpose(1, 2).to(torch.uint8)


def _bands(matrix: Tensor, count: int) -> list[tuple[slice, Tensor]]:
    """Blocks of rows, each with the columns in which it has anything, and which these are."""
    bands = []
    for block in matrix.chunk(count):
        used = block.any(dim=0).nonzero()
        columns = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((columns, block[:, columns].contiguous()))
    return bands


def lanczos_matrix(source: int, target: int) -> Tensor:
    """(target, source) float32: weights of the source's pixels for each of the target's, summing to 1.

    Downwards the kernel is as wide as it must be not to alias. Pixels count whose centre is in the kernel's support,
    its ends rounded to whole pixels, as in Pillow.
    """
    stretch = max(source / target, 1.0)
    centre = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target)[:, None]
    first = (centre - LANCZOS * stretch + 0.5).floor().clamp(min=0)
    behind = (centre + LANCZOS * stretch + 0.5).floor().clamp(max=source)
    pixel = torch.arange(source, dtype=torch.float64)
    distance = (pixel - centre + 0.5) / stretch
    weights = torch.sinc(distance) * torch.sinc(distance / LANCZOS)
    weights = weights * ((pixel >= first) & (pixel < behind) & (distance.abs() < LANCZOS))
    return (weights / weights.sum(dim=1, keepdim=True)).float()


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
