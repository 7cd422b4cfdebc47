# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint folder in the release format: config.json, safetensors, heads, statistics, tokenizer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from specprune_ros.errors import CheckpointError
from specprune_ros.free_memory import available_bytes
from specprune_ros.openvla.contents import read_contents
from specprune_ros.openvla.family import Fact, FamilyConfig
from specprune_ros.openvla.files import expanded
from specprune_ros.openvla.merged_adapter import check_presence
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.prompt import PromptTokenizer
from specprune_ros.openvla.statistics import Normalizer
from specprune_ros.openvla.weight_map import check_places, fill

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
    precision: str = "native",
) -> Checkpoint:
    """Load a checkpoint folder straight to `device` in `dtype`.

    `overrides` are values of `FamilyConfig`, and `num_diffusion_steps` and `num_diffusion_steps_train`, that win over
    config.json and `families.yaml`. `base_checkpoint`: the folder that an un-merged LoRA adapter was trained from.
    `prepare` may change the model while it is on the meta device: put in layers that keep their weights in another
    format. `precision` is the name of that format, which a folder of quantised weights has to have.
    Raises CheckpointError, one line that says what is wrong and how to fix it.
    """
    folder = expanded(folder)
    target, torch_dtype = _device(device), _dtype(dtype)
    base = expanded(base_checkpoint) if base_checkpoint else None
    contents = read_contents(folder, unnorm_key, overrides or {}, base)
    quantized = contents.variant.quantized
    if quantized:
        quantized.check(precision)
    with torch.device("meta"):
        model = OpenVLA(contents.config).to(torch_dtype)
        check_places(model, contents.weights, contents.components)  # before memory and minutes are spent
        if prepare:
            prepare(model)
        if quantized:
            quantized.check_places(model)
    if contents.variant.leftover_adapter and not quantized:
        check_presence(contents.weights, contents.variant.leftover_adapter)
    _check_memory(model, target)
    _allocate(model, target)
    model.eval()
    if quantized:
        quantized.fill(model)
    else:
        fill(model, contents.weights, contents.components)
    return Checkpoint(
        model, contents.tokenizer, contents.normalizer, contents.family, contents.facts, contents.unnorm_key
    )


def _allocate(model: OpenVLA, device: torch.device) -> None:
    """Memory for the weights of a model on the meta device. `to_empty` does so too, but imports sympy to say how."""
    for part in model.modules():
        for name, weight in part.named_parameters(recurse=False):
            empty = torch.empty(weight.shape, dtype=weight.dtype, device=device)
            setattr(part, name, nn.Parameter(empty, requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


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
                f"device '{name}' is not available: torch sees no CUDA GPU; use device cpu or fix the driver"
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


def _check_memory(model: OpenVLA, device: torch.device) -> None:
    needed = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    if needed > free:
        raise CheckpointError(
            f"the weights need {needed / 1e9:.1f} GB in {model.dtype} but {device} has {free / 1e9:.1f} GB free; "
            "use bfloat16, another device, or end other programs"
        )
