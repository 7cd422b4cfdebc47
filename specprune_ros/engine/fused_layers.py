# SPDX-License-Identifier: Apache-2.0
"""Decoder layers for CUDA: matrix products and attention are torch's, all between them are the kernels of `kernels`.

Same calls as `openvla.decoder.DecoderLayer`. Needs Triton.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specprune_ros.engine import kernels
from specprune_ros.engine.kernels import Product, Quantized
from specprune_ros.engine.precision_fp8 import Fp8Linear
from specprune_ros.engine.precision_int8 import Int8Linear, int8_product
from specprune_ros.engine.precision_rows import RowScaledLinear
from specprune_ros.openvla.decoder import DecoderLayer, Rope


def fused(layer: nn.Module) -> nn.Module:
    """A decoder layer as one that calls the kernels, on the same weights."""
    assert isinstance(layer, DecoderLayer)
    in_8_bits = isinstance(layer.qkv_proj, Int8Linear | Fp8Linear)
    return FusedScaledLayer(layer) if in_8_bits else FusedLayer(layer)


class FusedLayer(nn.Module):
    """A layer whose products take and put out the model's number format, whatever their weights are in."""

    def __init__(self, layer: DecoderLayer):
        super().__init__()
        self._layer = layer

    def forward(self, x: Tensor, rope: Rope, rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        """As `DecoderLayer.forward`."""
        layer, x = self._layer, x.contiguous()
        qkv = layer.qkv_proj(layer.input_norm(x))
        q, k = kernels.rotated(qkv, rope, layer.num_heads)
        v = qkv.view(len(x), 3, layer.num_heads, -1)[:, 2].transpose(0, 1)
        added = layer.o_proj(_attended(q, k, v, rows))
        x, normed = kernels.add_norm(x[rows], added, layer.post_attention_norm)
        return x + layer.down_proj(kernels.swiglu(layer.gate_up_proj(normed))), q, k


class FusedScaledLayer(nn.Module):
    """A layer of 8-bit products: the kernel before one quantises its input, the kernel behind it scales its output."""

    def __init__(self, layer: DecoderLayer):
        super().__init__()
        self._layer = layer
        linears = layer.qkv_proj, layer.o_proj, layer.gate_up_proj, layer.down_proj
        self._qkv, self._o, self._gate_up, self._down = (cast(RowScaledLinear, linear) for linear in linears)
        self._kind = layer.qkv_proj.weight.dtype
        self._multiply = multiply_int8 if self._kind == torch.int8 else Fp8Product(layer.qkv_proj.weight.device)

    def forward(self, x: Tensor, rope: Rope, rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        """As `DecoderLayer.forward`."""
        layer, kind, multiply, x = self._layer, self._kind, self._multiply, x.contiguous()
        qkv = multiply(kernels.quantize(x, kind, layer.input_norm), self._qkv)
        q, k, v = kernels.scaled_and_rotated(qkv, rope, layer.num_heads)
        added = multiply(kernels.quantize(_attended(q, k, v, rows), kind), self._o)
        x, normed = kernels.add_norm_quantize(x[rows], added, layer.post_attention_norm, kind)
        gated = kernels.swiglu_quantize(multiply(normed, self._gate_up), kind)
        return kernels.add_product(x, multiply(gated, self._down)), q, k


class Fp8Product:
    """`torch._scaled_mm` without scales: with one per row it runs in a slower kernel (on an H100 in up to 2.5 times as
    long). bfloat16 has the range for what the numbers alone give."""

    def __init__(self, device: torch.device):
        self._one = torch.ones((), device=device)

    def __call__(self, x: Quantized, linear: RowScaledLinear) -> Product:
        numbers = torch._scaled_mm(
            x.numbers,
            linear.weight.t(),
            scale_a=self._one,
            scale_b=self._one,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return Product(numbers, x.scale, linear.scale)


def multiply_int8(x: Quantized, linear: RowScaledLinear) -> Product:
    return Product(int8_product(x.numbers, linear.weight), x.scale, linear.scale)


def _attended(q: Tensor, k: Tensor, v: Tensor, rows: slice) -> Tensor:
    """(heads, L, head_dim) -> (rows, hidden), contiguous."""
    attended = F.scaled_dot_product_attention(q[None, :, rows], k[None], v[None])[0]
    return attended.transpose(0, 1).flatten(1).contiguous()
