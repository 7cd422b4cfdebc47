# SPDX-License-Identifier: Apache-2.0
"""Into the decoder's embedding space: patch features, proprio, noisy actions."""

import torch.nn.functional as F
from torch import Tensor, nn


class PatchProjector(nn.Module):
    """fc1 -> GELU -> fc2 -> GELU -> fc3."""

    def __init__(self, vision_width: int, inner_width: int, hidden_size: int):
        super().__init__()
        self.fc1 = nn.Linear(vision_width, inner_width)
        self.fc2 = nn.Linear(inner_width, hidden_size)
        self.fc3 = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        """(patches, vision_width) -> (patches, hidden)."""
        result: Tensor = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))
        return result


class TokenProjector(nn.Module):
    """fc1 -> GELU -> fc2: some numbers become one token."""

    def __init__(self, inputs: int, hidden_size: int):
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, values: Tensor) -> Tensor:
        """(..., inputs) -> (..., hidden)."""
        result: Tensor = self.fc2(F.gelu(self.fc1(values)))
        return result


class NoProprio(nn.Module):
    """In a checkpoint without proprio: no token."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self._hidden_size = hidden_size

    def forward(self, values: Tensor) -> Tensor:
        return values.new_empty(0, self._hidden_size)
