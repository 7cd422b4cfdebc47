# SPDX-License-Identifier: Apache-2.0
"""Discrete action tokens, decoded in parallel: zeros at the action positions, one pass, one token for every number.

The last ids before the padding rows of the vocabulary stand for bins of [-1, 1]: id `end - 1` is the lowest bin. 256
edges make 255 bins. The reference takes the highest logit of *all* ids and clips its bin: ids from `end` on give the
lowest bin, text tokens the highest.
"""

import torch
from torch import Tensor, nn

from specprune_ros.openvla.config import ModelConfig
from specprune_ros.openvla.decode import Decode

EDGES = 256
BINS = EDGES - 1
LEAST_ACTIONS = 0.5  # share of the tokens of a chunk


class DiscreteHead(nn.Module):
    """The language model's own head, and which number a token stands for."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.action_token_end = config.action_token_end
        self.shape = config.chunk_length, config.action_dim
        self.lm_head = nn.Linear(config.decoder.hidden_size, config.decoder.vocab_size, bias=False)

    def predict(self, decode: Decode, noise: Tensor) -> Tensor:
        """(C, A) float32 normalised actions; `noise` is the diffusion head's.

        NaN when most tokens are none of actions. The reference makes full speed of them, but a model that says so was
        trained with another head, whose file is missing.
        """
        token_ids = self.token_ids(self.lm_head(decode()))
        actions = bin_centers(self.bins(token_ids)).view(self.shape)
        speaks = self.are_actions(token_ids).float().mean() >= LEAST_ACTIONS
        return torch.where(speaks, actions, torch.nan)

    def are_actions(self, token_ids: Tensor) -> Tensor:
        return (token_ids < self.action_token_end) & (token_ids >= self.action_token_end - EDGES)

    def token_ids(self, logits: Tensor) -> Tensor:
        """(n, vocabulary) -> (n,) the highest; of equal ones, likely in bfloat16, the lowest id on every device."""
        ids = torch.arange(logits.shape[1], device=logits.device)
        is_highest = logits == logits.amax(dim=1, keepdim=True)
        return torch.where(is_highest, ids, logits.shape[1] - 1).amin(dim=1)

    def bins(self, token_ids: Tensor) -> Tensor:
        return (self.action_token_end - 1 - token_ids).clamp(0, BINS - 1)


def bin_centers(bins: Tensor) -> Tensor:
    """Numbers of bins, 0 the lowest, to the middles between their edges, float32."""
    return (2 * bins.float() + 1) / BINS - 1
