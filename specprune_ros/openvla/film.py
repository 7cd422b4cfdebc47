# SPDX-License-Identifier: Apache-2.0
"""FiLM (OFT+): the instruction modulates both vision towers, in every block, between attention and feed-forward.

`x <- x (1 + scale(language)) + shift(language)`, `language` the mean of the raw embeddings of the prompt and `</s>`.
That depends on the instruction alone, so it is computed once per instruction and costs an inference next to nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from specprune_ros.openvla.config import TowerConfig


class Film(nn.Module):
    """Scale and shift of every block of both towers."""

    def __init__(self, towers: Sequence[TowerConfig], hidden_size: int):
        super().__init__()
        self._shapes = [(tower.depth, 2, tower.width) for tower in towers]
        self.towers = nn.ModuleList(
            nn.ModuleList(BlockFilm(hidden_size, tower.width) for _ in range(tower.depth)) for tower in towers
        )

    def forward(self, text: Tensor) -> Tensor:
        """Embeddings of the prompt and </s> (n + 1, hidden) -> all modulations in one vector, for `per_tower`."""
        language = text.float().mean(dim=0).to(text.dtype)
        return torch.cat([block(language) for tower in self.towers for block in tower.children()])

    def per_tower(self, modulations: Tensor) -> list[Tensor | None]:
        """Per tower (depth, 2, width): a factor and an offset for every block."""
        parts = modulations.split([depth * two * width for depth, two, width in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]


class BlockFilm(nn.Module):
    """Scale and shift of one block."""

    def __init__(self, hidden_size: int, width: int):
        super().__init__()
        self.scale = nn.Linear(hidden_size, width)
        self.shift = nn.Linear(hidden_size, width)

    def forward(self, language: Tensor) -> Tensor:
        """(hidden,) -> (2 * width,): the factor 1 + scale, then the offset."""
        return torch.cat([1 + self.scale(language), self.shift(language)])


class NoFilm(nn.Module):
    """Plain towers."""

    def forward(self, text: Tensor) -> Tensor:
        return text.new_empty(0)

    def per_tower(self, modulations: Tensor) -> list[Tensor | None]:
        return [None, None]
