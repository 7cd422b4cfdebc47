# SPDX-License-Identifier: Apache-2.0
"""Ranks and top-k with ties broken by index, the same on every device, without reading anything back."""

import torch
from torch import Tensor


def ranks(scores: Tensor) -> Tensor:
    """Rank of every element along the last dimension, 0 = highest; of equal ones the lower index comes first."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    positions = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, positions)


def top_mask(scores: Tensor, count: int) -> Tensor:
    """True at the `count` highest elements along the last dimension."""
    return ranks(scores) < count


def top_indices(scores: Tensor, count: int) -> Tensor:
    """Ascending indices of the `count` highest elements of a vector."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values
