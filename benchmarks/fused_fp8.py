# SPDX-License-Identifier: Apache-2.0
"""8-bit floating point with the quantisation inside other kernels: `gpu.py` measures it beside the plain layers.

An `Fp8Linear` reads its input three times to quantise it. Here RMSNorm and SwiGLU's product put out e4m3 and a scale
per row themselves, and what is left is one kernel that reads a row once. On a CPU the kernels run in Triton's
interpreter (TRITON_INTERPRET=1), slowly, for the tests.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from fused_layer import rotate_queries_and_keys
from torch import Tensor, nn

from specprune_ros.engine.precision_fp8 import Fp8Linear
from specprune_ros.engine.precision_rows import FP8, FP8_LIMIT, SMALLEST
from specprune_ros.openvla.decoder import DecoderLayer, Rope

Quantized = tuple[Tensor, Tensor]  # (R, K) e4m3 and (R, 1) float32


@triton.jit
def _store_quantized(values, target, scales, row, column, inside, width, LIMIT: tl.constexpr, SMALLEST: tl.constexpr):
    """A row in e4m3, and its scale."""
    scale = tl.maximum(tl.max(tl.abs(values), axis=0), SMALLEST) / LIMIT
    tl.store(scales + row, scale)
    tl.store(target + row * width + column, (values / scale).to(target.dtype.element_ty), mask=inside)


@triton.jit
def _quantize_kernel(x, out, scales, width, BLOCK: tl.constexpr, LIMIT: tl.constexpr, SMALLEST: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    inside = column < width
    values = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    _store_quantized(values, out, scales, row, column, inside, width, LIMIT, SMALLEST)


@triton.jit
def _norm_quantize_kernel(
    x, added, weight, total, out, scales, width, eps,
    ADD: tl.constexpr, BLOCK: tl.constexpr, LIMIT: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """One row: total = x + added where there is something to add, then RMSNorm(total) * weight in e4m3."""
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        summed = values + tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
        rounded = summed.to(total.dtype.element_ty)
        tl.store(total + at, rounded, mask=inside)
        values = rounded.to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / width + eps)
    values = values * factor * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    _store_quantized(values, out, scales, row, column, inside, width, LIMIT, SMALLEST)


@triton.jit
def _swiglu_quantize_kernel(gate_up, out, scales, width, BLOCK: tl.constexpr, LIMIT: tl.constexpr,
                            SMALLEST: tl.constexpr):  # fmt: skip
    """One row: silu(gate) * up, from (L, 2 width), in e4m3."""
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    values = gate / (1.0 + tl.exp(-gate)) * up
    _store_quantized(values, out, scales, row, column, inside, width, LIMIT, SMALLEST)


def _empty(rows: int, width: int, like: Tensor) -> Quantized:
    return like.new_empty(rows, width, dtype=FP8), like.new_empty(rows, 1, dtype=torch.float32)


def _launch(width: int) -> dict[str, object]:
    block = triton.next_power_of_2(width)
    warps = 16 if block >= 8192 else 8 if block >= 2048 else 4
    return {"BLOCK": block, "LIMIT": FP8_LIMIT, "SMALLEST": SMALLEST, "num_warps": warps}


def quantize(x: Tensor) -> Quantized:
    """Same as `quantize_fp8`: (R, K)."""
    x = x.contiguous()
    out, scales = _empty(*x.shape, x)
    _quantize_kernel[(len(x),)](x, out, scales, x.shape[1], **_launch(x.shape[1]))
    return out, scales


def norm_quantize(x: Tensor, norm: nn.RMSNorm, added: Tensor | None = None) -> tuple[Tensor, Quantized]:
    """(L, hidden), contiguous -> the sum with `added`, and its RMSNorm quantised."""
    rows, width = x.shape
    out, scales = _empty(rows, width, x)
    total = x if added is None else torch.empty_like(x)
    _norm_quantize_kernel[(rows,)](
        x, x if added is None else added, norm.weight, total, out, scales, width, norm.eps,
        ADD=added is not None, **_launch(width),
    )  # fmt: skip
    return total, (out, scales)


def swiglu_quantize(gate_up: Tensor) -> Quantized:
    """(L, 2 * inner), contiguous -> (L, inner)."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out, scales = _empty(rows, width, gate_up)
    _swiglu_quantize_kernel[(rows,)](gate_up, out, scales, width, **_launch(width))
    return out, scales


def product(quantized: Quantized, linear: Fp8Linear, dtype: torch.dtype) -> Tensor:
    x, scale = quantized
    return torch._scaled_mm(
        x, linear.weight.t(), scale_a=scale, scale_b=linear.scale[None], out_dtype=dtype, use_fast_accum=True
    )


def fused_fp8_layer(
    layer: DecoderLayer, x: Tensor, rope: Rope, rows: slice = slice(None)
) -> tuple[Tensor, Tensor, Tensor]:
    """Same as calling a layer whose matrices are `Fp8Linear`."""
    kind = x.dtype
    _, normed = norm_quantize(x.contiguous(), layer.input_norm)
    qkv = product(normed, layer.qkv_proj, kind)
    q, k = rotate_queries_and_keys(qkv, tuple(part.contiguous() for part in rope), layer.num_heads)
    v = qkv.view(x.shape[0], 3, layer.num_heads, -1)[:, 2].transpose(0, 1)
    attended = F.scaled_dot_product_attention(q[None, :, rows], k[None], v[None])[0]
    added = product(quantize(attended.transpose(0, 1).flatten(1)), layer.o_proj, kind)
    total, normed = norm_quantize(x[rows].contiguous(), layer.post_attention_norm, added)
    down = product(swiglu_quantize(product(normed, layer.gate_up_proj, kind)), layer.down_proj, kind)
    return total + down, q, k
