# SPDX-License-Identifier: Apache-2.0
"""Many samples at once through the parts of `OpenVLA`, whose own forward pass takes one sequence.

Sequences of different length are padded behind `</s>`, as in OpenVLA-OFT's training: padded keys are masked, so every
sample gets what it would get alone (the tests compare with `OpenVLA.forward`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specprune_ros.openvla.decoder import DecoderLayer, Rope, rotate
from specprune_ros.openvla.model import OpenVLA, SequenceLayout
from specprune_ros.openvla.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Prompts:
    """The text of B sequences, on one device. T: longest tail without proprio; m: most tokens of an instruction."""

    bos: Tensor  # (B,) token ids
    tail: Tensor  # (B, T) token ids: prompt after BOS, placeholders of the actions, </s>, padding
    is_text: Tensor  # (B, T) bool: prompt and </s>; everything else is embedded as zeros
    is_alive: Tensor  # (B, 1, 1, L) bool: not padding
    action_rows: Tensor  # (B, C * A) rows of the sequence that the action head reads
    instruction_rows: Tensor  # (B, m) rows of the instruction's tokens, the last one repeated
    is_instruction: Tensor  # (B, m) bool: not a repetition

    @classmethod
    def of(cls, prompts: Sequence[Prompt], model: OpenVLA, eos_id: int) -> "Prompts":
        config = model.config
        layouts = [SequenceLayout.of(config, prompt) for prompt in prompts]
        longest = max(layout.length for layout in layouts)
        before_tail = 1 + config.num_patches + config.num_state_tokens  # BOS, patches, proprio
        tail = torch.full((len(prompts), longest - before_tail), eos_id)
        is_text = torch.zeros(tail.shape, dtype=torch.bool)
        is_alive = torch.zeros(len(prompts), longest, dtype=torch.bool)
        rows, words = [], []
        for i, (prompt, layout) in enumerate(zip(prompts, layouts, strict=True)):
            length = len(prompt.token_ids) - 1
            tail[i, :length] = torch.tensor(prompt.token_ids[1:])
            is_text[i, :length] = True
            is_text[i, length + config.num_actions] = True  # </s>
            is_alive[i, : layout.length] = True
            read, instruction = layout.action_rows(config.num_patches), layout.instruction_rows(config.num_patches)
            rows.append(torch.arange(read.start, read.stop))
            words.append(torch.arange(instruction.start, instruction.stop))
        most = torch.arange(max(map(len, words)))
        counts = torch.tensor([len(row) for row in words])[:, None]
        repeated = torch.stack([row[most.clamp(max=len(row) - 1)] for row in words])
        bos = torch.tensor([prompt.token_ids[0] for prompt in prompts])
        parts = (bos, tail, is_text, is_alive[:, None, None], torch.stack(rows), repeated, most < counts)
        return cls(*(part.to(model.device) for part in parts))


@dataclass(frozen=True)
class Drop:
    """Which patches go on behind the static layer: `kept` of each view, drawn by the instruction's attention.

    Patches are drawn without replacement, with probabilities proportional to attention ** `sharpness`: 0 draws evenly,
    a large one takes those with the highest attention, as the method's local set does. Drawn for a batch of which other
    processes have the samples `before` and `after` these.
    """

    kept: int
    sharpness: float
    seed: int
    before: int = 0
    after: int = 0


@dataclass(frozen=True, eq=False)
class Scores:
    """How much the instruction attends to each patch alive in one layer (`pruning.scores.patch_scores`)."""

    values: Tensor  # (B, V, n)
    patches: Tensor  # (B, V, n) which patches of the view those are


def see(model: OpenVLA, frames: Tensor) -> Tensor:
    """(B, V, S, S, 3) uint8 -> (B, V, patches, width of both towers)."""
    flat = frames.flatten(0, 1)
    features = [tower(normalize(flat)) for tower, normalize in zip(model.towers, model.normalizations(), strict=True)]
    return torch.cat(features, dim=-1).unflatten(0, frames.shape[:2])


def decode(
    model: OpenVLA,
    features: Tensor,
    proprio: Tensor,
    prompts: Prompts,
    scored: frozenset[int] = frozenset(),
    drop: Drop | None = None,
    static_layer: int = 2,
) -> tuple[Tensor, list[Scores]]:
    """Features of `see`, (B, P) normalised proprio -> (B, C, A * hidden), what the action head reads of every step.

    Also the scores of the layers `scored` (1-based). With `drop`, patches are dropped behind `static_layer`, by the
    sum of the scores up to there.
    """
    decoder = model.decoder
    embedded = model.projector(features.flatten(1, 2))
    state = model.proprio_projector(proprio)[:, None]
    text = decoder.embed_tokens(prompts.tail) * prompts.is_text[..., None]
    bos = decoder.embed_tokens(prompts.bos)[:, None]
    x = torch.cat([bos, embedded, state, text], dim=1)  # float32 also under autocast, as the embeddings are
    cos, sin = decoder.rope(x.shape[1])
    rope, is_alive, dropped = (cos, sin), prompts.is_alive, 0
    batch, views, num_patches = features.shape[:3]
    patches = torch.arange(num_patches, device=x.device).expand(batch, views, -1)
    early: list[Tensor] = []
    scores: list[Scores] = []
    for number, layer in enumerate(decoder.layers, start=1):
        x, q, k = _layer(layer, x, rope, is_alive)
        if number in scored or (drop and number <= static_layer):
            attention = _instruction_attention(q, k, prompts, dropped, is_alive)
            values = attention[:, 1 : 1 + patches[0].numel()].unflatten(1, (views, -1))
            early.append(values.detach())
            if number in scored:
                scores.append(Scores(values, patches))
        if drop and number == static_layer:
            patches = _drawn(torch.stack(early).sum(dim=0), drop)
            rows = _rows(patches, num_patches, x.shape[1])
            x = x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))
            rope = (cos[rows][:, None], sin[rows][:, None])
            is_alive = is_alive[:, 0, 0].gather(1, rows)[:, None, None]
            dropped = views * (num_patches - drop.kept)
    rows = (prompts.action_rows - dropped)[..., None].expand(-1, -1, x.shape[2])
    return decoder.norm(x.gather(1, rows)).unflatten(1, (model.config.chunk_length, -1)).flatten(2), scores


def _layer(layer: nn.Module, x: Tensor, rope: Rope, is_alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`DecoderLayer.forward` for (B, L, hidden)."""
    assert isinstance(layer, DecoderLayer)
    projected = layer.qkv_proj(layer.input_norm(x)).unflatten(2, (3, layer.num_heads, -1))
    q, k, v = projected.permute(2, 0, 3, 1, 4)
    q, k = rotate(q, rope).to(v.dtype), rotate(k, rope).to(v.dtype)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=is_alive)
    x = x + layer.o_proj(attended.transpose(1, 2).flatten(2))
    return x + layer.feed_forward(layer.post_attention_norm(x)), q, k


def _instruction_attention(q: Tensor, k: Tensor, prompts: Prompts, dropped: int, is_alive: Tensor) -> Tensor:
    """Queries and keys (B, heads, L, head_dim) -> (B, L): attention of the instruction, mean over heads and words."""
    rows = (prompts.instruction_rows - dropped)[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
    logits = q.gather(2, rows) @ k.transpose(2, 3) * q.shape[3] ** -0.5
    attention = logits.float().masked_fill(~is_alive, -torch.inf).softmax(dim=-1).mean(dim=1)  # (B, m, L)
    words = prompts.is_instruction[..., None]
    return (attention * words).sum(dim=1) / words.sum(dim=1)


def _drawn(scores: Tensor, drop: Drop) -> Tensor:
    """Scores (B, V, patches) -> (B, V, kept) patches in ascending order, drawn by the Gumbel-top-k trick."""
    random = torch.Generator().manual_seed(drop.seed)
    batch = drop.before + len(scores) + drop.after
    noise = -torch.empty(batch, *scores.shape[1:]).exponential_(generator=random).log()
    noise = noise[drop.before : drop.before + len(scores)].to(scores.device)
    keys = drop.sharpness * scores.clamp(min=1e-20).log() + noise
    return keys.topk(drop.kept, dim=-1).indices.sort(dim=-1).values


def _rows(patches: Tensor, num_patches: int, length: int) -> Tensor:
    """(B, V, kept) patches -> (B, rows alive) rows of the sequence: BOS, those patches, and everything behind."""
    batch, views, _ = patches.shape
    first = 1 + num_patches * torch.arange(views, device=patches.device)[:, None]
    bos = patches.new_zeros(batch, 1)
    tail = torch.arange(1 + views * num_patches, length, device=patches.device).expand(batch, -1)
    return torch.cat([bos, (patches + first).flatten(1), tail], dim=1)
