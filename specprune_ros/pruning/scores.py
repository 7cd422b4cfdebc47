# SPDX-License-Identifier: Apache-2.0
"""Text-to-vision scores (paper section 3): how much the instruction's words attend to each patch in one layer."""

import torch
from torch import Tensor

EPSILON = 1e-12


def text_attention(q: Tensor, k: Tensor, text: slice) -> Tensor:
    """Attention of the text rows to every key, after the softmax: (heads, L, head_dim) twice -> (heads, m, L) float32.

    The layer itself runs fused attention; this is one small extra product for the m instruction tokens alone.
    """
    logits = torch.matmul(q[:, text], k.transpose(1, 2)) * q.shape[-1] ** -0.5
    result: Tensor = logits.float().softmax(dim=-1)
    return result


def patch_scores(attention: Tensor) -> Tensor:
    """Score_l: mean over heads and text rows. (heads, m, n) -> (n,)."""
    return attention.mean(dim=(0, 1))


def entropy_confidence(attention: Tensor) -> Tensor:
    """1 / (mean entropy + eps) of the attention renormalised over visual tokens: (heads, m, n) -> ()."""
    share = attention / (attention.sum(dim=-1, keepdim=True) + EPSILON)
    entropy = -(share * (share + EPSILON).log()).sum(dim=-1).mean()
    return 1 / (entropy + 1e-6)


def mean_std_confidence(attention: Tensor) -> Tensor:
    """The first version's confidence: mean over standard deviation of the patch scores. (heads, m, n) -> ()."""
    scores = patch_scores(attention)
    return scores.mean() / (scores.std(correction=0) + EPSILON)


def no_confidence(attention: Tensor) -> Tensor:
    """All layers weigh the same."""
    return attention.new_ones(())


CONFIDENCE = {"entropy": entropy_confidence, "mean_std": mean_std_confidence, "none": no_confidence}
