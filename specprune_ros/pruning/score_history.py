# SPDX-License-Identifier: Apache-2.0
"""Scores of the last inferences, the source of the global set. Lives on the device; shapes never change."""

import math

import torch
from torch import Tensor


class ScoreHistory:
    """Rolling window over the patch scores of the last N inferences, older ones weighing less.

    A patch that was not alive adds 0 for that inference, so its score decays instead of vanishing at once.
    N = 1 is the paper: the last inference alone.
    """

    def __init__(self, num_views: int, patches_per_view: int, length: int, decay: float, device: torch.device):
        self.window = torch.zeros(length, num_views, patches_per_view, device=device)
        weights = decay ** torch.arange(length, dtype=torch.float32, device=device)
        self._weights = (weights / weights.sum())[:, None, None]

    def scores(self) -> Tensor:
        """(V, P) float32."""
        return (self.window * self._weights).sum(dim=0)

    def add(self, scores: Tensor) -> None:
        """Put (V, P) scores of this inference in front; in place, so that a captured graph can do it."""
        self.window.copy_(torch.cat([scores[None], self.window[:-1]]))

    def move(self, displacement: Tensor) -> None:
        """Carry all scores to where the scene is now: (V, P, 2) in patches, of what a patch shows now, back to then.

        Between patches scores are mixed bilinearly, whole patches move exactly, and what was out of view has score 0.
        In place, with fixed shapes, so that a captured graph can do it.
        """
        self.window.copy_(moved(self.window, displacement))

    def reset(self) -> None:
        self.window.zero_()


def moved(scores: Tensor, displacement: Tensor) -> Tensor:
    """(N, V, P) scores, each read at its patch's place plus (V, P, 2) displacement, x and y, of a square grid."""
    num_patches = scores.shape[-1]
    side = math.isqrt(num_patches)
    index = torch.arange(num_patches, device=scores.device)
    x = index % side + displacement[..., 0]
    y = index // side + displacement[..., 1]
    left, top = x.floor(), y.floor()
    total = torch.zeros_like(scores)
    for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
        for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
            inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
            place = torch.where(inside, row * side + column, 0).long().expand_as(scores)
            total += scores.gather(-1, place) * (across * down * inside)
    return total
