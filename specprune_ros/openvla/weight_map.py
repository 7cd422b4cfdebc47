# SPDX-License-Identifier: Apache-2.0
"""Where each weight of a release checkpoint goes in our model: renamed, fused, and LayerScale folded."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.config import DISCRETE
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.stored_linear import StoredLinear
from specprune_ros.openvla.weight_files import BACKBONE, Outlines, Weights

TOWERS = (f"{BACKBONE}featurizer.", f"{BACKBONE}fused_featurizer.")
DECODER = "language_model.model."
LM_HEAD = "language_model.lm_head."
UNUSED = re.compile(r"\.attn_pool\.|featurizer\.norm\.|rotary_emb\.inv_freq")
FILM = re.compile(r"blocks\.\d+\.(scale|shift)\.")
HEAD_WRAPPER = re.compile(r"^(model|noise_predictor\.mlp_resnet)\.")
LAYER_SCALES = {".ls1.scale_factor": ".proj", ".ls2.scale_factor": ".fc2"}  # and the linear layer before it
OTHER_CHECKPOINT = "config.json and the weights are not of the same checkpoint, or the variant is not supported"


class Slot(NamedTuple):
    """A parameter of our model; or, where weights are fused, the `part`-th of its `parts` equal blocks of rows."""

    name: str
    part: int = 0
    parts: int = 1


LAYER_PARTS = {
    "input_layernorm.weight": Slot("input_norm.weight"),
    "self_attn.q_proj.weight": Slot("qkv_proj.weight", 0, 3),
    "self_attn.k_proj.weight": Slot("qkv_proj.weight", 1, 3),
    "self_attn.v_proj.weight": Slot("qkv_proj.weight", 2, 3),
    "self_attn.o_proj.weight": Slot("o_proj.weight"),
    "post_attention_layernorm.weight": Slot("post_attention_norm.weight"),
    "mlp.gate_proj.weight": Slot("gate_up_proj.weight", 0, 2),
    "mlp.up_proj.weight": Slot("gate_up_proj.weight", 1, 2),
    "mlp.down_proj.weight": Slot("down_proj.weight"),
}


@torch.no_grad()
def fill(model: OpenVLA, weights: Weights, components: dict[str, dict[str, Tensor]]) -> None:
    """Copy every weight to its place. `components`: state dicts by name, of those in COMPONENT_SLOTS.

    Raises CheckpointError for a missing, an unknown or a misshapen weight.
    """
    scales = _layer_scales(model)
    targets: dict[str, Tensor] = dict(model.named_parameters()) | scales
    stored = {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, StoredLinear)}
    shapes = {name: tuple(target.shape) for name, target in targets.items()}
    shapes |= {name: (linear.out_features, linear.in_features) for name, linear in stored.items()}
    missing = {Slot(name, part, _parts(name)) for name in shapes for part in range(_parts(name))}

    def place(source: str, slot: Slot, tensor: Tensor) -> None:
        if not tensor.is_meta and not all(math.isfinite(bound.item()) for bound in tensor.aminmax()):
            raise CheckpointError(
                f"weight {source} holds NaN or Inf: the training diverged or the file is damaged; use an earlier step, "
                "or copy the file again"
            )
        if slot not in missing:
            raise CheckpointError(f"weight {source} has no place in this model; {OTHER_CHECKPOINT}")
        rows, *rest = shapes[slot.name]
        shape = (rows // slot.parts, *rest)
        if shape != tensor.shape:
            raise CheckpointError(f"weight {source} has shape {tuple(tensor.shape)}, not {shape}; {OTHER_CHECKPOINT}")
        if slot.name in stored:
            stored[slot.name].store(tensor, slot.part * shape[0])
        else:
            targets[slot.name].chunk(slot.parts)[slot.part].copy_(tensor)
        missing.remove(slot)

    wanted = {source for source in weights.shapes if not _is_unused(source, model)}
    tensors = weights.tensors(wanted)
    silent = model.device.type == "meta"
    for source, tensor in tqdm(
        tensors, "loading weights", total=len(wanted), unit="tensor", mininterval=0.5, disable=silent
    ):
        place(source, _slot(source), tensor)
    for component, state in components.items():
        for source, tensor in state.items():
            place(
                f"{HEAD_WRAPPER.sub('', source)} of the {component.replace('_', ' ')}",
                COMPONENT_SLOTS[component](source),
                tensor,
            )
    if missing:
        raise CheckpointError(
            f"{len(missing)} weights are missing, the first for {min(missing).name}; copy the whole checkpoint folder"
        )
    if not silent:
        _fold(scales, targets, stored)


def check_places(model: OpenVLA, weights: Weights, components: dict[str, dict[str, Tensor]]) -> None:
    """As `fill`, for a model on the meta device: no number is read. Raises CheckpointError."""
    outlines = {name: {key: value.to("meta") for key, value in state.items()} for name, state in components.items()}
    fill(model, Outlines(weights.shapes), outlines)


def _layer_scales(model: OpenVLA) -> dict[str, Tensor]:
    """Room for the LayerScale factors of the towers that have them: float32, by the name that `_slot` gives."""
    return {
        f"towers.{i}.blocks.{block}{suffix}": torch.empty(tower.width, device=model.device)
        for i, tower in enumerate(model.config.towers)
        if tower.num_registers
        for block in range(tower.depth)
        for suffix in LAYER_SCALES
    }


def _fold(scales: dict[str, Tensor], targets: dict[str, Tensor], stored: dict[str, StoredLinear]) -> None:
    """LayerScale multiplies a linear layer's output, so it is folded into that layer's weight and bias."""
    for name, scale in scales.items():
        suffix = next(suffix for suffix in LAYER_SCALES if name.endswith(suffix))
        layer = name.removesuffix(suffix) + LAYER_SCALES[suffix]
        if f"{layer}.weight" in stored:
            stored[f"{layer}.weight"].scale_rows(scale)
        else:
            targets[f"{layer}.weight"].mul_(scale[:, None])
        targets[f"{layer}.bias"].mul_(scale)


def _parts(name: str) -> int:
    return next((slot.parts for slot in LAYER_PARTS.values() if name.endswith(f".{slot.name}")), 1)


def _is_unused(source: str, model: OpenVLA) -> bool:
    """Also the towers' last blocks: their output is that of the second-to-last."""
    last_blocks = tuple(
        f"{prefix}blocks.{tower.depth}." for prefix, tower in zip(TOWERS, model.config.towers, strict=True)
    )
    if source.startswith(LM_HEAD) and model.config.head != DISCRETE:
        return True
    return bool(UNUSED.search(source)) or source.startswith(last_blocks)


def _slot(source: str) -> Slot:
    for tower, prefix in enumerate(TOWERS):
        if source.startswith(prefix):
            name = source.removeprefix(prefix).replace("patch_embed.proj", "patch_embed")
            if FILM.search(name):
                return Slot(f"film.towers.{tower}." + name.removeprefix("blocks."))
            return Slot(f"towers.{tower}." + name.replace("attn.", "").replace("mlp.", ""))
    if source.startswith(f"{DECODER}layers."):
        layer, part = source.removeprefix(f"{DECODER}layers.").split(".", 1)
        slot = LAYER_PARTS.get(part, Slot(part))
        return slot._replace(name=f"decoder.layers.{layer}.{slot.name}")
    return Slot(source.replace(DECODER, "decoder.").replace(LM_HEAD, "action_head.lm_head."))


def _head_slot(source: str) -> Slot:
    name = HEAD_WRAPPER.sub("", source).replace("layer_norm", "norm").replace("mlp_resnet_blocks", "blocks")
    return Slot("action_head." + name.replace("ffn.0", "norm").replace("ffn.1", "linear"))


COMPONENT_SLOTS: dict[str, Callable[[str], Slot]] = {
    "action_head": _head_slot,
    "noisy_action_projector": lambda source: Slot(f"action_head.noisy_action_projector.{source}"),
    "proprio_projector": lambda source: Slot(f"proprio_projector.{source}"),
}
