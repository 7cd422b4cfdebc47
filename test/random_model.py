# SPDX-License-Identifier: Apache-2.0
"""Random OpenVLA models of any geometry, in memory, whose attention is far from uniform."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from specprune_ros.openvla.checkpoint import Checkpoint
from specprune_ros.openvla.config import EMPTY_TOKEN_ID, DecoderConfig, ModelConfig, TowerConfig
from specprune_ros.openvla.family import FamilyConfig
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.prompt import PromptTokenizer
from specprune_ros.openvla.statistics import Bounds, Normalizer

TINY = Path(__file__).parent / "data" / "tiny_oft"
ACTION_ROWS = 330  # of the vocabulary: action tokens, those above and a few below them
GAIN = 1.3  # of every matrix: attention logits get a standard deviation of about 1.7


def model_config(
    *,
    num_layers: int = 8,
    hidden: int = 32,
    num_heads: int = 2,
    grid: int = 4,
    num_views: int = 2,
    chunk_length: int = 3,
    action_dim: int = 4,
    proprio_dim: int = 5,
    **variant: Any,
) -> ModelConfig:
    """A small geometry: `grid` x `grid` patches of 14 pixels per view. `variant`: further fields of ModelConfig."""
    towers = [
        TowerConfig(24, 1, 2, 32, 14, grid * grid, registers, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        for registers in (2, 0)
    ]
    return ModelConfig(
        towers=(towers[0], towers[1]),
        decoder=DecoderConfig(32064, hidden, 2 * hidden, num_layers, num_heads),
        image_size=14 * grid,
        projector_width=48,
        action_dim=action_dim,
        proprio_dim=proprio_dim,
        chunk_length=chunk_length,
        num_views=num_views,
        head_width=hidden,
        num_head_blocks=2,
        **variant,
    )


def random_model(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float64) -> OpenVLA:
    """Matrices of variance GAIN^2 / inputs, norm weights around 1, small biases."""
    model = OpenVLA(config).to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            if name.endswith("lm_head.weight"):
                weight.copy_(noise)
                weight[-ACTION_ROWS:] *= 2  # so that an action token is the most likely one, as a rule
            elif name.endswith("embed_tokens.weight") or weight.ndim == 3:  # token, position and class embeddings
                weight.copy_(noise)
            elif weight.ndim > 1:
                weight.copy_(noise * GAIN / weight[0].numel() ** 0.5)
            elif name.endswith("bias"):
                weight.copy_(0.1 * noise)
            else:
                weight.copy_(1 + 0.1 * noise)
    return model.to(dtype).eval().requires_grad_(False)


def random_checkpoint(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float64) -> Checkpoint:
    """A random model with the tiny checkpoint's tokenizer and random statistics. No centre crop."""
    random = np.random.default_rng(seed)
    proprio, action = config.proprio_dim, config.action_dim
    low, action_low = -random.uniform(0.5, 2, proprio), -random.uniform(0.5, 2, action)
    high, action_high = low + random.uniform(1, 3, proprio), action_low + random.uniform(1, 3, action)
    normalizer = Normalizer(
        Bounds(low, high, np.ones(proprio, bool), np.zeros(proprio, bool), high),
        Bounds(action_low, action_high, np.arange(action) < action - 1, np.zeros(action, bool), action_high),
    )
    names = tuple(f"joint{i}" for i in range(config.action_dim))
    family = FamilyConfig(
        config.chunk_length,
        config.num_views,
        center_crop=False,
        proprio_normalization="quantile",
        action_space="absolute_joint",
        action_names=names,
        action_units=("rad",) * config.action_dim,
    )
    tokenizer = PromptTokenizer(TINY, EMPTY_TOKEN_ID)
    return Checkpoint(random_model(config, seed, dtype), tokenizer, normalizer, family, {}, "random")
