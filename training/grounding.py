# SPDX-License-Identifier: Apache-2.0
"""A third auxiliary task: the instruction's words look at the things that they name, and at the gripper.

SpecPrune-VLA keeps the patches that the instruction attends to. A pretrained vision-language model brings such
attention along; a policy cloned from nothing has no reason to learn it. No head: the loss is on the attention itself,
in the layers whose scores the method reads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.batched_model import Scores
from training.process_group import Mean

SPREAD = 0.06  # standard deviation around a thing's centre, in image widths: about a bowl's radius


def relevance_maps(points: Tensor, is_named: Tensor, side: int) -> Tensor:
    """Points (B, V, K, 2), in image widths, nan where unknown; those that matter (B, K) bool.

    Returns (B, V, side * side): a distribution over a view's patches, or zeros where nothing that matters is seen.
    """
    known = points.isfinite().all(dim=-1) & is_named[:, None]
    centers = (torch.arange(side, device=points.device) + 0.5) / side
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    grid = torch.stack([x.flatten(), y.flatten()], dim=-1)
    distance = (torch.nan_to_num(points)[..., None, :] - grid).square().sum(dim=-1)  # (B, V, K, patches)
    maps = (-distance / (2 * SPREAD**2)).softmax(dim=-1) * known[..., None]
    total = maps.sum(dim=2)
    return total / total.sum(dim=-1, keepdim=True).clamp(min=1e-6)


def grounding_loss(scores: Sequence[Scores], maps: Tensor) -> Mean:
    """Mean Kullback-Leibler divergence of the scores, as shares of their view, from the maps of the patches alive."""
    total, count = maps.new_zeros(()), maps.new_zeros(())
    for layer in scores:
        share = layer.values / layer.values.sum(dim=-1, keepdim=True).clamp(min=1e-12)
        target = maps.gather(2, layer.patches)
        mass = target.sum(dim=-1, keepdim=True)
        target = target / mass.clamp(min=1e-6)
        divergence = (torch.special.xlogy(target, target) - target * share.clamp(min=1e-9).log()).sum(dim=-1)
        seen = mass[..., 0] > 0.01
        total, count = total + (divergence * seen).sum(), count + seen.sum()
    return Mean(total, count)
