# SPDX-License-Identifier: Apache-2.0
"""Weights to start from: random ones, or trained ones, perhaps of a coarser patch grid or fewer layers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specprune_ros.errors import UserError
from specprune_ros.openvla.config import ModelConfig
from specprune_ros.openvla.decoder import DecoderLayer
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.vision import VisionBlock

EMBEDDING = 0.02  # standard deviation of position, class, register and token embeddings
RESIDUAL = ("o_proj.weight", "down_proj.weight", ".proj.weight", "fc2.weight")  # what is added to a residual stream
LAYERS = ".decoder.layers."


def random_model(config: ModelConfig, seed: int) -> OpenVLA:
    """float32 on the CPU, in training mode. Linear layers start as torch makes them.

    What is added to a residual stream starts smaller, by the root of the number of additions, as in GPT-2.
    """
    torch.manual_seed(seed)
    model = OpenVLA(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 3 or name.endswith("embed_tokens.weight"):
                nn.init.trunc_normal_(weight, std=EMBEDDING)
        stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        for blocks in (stack for stack in stacks if isinstance(stack[0], VisionBlock | DecoderLayer)):
            for name, weight in blocks.named_parameters():
                if name.endswith(RESIDUAL):
                    weight.mul_((2 * len(blocks)) ** -0.5)
    return model


def grown(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trained weights `state`, for a model of the shapes `wanted`: finer patches, more decoder layers.

    A small patch is looked at as if it were enlarged to the old size, position embeddings are interpolated, and new
    layers start as the identity. Raises UserError for any other difference.
    """
    source, target = _num_layers(state), _num_layers(wanted)
    weights = {}
    for name, like in wanted.items():
        old_name, is_new = name, False
        if LAYERS in name:
            number = int(name.split(LAYERS)[1].split(".")[0])
            old, before = (_old_layer(i, source, target) for i in (number, number - 1))
            old_name, is_new = name.replace(f"{LAYERS}{number}.", f"{LAYERS}{old}."), old == before
        if old_name not in state:
            raise UserError(f"the weights to start from have no {old_name}; start from a model with the same parts")
        tensor = state[old_name]
        if is_new and name.endswith(RESIDUAL):
            tensor = torch.zeros_like(tensor)
        weights[name] = _resized(name, tensor, like)
    return weights


def _num_layers(state: dict[str, Tensor]) -> int:
    return 1 + max(int(name.split(LAYERS)[1].split(".")[0]) for name in state if LAYERS in name)


def _old_layer(number: int, source: int, target: int) -> int:
    """Which of `source` layers layer `number` of `target` comes from; -1 for none."""
    return -1 if number < 0 else round(number * (source - 1) / (target - 1))


def _resized(name: str, tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.shape == like.shape:
        return tensor
    if name.endswith("patch_embed.weight"):
        share = tensor[0, 0].numel() / like[0, 0].numel()
        return F.interpolate(tensor, size=like.shape[2:], mode="area") * share
    if name.endswith("pos_embed"):
        old, new = (int(embedding.shape[1] ** 0.5) for embedding in (tensor, like))
        grid = tensor.transpose(1, 2).unflatten(2, (old, old))
        return F.interpolate(grid, size=(new, new), mode="bicubic").flatten(2).transpose(1, 2)
    raise UserError(
        f"{name} has the shape {tuple(tensor.shape)} in the model to start from and {tuple(like.shape)} in this one; "
        "only patch_size, image_size and num_layers may differ"
    )
