"""What a checkpoint says about itself: sizes from `config.json`, the rest from its robot family."""

import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from specprune_ros.errors import CheckpointError

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
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


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
class FamilyConfig:
    """Facts of the robot that the checkpoint was trained for (`families.yaml`)."""

    chunk_length: int
    num_views: int
    center_crop: bool
    proprio_normalization: str
    action_space: str
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shapes of one forward pass."""

    towers: tuple[TowerConfig, TowerConfig]
    decoder: DecoderConfig
    image_size: int
    projector_width: int
    action_dim: int
    proprio_dim: int
    chunk_length: int
    num_views: int
    head_width: int
    num_head_blocks: int

    @property
    def patches_per_view(self) -> int:
        return self.towers[0].num_patches

    @property
    def num_patches(self) -> int:
        return self.num_views * self.patches_per_view

    @property
    def num_actions(self) -> int:
        """Action tokens in the sequence, one per action dimension and step."""
        return self.chunk_length * self.action_dim


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError when the file is missing or is not JSON."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; copy the whole checkpoint folder") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); copy the file again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object; copy the file again")
    return content


def decoder_config(text_config: dict[str, Any]) -> DecoderConfig:
    """Decoder sizes from `text_config`; keys that release files leave out are LlamaConfig's defaults."""
    default = DecoderConfig()
    heads = text_config.get("num_attention_heads", default.num_heads)
    if text_config.get("num_key_value_heads", heads) != heads:
        raise CheckpointError(
            "config.json: text_config uses grouped-query attention; only Llama-2 7B style is supported"
        )
    return DecoderConfig(
        vocab_size=text_config.get("vocab_size", default.vocab_size),
        hidden_size=text_config.get("hidden_size", default.hidden_size),
        intermediate_size=text_config.get("intermediate_size", default.intermediate_size),
        num_layers=text_config.get("num_hidden_layers", default.num_layers),
        num_heads=heads,
        rms_norm_eps=text_config.get("rms_norm_eps", default.rms_norm_eps),
        rope_theta=text_config.get("rope_theta") or default.rope_theta,
    )


def family_config(unnorm_key: str, config: dict[str, Any], overrides: dict[str, Any]) -> FamilyConfig:
    """The robot family's facts: `overrides` first, then `config.json`, then `families.yaml`.

    Raises CheckpointError that names the fact to add when the family is unknown.
    """
    text = resources.files("specprune_ros.openvla").joinpath("families.yaml").read_text()
    families = yaml.safe_load(text)
    known: dict[str, Any] = next(
        (facts for facts in families.values() if re.search(facts["match"], unnorm_key.lower())), {}
    )
    values: dict[str, Any] = {}
    for name in FamilyConfig.__dataclass_fields__:
        value = next((source[name] for source in (overrides, config, known) if source.get(name) is not None), None)
        if value is None:
            raise CheckpointError(
                f"{name} is not known for unnorm_key '{unnorm_key}'; add \"{name}\" to the checkpoint's config.json"
            )
        values[name] = tuple(value) if isinstance(value, list) else value
    for name in ("chunk_length", "num_views"):
        if type(values[name]) is not int or values[name] < 1:
            raise CheckpointError(f"{name} is {values[name]!r}; set a whole number of at least 1")
    return FamilyConfig(**values)
