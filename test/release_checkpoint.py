# SPDX-License-Identifier: Apache-2.0
"""Synthetic checkpoints in the release format, with random weights of any size."""

import atexit
import functools
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

TINY = Path(__file__).parent / "data" / "tiny_oft"
TOKENS = 462  # in the tiny tokenizer; the last one stands for Llama-2's lone "▁"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a synthetic model; tower fields are (DINOv2, SigLIP)."""

    widths: tuple[int, int] = (24, 32)
    depths: tuple[int, int] = (3, 3)
    heads: tuple[int, int] = (2, 4)
    mlp_widths: tuple[int, int] = (96, 83)
    registers: int = 4
    image_size: int = 56
    hidden: int = 32
    inner: int = 88
    layers: int = 2
    decoder_heads: int = 4
    action_dim: int = 7
    proprio_dim: int = 8
    patch_size: int = 14


def config(sizes: Sizes, **changes) -> dict:
    """config.json of the release, with the keys that small checkpoints need on top."""
    return {
        "model_type": "openvla",
        "use_fused_vision_backbone": True,
        "image_sizes": [sizes.image_size] * 2,
        "vision_num_heads": list(sizes.heads),
        "empty_token_id": TOKENS - 1,
        "text_config": {
            "model_type": "llama",
            "vocab_size": TOKENS,
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.inner,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.decoder_heads,
        },
        **changes,
    }


def joint_facts(action_dim: int) -> dict:
    """What config.json has to say of a robot that no family knows: every action is a joint's position."""
    return {
        "chunk_length": 25,
        "num_views": 3,
        "center_crop": True,
        "proprio_normalization": "bounds",
        "action_space": "absolute_joint",
        "action_names": [f"joint_{i}" for i in range(action_dim)],
        "action_units": ["rad"] * action_dim,
    }


def statistics(action_dim: int = 7, proprio_dim: int = 8, key: str = "libero_spatial_no_noops") -> dict:
    """dataset_statistics.json with one key; the last action dimension (gripper) is not normalised."""
    groups = {}
    for group, size in (("action", action_dim), ("proprio", proprio_dim)):
        groups[group] = {
            "q01": [-0.5 - 0.1 * i for i in range(size)],
            "q99": [0.5 + 0.1 * i for i in range(size)],
            "min": [-1.0 - 0.1 * i for i in range(size)],
            "max": [1.0 + 0.1 * i for i in range(size)],
        }
    groups["action"]["mask"] = [True] * (action_dim - 1) + [False]
    return {key: groups}


def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, Tensor]:
    weights = {f"{name}.weight": torch.randn(outputs, inputs) / inputs**0.5}
    return weights | ({f"{name}.bias": torch.randn(outputs) / 10} if bias else {})


def norm(name: str, width: int, bias: bool = True) -> dict[str, Tensor]:
    weights = {f"{name}.weight": 1 + torch.randn(width) / 10}
    return weights | ({f"{name}.bias": torch.randn(width) / 10} if bias else {})


def tower_weights(sizes: Sizes, index: int) -> dict[str, Tensor]:
    """One vision tower under its release names, with the parts that nobody uses."""
    prefix = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.")[index]
    width, mlp_width, patch = sizes.widths[index], sizes.mlp_widths[index], sizes.patch_size
    weights = {
        "patch_embed.proj.weight": torch.randn(width, 3, patch, patch) / 24,
        "patch_embed.proj.bias": torch.randn(width) / 10,
        "pos_embed": torch.randn(1, (sizes.image_size // patch) ** 2, width) / 10,
        **norm("norm", width),
    }
    for block in range(sizes.depths[index]):
        name = f"blocks.{block}"
        weights |= norm(f"{name}.norm1", width) | norm(f"{name}.norm2", width)
        weights |= linear(f"{name}.attn.qkv", 3 * width, width) | linear(f"{name}.attn.proj", width, width)
        weights |= linear(f"{name}.mlp.fc1", mlp_width, width) | linear(f"{name}.mlp.fc2", width, mlp_width)
        if index == 0:
            weights |= {f"{name}.ls{i}.scale_factor": torch.randn(width) for i in (1, 2)}
    if index == 0:
        weights["cls_token"] = torch.randn(1, 1, width)
        weights["reg_token"] = torch.randn(1, sizes.registers, width)
    else:
        weights |= linear("attn_pool.q", width, width)
    return {prefix + name: tensor for name, tensor in weights.items()}


def decoder_weights(sizes: Sizes) -> dict[str, Tensor]:
    """The Llama decoder under its release names, with the unused `lm_head`."""
    hidden, inner = sizes.hidden, sizes.inner
    weights = {"model.embed_tokens.weight": torch.randn(TOKENS, hidden), "lm_head.weight": torch.randn(TOKENS, hidden)}
    weights |= norm("model.norm", hidden, bias=False)
    for layer in range(sizes.layers):
        name = f"model.layers.{layer}"
        weights |= norm(f"{name}.input_layernorm", hidden, bias=False)
        weights |= norm(f"{name}.post_attention_layernorm", hidden, bias=False)
        for part in "qkvo":
            weights |= linear(f"{name}.self_attn.{part}_proj", hidden, hidden, bias=False)
        for part in ("gate", "up"):
            weights |= linear(f"{name}.mlp.{part}_proj", inner, hidden, bias=False)
        weights |= linear(f"{name}.mlp.down_proj", hidden, inner, bias=False)
    return {f"language_model.{name}": tensor for name, tensor in weights.items()}


def projector_weights(sizes: Sizes) -> dict[str, Tensor]:
    inner = 2 * sizes.hidden
    weights = linear("projector.fc1", inner, sum(sizes.widths))
    return weights | linear("projector.fc2", sizes.hidden, inner) | linear("projector.fc3", sizes.hidden, sizes.hidden)


def random_weights(sizes: Sizes) -> dict[str, Tensor]:
    return tower_weights(sizes, 0) | tower_weights(sizes, 1) | projector_weights(sizes) | decoder_weights(sizes)


def random_heads(sizes: Sizes) -> dict[str, dict[str, Tensor]]:
    """State dicts of the action head and the proprio projector."""
    hidden, width, inputs = sizes.hidden, 16, sizes.action_dim * sizes.hidden
    head = norm("layer_norm1", inputs) | linear("fc1", width, inputs)
    for block in range(2):
        head |= norm(f"mlp_resnet_blocks.{block}.ffn.0", width) | linear(
            f"mlp_resnet_blocks.{block}.ffn.1", width, width
        )
    head |= norm("layer_norm2", width) | linear("fc2", sizes.action_dim, width)
    return {
        "action_head": {f"model.{name}": tensor for name, tensor in head.items()},
        "proprio_projector": linear("fc1", hidden, sizes.proprio_dim) | linear("fc2", hidden, hidden),
    }


def write_heads(
    folder: Path, heads: dict[str, dict[str, Tensor]], step: int | str = 100, prefix: str = "module."
) -> None:
    for name, state in heads.items():
        torch.save({prefix + key: tensor for key, tensor in state.items()}, folder / f"{name}--{step}_checkpoint.pt")


def write_shards(folder: Path, weights: dict[str, Tensor], count: int) -> None:
    """`count` shards and their index."""
    names = sorted(weights)
    shards = {f"model-{i + 1:05d}-of-{count:05d}.safetensors": names[i::count] for i in range(count)}
    for shard, keys in shards.items():
        save_file({key: weights[key] for key in keys}, folder / shard)
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_checkpoint(
    folder: Path, sizes: Sizes, weights: dict[str, Tensor] | None = None, dtype: torch.dtype = torch.float32, **changes
) -> Path:
    """A whole checkpoint folder, single file; `changes` go to config.json. Returns the folder.

    Seven action dimensions are LIBERO's, known by the name of the statistics; any other number is an arm of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = {} if sizes.action_dim == Sizes.action_dim else joint_facts(sizes.action_dim)
    (folder / "config.json").write_text(json.dumps(config(sizes, **(facts | changes))))
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics(sizes.action_dim, sizes.proprio_dim)))
    shutil.copy(TINY / "tokenizer.json", folder)
    weights = random_weights(sizes) if weights is None else weights
    save_file({name: tensor.to(dtype) for name, tensor in weights.items()}, folder / "model.safetensors")
    write_heads(folder, random_heads(sizes))
    return folder


@functools.cache
def light_checkpoint() -> Path:
    """For tests in which inferences only have to happen: TINY's statistics, and a model of 16 patches a view.

    An inference costs a fifth of TINY's. The folder is there until this process ends.
    """
    folder = Path(tempfile.mkdtemp(prefix="light_checkpoint_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_checkpoint(folder, Sizes(layers=8))
    shutil.copy(TINY / "dataset_statistics.json", folder)
    return folder
