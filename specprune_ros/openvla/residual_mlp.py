# SPDX-License-Identifier: Apache-2.0
"""The net of both continuous heads: one residual MLP over the hidden states of a step's action tokens."""

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualMLP(nn.Module):
    """LayerNorm -> Linear -> ReLU -> residual blocks -> LayerNorm -> Linear."""

    def __init__(self, action_dim: int, hidden_size: int, width: int, num_blocks: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(action_dim * hidden_size)
        self.fc1 = nn.Linear(action_dim * hidden_size, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(num_blocks))
        self.norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, action_dim)

    def forward(self, steps: Tensor) -> Tensor:
        """(C, A * hidden) -> (C, A)."""
        x = F.relu(self.fc1(self.norm1(steps)))
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.fc2(self.norm2(x))
        return result


class ResidualBlock(nn.Module):
    """x + ReLU(Linear(LayerNorm(x)))."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.linear(self.norm(x)))
