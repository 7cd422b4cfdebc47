# SPDX-License-Identifier: Apache-2.0
"""Linear layers in 8-bit integers: a scale per row of activations (token) and per row of weights (output channel).

    y[i, j] = scale_x[i] * scale_w[j] * sum_k x8[i, k] * w8[j, k] + bias[j]

On a CPU the sum is oneDNN's product of unsigned activations (zero point 128) and signed weights, which processors with
VNNI multiply fastest; the weights are laid out once, and scale_w and the zero point are part of the product. What is
left around it is one pass to find the rows' scales, one to quantise, and one over the result, blockwise in the cache.
On CUDA it is `torch._int_mm`.
"""

import functools
import time
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specprune_ros.engine.packed_linear import TUNED_ROWS, PackedLinear
from specprune_ros.engine.precision_rows import INT8_LIMIT, RowScaledLinear, quantize_int8

ZERO_POINT = 128  # of unsigned activations
FEWEST_ROWS = 17  # that torch._int_mm takes on CUDA
NO_VNNI = "this processor has no instructions for 8-bit products (AVX-512 VNNI, AVX-VNNI or AMX)"
ROUNDS = 5  # of a product in each format, in turn


class Int8Linear(RowScaledLinear):
    """W8A8 with per-token activations and per-channel weights."""

    number_format = torch.int8
    quantize = staticmethod(quantize_int8)
    _packed: Tensor | None = None  # what oneDNN alone can read; `weight` is empty then

    def pack(self) -> None:
        """On a CPU: the layout that oneDNN's product wants. Without VNNI the weights lose their lowest bit."""
        if self.scale.device.type != "cpu" or self._packed is not None:
            return
        weight = self.weight
        if products_saturate():
            weight = halved(weight)
            self.scale.mul_(2)
        self._packed = torch.ops.onednn.qlinear_prepack(weight, [TUNED_ROWS, self.in_features])
        self._no_zero_points = torch.zeros(self.out_features, dtype=torch.int32)
        self.weight = weight.new_empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N) in the input's number format."""
        rows = x.reshape(-1, self.in_features)
        y = self._on_cpu(rows) if self._packed is not None else self._on_cuda(rows)
        return y.view(*x.shape[:-1], self.out_features)

    def _on_cpu(self, rows: Tensor) -> Tensor:
        quantized, scale = quantize_int8(rows.float())
        unsigned = quantized.view(torch.uint8).bitwise_xor_(ZERO_POINT)
        y = _product(unsigned, ZERO_POINT, self._packed, self.scale, self._no_zero_points)
        y = y.mul_(scale) if self.bias is None else torch.addcmul(self.bias.float(), y, scale, out=y)
        return y.to(rows.dtype)

    def _on_cuda(self, rows: Tensor) -> Tensor:
        quantized, scale = quantize_int8(rows)
        y = int8_product(quantized, self.weight) * scale * self.scale
        return (y if self.bias is None else y + self.bias).to(rows.dtype)


def int8_product(x: Tensor, weight: Tensor) -> Tensor:
    """(R, K) and (N, K) int8 -> (R, N) int32, on CUDA: sum_k x[i, k] * weight[j, k]."""
    count = len(x)
    if count < FEWEST_ROWS:
        x = F.pad(x, (0, 0, 0, FEWEST_ROWS - count))
    return torch._int_mm(x, weight.t())[:count]


def halved(weight: Tensor) -> Tensor:
    """int8 divided by 2 and rounded, halves to even: as in floating point, in bytes alone."""
    below = weight >> 1
    return below.add_(weight & below & 1)


@functools.cache
def products_saturate() -> bool:
    """Whether this processor's 8-bit products are wrong for large numbers: without VNNI pairs are added in 16 bits.

    Found by multiplying, not by name. Weights of 7 bits are always exact. Warns, once, when it is so.
    """
    rows, channels, inner = 32, 64, 128
    x = torch.full((rows, inner), 255, dtype=torch.uint8)
    weight = torch.full((channels, inner), INT8_LIMIT, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [rows, inner])
    zeros = torch.zeros(channels, dtype=torch.int32)
    saturate = bool((_product(x, 0, packed, torch.ones(channels), zeros) != 255 * INT8_LIMIT * inner).any())
    if saturate:
        warnings.warn(
            f"{NO_VNNI}: precision int8 runs with 7-bit weights and gains less speed",
            stacklevel=2,
        )
    return saturate


@torch.inference_mode()
def beats_float32(width: int, rows: int) -> bool:
    """Whether a product of `width` channels is faster in int8 than in float32, quantising included, on this CPU.

    On one thread and by the best of some rounds: beside other work, two threads wait for each other at random.
    """
    linear = nn.Linear(width, width, bias=False)
    small = Int8Linear(width, width, False, torch.float32, torch.device("cpu"))
    small.store(linear.weight, 0)
    small.pack()
    layers, x = (small, PackedLinear(linear)), torch.randn(rows, width)
    seconds: tuple[list[float], list[float]] = ([], [])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(ROUNDS):
            for layer, times in zip(layers, seconds, strict=True):
                begin = time.perf_counter()
                layer(x)
                times.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    return min(seconds[0]) < min(seconds[1])


def _product(x: Tensor, zero_point: int, packed: Tensor | None, scale: Tensor, zeros: Tensor) -> Tensor:
    """scale[j] * sum_k (x[i, k] - zero_point) * w[j, k], float32. `zeros`: int32, one per channel."""
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, zero_point, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return result
