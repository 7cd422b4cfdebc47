# SPDX-License-Identifier: Apache-2.0
"""How each head makes normalised actions (C, A) of what the decoder returns.

`decode(own, actions)`: tokens of the head's own and the action tokens, lists of (hidden,), to (C * A, hidden).
"""

from collections.abc import Callable

import numpy as np

from oracle.decoder import Array, EagerModel
from specprune_ros.openvla.config import DIFFUSION, DISCRETE

Decode = Callable[[list[Array], list[Array]], Array]


def predict(model: EagerModel, decode: Decode, noise: Array | None) -> Array:
    config = model.config
    zeros = [np.zeros(config.decoder.hidden_size)] * config.num_actions
    if config.head == DIFFUSION:
        assert noise is not None
        return sampled(model, decode, noise)
    if config.head == DISCRETE:
        ids = model.logits(decode([], zeros)).argmax(axis=1)
        return np.array([number(config.action_token_end, token) for token in ids]).reshape(config.chunk_length, -1)
    return model.mlp(decode([], zeros))


def number(end: int, token: int) -> float:
    """The middle of a token's bin: 256 edges from -1 to 1, the last action token is the lowest bin."""
    edges = np.linspace(-1, 1, 256)
    centers = (edges[:-1] + edges[1:]) / 2
    return float(centers[min(max(end - token - 1, 0), 254)])


def sampled(model: EagerModel, decode: Decode, noise: Array) -> Array:
    """DDIM with eta 0 in float64; what the reference computes in float32 (alphas, timestep token) is so here."""
    config = model.config
    stride = config.diffusion_steps_train // config.diffusion_steps
    alphas = alphas_left(config.diffusion_steps_train)
    sample = noise.astype(np.float64)
    for step in range(config.diffusion_steps - 1, -1, -1):
        time = step * stride
        tokens = [model.noisy_token(value) for value in sample.flatten()]
        predicted = model.mlp(decode([time_token(time, config.decoder.hidden_size)], tokens))
        clean = np.clip((sample - np.sqrt(1 - alphas[time]) * predicted) / np.sqrt(alphas[time]), -1, 1)
        before = alphas[time - stride] if time >= stride else 1.0
        sample = np.sqrt(before) * clean + np.sqrt(1 - before) * predicted
    return sample


def alphas_left(num_steps: int) -> list[float]:
    def h(u: float) -> float:
        return float(np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2)

    product, alphas = np.float32(1), []
    for i in range(num_steps):
        beta = min(1 - h((i + 1) / num_steps) / h(i / num_steps), 0.999)
        product = product * (np.float32(1) - np.float32(beta))
        alphas.append(float(product))
    return alphas


def time_token(time: int, hidden: int) -> Array:
    half = hidden // 2
    angles = [np.float32(time) * np.exp(np.float32(-k * np.log(10000.0) / (half - 1))) for k in range(half)]
    return np.concatenate([np.sin(angles), np.cos(angles)]).astype(np.float64)
