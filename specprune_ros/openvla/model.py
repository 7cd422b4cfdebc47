"""OpenVLA-OFT put together, and the layout of its token sequence."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from specprune_ros.openvla.action_head import ActionHead
from specprune_ros.openvla.config import ModelConfig
from specprune_ros.openvla.decoder import Decoder
from specprune_ros.openvla.preprocessing import Normalization
from specprune_ros.openvla.projectors import PatchProjector, ProprioProjector
from specprune_ros.openvla.prompt import Prompt
from specprune_ros.openvla.vision import VisionTower


@dataclass(frozen=True)
class SequenceLayout:
    """Where things are in `[BOS] [patches of all views] [proprio] [prompt after BOS] [C x A zeros] [</s>]`.

    Everything behind the patches is the tail. Pruning drops patches, so tail positions are given relative to it.
    """

    num_patches: int
    prompt_length: int  # with BOS
    num_actions: int
    instruction: slice  # in the tail

    @classmethod
    def of(cls, config: ModelConfig, prompt: Prompt) -> "SequenceLayout":
        # Token j of the prompt (BOS is 0) comes right after the proprio token and j - 1 others: tail position j.
        return cls(config.num_patches, len(prompt.token_ids), config.num_actions, prompt.instruction)

    @property
    def tail_length(self) -> int:
        return 1 + (self.prompt_length - 1) + self.num_actions + 1

    @property
    def length(self) -> int:
        return 1 + self.num_patches + self.tail_length

    def instruction_rows(self, num_patches: int) -> slice:
        """Rows of the instruction's tokens when `num_patches` patches are alive."""
        start = 1 + num_patches
        return slice(start + self.instruction.start, start + self.instruction.stop)

    def action_rows(self, num_patches: int) -> slice:
        """Rows whose hidden states the head reads when `num_patches` patches are alive.

        One before the zero placeholders: the checkpoints were trained that way (the reference leaves BOS out of its
        count), so the slice starts at the prompt's last token.
        """
        start = 1 + num_patches + self.prompt_length - 1
        return slice(start, start + self.num_actions)


class OpenVLA(nn.Module):
    """The parts of the model. `forward` is the dense pass; the engine runs the same parts with pruning."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        hidden = config.decoder.hidden_size
        self.towers = nn.ModuleList(VisionTower(tower) for tower in config.towers)
        vision_width = sum(tower.width for tower in config.towers)
        self.projector = PatchProjector(vision_width, config.projector_width, hidden)
        self.proprio_projector = ProprioProjector(config.proprio_dim, hidden)
        self.decoder = Decoder(config.decoder)
        self.action_head = ActionHead(config.action_dim, hidden, config.head_width, config.num_head_blocks)

    @property
    def device(self) -> torch.device:
        return self.decoder.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.norm.weight.dtype

    def normalizations(self) -> list[Normalization]:
        """Pixel normalisation of each tower."""
        return [Normalization(tower.mean, tower.std, self.device) for tower in self.config.towers]

    def see(self, pixels: list[Tensor]) -> Tensor:
        """Per tower (V, 3, S, S) pixels -> (V * patches, vision width): views batched, then one after another."""
        features = [tower(x.to(self.dtype)) for tower, x in zip(self.towers, pixels, strict=True)]
        return torch.cat(features, dim=-1).flatten(0, 1)

    def embed_text(self, token_ids: Tensor, eos_id: int) -> tuple[Tensor, Tensor]:
        """Embeddings that the prompt fixes: BOS (1, hidden), and the tail without proprio (tail - 1, hidden)."""
        embedded = self.decoder.embed_tokens(token_ids)
        zeros = embedded.new_zeros(self.config.num_actions, embedded.shape[1])
        eos = self.decoder.embed_tokens(torch.tensor([eos_id], device=token_ids.device))
        return embedded[:1], torch.cat([embedded[1:], zeros, eos])

    def assemble(self, bos: Tensor, patches: Tensor, proprio: Tensor, tail: Tensor) -> Tensor:
        """The decoder's input (L, hidden)."""
        proprio_token = self.proprio_projector(proprio.to(self.dtype))
        return torch.cat([bos, patches, proprio_token[None], tail])

    def act(self, hidden: Tensor) -> Tensor:
        """Hidden states of the action rows (C * A, hidden) -> normalised actions (C, A) float32."""
        steps = self.decoder.norm(hidden).view(self.config.chunk_length, -1)
        return self.action_head(steps).float()

    def forward(self, pixels: list[Tensor], proprio: Tensor, token_ids: Tensor, eos_id: int) -> Tensor:
        """The dense pass, for reference: per tower (V, 3, S, S), (P,), (n,) -> (C, A) normalised actions."""
        bos, tail = self.embed_text(token_ids, eos_id)
        x = self.assemble(bos, self.projector(self.see(pixels)), proprio, tail)
        layout = SequenceLayout(self.config.num_patches, len(token_ids), self.config.num_actions, slice(0))
        rope = self.decoder.rope(layout.length)
        for layer in self.decoder.layers[:-1]:
            x, _, _ = layer(x, rope)
        x, _, _ = self.decoder.layers[-1](x, rope, layout.action_rows(layout.num_patches))
        return self.act(x)
