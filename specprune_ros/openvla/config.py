# SPDX-License-Identifier: Apache-2.0
"""Sizes of the model, and the decoder's as `config.json` states them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import Fields, shown

L1, DIFFUSION, DISCRETE = "L1 regression", "diffusion", "discrete tokens"  # the heads
DIFFUSION_STEPS = 50  # the reference's default in training and inference; no file tells
EMPTY_TOKEN_ID = 29871  # Llama-2's lone "▁"; the prompt of the reference always ends with it


@dataclass(frozen=True)
class TowerConfig:
    """One vision transformer. `depth` counts the blocks that run: all of the checkpoint's but the last."""

    width: int
    depth: int
    num_heads: int
    mlp_width: int
    patch_size: int
    num_patches: int
    num_registers: int  # 0 also means: no class token, no LayerScale (SigLIP)
    mean: tuple[float, ...]  # of the pixels, per colour
    std: tuple[float, ...]


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the Llama decoder (names as in `transformers.LlamaConfig`)."""

    vocab_size: int = 32064
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_layers: int = 32
    num_heads: int = 32
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0


@dataclass(frozen=True)
class DiffusionSteps:
    """Denoising steps of a diffusion head."""

    inference: int = DIFFUSION_STEPS
    train: int = DIFFUSION_STEPS


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shapes of one forward pass."""

    towers: tuple[TowerConfig, TowerConfig]
    decoder: DecoderConfig
    image_size: int
    projector_width: int
    action_dim: int
    proprio_dim: int  # 0 without proprio
    chunk_length: int
    num_views: int
    head_width: int  # of the continuous heads' residual MLP, as the next one
    num_head_blocks: int
    film: bool = False
    head: str = L1
    diffusion_steps: int = DIFFUSION_STEPS  # decoder passes of the diffusion head
    diffusion_steps_train: int = DIFFUSION_STEPS
    action_token_end: int = 32000  # discrete tokens: the id behind the last one that is an action

    @property
    def patches_per_view(self) -> int:
        return self.towers[0].num_patches

    @property
    def num_patches(self) -> int:
        return self.num_views * self.patches_per_view

    @property
    def num_state_tokens(self) -> int:
        """Tokens between patches and prompt: proprio, and the diffusion head's timestep."""
        return (self.proprio_dim > 0) + (self.head == DIFFUSION)

    @property
    def num_actions(self) -> int:
        """Action tokens in the sequence, one per action dimension and step."""
        return self.chunk_length * self.action_dim


def diffusion_steps(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> DiffusionSteps:
    """Steps of inference and training: `overrides` first, then `config.json`, then the reference's defaults.

    Raises CheckpointError when they are no counts, or more in inference than in training.
    """
    values = []
    for name in ("num_diffusion_steps", "num_diffusion_steps_train"):
        given = [source[name] for source in (overrides, config) if source.get(name) is not None]
        value = given[0] if given else DIFFUSION_STEPS
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{name} is {shown(value)}; it has to be a whole number of at least 1")
        values.append(value)
    if values[0] > values[1]:
        raise CheckpointError(
            f"num_diffusion_steps is {values[0]}, more than the {values[1]} of training; "
            "set num_diffusion_steps_train to what the checkpoint was trained with"
        )
    return DiffusionSteps(*values)


# Values of text_config that another kind of decoder has; anything else than these changes the maths.
LLAMA = {
    "model_type": ("llama",),
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1, 1.0),
}
PLAIN_ROPE = ("default",)


def decoder_config(text_config: Fields) -> DecoderConfig:
    """Decoder sizes from `text_config`; keys that release files leave out are LlamaConfig's defaults.

    Raises CheckpointError for a decoder whose maths differs from Llama-2's.
    """
    for name, supported in LLAMA.items():
        text_config.only(name, supported)
    default = DecoderConfig()
    heads = text_config.count("num_attention_heads", default.num_heads)
    hidden = text_config.count("hidden_size", default.hidden_size)
    if text_config.count("num_key_value_heads", heads) != heads:
        raise text_config.refuse(
            "num_key_value_heads", f"it has to equal num_attention_heads ({heads}): no grouped-query attention"
        )
    if hidden % (2 * heads):
        raise CheckpointError(
            f"{text_config.where}: num_attention_heads {heads} do not divide hidden_size {hidden} into even parts; "
            "copy config.json from the checkpoint of these weights"
        )
    if text_config.count("head_dim", hidden // heads) != hidden // heads:
        raise text_config.refuse("head_dim", f"it has to be hidden_size / num_attention_heads, {hidden // heads}")
    return DecoderConfig(
        vocab_size=text_config.count("vocab_size", default.vocab_size),
        hidden_size=hidden,
        intermediate_size=text_config.count("intermediate_size", default.intermediate_size),
        num_layers=text_config.count("num_hidden_layers", default.num_layers),
        num_heads=heads,
        rms_norm_eps=text_config.positive("rms_norm_eps", default.rms_norm_eps),
        rope_theta=_rope_theta(text_config, default.rope_theta),
    )


def _rope_theta(text_config: Fields, default: float) -> float:
    """The rotary base; transformers 5 writes it into `rope_parameters`, earlier versions beside `rope_scaling`."""
    theta = text_config.positive("rope_theta", default)
    for name in ("rope_parameters", "rope_scaling"):
        rope = text_config.object(name)
        for kind in ("rope_type", "type"):
            rope.only(kind, PLAIN_ROPE)
        rope.only("partial_rotary_factor", (1, 1.0))
        rope.only("factor", (1, 1.0))
        stated = rope.positive("rope_theta", theta)
        if text_config.has("rope_theta") and stated != theta:
            raise rope.refuse("rope_theta", f"but rope_theta beside it is {theta:g}; keep the one of the training")
        theta = stated
    return theta
