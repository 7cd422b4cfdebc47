# SPDX-License-Identifier: Apache-2.0
"""Writes a model as a checkpoint folder in the release format: the inverse of `openvla.checkpoint.load`."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from specprune_ros.openvla.config import ModelConfig
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.weight_map import DECODER, LAYER_PARTS, TOWERS
from training.tokenizer import PAD, empty_token_id

TIMM_NAMES = ("vit_small_reg_of_our_own", "vit_small_siglip_of_our_own")


def export(
    model: OpenVLA, tokenizer: Tokenizer, statistics: dict[str, Any], folder: Path, step: int, dtype: torch.dtype
) -> None:
    """Write the folder anew, as a whole or not at all. `dtype`: of all weights."""
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in _weights(model).items()}
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    for name, state in _heads(model).items():
        tensors = {f"module.{key}": tensor.detach().to("cpu", dtype).clone() for key, tensor in state.items()}
        torch.save(tensors, partial / f"{name}--{step}_checkpoint.pt")
    _write_json(partial / "config.json", _config(model.config, empty_token_id(tokenizer)))
    _write_json(partial / "dataset_statistics.json", statistics)
    _write_json(partial / "preprocessor_config.json", _preprocessor(model.config))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": PAD}
    _write_json(partial / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    tokenizer.save(str(partial / "tokenizer.json"))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _weights(model: OpenVLA) -> dict[str, Tensor]:
    """All weights but the heads, by their release names."""
    weights: dict[str, Tensor] = {}
    for index, prefix in enumerate(TOWERS):
        weights |= {f"{prefix}{name}": tensor for name, tensor in _tower(model, index).items()}
    weights |= {f"projector.{name}": tensor for name, tensor in model.projector.state_dict().items()}
    for name, tensor in model.decoder.state_dict().items():
        weights |= {f"{DECODER}{key}": value for key, value in _decoder_parts(name, tensor).items()}
    return weights


def _tower(model: OpenVLA, index: int) -> dict[str, Tensor]:
    """A tower's weights, with what its release has and ours leaves out: the last block, the final norm, LayerScale."""
    config = model.config.towers[index]
    state = model.towers[index].state_dict()
    last = f"blocks.{config.depth - 1}."
    state |= {
        name.replace(last, f"blocks.{config.depth}."): torch.zeros_like(tensor)
        for name, tensor in state.items()
        if name.startswith(last)
    }
    weights = {_tower_name(name): tensor for name, tensor in state.items()}
    weights |= {"norm.weight": torch.ones(config.width), "norm.bias": torch.zeros(config.width)}
    if config.num_registers:
        for block in range(config.depth + 1):
            weights |= {f"blocks.{block}.ls{i}.scale_factor": torch.ones(config.width) for i in (1, 2)}
    return weights


def _tower_name(name: str) -> str:
    for part in ("qkv", "proj"):
        name = name.replace(f".{part}.", f".attn.{part}.")
    for part in ("fc1", "fc2"):
        name = name.replace(f".{part}.", f".mlp.{part}.")
    return name.replace("patch_embed.", "patch_embed.proj.")


def _decoder_parts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A weight of the decoder, cut up where ours is fused."""
    if not name.startswith("layers."):
        return {name: tensor}
    _, number, ours = name.split(".", 2)
    return {
        f"layers.{number}.{release}": tensor.chunk(slot.parts)[slot.part]
        for release, slot in LAYER_PARTS.items()
        if slot.name == ours
    }


def _heads(model: OpenVLA) -> dict[str, dict[str, Tensor]]:
    head = {}
    for name, tensor in model.action_head.state_dict().items():
        name = name.replace("blocks.", "mlp_resnet_blocks.").replace(".linear.", ".ffn.1.").replace(".norm.", ".ffn.0.")
        head["model." + name.replace("norm1.", "layer_norm1.").replace("norm2.", "layer_norm2.")] = tensor
    return {"action_head": head, "proprio_projector": dict(model.proprio_projector.state_dict())}


def _config(config: ModelConfig, empty_token: int) -> dict[str, Any]:
    decoder = config.decoder
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "model_type": "openvla",
        "use_fused_vision_backbone": True,
        "timm_model_ids": list(TIMM_NAMES),
        "image_sizes": [config.image_size] * 2,
        "image_resize_strategy": "resize-naive",
        "vision_num_heads": [tower.num_heads for tower in config.towers],
        "empty_token_id": empty_token,
        "text_config": {
            "model_type": "llama",
            "vocab_size": decoder.vocab_size,
            "hidden_size": decoder.hidden_size,
            "intermediate_size": decoder.intermediate_size,
            "num_hidden_layers": decoder.num_layers,
            "num_attention_heads": decoder.num_heads,
            "rms_norm_eps": decoder.rms_norm_eps,
            "rope_theta": decoder.rope_theta,
        },
    }


def _preprocessor(config: ModelConfig) -> dict[str, Any]:
    return {
        "image_processor_type": "PrismaticImageProcessor",
        "use_fused_vision_backbone": True,
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, config.image_size, config.image_size]] * 2,
        "means": [list(tower.mean) for tower in config.towers],
        "stds": [list(tower.std) for tower in config.towers],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
