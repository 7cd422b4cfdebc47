# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations, counted from shapes (a multiply-add is two)."""

from collections.abc import Sequence

from specprune_ros.openvla.config import DecoderConfig, ModelConfig


def layer_flops(config: DecoderConfig, length: int, rows: int) -> int:
    """One layer on `length` tokens whose output is wanted at `rows` positions."""
    hidden, inner = config.hidden_size, config.intermediate_size
    qkv = 2 * length * 3 * hidden * hidden
    attention = 2 * 2 * rows * length * hidden
    output_and_feed_forward = 2 * rows * (hidden * hidden + 3 * hidden * inner)
    return qkv + attention + output_and_feed_forward


def decoder_flops(config: DecoderConfig, tokens_per_layer: tuple[int, ...], num_actions: int) -> int:
    """All layers; in the last one only the action tokens go on."""
    *inner, last = tokens_per_layer
    return sum(layer_flops(config, length, length) for length in inner) + layer_flops(config, last, num_actions)


def scoring_flops(config: DecoderConfig, lengths: Sequence[int], text_rows: int) -> int:
    """The extra q_text . K^T product of each scored layer, of the given sequence lengths."""
    return sum(2 * text_rows * length * config.hidden_size for length in lengths)


def vision_flops(config: ModelConfig) -> int:
    """Both towers and the projector, on all views."""
    total = 0
    for tower in config.towers:
        tokens = tower.num_patches + (1 + tower.num_registers if tower.num_registers else 0)
        block = 2 * tokens * tower.width * (4 * tower.width + 2 * tower.mlp_width) + 4 * tokens * tokens * tower.width
        patch_embedding = 2 * tower.num_patches * 3 * tower.patch_size**2 * tower.width
        total += tower.depth * block + patch_embedding
    vision_width = sum(tower.width for tower in config.towers)
    inner, hidden = config.projector_width, config.decoder.hidden_size
    projector = 2 * config.patches_per_view * (vision_width * inner + inner * hidden + hidden * hidden)
    return config.num_views * (total + projector)
