# SPDX-License-Identifier: Apache-2.0
"""Linear layers in 8-bit floating point (e4m3), for GPUs of compute capability 8.9 and above (Ada, Hopper).

A scale per row of activations (token) and per row of weights (output channel), both part of `torch._scaled_mm`.
"""

import torch
from torch import Tensor

from specprune_ros.engine.precision_rows import FP8, RowScaledLinear, quantize_fp8


class Fp8Linear(RowScaledLinear):
    """e4m3 weights and activations, accumulated in float32."""

    number_format = FP8
    quantize = staticmethod(quantize_fp8)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N) in the input's number format."""
        quantized, scale = quantize_fp8(x.reshape(-1, self.in_features))
        # With scales of rows bfloat16 comes out on every GPU, float32 on Hopper alone.
        y = torch._scaled_mm(
            quantized,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale[None],
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        ).to(x.dtype)
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], self.out_features)
