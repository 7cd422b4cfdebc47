# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint folder holds, read and checked against each other, before any large weight is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.config import (
    DIFFUSION,
    DISCRETE,
    EMPTY_TOKEN_ID,
    DiffusionSteps,
    ModelConfig,
    diffusion_steps,
)
from specprune_ros.openvla.discrete_head import EDGES
from specprune_ros.openvla.family import Fact, FamilyConfig, facts, family_config
from specprune_ros.openvla.files import Fields, read_json
from specprune_ros.openvla.film_towers import FilmTowers
from specprune_ros.openvla.image_config import image_size, pixel_scales
from specprune_ros.openvla.lora import LoraWeights
from specprune_ros.openvla.model_sizes import model_config
from specprune_ros.openvla.prompt import PromptTokenizer
from specprune_ros.openvla.statistics import FILE as STATISTICS_FILE
from specprune_ros.openvla.statistics import Normalizer, choose_key, has_motion, normalizer, read_statistics
from specprune_ros.openvla.variant import Variant, identify, own_config
from specprune_ros.openvla.weight_containers import read_state
from specprune_ros.openvla.weight_files import BACKBONE, Outlines, WeightFiles, Weights
from specprune_ros.openvla.weight_map import COMPONENT_SLOTS


@dataclass(frozen=True, eq=False)
class Contents:
    """A checkpoint but for its weights: `weights` and `components` are read when they are asked for."""

    variant: Variant
    config: ModelConfig
    tokenizer: PromptTokenizer
    normalizer: Normalizer
    family: FamilyConfig
    facts: dict[str, Fact]  # of `family`: where each was read, or what it was assumed from
    unnorm_key: str
    weights: Weights
    components: dict[str, dict[str, Tensor]]  # state dicts, memory-mapped


def read_contents(
    folder: Path, unnorm_key: str | None, overrides: dict[str, Any], base_checkpoint: Path | None
) -> Contents:
    """Everything of a checkpoint that is small. The arguments are those of `checkpoint.load`.

    Raises CheckpointError, one line that says what is wrong and how to fix it.
    """
    variant = identify(folder, base_checkpoint)
    raw = read_json(variant.weights / "config.json")
    fields = Fields(raw, f"{variant.weights}/config.json")
    _refuse(fields)

    own = own_config(variant, raw)
    statistics = read_statistics(folder, own)
    key = choose_key(statistics, unnorm_key)
    if variant.head == DISCRETE:
        _refuse_original(folder, fields, statistics[key], key)
    if variant.proprio and not has_motion(statistics[key], "proprio"):
        raise CheckpointError(
            f"{folder} has a proprio projector, but the proprio of '{key}' in its statistics is all zeros; copy "
            f"{STATISTICS_FILE} of this checkpoint's training run"
        )
    found = facts(key, own, overrides)
    family = family_config(key, own, overrides)
    norm = normalizer(statistics, key, family.proprio_normalization, variant.proprio)
    empty_token_id = Fields(raw | own, fields.where).count("empty_token_id", EMPTY_TOKEN_ID, least=0)
    tokenizer = PromptTokenizer(folder, empty_token_id)

    weights, components = _weights(variant), _components(variant)
    shapes = {name: {key: tuple(t.shape) for key, t in state.items()} for name, state in components.items()}
    pixels = pixel_scales(folder, image_size(fields))
    steps = _diffusion_steps(variant, own, overrides)
    config = model_config(fields, pixels, weights.shapes, shapes, variant, norm, family, steps)
    if tokenizer.max_token_id >= config.decoder.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has token {tokenizer.max_token_id} but vocab_size is "
            f"{config.decoder.vocab_size}; copy this checkpoint's tokenizer.json or set empty_token_id in config.json"
        )
    return Contents(variant, config, tokenizer, norm, family, found, key, weights, components)


def _refuse(config: Fields) -> None:
    """Raise CheckpointError for another model."""
    if config.text("model_type", "") != "openvla":
        raise config.refuse("model_type", 'give the folder of an OpenVLA-OFT checkpoint, whose model_type is "openvla"')
    if not config.flag("use_fused_vision_backbone", True):
        raise config.refuse(
            "use_fused_vision_backbone", "a single vision tower is not supported, only DINOv2 and SigLIP together"
        )
    config.only("timm_override_act_layers", ([None, None],))
    if config.has("quantization_config"):
        raise config.refuse(
            "quantization_config", "only plain weights load; use the checkpoint from before quantisation"
        )


def _refuse_original(folder: Path, config: Fields, statistics: dict[str, Any], key: str) -> None:
    """Raise CheckpointError for a checkpoint of OpenVLA before OFT, which has no heads either.

    It says one token after another, and runs here to no good. Its training read no proprio, and wrote zeros into the
    statistics; that of OFT reads the data's, whatever the head.
    """
    config.only("n_action_bins", (EDGES,))
    if not has_motion(statistics, "proprio"):
        raise CheckpointError(
            f"{folder} has no action_head--*_checkpoint.pt, and the proprio of '{key}' in its statistics is all zeros, "
            "as in checkpoints of OpenVLA before OFT, which is not supported; copy the heads, or fine-tune with "
            "OpenVLA-OFT (discrete tokens of OFT on data without proprio: delete 'proprio' from the statistics)"
        )


def _weights(variant: Variant) -> Weights:
    """The model's weights: those of the folder, with an un-merged adapter, with the towers of OFT+."""
    if variant.quantized:
        return Outlines(variant.quantized.weights)
    weights: Weights = WeightFiles(variant.weights)
    if variant.adapter:
        weights = LoraWeights(weights, variant.adapter, skip=BACKBONE if variant.film else "")
    if variant.film:
        adapter = variant.adapter or variant.leftover_adapter
        weights = FilmTowers(weights, variant.components["vision_backbone"], adapter)
    return weights


def _components(variant: Variant) -> dict[str, dict[str, Tensor]]:
    """State dicts of the components that belong to the weights; of quantised ones outlines on the meta device."""
    if variant.quantized:
        outlines = variant.quantized.components.items()
        return {name: {key: torch.empty(s, device="meta") for key, s in shapes.items()} for name, shapes in outlines}
    return {name: read_state(variant.components[name]) for name in COMPONENT_SLOTS if name in variant.components}


def _diffusion_steps(variant: Variant, told: dict[str, Any], given: dict[str, Any]) -> DiffusionSteps:
    if variant.head == DIFFUSION:
        return diffusion_steps(told, given)
    for name in ("num_diffusion_steps", "num_diffusion_steps_train"):
        if given.get(name) is not None:
            raise CheckpointError(
                f"{name} is {given[name]}, but {variant.folder} has the {variant.head} head; leave it out"
            )
    return DiffusionSteps()
