"""Scores of the last inferences, the source of the global set. Lives on the device; shapes never change."""

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

    def reset(self) -> None:
        self.window.zero_()
