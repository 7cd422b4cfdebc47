# SPDX-License-Identifier: Apache-2.0
"""Decoder layers get their kernels, where there is a GPU that runs them and they do what the layer did."""

from typing import cast

import torch
from torch import nn

from specprune_ros.engine.device_scope import device_scope
from specprune_ros.openvla.decoder import DecoderLayer
from specprune_ros.openvla.model import OpenVLA

TRIED = 24  # tokens
LEAST_AGREEMENT = 0.1  # relative; 8-bit layers differ by 0.05, because they round at other places


def fuse_layers(model: OpenVLA) -> str:
    """Replace the decoder's layers on a GPU. Why not, in one line, where it could not be done; "" when all is well."""
    return try_and_fuse(model) if model.device.type == "cuda" else ""


def try_and_fuse(model: OpenVLA) -> str:
    """The first layer is tried before any is replaced: Triton needs a C compiler, and a GPU that it knows."""
    layers = model.decoder.layers
    try:
        from specprune_ros.engine.fused_layers import fused  # needs Triton

        first = cast(DecoderLayer, layers[0])
        difference = _difference(model, first, fused(first))
        if not difference < LEAST_AGREEMENT:
            raise ArithmeticError(f"their result is off by {difference:.2g} of itself")
    except Exception as error:  # whatever Triton or the driver raises: the plain layers are right, only slower
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"decoder layers run without their Triton kernels, inferences take about a fifth longer: {line}"
    model.decoder.layers = nn.ModuleList(fused(cast(DecoderLayer, layer)) for layer in layers)
    return ""


def _difference(model: OpenVLA, plain: nn.Module, other: nn.Module) -> float:
    """Between a layer's results on random tokens, relative."""
    generator = torch.Generator(model.device).manual_seed(0)
    shape = TRIED, model.decoder.config.hidden_size
    with device_scope(model.device):
        x = torch.randn(shape, generator=generator, dtype=model.dtype, device=model.device)
        rope = model.decoder.rope(TRIED)
        expected, found = (torch.cat([part.float().flatten() for part in each(x, rope)]) for each in (plain, other))
        return float((found - expected).norm() / expected.norm())
