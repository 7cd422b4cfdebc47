# SPDX-License-Identifier: Apache-2.0
"""Sizes of the model and settings of its training, from a YAML file."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from specprune_ros.errors import ConfigError
from specprune_ros.openvla.config import DecoderConfig, ModelConfig, TowerConfig
from specprune_ros.openvla.image_config import HALF, IMAGENET
from specprune_ros.parameters import check, from_mapping, parameter

ACTION_DIM, PROPRIO_DIM, CHUNK_LENGTH, NUM_VIEWS = 7, 8, 8, 2  # LIBERO
HEAD_BLOCKS = 2
VOCABULARY = 512  # more than LIBERO's words need; those that its instructions leave over are never used


@dataclass(frozen=True)
class Sizes:
    """The model's geometry; names as in `TowerConfig` and `DecoderConfig`."""

    image_size: int = parameter(112, "side of the views", minimum=28, unit="px")
    patch_size: int = parameter(14, "side of a patch", minimum=1, unit="px")
    tower_width: int = parameter(128, "width of both towers", minimum=8)
    tower_depth: int = parameter(4, "blocks of both towers that run", minimum=1)
    tower_heads: int = parameter(4, "attention heads of both towers", minimum=1)
    registers: int = parameter(4, "register tokens of the first tower", minimum=1)
    projector_width: int = parameter(512, "inner width of the patch projector", minimum=8)
    hidden_size: int = parameter(192, "width of the decoder", minimum=8)
    inner_size: int = parameter(512, "inner width of the decoder's feed-forward layers", minimum=8)
    num_layers: int = parameter(12, "layers of the decoder; pruning needs them deep", minimum=3)
    num_heads: int = parameter(6, "attention heads of the decoder", minimum=1)
    head_width: int = parameter(256, "width of the action head", minimum=8)

    def __post_init__(self) -> None:
        check(self, "sizes")
        for name, heads, per in (("tower_width", "tower_heads", 1), ("hidden_size", "num_heads", 2)):
            if getattr(self, name) % (per * getattr(self, heads)):
                raise ConfigError(f"sizes.{name} = {getattr(self, name)} does not divide among sizes.{heads}")
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"sizes.image_size = {self.image_size} is not a multiple of sizes.patch_size = {self.patch_size}"
            )

    def model(self) -> ModelConfig:
        grid = self.image_size // self.patch_size
        towers = [
            TowerConfig(
                width=self.tower_width,
                depth=self.tower_depth,
                num_heads=self.tower_heads,
                mlp_width=4 * self.tower_width,
                patch_size=self.patch_size,
                num_patches=grid * grid,
                num_registers=registers,
                mean=mean,
                std=std,
            )
            for registers, (mean, std) in ((self.registers, IMAGENET), (0, HALF))
        ]
        return ModelConfig(
            towers=(towers[0], towers[1]),
            decoder=DecoderConfig(VOCABULARY, self.hidden_size, self.inner_size, self.num_layers, self.num_heads),
            image_size=self.image_size,
            projector_width=self.projector_width,
            action_dim=ACTION_DIM,
            proprio_dim=PROPRIO_DIM,
            chunk_length=CHUNK_LENGTH,
            num_views=NUM_VIEWS,
            head_width=self.head_width,
            num_head_blocks=HEAD_BLOCKS,
        )


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, on what."""

    seed: int = parameter(0, "of weights, batches and crops", minimum=0)
    batch_size: int = parameter(32, "samples a step", minimum=1)
    localization_steps: int = parameter(4000, "steps of the towers alone, before the cloning", minimum=0)
    cloning_steps: int = parameter(40000, "steps of behaviour cloning", minimum=1)
    localization_weight: float = parameter(0.5, "of the localisation loss while cloning", minimum=0.0)
    goal_weight: float = parameter(0.5, "of the goal's error while cloning", minimum=0.0)
    grounding_weight: float = parameter(0.0, "of the loss on the instruction's attention while cloning", minimum=0.0)
    dropping_share: float = parameter(
        0.0, "share of the cloning steps in which patches are dropped", minimum=0.0, maximum=1.0
    )
    learning_rate: float = parameter(5e-4, "at its highest", minimum=0.0)
    warm_up_steps: int = parameter(500, "steps until then, in both phases", minimum=1)
    weight_decay: float = parameter(0.01, "of AdamW, on matrices", minimum=0.0)
    precision: str = parameter(
        "auto", "auto: bfloat16 autocast where it is faster", choices=("auto", "float32", "bfloat16")
    )
    held_out_share: float = parameter(0.05, "share of the episodes kept for validation", minimum=0.0, maximum=0.5)
    validate_every: int = parameter(500, "steps between validations", minimum=1)
    save_every: int = parameter(1000, "steps between checkpoints", minimum=1)

    def __post_init__(self) -> None:
        check(self, "schedule")


@dataclass(frozen=True)
class Settings:
    sizes: Sizes
    schedule: Schedule


def read_settings(path: Path, changes: dict[str, Any] | None = None) -> Settings:
    """Settings from a YAML file; `changes` (name -> value) win. Raises ConfigError that names what is wrong."""
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} cannot be read ({' '.join(str(error).split())}); give a file like nano.yaml"
        ) from None
    unknown = set(raw) - {"sizes", "schedule"}
    if unknown:
        raise ConfigError(f"{path}: {', '.join(sorted(unknown))} is not a group; known: schedule, sizes")
    groups = {"sizes": dict(raw.get("sizes") or {}), "schedule": dict(raw.get("schedule") or {})}
    for name, value in (changes or {}).items():
        group = "sizes" if name in {field.name for field in fields(Sizes)} else "schedule"
        groups[group][name] = value
    return Settings(
        from_mapping(Sizes, groups["sizes"], "sizes"), from_mapping(Schedule, groups["schedule"], "schedule")
    )
