# SPDX-License-Identifier: Apache-2.0
"""The Llama decoder as OpenVLA-OFT runs it: bidirectional attention over one sequence, no cache, no batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specprune_ros.openvla.config import DecoderConfig

Rope = tuple[Tensor, Tensor]


class Decoder(nn.Module):
    """Embedding table, layers and final norm. The caller drives the layers, because pruning happens between them."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        # Left empty: whoever makes a model fills it, and torch's random numbers for a table on the meta device import
        # its compiler, more than a second of every start.
        table = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding.from_pretrained(table, freeze=False)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def rope(self, length: int) -> Rope:
        """Cosine and sine of the rotary embedding for positions 0..length-1, each (length, head_dim)."""
        head_dim = self.config.hidden_size // self.config.num_heads
        weight = self.norm.weight
        exponent = torch.arange(0, head_dim, 2, device=weight.device, dtype=torch.float32) / head_dim
        positions = torch.arange(length, device=weight.device, dtype=torch.float32)
        angles = torch.outer(positions, self.config.rope_theta**-exponent).repeat(1, 2)
        return angles.cos().to(weight.dtype), angles.sin().to(weight.dtype)


class DecoderLayer(nn.Module):
    """RMSNorm, attention, RMSNorm, SwiGLU; q, k, v and gate, up are one matrix each."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.num_heads = config.num_heads
        self.input_norm = nn.RMSNorm(hidden, eps=config.rms_norm_eps)
        self.qkv_proj = nn.Linear(hidden, 3 * hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.post_attention_norm = nn.RMSNorm(hidden, eps=config.rms_norm_eps)
        self.gate_up_proj = nn.Linear(hidden, 2 * inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor, rope: Rope, rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        """(L, hidden) -> (rows, hidden), with the rotated queries and keys (heads, L, head_dim).

        `rows` are the positions whose output is wanted: all, but in the last layer the action tokens alone. Queries
        and keys are views of what attention uses anyway, so that scoring never needs attention weights from here.
        """
        q, k, v = self.qkv_proj(self.input_norm(x)).view(x.shape[0], 3, self.num_heads, -1).permute(1, 2, 0, 3)
        q, k = rotate(q, rope), rotate(k, rope)
        attended = F.scaled_dot_product_attention(q[None, :, rows], k[None], v[None])[0]
        x = x[rows] + self.o_proj(attended.transpose(0, 1).flatten(1))
        return x + self.feed_forward(self.post_attention_norm(x)), q, k

    def feed_forward(self, x: Tensor) -> Tensor:
        """SwiGLU: (L, hidden) -> (L, hidden)."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        result: Tensor = self.down_proj(F.silu(gate) * up)
        return result


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotary position embedding of (heads, L, head_dim), halves paired as in Llama."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
