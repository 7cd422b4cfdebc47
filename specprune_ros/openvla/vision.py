# SPDX-License-Identifier: Apache-2.0
"""The two vision towers: pre-norm ViTs that return the patch tokens of their second-to-last block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specprune_ros.openvla.config import TowerConfig

LAYER_NORM_EPS = 1e-6


class VisionTower(nn.Module):
    """DINOv2 with registers (LayerScale, class and register tokens) or SigLIP (patches only).

    The blocks after the second-to-last and the final norm are never built: nothing uses them.
    """

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.num_prefix = 1 + config.num_registers if config.num_registers else 0
        self.patch_embed = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_patches, config.width))
        if self.num_prefix:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
            self.reg_token = nn.Parameter(torch.empty(1, config.num_registers, config.width))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))

    def forward(self, pixels: Tensor, film: Tensor | None = None) -> Tensor:
        """(V, 3, S, S) normalised pixels -> (V, patches, width). `film`: (depth, 2, width), see film.py."""
        x = self.patch_embed(pixels).flatten(2).transpose(1, 2) + self.pos_embed
        if self.num_prefix:
            prefix = torch.cat([self.cls_token, self.reg_token], dim=1)
            x = torch.cat([prefix.expand(x.shape[0], -1, -1), x], dim=1)
        for number, block in enumerate(self.blocks):
            x = block(x, None if film is None else film[number])
        result: Tensor = x[:, self.num_prefix :]
        return result


class VisionBlock(nn.Module):
    """Attention and feed-forward, each behind a norm, with FiLM between them."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, width)

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        """(V, tokens, width) -> the same. `film`: (2, width), a factor and an offset."""
        x = x + self.attend(self.norm1(x))
        if film is not None:
            factor, offset = film
            x = torch.addcmul(offset, x, factor)
        result: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return result

    def attend(self, x: Tensor) -> Tensor:
        """(V, tokens, width) -> the same; every view by itself."""
        views, tokens, width = x.shape
        q, k, v = self.qkv(x).view(views, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.proj(out.transpose(1, 2).reshape(views, tokens, width))
        return result
