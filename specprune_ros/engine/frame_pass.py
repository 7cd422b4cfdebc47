# SPDX-License-Identifier: Apache-2.0
"""What happens to camera frames before a forward pass: resizing, the crop, the comparison with an earlier frame.

A pass of its own, because its one number (the share of dynamic patches) decides which forward pass follows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from specprune_ros.openvla.preprocessing import CenterCrop, LanczosProducts, resize, resizes_exactly
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.frames import patch_similarity

Sizes = tuple[tuple[int, int], ...]  # (H, W) of each view


@dataclass(frozen=True, eq=False)
class FrameInputs:
    """On the model's device."""

    views: Tensor  # (sum of H * W * 3,) uint8: the views as the cameras gave them, one behind the other
    reference: Tensor  # (V, S, S, 3) uint8, an earlier `Seen.frames`; anything when there is none
    known: Tensor  # () bool, whether there is a reference
    displacement: Tensor  # (V, P, 2) float32, patches: back to where the scene was in the reference


@dataclass(frozen=True, eq=False)
class Seen:
    """On the model's device."""

    frames: Tensor  # (V, S, S, 3) uint8, cropped
    similarity: Tensor  # (V, P) float32 with the reference; 1 without one
    dynamic_share: Tensor  # () float32, largest share of dynamic patches in any view; 0 without a reference


class FramePreparation:
    """Camera frames of fixed sizes (H, W), one per view, to what the model sees."""

    def __init__(self, sizes: Sizes, image_size: int, crop: CenterCrop | None, device: torch.device):
        self._sizes, self._image_size, self._crop = sizes, image_size, crop
        others = {size for size in sizes if not resizes_exactly(size, image_size, device)}
        self._products = {size: LanczosProducts(*size, image_size, device) for size in others}

    def __call__(self, views: Tensor) -> Tensor:
        """(sum of H * W * 3,) uint8 -> (V, S, S, 3) uint8: resized, then cropped."""
        parts = views.split([height * width * 3 for height, width in self._sizes])
        frames = torch.stack(
            [self._resized(part.view(*size, 3)) for part, size in zip(parts, self._sizes, strict=True)]
        )
        return self._crop(frames) if self._crop else frames

    def _resized(self, frame: Tensor) -> Tensor:
        height, width, _ = frame.shape
        products = self._products.get((height, width))
        return products(frame) if products else resize(frame, self._image_size)


class FramePass:
    """Without `config` (pruning is off) nothing is compared, and everything counts as similar."""

    def __init__(self, patch_size: int, num_patches: int, prepare: FramePreparation, config: PruningConfig | None):
        self._patch_size, self._num_patches = patch_size, num_patches
        self._prepare = prepare
        self._config = config

    def __call__(self, inputs: FrameInputs) -> Seen:
        frames = self._prepare(inputs.views)
        if self._config is None:
            similarity = torch.ones(len(frames), self._num_patches, device=frames.device)
            return Seen(frames, similarity, similarity.new_zeros(()))
        displacement = None if self._config.history_motion == "none" else inputs.displacement
        similarity = patch_similarity(frames, inputs.reference, self._patch_size, displacement)
        similarity = torch.where(inputs.known, similarity, 1.0)
        dynamic = (similarity < self._config.similarity_threshold).float().mean(dim=1)
        return Seen(frames, similarity, torch.where(inputs.known, dynamic.max(), 0.0))
