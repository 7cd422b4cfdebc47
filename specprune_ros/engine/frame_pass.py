# SPDX-License-Identifier: Apache-2.0
"""What happens to camera frames before a forward pass: the crop, and the comparison with an earlier frame.

A pass of its own, because its one number (the share of dynamic patches) decides which forward pass follows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from specprune_ros.openvla.preprocessing import CenterCrop
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.frames import patch_similarity


@dataclass(frozen=True, eq=False)
class FrameInputs:
    """On the model's device."""

    views: Tensor  # (V, S, S, 3) uint8, resized
    reference: Tensor  # (V, S, S, 3) uint8, an earlier `Seen.frames`; anything when there is none
    known: Tensor  # () bool, whether there is a reference
    displacement: Tensor  # (V, P, 2) float32, patches: back to where the scene was in the reference


@dataclass(frozen=True, eq=False)
class Seen:
    """On the model's device."""

    frames: Tensor  # (V, S, S, 3) uint8, cropped
    similarity: Tensor  # (V, P) float32 with the reference; 1 without one
    dynamic_share: Tensor  # () float32, largest share of dynamic patches in any view; 0 without a reference


class FramePass:
    """Without `config` (pruning is off) nothing is compared, and everything counts as similar."""

    def __init__(self, patch_size: int, num_patches: int, crop: CenterCrop | None, config: PruningConfig | None):
        self._patch_size, self._num_patches = patch_size, num_patches
        self._crop = crop
        self._config = config

    def __call__(self, inputs: FrameInputs) -> Seen:
        frames = self._crop(inputs.views) if self._crop else inputs.views.clone()
        if self._config is None:
            similarity = torch.ones(len(frames), self._num_patches, device=frames.device)
            return Seen(frames, similarity, similarity.new_zeros(()))
        displacement = None if self._config.history_motion == "none" else inputs.displacement
        similarity = patch_similarity(frames, inputs.reference, self._patch_size, displacement)
        similarity = torch.where(inputs.known, similarity, 1.0)
        dynamic = (similarity < self._config.similarity_threshold).float().mean(dim=1)
        return Seen(frames, similarity, torch.where(inputs.known, dynamic.max(), 0.0))
