# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Triton kernels that multiply with small weights as they are, for CUDA: no expanded weight is ever written.

On a GPU whose products are bound by reading weights, which is what few tokens come to, that is most of the time. Blocks
are small enough for the shared memory of consumer cards (100 KB). In Triton's interpreter they run on a CPU.
"""

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from specprune_ros.engine.precision_weights import GROUP, Int4WeightsLinear, Int8WeightsLinear, SmallWeightsLinear

INT8_BLOCK, INT4_BLOCK = (128, 128), (64, 64)  # rows and columns of the result; the best that fit, on an H100
DEPTH = 64  # of a block; half a group of four-bit weights


@triton.jit
def _int8_kernel(x, weight, scale, y, rows, columns, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                 DEPTH: tl.constexpr):  # fmt: skip
    """A block of (rows, inner) times the transpose of (columns, inner) int8, then times the columns' scales."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    xs, ws = x + row[:, None] * inner + depth[None, :], weight + column[None, :] * inner + depth[:, None]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, inner, DEPTH):
        inside = start + depth < inner
        a = tl.load(xs + start, mask=(row[:, None] < rows) & inside[None, :], other=0.0)
        b = tl.load(ws + start, mask=(column[None, :] < columns) & inside[:, None], other=0)
        total = tl.dot(a, b.to(x.dtype.element_ty), total, input_precision="ieee")
    total = total * tl.load(scale + column, mask=column < columns, other=0.0)[None, :]
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tl.store(y + row[:, None] * columns + column[None, :], total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _expanded(numbers, scale, offset, group, known, kind: tl.constexpr):
    """Numbers of one group of each column, (DEPTH, COLUMNS), to weights."""
    factor, shift = tl.load(scale + group, mask=known, other=0.0), tl.load(offset + group, mask=known, other=0.0)
    return (numbers.to(tl.float32) * factor[None, :] + shift[None, :]).to(kind)


@triton.jit
def _int4_kernel(x, weight, scale, offset, y, rows, columns, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                 DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """The same with four bits: a byte has a weight of the first half of a row and one of the second."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    half, known = inner // 2, column < columns
    kind: tl.constexpr = x.dtype.element_ty
    xs, ws = x + row[:, None] * inner + depth[None, :], weight + column[None, :] * half + depth[:, None]
    scales, offsets = scale + column * (inner // GROUP), offset + column * (inner // GROUP)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, half, DEPTH):
        both = tl.load(ws + start, mask=known[None, :], other=0)
        first = _expanded(both & 15, scales, offsets, start // GROUP, known, kind)
        a = tl.load(xs + start, mask=row[:, None] < rows, other=0.0)
        total = tl.dot(a, first, total, input_precision="ieee")
        second = _expanded(both >> 4, scales, offsets, (half + start) // GROUP, known, kind)
        a = tl.load(xs + half + start, mask=row[:, None] < rows, other=0.0)
        total = tl.dot(a, second, total, input_precision="ieee")
    inside = (row[:, None] < rows) & known[None, :]
    tl.store(y + row[:, None] * columns + column[None, :], total.to(y.dtype.element_ty), mask=inside)


def int8_product(x: Tensor, linear: Int8WeightsLinear) -> Tensor:
    """(R, K) -> (R, N), without the bias."""
    y = x.new_empty(len(x), linear.out_features)
    block = {"ROWS": INT8_BLOCK[0], "COLUMNS": INT8_BLOCK[1], "DEPTH": DEPTH, "num_warps": 4, "num_stages": 3}
    _int8_kernel[_grid(y, INT8_BLOCK)](x.contiguous(), linear.weight, linear.scale, y, *y.shape, x.shape[1], **block)
    return y


def int4_product(x: Tensor, linear: Int4WeightsLinear) -> Tensor:
    """(R, K) -> (R, N), without the bias."""
    y = x.new_empty(len(x), linear.out_features)
    block = {"ROWS": INT4_BLOCK[0], "COLUMNS": INT4_BLOCK[1], "DEPTH": DEPTH, "num_warps": 4, "num_stages": 3}
    _int4_kernel[_grid(y, INT4_BLOCK)](
        x.contiguous(), linear.weight, linear.scale, linear.offset, y, *y.shape, x.shape[1], GROUP=GROUP, **block
    )
    return y


def _grid(y: Tensor, block: tuple[int, int]) -> tuple[int, int]:
    return triton.cdiv(y.shape[0], block[0]), triton.cdiv(y.shape[1], block[1])


PRODUCTS: dict[type[SmallWeightsLinear], Callable[[Tensor, Any], Tensor]] = {
    Int8WeightsLinear: int8_product,
    Int4WeightsLinear: int4_product,
}
