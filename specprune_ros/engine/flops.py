"""Floating-point operations of the decoder, counted from shapes (a multiply-add is two)."""

from specprune_ros.openvla.config import DecoderConfig


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


def scoring_flops(config: DecoderConfig, lengths: list[int], text_rows: int) -> int:
    """The extra q_text . K^T product of each scored layer, of the given sequence lengths."""
    return sum(2 * text_rows * length * config.hidden_size for length in lengths)
