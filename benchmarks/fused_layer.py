# SPDX-License-Identifier: Apache-2.0
"""A decoder layer whose small operations are Triton kernels: `gpu.py` measures it beside the plain and compiled ones.

It moves into the engine if it gains there. Matrix products and attention stay what they are; residual sum and RMSNorm,
rotary embedding, and SwiGLU's product become one kernel each. On a CPU the kernels run in Triton's interpreter
(TRITON_INTERPRET=1), slowly, for the tests.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from specprune_ros.openvla.decoder import DecoderLayer, Rope

SWIGLU_BLOCK = 1024


@triton.jit
def _add_norm_kernel(x, added, weight, total, normed, width, eps, BLOCK: tl.constexpr):
    """One row: total = x + added, normed = RMSNorm(total) * weight, in float32 from the rounded sum on."""
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    a = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
    summed = (a + b).to(total.dtype.element_ty)
    tl.store(total + at, summed, mask=inside)
    summed = summed.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(summed * summed, axis=0) / width + eps)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + at, (summed * scale * w).to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_kernel(qkv, cos, sin, out, length, heads, HALF: tl.constexpr):
    """One head of q or k at one position: from a row of qkv (L, 3 * heads * 2 HALF) to out (2, heads, L, 2 HALF)."""
    row, which = tl.program_id(0), tl.program_id(1)  # which: head of q, then head of k
    column = tl.arange(0, HALF)
    head_dim = 2 * HALF
    source = qkv + row * 3 * heads * head_dim + which * head_dim + column
    first, second = tl.load(source).to(tl.float32), tl.load(source + HALF).to(tl.float32)
    c, s = cos + row * head_dim + column, sin + row * head_dim + column
    target = out + (which * length + row) * head_dim + column
    kind = out.dtype.element_ty
    low = first * tl.load(c).to(tl.float32) - second * tl.load(s).to(tl.float32)
    high = second * tl.load(c + HALF).to(tl.float32) + first * tl.load(s + HALF).to(tl.float32)
    tl.store(target, low.to(kind))
    tl.store(target + HALF, high.to(kind))


@triton.jit
def _swiglu_kernel(gate_up, out, width, BLOCK: tl.constexpr):
    """A block of a row: silu(gate) * up, from (L, 2 width) to (L, width)."""
    row, column = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    silu = gate / (1.0 + tl.exp(-gate))
    tl.store(out + row * width + column, (silu * up).to(out.dtype.element_ty), mask=inside)


def add_norm(x: Tensor, added: Tensor, norm: nn.RMSNorm) -> tuple[Tensor, Tensor]:
    """(L, hidden) twice, contiguous -> their sum, and its RMSNorm."""
    total, normed = torch.empty_like(x), torch.empty_like(x)
    length, width = x.shape
    block = triton.next_power_of_2(width)
    warps = 8 if block >= 2048 else 4
    _add_norm_kernel[(length,)](x, added, norm.weight, total, normed, width, norm.eps, BLOCK=block, num_warps=warps)
    return total, normed


def rotate_queries_and_keys(qkv: Tensor, rope: Rope, heads: int) -> tuple[Tensor, Tensor]:
    """(L, 3 * hidden), contiguous -> rotated q and k, each (heads, L, head_dim)."""
    length, width = qkv.shape
    head_dim = width // 3 // heads
    out = qkv.new_empty(2, heads, length, head_dim)
    _rotate_kernel[(length, 2 * heads)](qkv, *rope, out, length, heads, HALF=head_dim // 2, num_warps=1)
    return out[0], out[1]


def swiglu(gate_up: Tensor) -> Tensor:
    """(L, 2 * inner), contiguous -> (L, inner)."""
    length, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(length, width)
    _swiglu_kernel[(length, triton.cdiv(width, SWIGLU_BLOCK))](gate_up, out, width, BLOCK=SWIGLU_BLOCK)
    return out


def fused_layer(layer: DecoderLayer, x: Tensor, rope: Rope, rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
    """Same as calling the layer."""
    qkv = layer.qkv_proj(layer.input_norm(x))
    q, k = rotate_queries_and_keys(qkv, tuple(part.contiguous() for part in rope), layer.num_heads)
    v = qkv.view(x.shape[0], 3, layer.num_heads, -1)[:, 2].transpose(0, 1)
    attended = F.scaled_dot_product_attention(q[None, :, rows], k[None], v[None])[0]
    total, normed = add_norm(
        x[rows].contiguous(), layer.o_proj(attended.transpose(0, 1).flatten(1)), layer.post_attention_norm
    )
    return total + layer.down_proj(swiglu(layer.gate_up_proj(normed))), q, k
