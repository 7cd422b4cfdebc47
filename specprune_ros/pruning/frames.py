# SPDX-License-Identifier: Apache-2.0
"""Change between frames: the reference frame that the velocity asks for, and the similarity of every patch with it."""

import math
from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.scene_motion import MotionCue

NO_CUE = MotionCue()
SPACING = 0.9  # control steps between two stored frames, a little less than one because stamps jitter


def patch_similarity(frames: Tensor, reference: Tensor, patch_size: int, displacement: Tensor | None = None) -> Tensor:
    """Cosine similarity of raw RGB patches: (V, S, S, 3) uint8 twice -> (V, P) float32, patches row-major.

    Identical patches have similarity 1, black ones too, for which the cosine is not defined. With a `displacement`
    (V, P, 2), x and y in patches, each patch is compared with what was there in the reference, to whole pixels; one
    whose centre was out of view has nothing to be compared with and similarity 1.
    """
    if displacement is not None:
        still = patch_similarity(frames, _moved_patches(reference, displacement, patch_size), patch_size)
        return torch.where(_was_in_view(displacement, frames.shape[1] // patch_size), still, 1.0)

    def patches(images: Tensor) -> Tensor:
        views, size = images.shape[:2]
        grid = size // patch_size
        cut = images[:, : grid * patch_size, : grid * patch_size].float()
        cut = cut.view(views, grid, patch_size, grid, patch_size, 3)
        return cut.transpose(2, 3).reshape(views, grid * grid, -1)

    now, before = patches(frames), patches(reference)
    unchanged = (now == before).all(dim=-1)
    return torch.where(unchanged, 1.0, F.cosine_similarity(now, before, dim=-1))


def _moved_patches(reference: Tensor, displacement: Tensor, patch_size: int) -> Tensor:
    """Frames of whole patches, each of which shows what was (V, P, 2) patches from it; the border is repeated."""
    views, size = reference.shape[:2]
    grid = size // patch_size
    pixels = (displacement * patch_size).round().long().view(views, grid, grid, 2)
    pixels = pixels.repeat_interleave(patch_size, 1).repeat_interleave(patch_size, 2)
    side = torch.arange(grid * patch_size, device=reference.device)
    columns = (side + pixels[..., 0]).clamp(0, size - 1)
    rows = (side[:, None] + pixels[..., 1]).clamp(0, size - 1)
    view = torch.arange(views, device=reference.device)[:, None, None]
    return reference[view, rows, columns]


def _was_in_view(displacement: Tensor, grid: int) -> Tensor:
    """(V, P) bool: whether the centre of what a patch shows was in the view."""
    index = torch.arange(grid * grid, device=displacement.device)
    column, row = index % grid + displacement[..., 0], index // grid + displacement[..., 1]
    return (column >= -0.5) & (column <= grid - 0.5) & (row >= -0.5) & (row <= grid - 0.5)


def reference_delay(config: PruningConfig, speed: float) -> float:
    """T of the paper in seconds: floor(b + k v) + margin control steps, v the speed (m/s) in action units per step."""
    units = speed / (config.control_rate * config.metres_per_unit)
    steps = math.floor(config.frame_offset + config.frame_slope * units) + config.frame_margin
    return max(steps, 1) / config.control_rate


@dataclass(frozen=True)
class StampedFrames:
    """What the towers saw at one time."""

    stamp: float  # seconds
    frames: Tensor  # (V, S, S, 3) uint8
    cue: MotionCue


class FrameHistory:
    """The last frames with their stamps, as far back as the longest delay asks for. Owned by the policy.

    At most one per control step is stored, however fast the cameras and the inferences are.
    """

    def __init__(self, config: PruningConfig):
        longest = math.ceil(config.frame_offset) + config.frame_margin
        self._spacing = SPACING / config.control_rate
        self._frames: deque[StampedFrames] = deque(maxlen=math.ceil(longest / SPACING) + 1)

    def reset(self) -> None:
        self._frames.clear()

    def wants(self, stamp: float) -> bool:
        """Whether frames of this stamp would be stored: neither so soon after the newest ones, nor a little late."""
        if not self._frames:
            return True
        oldest, newest = self._frames[0].stamp, self._frames[-1].stamp
        return stamp == newest or stamp >= newest + self._spacing or stamp < oldest

    def add(self, frames: Tensor, stamp: float, cue: MotionCue = NO_CUE) -> None:
        """Store frames if they are wanted; those of an equal stamp replace the newest.

        A stamp before the oldest one means that the clock was set back: the old frames are dropped.
        """
        if not self.wants(stamp):
            return
        if self._frames and stamp < self._frames[-1].stamp:
            self.reset()
        if self._frames and stamp == self._frames[-1].stamp:
            self._frames.pop()
        self._frames.append(StampedFrames(stamp, frames, cue))

    def nearest(self, stamp: float) -> StampedFrames | None:
        """The frames nearest to a stamp, the newer of equally near ones; None when there are none."""
        if not self._frames:
            return None
        return min(reversed(self._frames), key=lambda entry: abs(entry.stamp - stamp))
