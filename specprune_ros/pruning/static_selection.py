# SPDX-License-Identifier: Apache-2.0
"""Static pruning, once per inference and per view (paper section 4.1): which patches go on after the early layers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from specprune_ros.pruning.ranking import top_mask
from specprune_ros.pruning.schedule import SetSizes


@dataclass(frozen=True)
class Evidence:
    """What speaks for a patch, each (V, P) float32."""

    history: Tensor  # mean attention of earlier inferences, 0 where the patch was not alive
    similarity: Tensor  # cosine similarity with the reference frame
    local: tuple[Tensor, ...]  # scores of the early layers of this inference


@dataclass(frozen=True)
class PatchSets:
    """Membership of every patch in the three sets, each (V, P) bool."""

    global_set: Tensor
    dynamic_set: Tensor
    local_set: Tensor

    @property
    def union(self) -> Tensor:
        return self.global_set | self.dynamic_set | self.local_set

    @property
    def sizes(self) -> Tensor:
        """(3, V): members of the global, dynamic and local set in each view."""
        return torch.stack([self.global_set, self.dynamic_set, self.local_set]).sum(dim=-1)

    @property
    def votes(self) -> Tensor:
        """How many sets hold a patch, 0 to 3."""
        return self.global_set.int() + self.dynamic_set.int() + self.local_set.int()


def choose_sets(evidence: Evidence, sizes: SetSizes, similarity_threshold: float) -> PatchSets:
    """The three sets of the paper."""
    # A patch without a score has no place in the history's set, even where fewer than K_G have one.
    global_set = top_mask(evidence.history, sizes.global_tokens) & (evidence.history > 0)
    dynamic_set = top_mask(-evidence.similarity, sizes.dynamic_tokens) & (evidence.similarity < similarity_threshold)
    local_set = torch.stack([top_mask(scores, sizes.local_tokens) for scores in evidence.local]).any(dim=0)
    return PatchSets(global_set, dynamic_set, local_set)


def select_union(sets: PatchSets) -> Tensor:
    """The paper's set: ascending indices over all views' patches. Its size depends on the data."""
    return sets.union.flatten().nonzero().squeeze(1)


def select_budget(sets: PatchSets, evidence: Evidence, sizes: SetSizes, budgets: tuple[int, ...]) -> Tensor:
    """`budgets[v]` patches of view v: by votes, then by attention. Ascending indices over all views' patches.

    Attention is the mean of the history and of each early layer, every one as its share of the view's sum. What a set
    of size 0 reads does not count, unless that would leave nothing.
    """
    history = (evidence.history,) if sizes.global_tokens else ()
    local = evidence.local if sizes.local_tokens else ()
    readings = history + local or (evidence.history, *evidence.local)
    shares = [scores / (scores.sum(dim=-1, keepdim=True) + 1e-12) for scores in readings]
    attention = torch.stack(shares).mean(dim=0)
    order = attention.argsort(dim=-1, descending=True, stable=True)
    votes = sets.votes.gather(-1, order)
    order = order.gather(-1, votes.argsort(dim=-1, descending=True, stable=True))
    num_patches = order.shape[-1]
    return torch.cat([order[v, :count].sort().values + v * num_patches for v, count in enumerate(budgets)])
