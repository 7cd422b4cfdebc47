# SPDX-License-Identifier: Apache-2.0
"""Decoder layers get their kernels where there is a GPU that runs them, and where they do what the layers did."""

import torch
from torch import Tensor, nn

from specprune_ros.engine.device_scope import device_scope
from specprune_ros.engine.precision_weights import SmallWeightsLinear
from specprune_ros.openvla.model import OpenVLA

TRIED = 24  # tokens
MOST_DIFFERENCE = 0.1  # relative; 8-bit layers differ by 0.05, because they round at other places


def fuse_layers(model: OpenVLA) -> str:
    """Replace the decoder's layers on a GPU. Why not, in one line, where it could not be done; "" when all is well.

    A float64 model, which is for comparing, stays as it is: the kernels compute in float32.
    """
    return try_and_fuse(model) if model.device.type == "cuda" and model.dtype != torch.float64 else ""


def try_and_fuse(model: OpenVLA) -> str:
    """The first layer is tried before any is replaced: Triton needs a C compiler, and a GPU that it knows."""
    layers = model.decoder.layers
    small = [module for module in model.modules() if isinstance(module, SmallWeightsLinear)]
    try:
        from specprune_ros.engine import fused_layers, weight_kernels  # need Triton

        expected = _on_random_tokens(model, layers[0])
        for linear in small:
            linear.kernel = weight_kernels.PRODUCTS[type(linear)]
        replaced = [fused_layers.fused(layer) for layer in layers]
        found = _on_random_tokens(model, replaced[0])
        difference = float((found - expected).norm() / expected.norm())
        if not difference < MOST_DIFFERENCE:
            raise ArithmeticError(f"their result is off by {difference:.2g} of itself")
    except Exception as error:  # whatever Triton or the driver raises: the plain layers are right, only slower
        for linear in small:
            linear.kernel = None
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"decoder layers run without their Triton kernels, inferences take about a fifth longer: {line}"
    model.decoder.layers = nn.ModuleList(replaced)
    return ""


def _on_random_tokens(model: OpenVLA, layer: nn.Module) -> Tensor:
    """Everything that a decoder layer gives for some tokens."""
    generator = torch.Generator(model.device).manual_seed(0)
    shape = TRIED, model.decoder.config.hidden_size
    with device_scope(model.device):
        x = torch.randn(shape, generator=generator, dtype=model.dtype, device=model.device)
        return torch.cat([part.float().flatten() for part in layer(x, model.decoder.rope(TRIED))])
