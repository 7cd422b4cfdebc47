# SPDX-License-Identifier: Apache-2.0
"""The L1 regression head, the release's default: zeros at the action positions, one pass, a residual MLP."""

from torch import Tensor

from specprune_ros.openvla.config import ModelConfig
from specprune_ros.openvla.decode import Decode
from specprune_ros.openvla.residual_mlp import ResidualMLP


class L1Head(ResidualMLP):
    """`forward` is the net, `predict` its use."""

    def __init__(self, config: ModelConfig):
        super().__init__(config.action_dim, config.decoder.hidden_size, config.head_width, config.num_head_blocks)
        self.chunk_length = config.chunk_length

    def predict(self, decode: Decode, noise: Tensor) -> Tensor:
        """(C, A) float32 normalised actions; `noise` is the diffusion head's."""
        result: Tensor = self(decode().view(self.chunk_length, -1)).float()
        return result
