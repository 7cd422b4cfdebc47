# SPDX-License-Identifier: Apache-2.0
"""Linear layers whose weights alone are small, for GPUs with little memory.

The product runs in the model's number format: in a kernel of `weight_kernels`, where `fusing` gives one, or with the
expanded weight, of which one exists at a time.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from specprune_ros.engine.precision_rows import SMALLEST, RowScaledLinear, quantize_int8
from specprune_ros.openvla.stored_linear import StoredLinear

GROUP = 128  # weights of a row that share a scale and an offset in 4 bits
LEVELS = 15  # of 4 bits


class SmallWeightsLinear(StoredLinear):
    """`kernel`: (R, K) and the layer -> (R, N), without the bias."""

    kernel: Callable[[Tensor, Any], Tensor] | None = None

    @abstractmethod
    def expanded_product(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), without the bias."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel is None:
            y = self.expanded_product(x)
        else:
            y = self.kernel(x.reshape(-1, self.in_features), self).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


class Int8WeightsLinear(RowScaledLinear, SmallWeightsLinear):
    """8-bit weights with a scale per output channel."""

    number_format = torch.int8
    quantize = staticmethod(quantize_int8)

    def expanded_product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)


class Int4WeightsLinear(SmallWeightsLinear):
    """4-bit weights, two in a byte: column k of the first half of the columns with column k of the second half.

    A scale and an offset for each `GROUP` of a row: w = scale * number + offset, numbers 0 to 15.
    """

    weight: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device):
        super().__init__(in_features, out_features, bias, dtype, device)
        groups = torch.empty(out_features, in_features // GROUP, dtype=torch.float32, device=device)
        packed = torch.empty(out_features, in_features // 2, dtype=torch.uint8, device=device)
        self.register_buffer("weight", packed)
        self.register_buffer("scale", groups)
        self.register_buffer("offset", torch.empty_like(groups))

    @staticmethod
    def fits(in_features: int) -> bool:
        return in_features % GROUP == 0

    def store(self, weight: Tensor, first_row: int) -> None:
        rows = slice(first_row, first_row + len(weight))
        groups = weight.to(self.scale.device, torch.float32).unflatten(1, (-1, GROUP))
        low, high = groups.amin(2), groups.amax(2)
        scale = ((high - low) / LEVELS).clamp_min(SMALLEST)
        numbers = ((groups - low[..., None]) / scale[..., None]).round_().to(torch.uint8).flatten(1)
        first, second = numbers.chunk(2, dim=1)
        self.weight[rows] = first | second << 4
        self.scale[rows], self.offset[rows] = scale, low

    def scale_rows(self, factors: Tensor) -> None:
        self.scale.mul_(factors[:, None])
        self.offset.mul_(factors[:, None])

    def weight_matrix(self) -> Tensor:
        return self._expand(torch.float32)

    def _expand(self, dtype: torch.dtype) -> Tensor:
        numbers = torch.cat([self.weight & 15, self.weight >> 4], dim=1).to(dtype).unflatten(1, (-1, GROUP))
        weight = torch.addcmul(self.offset[..., None].to(dtype), numbers, self.scale[..., None].to(dtype))
        return weight.flatten(1)

    def expanded_product(self, x: Tensor) -> Tensor:
        return F.linear(x, self._expand(x.dtype))
