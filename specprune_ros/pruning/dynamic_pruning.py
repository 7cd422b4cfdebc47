# SPDX-License-Identifier: Apache-2.0
"""Dynamic pruning between layers (paper section 4.2): a running importance of every patch that is alive."""

import torch
from torch import Tensor

from specprune_ros.pruning.ranking import ranks


def layer_importance(scores: Tensor, confidence: Tensor, rank_slope: float) -> Tensor:
    """s_i = w_rank_i * w_conf of one layer: (n,) scores of the patches alive -> (n,) float64.

    In float32 the weights of the last of many ranks are 0, and no ranks any more.
    """
    weights = torch.sigmoid(-rank_slope * ranks(scores).double())
    return weights / weights.sum() * confidence


def update_importance(importance: Tensor, layer: Tensor, rate: float) -> Tensor:
    """S_i <- (1 - beta) S_i + beta s_i."""
    return (1 - rate) * importance + rate * layer
