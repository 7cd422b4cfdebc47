"""Random weights to start from."""

import torch
from torch import nn

from specprune_ros.openvla.config import ModelConfig
from specprune_ros.openvla.decoder import DecoderLayer
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.vision import VisionBlock

EMBEDDING = 0.02  # standard deviation of position, class, register and token embeddings


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
                if name.endswith(("o_proj.weight", "down_proj.weight", ".proj.weight", "fc2.weight")):
                    weight.mul_((2 * len(blocks)) ** -0.5)
    return model
