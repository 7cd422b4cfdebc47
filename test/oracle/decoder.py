# SPDX-License-Identifier: Apache-2.0
"""The Llama decoder and the heads around it, with eager attention that shows every weight."""

import math

import numpy as np
from numpy.typing import NDArray

from specprune_ros.openvla.model import OpenVLA

Array = NDArray[np.float64]


class EagerModel:
    """The weights of a model in float64, and its parts behind the vision towers."""

    def __init__(self, model: OpenVLA):
        self.config = model.config
        self._weights = {name: value.detach().cpu().double().numpy() for name, value in model.named_parameters()}

    def embed(self, token_id: int) -> Array:
        return self._weights["decoder.embed_tokens.weight"][token_id]

    def project_proprio(self, proprio: Array) -> Array:
        """(P,) normalised -> (hidden,)."""
        return self._linear("proprio_projector.fc2", gelu(self._linear("proprio_projector.fc1", proprio)))

    def layer(self, number: int, x: Array, positions: list[int]) -> tuple[Array, Array]:
        """Layer `number` (1-based) on tokens x (L, hidden): its output, and the attention (heads, L, L).

        Every token sees every other one; no mask.
        """
        name = f"decoder.layers.{number - 1}."
        normed = self._rms_norm(name + "input_norm", x)
        q_matrix, k_matrix, v_matrix = np.split(self._weights[name + "qkv_proj.weight"], 3)
        heads = self.config.decoder.num_heads
        attention, outputs = [], []
        for q_head, k_head, v_head in zip(*(np.split(m, heads) for m in (q_matrix, k_matrix, v_matrix)), strict=True):
            q = self._rotated(normed @ q_head.T, positions)
            k = self._rotated(normed @ k_head.T, positions)
            weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
            weights /= weights.sum(axis=1, keepdims=True)
            attention.append(weights)
            outputs.append(weights @ (normed @ v_head.T))
        x = x + np.concatenate(outputs, axis=1) @ self._weights[name + "o_proj.weight"].T

        normed = self._rms_norm(name + "post_attention_norm", x)
        gate_matrix, up_matrix = np.split(self._weights[name + "gate_up_proj.weight"], 2)
        gate = normed @ gate_matrix.T
        inner = gate / (1 + np.exp(-gate)) * (normed @ up_matrix.T)
        return x + inner @ self._weights[name + "down_proj.weight"].T, np.stack(attention)

    def final_norm(self, hidden: Array) -> Array:
        return self._rms_norm("decoder.norm", hidden)

    def logits(self, hidden: Array) -> Array:
        """(n, hidden) -> (n, vocabulary) of the discrete head."""
        return hidden @ self._weights["action_head.lm_head.weight"].T

    def noisy_token(self, value: float) -> Array:
        """One number of a noisy chunk -> (hidden,)."""
        name = "action_head.noisy_action_projector."
        return self._linear(name + "fc2", gelu(self._linear(name + "fc1", np.array([value]))))

    def mlp(self, hidden: Array) -> Array:
        """Final hidden states (C * A, hidden) of the action rows -> (C, A), by the continuous heads' net."""
        x = hidden.reshape(self.config.chunk_length, -1)
        x = np.maximum(self._linear("action_head.fc1", self._layer_norm("action_head.norm1", x)), 0)
        for block in range(self.config.num_head_blocks):
            name = f"action_head.blocks.{block}."
            x = x + np.maximum(self._linear(name + "linear", self._layer_norm(name + "norm", x)), 0)
        return self._linear("action_head.fc2", self._layer_norm("action_head.norm2", x))

    def _rotated(self, x: Array, positions: list[int]) -> Array:
        """Rotary embedding: element i turns with element i + half of the head by position * theta ** (-i / half)."""
        first, second = np.split(x, 2, axis=1)
        half = first.shape[1]
        angle = np.outer(positions, self.config.decoder.rope_theta ** (-np.arange(half) / half))
        turned = first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)
        return np.concatenate(turned, axis=1)

    def _linear(self, name: str, x: Array) -> Array:
        return x @ self._weights[name + ".weight"].T + self._weights[name + ".bias"]

    def _rms_norm(self, name: str, x: Array) -> Array:
        mean_square = (x * x).mean(axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + self.config.decoder.rms_norm_eps) * self._weights[name + ".weight"]

    def _layer_norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * self._weights[name + ".weight"] + self._weights[name + ".bias"]


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
