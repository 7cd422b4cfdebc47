"""Loading a checkpoint folder in the release format: config.json, safetensors, heads, statistics, tokenizer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from specprune_ros.errors import CheckpointError
from specprune_ros.free_memory import available_bytes
from specprune_ros.openvla.config import DIFFUSION, EMPTY_TOKEN_ID, DiffusionSteps, diffusion_steps
from specprune_ros.openvla.family import Fact, FamilyConfig, facts, family_config
from specprune_ros.openvla.files import Fields, read_json
from specprune_ros.openvla.film_towers import TOWERS, FilmTowers
from specprune_ros.openvla.image_config import image_size, pixel_scales
from specprune_ros.openvla.lora import LoraWeights
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.model_sizes import model_config
from specprune_ros.openvla.prompt import PromptTokenizer
from specprune_ros.openvla.statistics import Normalizer, choose_key, normalizer, read_statistics
from specprune_ros.openvla.variant import Variant, identify
from specprune_ros.openvla.weight_containers import read_state
from specprune_ros.openvla.weight_files import WeightFiles, Weights
from specprune_ros.openvla.weight_map import COMPONENTS, fill

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

    `overrides` are values of `FamilyConfig`, and `num_diffusion_steps` and `num_diffusion_steps_train`, that win over
    config.json and `families.yaml`. `base_checkpoint`: the folder that an un-merged LoRA adapter was trained from.
    `prepare` may change the model while it is on the meta device: put in layers that keep their weights in another
    format.
    Raises CheckpointError, one line that says what is wrong and how to mend it.
    """
    folder = Path(folder).expanduser()
    target, torch_dtype = _device(device), _dtype(dtype)
    variant = identify(folder, Path(base_checkpoint).expanduser() if base_checkpoint else None)
    raw = read_json(variant.weights / "config.json")
    fields = Fields(raw, f"{variant.weights}/config.json")
    _refuse(fields)

    given = overrides or {}

    statistics = read_statistics(folder, raw)
    key = choose_key(statistics, unnorm_key)
    found = facts(key, raw, given)
    family = family_config(key, raw, given)
    norm = normalizer(statistics, key, family.proprio_normalization, variant.proprio)
    tokenizer = PromptTokenizer(folder, fields.count("empty_token_id", EMPTY_TOKEN_ID, least=0))

    weights = _weights(variant)
    components = {name: read_state(variant.components[name]) for name in COMPONENTS if name in variant.components}
    shapes = {name: {key: tuple(t.shape) for key, t in state.items()} for name, state in components.items()}
    pixels = pixel_scales(folder, image_size(fields))
    steps = _diffusion_steps(variant, raw, given)
    config = model_config(fields, pixels, weights.shapes, shapes, variant, norm, family, steps)
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
    fill(model, weights, components)
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


def _weights(variant: Variant) -> Weights:
    """The model's weights: those of the folder, with an un-merged adapter, with the towers of OFT+."""
    weights: Weights = WeightFiles(variant.weights)
    if variant.adapter:
        weights = LoraWeights(weights, variant.adapter, skip=TOWERS if variant.film else "")
    if variant.film:
        adapter = variant.adapter or variant.leftover_adapter
        weights = FilmTowers(weights, variant.components["vision_backbone"], adapter)
    return weights


def _diffusion_steps(variant: Variant, raw: dict[str, Any], given: dict[str, Any]) -> DiffusionSteps:
    if variant.head == DIFFUSION:
        return diffusion_steps(raw, given)
    for name in ("num_diffusion_steps", "num_diffusion_steps_train"):
        if given.get(name) is not None:
            raise CheckpointError(
                f"{name} is {given[name]}, but {variant.folder} has the {variant.head} head; leave it out"
            )
    return DiffusionSteps()


def _check_memory(model: OpenVLA, device: torch.device) -> None:
    needed = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    if needed > free:
        raise CheckpointError(
            f"the weights need {needed / 1e9:.1f} GB in {model.dtype} but {device} has {free / 1e9:.1f} GB free; "
            "use bfloat16, another device, or end other programs"
        )
