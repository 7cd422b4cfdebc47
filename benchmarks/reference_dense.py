# SPDX-License-Identifier: Apache-2.0
"""Dense inference the way the paper's code runs it: one view at a time, eager attention, every attention map kept.

Same weights and result as ours; only the execution differs. What the public code does beyond this and we leave out, in
its favour: the language-model head over all tokens, and boolean masks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from specprune_ros.openvla.decoder import DecoderLayer, Rope, rotate
from specprune_ros.openvla.model import OpenVLA, SequenceLayout
from specprune_ros.openvla.preprocessing import Normalization


@torch.inference_mode()
def reference_dense(
    model: OpenVLA,
    normalizations: list[Normalization],
    layout: SequenceLayout,
    frames: Tensor,
    proprio: Tensor,
    text: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """(V, S, S, 3) uint8 frames -> normalised actions (C, A) and the attention maps of all layers."""
    film = model.film(text)
    patches = torch.cat(
        [model.projector(model.see([normalize(view[None]) for normalize in normalizations], film)) for view in frames]
    )
    rope = model.decoder.rope(layout.length)
    attentions = []

    def decode(own: Tensor | None = None, actions: Tensor | None = None) -> Tensor:
        state = [model.embed_proprio(proprio)] + ([] if own is None else [own])
        x = model.assemble(text, patches, state, actions)
        for layer in model.decoder.layers:
            x, attention = eager_layer(layer, x, rope)
            attentions.append(attention)
        return model.decoder.norm(x[layout.action_rows(layout.num_patches)])

    noise = torch.zeros(model.config.chunk_length, model.config.action_dim, device=text.device)
    return model.action_head.predict(decode, noise), attentions


def eager_layer(layer: DecoderLayer, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """One decoder layer with separate matrices and explicit attention: (L, hidden), (heads, L, L)."""
    h = layer.input_norm(x)
    q, k, v = (
        F.linear(h, weight).view(len(x), layer.num_heads, -1).transpose(0, 1)
        for weight in layer.qkv_proj.weight.chunk(3)
    )
    q, k = rotate(q, rope), rotate(k, rope)
    logits = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    attention = logits.softmax(dim=-1, dtype=torch.float32).to(x.dtype)
    x = x + layer.o_proj((attention @ v).transpose(0, 1).flatten(1))
    h = layer.post_attention_norm(x)
    gate, up = (F.linear(h, weight) for weight in layer.gate_up_proj.weight.chunk(2))
    return x + layer.down_proj(F.silu(gate) * up), attention
