# SPDX-License-Identifier: Apache-2.0
"""The auxiliary task: say in which patches things are, from the towers' features alone. Its head is dropped later.

Labels come free with the simulator. Behaviour cloning alone teaches small towers to see very slowly. Every kind of
thing (bowl, plate, gripper ...) has a map over a view's patches; its target is spread over the four patches around
the true position, and shared out where a scene has several things of a kind. The mean position under the map of a
single thing is the soft-argmax.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.process_group import Mean


class LocalizationHead(nn.Module):
    def __init__(self, vision_width: int, num_kinds: int):
        super().__init__()
        self.norm = nn.LayerNorm(vision_width)
        self.linear = nn.Linear(vision_width, num_kinds)

    def forward(self, features: Tensor) -> Tensor:
        """(B, V, patches, vision width) -> (B, V, kinds, patches) log-probabilities."""
        return F.log_softmax(self.linear(self.norm(features)).float().transpose(2, 3), dim=-1)


def target_maps(points: Tensor, kinds: Tensor, num_kinds: int, side: int) -> Tensor:
    """Points (B, V, K, 2), in image widths, nan where unknown, of the given kinds (B, K), -1 for none.

    Returns (B, V, kinds, side * side): a distribution over the patches, or zeros where nothing of the kind is seen.
    """
    known = points.isfinite().all(dim=-1) & (kinds[:, None] >= 0)
    place = (torch.nan_to_num(points) * side - 0.5).clamp(0, side - 1)  # in patches, from the first one's centre
    low = place.floor().clamp(max=side - 2)
    share = place - low
    maps = points.new_zeros(*points.shape[:2], num_kinds, side * side)
    batch, view, _ = torch.meshgrid(*(torch.arange(n, device=points.device) for n in points.shape[:3]), indexing="ij")
    kind = kinds[:, None].expand(known.shape).clamp(min=0)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
            patch = ((low[..., 1] + dy) * side + low[..., 0] + dx).long()
            maps.index_put_((batch, view, kind, patch), weight * known, accumulate=True)
    return maps / maps.sum(dim=-1, keepdim=True).clamp(min=1e-6)


def localization_loss(log_maps: Tensor, targets: Tensor) -> Mean:
    """Mean cross-entropy over the kinds that are seen, less what no prediction could avoid (the target's entropy)."""
    cross_entropy = -(targets * log_maps).sum(dim=-1)
    entropy = torch.special.entr(targets).sum(dim=-1)
    seen = targets.sum(dim=-1) > 0.5
    return Mean(((cross_entropy - entropy) * seen).sum(), seen.sum())


def localization_error(log_maps: Tensor, targets: Tensor) -> Mean:
    """Mean distance of the predicted from the true mean position, in image widths, over the kinds that are seen."""
    side = int(targets.shape[-1] ** 0.5)
    centers = (torch.arange(side, device=targets.device) + 0.5) / side
    grid = torch.stack(torch.meshgrid(centers, centers, indexing="ij"), dim=-1).reshape(-1, 2)
    distance = (log_maps.exp() @ grid - targets @ grid).norm(dim=-1)
    seen = targets.sum(dim=-1) > 0.5
    return Mean((distance * seen).sum(), seen.sum())
