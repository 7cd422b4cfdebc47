"""Loading a checkpoint folder in the release format: config.json, safetensors, heads, statistics, tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.config import (
    EMPTY_TOKEN_ID,
    FamilyConfig,
    ModelConfig,
    TowerConfig,
    decoder_config,
    family_config,
    read_json,
)
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.prompt import PromptTokenizer
from specprune_ros.openvla.statistics import Normalizer, choose_key, normalizer, read_statistics
from specprune_ros.openvla.weight_files import WeightFiles, read_head
from specprune_ros.openvla.weight_map import TOWERS, fill

RELEASE_HEADS = {1024: 16, 1152: 16}  # attention heads by width: DINOv2 ViT-L/14, SigLIP so400m/14
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint."""

    model: OpenVLA
    tokenizer: PromptTokenizer
    normalizer: Normalizer
    family: FamilyConfig
    unnorm_key: str


def load(
    folder: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    unnorm_key: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> Checkpoint:
    """Load a checkpoint folder straight to `device` in `dtype`.

    `overrides` are values of `FamilyConfig` that win over config.json and `families.yaml`.
    Raises CheckpointError, one line that says what is wrong and how to mend it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint folder {folder} does not exist; give the folder that holds config.json")
    target, torch_dtype = _device(device), _dtype(dtype)
    raw = read_json(folder / "config.json")
    _refuse_variants(folder, raw)

    statistics = read_statistics(folder, raw)
    key = choose_key(statistics, unnorm_key)
    family = family_config(key, raw, overrides or {})
    norm = normalizer(statistics, key, family.proprio_normalization)
    tokenizer = PromptTokenizer(folder, raw.get("empty_token_id", EMPTY_TOKEN_ID))

    weights = WeightFiles(folder)
    head, proprio = read_head(folder, "action_head"), read_head(folder, "proprio_projector")
    if any(name.startswith("noise_predictor.") for name in head):
        raise CheckpointError(f"{folder} has a diffusion head; only the L1 regression head is supported")
    shapes = weights.shapes | _shapes(head, "action_head.") | _shapes(proprio, "proprio_projector.")
    config = _model_config(raw, shapes, norm, family)
    if tokenizer.max_token_id >= config.decoder.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has token {tokenizer.max_token_id} but vocab_size is "
            f"{config.decoder.vocab_size}; copy this checkpoint's tokenizer.json or set empty_token_id in config.json"
        )

    with torch.device("meta"):
        model = OpenVLA(config).to(torch_dtype)
    _check_memory(model, target)
    model = model.to_empty(device=target).eval().requires_grad_(False)
    fill(model, weights, head, proprio)
    return Checkpoint(model, tokenizer, norm, family, key)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise CheckpointError(f"device '{name}' is unknown; use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise CheckpointError(f"device '{name}' is not supported; use cpu or cuda")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise CheckpointError(
                f"device '{name}' is not available: torch sees no CUDA GPU; use device cpu or mend the driver"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise CheckpointError(
                f"device '{name}' does not exist: torch sees {torch.cuda.device_count()} CUDA GPUs, numbered from 0"
            )
    return device


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise CheckpointError(f"dtype '{name}' is not supported; use one of: {', '.join(DTYPES)}")
    return DTYPES[name]


def _refuse_variants(folder: Path, raw: dict[str, Any]) -> None:
    """Raise CheckpointError for what the folder shows to be another model, or to miss a head."""
    if raw.get("model_type") != "openvla":
        raise CheckpointError(
            f"{folder}/config.json has model_type '{raw.get('model_type')}', not 'openvla'; "
            "give the folder of an OpenVLA-OFT checkpoint"
        )
    if not raw.get("use_fused_vision_backbone", True):
        raise CheckpointError(
            f"{folder}/config.json names a single vision tower; only checkpoints with DINOv2 and SigLIP are supported"
        )
    if list(folder.glob("vision_backbone--*")):
        raise CheckpointError(
            f"{folder} is an OFT+ checkpoint (FiLM, vision_backbone--*), which is not supported; "
            "use one that was trained without FiLM"
        )
    if list(folder.glob("noisy_action_projector--*")):
        raise CheckpointError(
            f"{folder} has a diffusion head (noisy_action_projector--*); only the L1 regression head is supported"
        )
    if not list(folder.glob("action_head--*_checkpoint.pt")):
        raise CheckpointError(
            f"{folder} has no action_head--*_checkpoint.pt; copy it, or, if the checkpoint predicts discrete action "
            "tokens, use another: only the L1 regression head is supported"
        )
    if not list(folder.glob("proprio_projector--*_checkpoint.pt")):
        raise CheckpointError(
            f"{folder} has no proprio_projector--*_checkpoint.pt; copy it, or use a checkpoint trained with proprio"
        )


def _shapes(state: dict[str, Tensor], prefix: str) -> Shapes:
    return {prefix + name: tuple(tensor.shape) for name, tensor in state.items()}


def _size(shapes: Shapes, name: str, axis: int) -> int:
    """Length of one axis of a weight."""
    shape = shapes.get(name, ())
    if axis >= len(shape):
        found = f"has shape {shape}" if name in shapes else "is missing"
        raise CheckpointError(f"weight {name} {found}; the checkpoint is incomplete or of an unsupported variant")
    return shape[axis]


def _model_config(raw: dict[str, Any], shapes: Shapes, norm: Normalizer, family: FamilyConfig) -> ModelConfig:
    decoder = decoder_config(raw.get("text_config", {}))
    first, second = _tower_config(raw, shapes, 0), _tower_config(raw, shapes, 1)
    config = ModelConfig(
        towers=(first, second),
        decoder=decoder,
        image_size=int(raw.get("image_sizes", [224])[0]),
        projector_width=_size(shapes, "projector.fc1.weight", 0),
        action_dim=_size(shapes, "action_head.fc2.weight", 0),
        proprio_dim=_size(shapes, "proprio_projector.fc1.weight", 1),
        chunk_length=family.chunk_length,
        num_views=family.num_views,
        head_width=_size(shapes, "action_head.fc2.weight", 1),
        num_head_blocks=len(
            {name.split(".")[2] for name in shapes if name.startswith("action_head.mlp_resnet_blocks")}
        ),
    )
    _check_patches(config)
    _check_dimensions(config, norm, family)
    return config


def _tower_config(raw: dict[str, Any], shapes: Shapes, index: int) -> TowerConfig:
    prefix = TOWERS[index]
    width = _size(shapes, prefix + "pos_embed", 2)
    blocks = {int(name.removeprefix(prefix).split(".")[1]) for name in shapes if name.startswith(prefix + "blocks.")}
    heads = dict(enumerate(raw.get("vision_num_heads", []))).get(index) or RELEASE_HEADS.get(width)
    if not heads or width % heads:
        raise CheckpointError(f"the head count of vision tower {index} is unknown; set vision_num_heads in config.json")
    mean, std = IMAGENET if index == 0 else HALF
    return TowerConfig(
        width=width,
        depth=max(blocks, default=0),
        num_heads=heads,
        mlp_width=_size(shapes, prefix + "blocks.0.mlp.fc1.weight", 0),
        patch_size=_size(shapes, prefix + "patch_embed.proj.weight", 2),
        num_patches=_size(shapes, prefix + "pos_embed", 1),
        num_registers=_size(shapes, prefix + "reg_token", 1) if index == 0 else 0,
        mean=mean,
        std=std,
    )


def _check_patches(config: ModelConfig) -> None:
    for prefix, tower in zip(TOWERS, config.towers, strict=True):
        if (config.image_size // tower.patch_size) ** 2 != tower.num_patches:
            raise CheckpointError(
                f"config.json: image_sizes {config.image_size} does not fit the {tower.num_patches} patches of "
                f"{prefix}pos_embed; copy config.json and the weights from the same checkpoint"
            )


def _check_dimensions(config: ModelConfig, norm: Normalizer, family: FamilyConfig) -> None:
    """The heads, the statistics and the family's names have to speak of the same robot."""
    pairs = (
        ("action head", config.action_dim, "action", len(norm.action_low)),
        ("proprio projector", config.proprio_dim, "proprio", len(norm.proprio_low)),
    )
    for head, of_head, group, of_statistics in pairs:
        if of_head != of_statistics:
            raise CheckpointError(
                f"the {head} has {of_head} {group} dimensions but dataset_statistics.json has {of_statistics}; "
                "choose an unnorm_key of this robot, or copy heads and statistics from the same checkpoint"
            )
    for name in ("action_names", "action_units"):
        entries = len(getattr(family, name))
        if entries != config.action_dim:
            raise CheckpointError(
                f"{name} has {entries} entries but the checkpoint has {config.action_dim} action dimensions; "
                f'set "{name}" in its config.json'
            )


def _check_memory(model: OpenVLA, device: torch.device) -> None:
    needed = sum(parameter.nbytes for parameter in model.parameters())
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _available_memory()
    if needed > free:
        raise CheckpointError(
            f"the weights need {needed / 1e9:.1f} GB in {model.dtype} but {device} has {free / 1e9:.1f} GB free; "
            "use bfloat16, another device, or end other programs"
        )


def _available_memory() -> int:
    """Bytes that the host can give without swapping (Linux)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise CheckpointError("/proc/meminfo has no MemAvailable line; this system is not supported")
