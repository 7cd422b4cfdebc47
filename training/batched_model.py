"""Many samples at once through the parts of `OpenVLA`, whose own forward pass takes one sequence.

Sequences of different length are padded behind `</s>`, as in OpenVLA-OFT's training: padded keys are masked, so every
sample gets what it would get alone (the tests compare with `OpenVLA.forward`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specprune_ros.openvla.decoder import DecoderLayer, Rope, rotate
from specprune_ros.openvla.model import OpenVLA, SequenceLayout
from specprune_ros.openvla.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Prompts:
    """The text of B sequences, on one device. T: length of the longest tail without proprio."""

    bos: Tensor  # (B,) token ids
    tail: Tensor  # (B, T) token ids: prompt after BOS, placeholders of the actions, </s>, padding
    is_text: Tensor  # (B, T) bool: prompt and </s>; everything else is embedded as zeros
    is_alive: Tensor  # (B, 1, 1, L) bool: not padding
    action_rows: Tensor  # (B, C * A) rows of the sequence that the action head reads

    @classmethod
    def of(cls, prompts: Sequence[Prompt], model: OpenVLA, eos_id: int) -> "Prompts":
        config = model.config
        layouts = [SequenceLayout.of(config, prompt) for prompt in prompts]
        longest = max(layout.length for layout in layouts)
        before_tail = 1 + config.num_patches + 1  # BOS, patches, proprio
        tail = torch.full((len(prompts), longest - before_tail), eos_id)
        is_text = torch.zeros(tail.shape, dtype=torch.bool)
        is_alive = torch.zeros(len(prompts), longest, dtype=torch.bool)
        rows = []
        for i, (prompt, layout) in enumerate(zip(prompts, layouts, strict=True)):
            words = len(prompt.token_ids) - 1
            tail[i, :words] = torch.tensor(prompt.token_ids[1:])
            is_text[i, :words] = True
            is_text[i, words + config.num_actions] = True  # </s>
            is_alive[i, : layout.length] = True
            read = layout.action_rows(config.num_patches)
            rows.append(torch.arange(read.start, read.stop))
        bos = torch.tensor([prompt.token_ids[0] for prompt in prompts])
        parts = (bos, tail, is_text, is_alive[:, None, None], torch.stack(rows))
        return cls(*(part.to(model.device) for part in parts))


def see(model: OpenVLA, frames: Tensor) -> Tensor:
    """(B, V, S, S, 3) uint8 -> (B, V, patches, width of both towers)."""
    flat = frames.flatten(0, 1)
    features = [tower(normalize(flat)) for tower, normalize in zip(model.towers, model.normalizations(), strict=True)]
    return torch.cat(features, dim=-1).unflatten(0, frames.shape[:2])


def decode(model: OpenVLA, features: Tensor, proprio: Tensor, prompts: Prompts) -> Tensor:
    """Features of `see`, (B, P) normalised proprio -> (B, C, A * hidden), what the action head reads of every step."""
    decoder = model.decoder
    patches = model.projector(features.flatten(1, 2))
    state = model.proprio_projector(proprio)[:, None]
    text = decoder.embed_tokens(prompts.tail) * prompts.is_text[..., None]
    bos = decoder.embed_tokens(prompts.bos)[:, None]
    x = torch.cat([bos, patches, state, text], dim=1)  # float32 also under autocast, as the embeddings are
    rope = decoder.rope(x.shape[1])
    for layer in decoder.layers:
        x = _layer(layer, x, rope, prompts.is_alive)
    rows = prompts.action_rows[..., None].expand(-1, -1, x.shape[2])
    return decoder.norm(x.gather(1, rows)).unflatten(1, (model.config.chunk_length, -1)).flatten(2)


def _layer(layer: nn.Module, x: Tensor, rope: Rope, is_alive: Tensor) -> Tensor:
    """`DecoderLayer.forward` for (B, L, hidden)."""
    assert isinstance(layer, DecoderLayer)
    projected = layer.qkv_proj(layer.input_norm(x)).unflatten(2, (3, layer.num_heads, -1))
    q, k, v = projected.permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(
        rotate(q, rope).to(v.dtype), rotate(k, rope).to(v.dtype), v, attn_mask=is_alive
    )
    x = x + layer.o_proj(attended.transpose(1, 2).flatten(2))
    return x + layer.feed_forward(layer.post_attention_norm(x))
