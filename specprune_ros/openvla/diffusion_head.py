# SPDX-License-Identifier: Apache-2.0
"""The diffusion head: noise becomes actions in several passes of the decoder (DDIM, arXiv 2010.02502).

In every pass each number of the noisy chunk is one token, a token of the head's own tells the time, and the residual
MLP predicts the noise. Constants are those of diffusers' `DDIMScheduler(beta_schedule="squaredcos_cap_v2")`, which the
reference uses: it predicts noise, clips the sample to [-1, 1], eta is 0, timesteps are `leading` without offset.
"""

import math

import numpy as np
import torch
from torch import Tensor

from specprune_ros.openvla.config import ModelConfig
from specprune_ros.openvla.decode import Decode
from specprune_ros.openvla.projectors import TokenProjector
from specprune_ros.openvla.residual_mlp import ResidualMLP

MAX_BETA = 0.999
MAX_PERIOD = 10000.0


class DiffusionHead(ResidualMLP):
    """`forward` is the net that predicts noise, `predict` the sampler around it."""

    def __init__(self, config: ModelConfig):
        hidden = config.decoder.hidden_size
        super().__init__(config.action_dim, hidden, config.head_width, config.num_head_blocks)
        self.noisy_action_projector = TokenProjector(1, hidden)
        self.hidden = hidden
        self.chunk_length = config.chunk_length
        self.stride = config.diffusion_steps_train // config.diffusion_steps
        self.timesteps = [i * self.stride for i in reversed(range(config.diffusion_steps))]
        self.alphas = alphas_cumprod(config.diffusion_steps_train)

    def predict(self, decode: Decode, noise: Tensor) -> Tensor:
        """(C, A) float32 standard normal noise -> (C, A) float32 normalised actions."""
        dtype = self.norm1.weight.dtype
        sample = noise.to(torch.promote_types(dtype, torch.float32))
        for timestep in self.timesteps:
            time = timestep_token(timestep, self.hidden, noise.device).to(dtype)
            noisy = self.noisy_action_projector(sample.reshape(-1, 1).to(dtype))
            predicted = self(decode(time, noisy).view(self.chunk_length, -1)).to(sample.dtype)
            sample = self.denoise(sample, predicted, timestep)
        return sample.float()

    def denoise(self, sample: Tensor, predicted_noise: Tensor, timestep: int) -> Tensor:
        """One step of DDIM. The last one returns the clean sample, in [-1, 1]."""
        previous = timestep - self.stride
        now, before = self.alphas[timestep], self.alphas[previous] if previous >= 0 else 1.0
        clean = self.clean(sample, predicted_noise, now)
        return math.sqrt(before) * clean + math.sqrt(1 - before) * predicted_noise

    @staticmethod
    def clean(sample: Tensor, predicted_noise: Tensor, alpha: float) -> Tensor:
        """x_0 as the predicted noise has it."""
        return ((sample - math.sqrt(1 - alpha) * predicted_noise) / math.sqrt(alpha)).clamp(-1, 1)


def alphas_cumprod(num_steps: int) -> list[float]:
    """Share of the signal's variance left at every timestep of training, by the squared-cosine schedule."""

    def left(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - left((i + 1) / num_steps) / left(i / num_steps), MAX_BETA) for i in range(num_steps)]
    result: list[float] = np.cumprod(1 - np.array(betas, np.float32)).tolist()
    return result


def timestep_token(timestep: int, hidden: int, device: torch.device) -> Tensor:
    """(1, hidden) float32: sines, then cosines, of the timestep at geometrically spaced frequencies."""
    half = hidden // 2
    frequencies = torch.exp(torch.arange(half, device=device) * (-math.log(MAX_PERIOD) / (half - 1)))
    angles = timestep * frequencies
    return torch.cat([angles.sin(), angles.cos()])[None]
