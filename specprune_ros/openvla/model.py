# SPDX-License-Identifier: Apache-2.0
"""OpenVLA-OFT put together, and the layout of its token sequence."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specprune_ros.openvla.config import DIFFUSION, DISCRETE, L1, ModelConfig
from specprune_ros.openvla.decoder import Decoder
from specprune_ros.openvla.diffusion_head import DiffusionHead
from specprune_ros.openvla.discrete_head import DiscreteHead
from specprune_ros.openvla.film import Film, NoFilm
from specprune_ros.openvla.l1_head import L1Head
from specprune_ros.openvla.preprocessing import Normalization
from specprune_ros.openvla.projectors import NoProprio, PatchProjector, TokenProjector
from specprune_ros.openvla.prompt import Prompt
from specprune_ros.openvla.vision import VisionTower

Call = Callable[[], Tensor]
Head = L1Head | DiffusionHead | DiscreteHead
HEADS: dict[str, type[Head]] = {L1: L1Head, DIFFUSION: DiffusionHead, DISCRETE: DiscreteHead}


@dataclass(frozen=True)
class SequenceLayout:
    """Where things are in `[BOS] [patches of all views] [state] [prompt after BOS] [C x A actions] [</s>]`.

    State is the proprio token and the diffusion head's timestep, each where the checkpoint has one. Pruning drops
    patches alone, so rows behind them are asked for with the number of patches alive.
    """

    num_patches: int
    num_state_tokens: int
    prompt_length: int  # with BOS
    num_actions: int
    instruction: slice  # in the prompt, BOS being 0

    @classmethod
    def of(cls, config: ModelConfig, prompt: Prompt) -> "SequenceLayout":
        length = len(prompt.token_ids)
        return cls(config.num_patches, config.num_state_tokens, length, config.num_actions, prompt.instruction)

    @property
    def fixed_tokens(self) -> int:
        """Tokens that are no patches."""
        return self.prompt_length + self.num_state_tokens + self.num_actions + 1

    @property
    def length(self) -> int:
        return self.num_patches + self.fixed_tokens

    def instruction_rows(self, num_patches: int) -> slice:
        """Rows of the instruction's tokens when `num_patches` patches are alive."""
        before = num_patches + self.num_state_tokens
        return slice(before + self.instruction.start, before + self.instruction.stop)

    def action_rows(self, num_patches: int) -> slice:
        """Rows whose hidden states the head reads when `num_patches` patches are alive.

        One before the action tokens: the checkpoints were trained that way (the reference leaves BOS out of its
        count), so the slice starts at the prompt's last token. For discrete tokens that is the next-token shift.
        """
        start = num_patches + self.num_state_tokens + self.prompt_length - 1
        return slice(start, start + self.num_actions)


def in_turn(calls: list[Call]) -> list[Tensor]:
    return [call() for call in calls]


class OpenVLA(nn.Module):
    """The parts of the model. `forward` is the dense pass; the engine runs the same parts with pruning.

    What differs between variants is a part of its own: film, proprio_projector, action_head.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        hidden = config.decoder.hidden_size
        self.film: Film | NoFilm = Film(config.towers, hidden) if config.film else NoFilm()
        self.towers = nn.ModuleList(VisionTower(tower) for tower in config.towers)
        self.run_towers: Callable[[list[Call]], list[Tensor]] = in_turn  # they need nothing of each other
        vision_width = sum(tower.width for tower in config.towers)
        self.projector = PatchProjector(vision_width, config.projector_width, hidden)
        self.proprio_projector = TokenProjector(config.proprio_dim, hidden) if config.proprio_dim else NoProprio(hidden)
        self.decoder = Decoder(config.decoder)
        self.action_head: Head = HEADS[config.head](config)

    @property
    def device(self) -> torch.device:
        return self.decoder.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.norm.weight.dtype

    def normalizations(self) -> list[Normalization]:
        """Pixel normalisation of each tower."""
        return [Normalization(tower.mean, tower.std, self.device) for tower in self.config.towers]

    def embed_text(self, token_ids: Tensor, eos_id: int) -> Tensor:
        """Embeddings (n + 1, hidden) of a prompt's n tokens, BOS first, and of </s>."""
        result: Tensor = self.decoder.embed_tokens(F.pad(token_ids, (0, 1), value=eos_id))
        return result

    def see(self, pixels: list[Tensor], film: Tensor) -> Tensor:
        """Per tower (V, 3, S, S) pixels -> (V * patches, vision width): views batched, then one after another.

        `film`: what `self.film` makes of the embedded text.
        """
        parts = zip(self.towers, pixels, self.film.per_tower(film), strict=True)
        calls: list[Call] = [partial(tower, x.to(self.dtype), part) for tower, x, part in parts]
        return torch.cat(self.run_towers(calls), dim=-1).flatten(0, 1)

    def embed_proprio(self, proprio: Tensor) -> Tensor:
        """(P,) normalised -> (1, hidden); (0, hidden) in a checkpoint without proprio."""
        result: Tensor = self.proprio_projector(proprio[None].to(self.dtype))
        return result

    def assemble(self, text: Tensor, patches: Tensor, state: list[Tensor], actions: Tensor | None) -> Tensor:
        """The decoder's input (L, hidden). `state`: tokens (k, hidden) each; `actions`: zeros by default."""
        if actions is None:
            actions = text.new_zeros(self.config.num_actions, text.shape[1])
        return torch.cat([text[:1], patches, *state, text[1:-1], actions, text[-1:]])

    def forward(
        self, pixels: list[Tensor], proprio: Tensor, token_ids: Tensor, eos_id: int, noise: Tensor | None = None
    ) -> Tensor:
        """The dense pass, for reference: per tower (V, 3, S, S), (P,), (n,), (C, A) -> (C, A) normalised actions."""
        config, decoder = self.config, self.decoder
        text = self.embed_text(token_ids, eos_id)
        patches = self.projector(self.see(pixels, self.film(text)))
        state = self.embed_proprio(proprio)
        layout = SequenceLayout.of(config, Prompt(tuple(token_ids.tolist()), slice(0)))
        rope = decoder.rope(layout.length)

        def decode(own: Tensor | None = None, actions: Tensor | None = None) -> Tensor:
            x = self.assemble(text, patches, [state] if own is None else [state, own], actions)
            for layer in decoder.layers[:-1]:
                x, _, _ = layer(x, rope)
            result: Tensor = decoder.norm(decoder.layers[-1](x, rope, layout.action_rows(layout.num_patches))[0])
            return result

        if noise is None:
            noise = torch.zeros(config.chunk_length, config.action_dim, device=self.device)
        return self.action_head.predict(decode, noise)
