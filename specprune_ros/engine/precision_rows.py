# SPDX-License-Identifier: Apache-2.0
"""Numbers in 8 bits with a scale per row: of activations (token) or of weights (output channel)."""

from abc import abstractmethod

import torch
from torch import Tensor

from specprune_ros.openvla.stored_linear import StoredLinear

INT8_LIMIT = 127  # of a signed value; -128 is left out, so that the range is symmetric
FP8 = torch.float8_e4m3fn
FP8_LIMIT = torch.finfo(FP8).max
SMALLEST = 1e-30  # a row's largest magnitude counts as at least this
CACHED = 1 << 18  # elements quantised at once: few enough to stay in a CPU's cache between the passes


class RowScaledLinear(StoredLinear):
    """Keeps `weight` (out, in) in 8 bits and `scale` (out,) float32."""

    number_format: torch.dtype
    weight: Tensor
    scale: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device):
        super().__init__(in_features, out_features, bias, dtype, device)
        weight = torch.empty(out_features, in_features, dtype=self.number_format, device=device)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", torch.empty(out_features, dtype=torch.float32, device=device))

    @staticmethod
    @abstractmethod
    def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, K) -> its numbers (R, K) and each row's scale (R, 1)."""

    def store(self, weight: Tensor, first_row: int) -> None:
        rows = slice(first_row, first_row + len(weight))
        quantized, scale = self.quantize(weight.to(self.scale.device, torch.float32))
        self.weight[rows] = quantized
        self.scale[rows] = scale[:, 0]

    def scale_rows(self, factors: Tensor) -> None:
        self.scale.mul_(factors)

    def weight_matrix(self) -> Tensor:
        return self.weight.float() * self.scale[:, None]


def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """(R, K) -> (R, K) int8 within ±127, and each row's scale (R, 1) float32; their product is the nearest to `x`.

    NaN or infinity in a row makes its scale NaN or infinite, so it is not lost.
    """
    scale = _largest(x) / INT8_LIMIT
    factor = scale.reciprocal()
    quantized = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    block = max(1, CACHED // x.shape[1]) if x.device.type == "cpu" else len(x)
    for source, target, by in zip(x.split(block), quantized.split(block), factor.split(block), strict=True):
        target.copy_((source * by).round_())
    return quantized, scale


def quantize_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """(R, K) -> (R, K) e4m3, and each row's scale (R, 1) float32. NaN in a row makes its scale NaN."""
    scale = _largest(x) / FP8_LIMIT
    return (x * scale.reciprocal()).to(FP8), scale


def _largest(x: Tensor) -> Tensor:
    return torch.maximum(x.amax(1, keepdim=True), -x.amin(1, keepdim=True)).float().clamp_min(SMALLEST)
