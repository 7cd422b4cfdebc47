"""Loading a checkpoint folder in the release format: config.json, safetensors, heads, statistics, tokenizer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from specprune_ros.errors import CheckpointError
from specprune_ros.free_memory import available_bytes
from specprune_ros.openvla.config import EMPTY_TOKEN_ID
from specprune_ros.openvla.family import Fact, FamilyConfig, facts, family_config
from specprune_ros.openvla.files import Fields, read_json
from specprune_ros.openvla.image_config import image_size, pixel_scales
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.model_sizes import model_config, shapes_of
from specprune_ros.openvla.prompt import PromptTokenizer
from specprune_ros.openvla.statistics import Normalizer, choose_key, normalizer, read_statistics
from specprune_ros.openvla.variant import L1, Variant, identify
from specprune_ros.openvla.weight_containers import read_state
from specprune_ros.openvla.weight_files import WeightFiles
from specprune_ros.openvla.weight_map import fill

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint."""

    model: OpenVLA
    tokenizer: PromptTokenizer
    normalizer: Normalizer
    family: FamilyConfig
    facts: dict[str, Fact]  # of `family`: where each was read, or what it was assumed from
    unnorm_key: str


def load(
    folder: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    unnorm_key: str | None = None,
    overrides: dict[str, Any] | None = None,
    base_checkpoint: str | Path | None = None,
    prepare: Callable[[OpenVLA], None] | None = None,
) -> Checkpoint:
    """Load a checkpoint folder straight to `device` in `dtype`.

    `overrides` are values of `FamilyConfig` that win over config.json and `families.yaml`. `prepare` may change the
    model while it is on the meta device: put in layers that keep their weights in another format.
    Raises CheckpointError, one line that says what is wrong and how to mend it.
    """
    folder = Path(folder).expanduser()
    target, torch_dtype = _device(device), _dtype(dtype)
    variant = identify(folder, Path(base_checkpoint).expanduser() if base_checkpoint else None)
    raw = read_json(variant.weights / "config.json")
    fields = Fields(raw, f"{variant.weights}/config.json")
    _refuse(variant, fields)

    statistics = read_statistics(folder, raw)
    key = choose_key(statistics, unnorm_key)
    found = facts(key, raw, overrides or {})
    family = family_config(key, raw, overrides or {})
    norm = normalizer(statistics, key, family.proprio_normalization)
    tokenizer = PromptTokenizer(folder, fields.count("empty_token_id", EMPTY_TOKEN_ID, least=0))

    weights = WeightFiles(folder)
    head = {key.removeprefix("model."): value for key, value in read_state(variant.components["action_head"]).items()}
    proprio = read_state(variant.components["proprio_projector"])
    shapes = weights.shapes | shapes_of(head, "action_head.") | shapes_of(proprio, "proprio_projector.")
    pixels = pixel_scales(folder, image_size(fields))
    config = model_config(fields, pixels, shapes, norm, family)
    if tokenizer.max_token_id >= config.decoder.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has token {tokenizer.max_token_id} but vocab_size is "
            f"{config.decoder.vocab_size}; copy this checkpoint's tokenizer.json or set empty_token_id in config.json"
        )

    with torch.device("meta"):
        model = OpenVLA(config).to(torch_dtype)
        if prepare:
            prepare(model)
    _check_memory(model, target)
    model = model.to_empty(device=target).eval().requires_grad_(False)
    fill(model, weights, head, proprio)
    return Checkpoint(model, tokenizer, norm, family, found, key)


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


def auto_dtype(device: str) -> str:
    """The fastest format that loses nothing: bfloat16 on a GPU that computes in it, float32 everywhere else.

    Older GPUs (before Ampere) only emulate bfloat16, which is slower than float32.
    """
    if not device.startswith("cuda"):
        return "float32"
    with torch.cuda.device(_device(device)):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise CheckpointError(f"dtype '{name}' is not supported; use one of: {', '.join(DTYPES)}")
    return DTYPES[name]


def _refuse(variant: Variant, config: Fields) -> None:
    """Raise CheckpointError for another model, and for a variant that the model cannot be."""
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
    if variant.film or variant.head != L1 or not variant.proprio or variant.adapter:
        raise CheckpointError(f"{variant.folder} is {variant}; only the L1 head with plain towers is supported")


def _check_memory(model: OpenVLA, device: torch.device) -> None:
    needed = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    if needed > free:
        raise CheckpointError(
            f"the weights need {needed / 1e9:.1f} GB in {model.dtype} but {device} has {free / 1e9:.1f} GB free; "
            "use bfloat16, another device, or end other programs"
        )
