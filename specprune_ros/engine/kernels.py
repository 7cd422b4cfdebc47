# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Triton kernels for what lies between a decoder layer's matrix products, on CUDA.

Done operator by operator it takes a quarter of a layer on an H100, because each reads and writes everything anew. In 8
bits the kernels also do what a product leaves open, its scales, and put out the next product's input in 8 bits. All
arithmetic is float32. On a CPU they run in Triton's interpreter (TRITON_INTERPRET=1), slowly, for the tests.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from specprune_ros.engine.precision_rows import FP8_LIMIT, INT8_LIMIT, SMALLEST
from specprune_ros.openvla.decoder import Rope

COLUMNS = 2048  # of SwiGLU's product in one program, where it is not quantised
LIMIT = {torch.int8: float(INT8_LIMIT), torch.float8_e4m3fn: FP8_LIMIT}


class Quantized(NamedTuple):
    """A product's input in 8 bits: numbers times scale."""

    numbers: Tensor  # (L, K) int8 or e4m3
    scale: Tensor  # (L, 1) float32


class Product(NamedTuple):
    """What a product of 8-bit numbers gives, still to be multiplied with its input's and its weight's scales."""

    numbers: Tensor  # (L, N) int32, bfloat16 or float32
    rows: Tensor  # (L, 1) float32
    columns: Tensor  # (N,) float32


@triton.jit
def _store(values, out, out_scale, row, at, inside, LIMIT: tl.constexpr, SMALLEST: tl.constexpr):
    """A whole row: as it is, or in 8 bits up to LIMIT, with its scale. NaN in a row makes its scale NaN."""
    if LIMIT > 0:
        scale = tl.maximum(tl.max(tl.abs(values), axis=0), SMALLEST) / LIMIT
        total = tl.sum(values, axis=0)
        scale = tl.where(total == total, scale, total)  # a maximum forgets NaN, and int8 has none
        tl.store(out_scale + row, scale)
        values = values * (1.0 / scale)
        if out.dtype.element_ty == tl.int8:
            values = tl.floor(values + 0.5)
    tl.store(out + at, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_norm_kernel(
    x, added, rows, columns, weight, total, out, out_scale, width, eps,
    ADD: tl.constexpr, SCALED: tl.constexpr, NORM: tl.constexpr, OUT: tl.constexpr, LIMIT: tl.constexpr,
    SMALLEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: total = x + added, then, from the rounded sum on, RMSNorm; each where it is asked for."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        more = tl.load(added + at, mask=inside, other=0).to(tl.float32)
        if SCALED:
            more = more * (tl.load(rows + row) * tl.load(columns + column, mask=inside, other=0.0))
        rounded = (values + more).to(total.dtype.element_ty)
        tl.store(total + at, rounded, mask=inside)
        values = rounded.to(tl.float32)
    if NORM:
        factor = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / width + eps)
        values = values * factor * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if OUT:
        _store(values, out, out_scale, row, at, inside, LIMIT, SMALLEST)


@triton.jit(do_not_specialize=["length"])
def _rotate_kernel(
    qkv, cos, sin, rows, columns, out, length,
    HEADS: tl.constexpr, HALF: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """q, k or v of one position: from a row of qkv (L, 3 * HEADS * 2 HALF) to out (2 or 3, HEADS, L, 2 HALF)."""
    row, which = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    dim: tl.constexpr = 2 * HALF
    at = (which * HEADS + head) * dim + column
    source = qkv + row * 3 * HEADS * dim + at
    first, second = tl.load(source).to(tl.float32), tl.load(source + HALF).to(tl.float32)
    if SCALED:
        scale = tl.load(rows + row)
        first = first * (scale * tl.load(columns + at))
        second = second * (scale * tl.load(columns + at + HALF))
    if which < 2:
        c, s = cos + row * dim + column, sin + row * dim + column
        low = first * tl.load(c).to(tl.float32) - second * tl.load(s).to(tl.float32)
        high = second * tl.load(c + HALF).to(tl.float32) + first * tl.load(s + HALF).to(tl.float32)
    else:
        low, high = first, second
    target = out + ((which * HEADS + head) * length + row) * dim + column
    tl.store(target, low.to(out.dtype.element_ty))
    tl.store(target + HALF, high.to(out.dtype.element_ty))


@triton.jit
def _swiglu_kernel(
    gate_up, rows, columns, out, out_scale, width,
    SCALED: tl.constexpr, LIMIT: tl.constexpr, SMALLEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of a row, or the whole where it is quantised: silu(gate) * up, from (L, 2 width) to (L, width)."""
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    source = gate_up + row * 2 * width + column
    gate = tl.load(source, mask=inside, other=0).to(tl.float32)
    up = tl.load(source + width, mask=inside, other=0).to(tl.float32)
    if SCALED:
        scale = tl.load(rows + row)
        gate = gate * (scale * tl.load(columns + column, mask=inside, other=0.0))
        up = up * (scale * tl.load(columns + width + column, mask=inside, other=0.0))
    values = gate / (1.0 + tl.exp(-gate)) * up
    _store(values, out, out_scale, row, row * width + column, inside, LIMIT, SMALLEST)


def add_norm(x: Tensor, added: Tensor, norm: nn.RMSNorm) -> tuple[Tensor, Tensor]:
    """(L, hidden) twice -> their sum, and its RMSNorm."""
    total, normed = torch.empty_like(x), torch.empty_like(x)
    _add_norm(x, added=added, norm=norm, total=total, out=normed)
    return total, normed


def add_product(x: Tensor, product: Product) -> Tensor:
    """(L, hidden) twice -> their sum."""
    total = torch.empty_like(x)
    _add_norm(x, added=product, total=total)
    return total


def add_norm_quantize(x: Tensor, product: Product, norm: nn.RMSNorm, kind: torch.dtype) -> tuple[Tensor, Quantized]:
    """(L, hidden) twice -> their sum, and its RMSNorm in 8 bits."""
    total, normed = torch.empty_like(x), _quantized(x.shape, kind, x.device)
    _add_norm(x, added=product, norm=norm, total=total, out=normed)
    return total, normed


def quantize(x: Tensor, kind: torch.dtype, norm: nn.RMSNorm | None = None) -> Quantized:
    """(L, K), or its RMSNorm, in 8 bits."""
    result = _quantized(x.shape, kind, x.device)
    _add_norm(x, norm=norm, out=result)
    return result


def rotated(qkv: Tensor, rope: Rope, heads: int) -> tuple[Tensor, Tensor]:
    """(L, 3 * hidden) -> q and k with their rotary embedding, (heads, L, head_dim) each."""
    q, k = _rotated(Product(qkv, qkv, qkv), rope, heads, scaled=False)
    return q, k


def scaled_and_rotated(product: Product, rope: Rope, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(L, 3 * hidden) -> q, k and v; q and k with their rotary embedding, (heads, L, head_dim) each."""
    q, k, v = _rotated(product, rope, heads, scaled=True)
    return q, k, v


def swiglu(gate_up: Tensor) -> Tensor:
    """(L, 2 * inner) -> (L, inner)."""
    length, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(length, width)
    grid = length, triton.cdiv(width, COLUMNS)
    _swiglu_kernel[grid](
        gate_up, out, out, out, out, width, SCALED=False, LIMIT=0.0, SMALLEST=SMALLEST, BLOCK=COLUMNS, num_warps=8
    )
    return out


def swiglu_quantize(product: Product, kind: torch.dtype) -> Quantized:
    """(L, 2 * inner) -> (L, inner) in 8 bits."""
    length, width = product.numbers.shape[0], product.numbers.shape[1] // 2
    result = _quantized((length, width), kind, product.numbers.device)
    options = {"LIMIT": LIMIT[kind], "SMALLEST": SMALLEST, "BLOCK": triton.next_power_of_2(width), "num_warps": 16}
    _swiglu_kernel[(length, 1)](*product, *result, width, SCALED=True, **options)
    return result


def _add_norm(
    x: Tensor,
    *,
    added: Tensor | Product | None = None,
    norm: nn.RMSNorm | None = None,
    total: Tensor | None = None,
    out: Tensor | Quantized | None = None,
) -> None:
    """For what is None `x` stands in, which the kernel then leaves alone."""
    length, width = x.shape
    numbers, rows, columns = added if isinstance(added, Product) else (added, None, None)
    target, scale = out if isinstance(out, Quantized) else (out, None)
    tensors = numbers, rows, columns, norm.weight if norm else None, total, target, scale
    options: dict[str, Any] = {
        "ADD": numbers is not None,
        "SCALED": rows is not None,
        "NORM": norm is not None,
        "OUT": target is not None,
        "LIMIT": LIMIT[target.dtype] if target is not None and scale is not None else 0.0,
        "SMALLEST": SMALLEST,
        "BLOCK": triton.next_power_of_2(width),
        "num_warps": 8,
    }
    given = (x if tensor is None else tensor for tensor in tensors)
    _add_norm_kernel[(length,)](x, *given, width, norm.eps if norm else 0.0, **options)


def _rotated(product: Product, rope: Rope, heads: int, scaled: bool) -> Tensor:
    length, width = product.numbers.shape
    head_dim, parts = width // 3 // heads, 3 if scaled else 2
    out = torch.empty(parts, heads, length, head_dim, dtype=rope[0].dtype, device=rope[0].device)
    numbers, rows, columns = product
    options = {"HEADS": heads, "HALF": head_dim // 2, "SCALED": scaled, "num_warps": 8}
    _rotate_kernel[(length, parts)](numbers, *rope, rows, columns, out, length, **options)
    return out


def _quantized(shape: tuple[int, ...], kind: torch.dtype, device: torch.device) -> Quantized:
    scale = torch.empty(shape[0], 1, dtype=torch.float32, device=device)
    return Quantized(torch.empty(shape, dtype=kind, device=device), scale)
