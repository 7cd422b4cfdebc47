# SPDX-License-Identifier: Apache-2.0
"""OpenVLA-OFT at its real 7B geometry, with random weights: time does not depend on their values."""

import dataclasses

import torch
from torch import nn

from specprune_ros.openvla.config import DecoderConfig, ModelConfig, TowerConfig
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.prompt import Prompt

DINOV2 = TowerConfig(1024, 23, 16, 4096, 14, 256, 4, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIGLIP = TowerConfig(1152, 26, 16, 4304, 14, 256, 0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENVLA_7B = ModelConfig(
    towers=(DINOV2, SIGLIP),
    decoder=DecoderConfig(),
    image_size=224,
    projector_width=8704,
    action_dim=7,
    proprio_dim=8,
    chunk_length=8,
    num_views=2,
    head_width=4096,
    num_head_blocks=2,
)

# A LIBERO-Spatial prompt: 35 tokens with BOS, the instruction's words are tokens 10 to 29.
LIBERO_PROMPT = Prompt((1, *range(300, 333), 29871), slice(10, 30))
EOS_ID = 2


def build(
    device: torch.device,
    dtype: torch.dtype,
    *,
    num_layers: int = 32,
    share_layers: bool = False,
    geometry: ModelConfig = OPENVLA_7B,
) -> OpenVLA:
    """The model with random weights. `share_layers`: all decoder layers are one, to fit a small memory."""
    decoder = dataclasses.replace(geometry.decoder, num_layers=num_layers)
    config = dataclasses.replace(geometry, decoder=decoder)
    built = dataclasses.replace(config, decoder=dataclasses.replace(decoder, num_layers=1)) if share_layers else config
    with torch.device("meta"):
        model = OpenVLA(built)
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, 0.02, generator=generator)
    if share_layers:
        model.decoder.layers = nn.ModuleList([model.decoder.layers[0]] * num_layers)
        model.config = config
    return model
