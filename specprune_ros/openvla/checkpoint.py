"""Loading a checkpoint folder in the release format: config.json, safetensors, heads, statistics, tokenizer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

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

TOWER_NAMES = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.")
RELEASE_HEADS = {1024: 16, 1152: 16}  # attention heads by width: DINOv2 ViT-L/14, SigLIP so400m/14
MAPPED_BYTES = 1 << 29  # a file is mapped anew after this many bytes, which keeps its pages out of peak memory

LAYER_PARTS = {
    "input_layernorm.weight": "input_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "self_attn.o_proj.weight": "o_proj.weight",
    "mlp.down_proj.weight": "down_proj.weight",
}
FUSED_LAYER_PARTS = {  # release name -> (our matrix, which of its equal parts)
    "self_attn.q_proj.weight": ("qkv_proj.weight", 0, 3),
    "self_attn.k_proj.weight": ("qkv_proj.weight", 1, 3),
    "self_attn.v_proj.weight": ("qkv_proj.weight", 2, 3),
    "mlp.gate_proj.weight": ("gate_up_proj.weight", 0, 2),
    "mlp.up_proj.weight": ("gate_up_proj.weight", 1, 2),
}
UNUSED = re.compile(r"language_model\.lm_head\.|\.attn_pool\.|featurizer\.norm\.|rotary_emb\.inv_freq")


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
    action_dim = len(statistics[key].get("action", {}).get("q01", ()))
    family = family_config(key, raw, overrides or {}, action_dim)
    norm = normalizer(statistics, key, family.proprio_normalization)

    weights = WeightFiles(folder)
    head = _read_head(folder, "action_head")
    proprio = _read_head(folder, "proprio_projector")
    config = _model_config(raw, weights.shapes, head, proprio, norm, family)
    _check_memory(config, weights.shapes, target, torch_dtype)

    model = _empty_model(config, target, torch_dtype)
    _fill(model, weights, head, proprio)
    tokenizer = PromptTokenizer(folder, raw.get("empty_token_id", EMPTY_TOKEN_ID))
    return Checkpoint(model, tokenizer, norm, family, key)


class WeightFiles:
    """The safetensors files of a checkpoint, single or sharded: shapes first, tensors when asked for."""

    def __init__(self, folder: Path):
        self._folder = folder
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        if index.exists():
            names = sorted(set(read_json(index).get("weight_map", {}).values()))
        elif single.exists():
            names = [single.name]
        else:
            raise CheckpointError(
                f"{folder} has no model.safetensors and no model.safetensors.index.json; copy the weights"
            )
        self._keys: dict[str, list[str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name in names:
            with self._open(name) as file:
                self._keys[name] = list(file.keys())
                for key in self._keys[name]:
                    self.shapes[key] = tuple(file.get_slice(key).get_shape())

    def _open(self, name: str) -> Any:
        path = self._folder / name
        if not path.is_file():
            raise CheckpointError(f"weight file {path} is missing; copy the whole checkpoint folder")
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a complete safetensors file ({error}); copy the file again") from None

    def tensors(self, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of the wanted weights, memory-mapped; a tensor is valid until the next one."""
        for name, keys in self._keys.items():
            pending = [key for key in keys if key in wanted]
            while pending:
                mapped = 0
                with self._open(name) as file:
                    while pending and mapped < MAPPED_BYTES:
                        tensor = file.get_tensor(pending[0])
                        mapped += tensor.nbytes
                        yield pending.pop(0), tensor


def _device(device: str) -> torch.device:
    try:
        target = torch.device(device)
    except RuntimeError:
        raise CheckpointError(f"device '{device}' is unknown; use cpu or cuda") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(
            f"device '{device}' is not available: torch sees no CUDA GPU; use device cpu or mend the driver"
        )
    if target.type not in ("cpu", "cuda"):
        raise CheckpointError(f"device '{device}' is not supported; use cpu or cuda")
    return target


def _dtype(dtype: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
    if dtype not in known:
        raise CheckpointError(f"dtype '{dtype}' is not supported; use one of: {', '.join(known)}")
    return known[dtype]


def _refuse_variants(folder: Path, raw: dict[str, Any]) -> None:
    if raw.get("model_type") != "openvla":
        raise CheckpointError(f"{folder}/config.json: model_type is '{raw.get('model_type')}', not 'openvla'")
    if not raw.get("use_fused_vision_backbone", True):
        raise CheckpointError(f"{folder}/config.json: a single vision tower is not supported; only DINOv2 + SigLIP is")
    if list(folder.glob("vision_backbone--*")):
        raise CheckpointError(f"{folder} is an OFT+ checkpoint (FiLM vision backbone); FiLM is not supported")
    if list(folder.glob("noisy_action_projector--*")):
        raise CheckpointError(f"{folder} has a diffusion head; only the L1 regression head is supported")
    if not list(folder.glob("action_head--*")):
        raise CheckpointError(
            f"{folder} has no action_head--*_checkpoint.pt; copy it, or, if the checkpoint predicts discrete action "
            "tokens: only the L1 regression head is supported"
        )
    if not list(folder.glob("proprio_projector--*")):
        raise CheckpointError(f"{folder} has no proprio_projector--*_checkpoint.pt; copy it from the release")


def _read_head(folder: Path, name: str) -> dict[str, Tensor]:
    """State dict of the newest `<name>--<step>_checkpoint.pt`, without the `module.` prefix."""

    def step(path: Path) -> int:
        match = re.search(r"--(\d+)_checkpoint", path.name)
        return int(match[1]) if match else -1

    path = max(folder.glob(f"{name}--*"), key=step)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises whatever the zip or pickle layer does
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a readable state dict ({reason}); copy the file again") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict of tensors; copy the file again")
    state = {key.removeprefix("module.").removeprefix("model."): value for key, value in state.items()}
    if any(key.startswith("noise_predictor.") for key in state):
        raise CheckpointError(f"{path} is a diffusion head; only the L1 regression head is supported")
    return state


def _model_config(
    raw: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    head: dict[str, Tensor],
    proprio: dict[str, Tensor],
    norm: Normalizer,
    family: FamilyConfig,
) -> ModelConfig:
    decoder = decoder_config(raw.get("text_config", {}))
    image_size = int(raw.get("image_sizes", [224])[0])
    first, second = (_tower_config(raw, shapes, i) for i in range(2))
    for i, tower in enumerate((first, second)):
        if (image_size // tower.patch_size) ** 2 != tower.num_patches:
            raise CheckpointError(
                f"config.json: image_sizes {image_size} does not fit the {tower.num_patches} patches of "
                f"{TOWER_NAMES[i]}pos_embed; copy config.json and the weights from the same checkpoint"
            )
    action_dim = norm.action_low.shape[0]
    try:
        head_action_dim, head_width = head["fc2.weight"].shape
        head_input = head["layer_norm1.weight"].shape[0]
        proprio_dim = proprio["fc1.weight"].shape[1]
        projector_width = shapes["projector.fc1.weight"][0]
    except KeyError as error:
        raise CheckpointError(
            f"weight {error} is missing; the checkpoint is incomplete or of an unsupported variant"
        ) from None
    if head_action_dim != action_dim or head_input != action_dim * decoder.hidden_size:
        raise CheckpointError(
            f"the action head has {head_action_dim} action dimensions but the statistics have {action_dim}; "
            "choose an unnorm_key of this robot"
        )
    if proprio_dim != norm.proprio_low.shape[0]:
        raise CheckpointError(
            f"the proprio projector takes {proprio_dim} numbers but the statistics have {norm.proprio_low.shape[0]}; "
            "choose an unnorm_key of this robot"
        )
    blocks = {key.split(".")[1] for key in head if key.startswith("mlp_resnet_blocks.")}
    return ModelConfig(
        towers=(first, second),
        decoder=decoder,
        image_size=image_size,
        projector_width=projector_width,
        action_dim=action_dim,
        proprio_dim=proprio_dim,
        chunk_length=family.chunk_length,
        num_views=family.num_views,
        head_width=head_width,
        num_head_blocks=len(blocks),
    )


def _tower_config(raw: dict[str, Any], shapes: dict[str, tuple[int, ...]], index: int) -> TowerConfig:
    prefix = TOWER_NAMES[index]
    try:
        _, num_patches, width = shapes[prefix + "pos_embed"]
        mlp_width = shapes[prefix + "blocks.0.mlp.fc1.weight"][0]
        patch_size = shapes[prefix + "patch_embed.proj.weight"][2]
    except KeyError as error:
        raise CheckpointError(
            f"weight {error} is missing; the checkpoint is incomplete or of an unsupported variant"
        ) from None
    blocks = {int(key[len(prefix) :].split(".")[1]) for key in shapes if key.startswith(prefix + "blocks.")}
    heads = raw.get("vision_num_heads", [RELEASE_HEADS.get(width)] * 2)[index]
    if not heads or width % heads:
        raise CheckpointError(f"the head count of vision tower {index} is unknown; set vision_num_heads in config.json")
    registers = shapes.get(prefix + "reg_token", (1, 0, width))[1]
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if index == 0 else ((0.5,) * 3, (0.5,) * 3)
    return TowerConfig(width, max(blocks), heads, mlp_width, patch_size, num_patches, registers, mean, std)


def _check_memory(
    config: ModelConfig, shapes: dict[str, tuple[int, ...]], device: torch.device, dtype: torch.dtype
) -> None:
    elements = sum(torch.Size(shape).numel() for key, shape in shapes.items() if not UNUSED.search(key))
    needed = elements * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _available_memory()
    if needed > free:
        raise CheckpointError(
            f"the weights need {needed / 1e9:.1f} GB in {dtype} but {device} has {free / 1e9:.1f} GB free; "
            "use bfloat16, another device, or end other programs"
        )


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise CheckpointError("/proc/meminfo has no MemAvailable line; this system is not supported")


def _empty_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> OpenVLA:
    with torch.device("meta"):
        model = OpenVLA(config)
    model = model.to(dtype).to_empty(device=device)
    return model.eval().requires_grad_(False)


def _fill(model: OpenVLA, weights: WeightFiles, head: dict[str, Tensor], proprio: dict[str, Tensor]) -> None:
    """Copy every weight to its place. Raises CheckpointError for a missing weight or a wrong shape."""
    parameters = dict(model.named_parameters())
    unfilled = set(parameters)
    scales: dict[str, Tensor] = {}

    def place(target: str, tensor: Tensor, source: str, part: int = 0, parts: int = 1) -> None:
        if target not in parameters:
            raise CheckpointError(f"weight {source} has no place in this model; the variant is not supported")
        rows = parameters[target].shape[0] // parts
        slot = parameters[target][part * rows : (part + 1) * rows]
        if slot.shape != tensor.shape:
            raise CheckpointError(f"weight {source} has shape {tuple(tensor.shape)}, expected {tuple(slot.shape)}")
        slot.copy_(tensor)
        unfilled.discard(target)

    wanted = {key for key in weights.shapes if not _is_unused(key, model.config)}
    progress = tqdm(weights.tensors(wanted), total=len(wanted), desc="loading weights", unit="tensor", mininterval=0.5)
    for source, tensor in progress:
        tower = next((i for i, prefix in enumerate(TOWER_NAMES) if source.startswith(prefix)), None)
        if tower is not None:
            _place_tower_weight(place, scales, tower, source, tensor)
        elif source.startswith("language_model.model.layers."):
            layer, part = source.removeprefix("language_model.model.layers.").split(".", 1)
            name, *slot = FUSED_LAYER_PARTS.get(part) or (LAYER_PARTS.get(part, part),)
            place(f"decoder.layers.{layer}.{name}", tensor, source, *slot)
        else:
            place(source.replace("language_model.model.", "decoder."), tensor, source)

    for source, tensor in head.items():
        name = source.replace("layer_norm", "norm").replace("mlp_resnet_blocks", "blocks")
        place("action_head." + name.replace("ffn.0", "norm").replace("ffn.1", "linear"), tensor, source)
    for source, tensor in proprio.items():
        place("proprio_projector." + source, tensor, source)
    if unfilled:
        raise CheckpointError(
            f"{len(unfilled)} weights are missing, the first is {min(unfilled)}; the checkpoint is incomplete"
        )
    _fold_layer_scale(parameters, scales)


def _is_unused(key: str, config: ModelConfig) -> bool:
    last_blocks = tuple(
        f"{prefix}blocks.{tower.depth}." for prefix, tower in zip(TOWER_NAMES, config.towers, strict=True)
    )
    return bool(UNUSED.search(key)) or key.startswith(last_blocks)


def _place_tower_weight(place: Any, scales: dict[str, Tensor], tower: int, source: str, tensor: Tensor) -> None:
    name = source.removeprefix(TOWER_NAMES[tower])
    target = f"towers.{tower}."
    if name.endswith((".ls1.scale_factor", ".ls2.scale_factor")):
        scales[target + name] = tensor.clone()
    else:
        name = name.replace("patch_embed.proj", "patch_embed").replace("attn.", "").replace("mlp.", "")
        place(target + name, tensor, source)


def _fold_layer_scale(parameters: dict[str, Any], scales: dict[str, Tensor]) -> None:
    """DINOv2's LayerScale multiplies a linear layer's output, so it is folded into that layer's weight and bias."""
    for name, scale in scales.items():
        block, which = name.removesuffix(".scale_factor").rsplit(".", 1)
        layer = f"{block}.{'proj' if which == 'ls1' else 'fc2'}"
        for kind in ("weight", "bias"):
            parameter = parameters[f"{layer}.{kind}"]
            factor = scale.to(parameter.device, torch.float32)
            scaled = parameter.float() * (factor[:, None] if kind == "weight" else factor)
            parameter.copy_(scaled)
