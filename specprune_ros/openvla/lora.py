# SPDX-License-Identifier: Apache-2.0
"""LoRA: merging the factors of an adapter into a model's weights, in float32, as they are read."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import Fields, read_json
from specprune_ros.openvla.weight_containers import open_safetensors
from specprune_ros.openvla.weight_files import Weights

ALPHA = 16  # in the reference's training, lora_alpha is the rank, but at most this
FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.(?:\w+\.)?weight")
COPY = re.compile(r"base_model\.model\.(?P<module>.+)\.base_layer\.weight")  # of the base's lm_head, which peft adds
PLAIN = {
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
}


def merged(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """`weight` + scaling * B A in float32: (out, in) of a linear layer, or (out, in, h, w) of a convolution."""
    product = b.flatten(1).float() @ a.flatten(1).float()
    return torch.add(weight.float(), product.view(weight.shape), alpha=scaling)


def default_scaling(rank: int) -> float:
    """lora_alpha / r of the reference's training, for files that do not tell."""
    return min(rank, ALPHA) / rank


def adapter_scaling(adapter: Path) -> float:
    """lora_alpha / r of `adapter_config.json`. Raises CheckpointError for anything but plain LoRA."""
    path = adapter / "adapter_config.json"
    config = read_json(path)
    fields = Fields(config, str(path))
    if fields.text("peft_type", "") != "LORA":
        raise fields.refuse("peft_type", 'only "LORA" is supported')
    for name, plain in PLAIN.items():
        if (config.get(name) or plain) != plain:
            raise CheckpointError(
                f"{path}: {name} is {config[name]!r}; merge this adapter with peft and load the result"
            )
    for name in ("r", "lora_alpha"):
        if not fields.has(name):
            raise CheckpointError(f"{path}: {name} is missing; copy the file again")
    rank, alpha = fields.count("r", 1), fields.positive("lora_alpha", ALPHA)
    return alpha / (rank**0.5 if fields.flag("use_rslora", False) else rank)


class LoraWeights:
    """The weights of a base checkpoint with an adapter merged into them.

    `skip`: modules whose factors do not belong here, because their weights come from elsewhere. Raises CheckpointError
    for factors that match nothing, which peft ignores silently.
    """

    def __init__(self, base: Weights, adapter: Path, skip: str = ""):
        self.shapes = base.shapes
        self._base, self._scaling = base, adapter_scaling(adapter)
        self._path = adapter / "adapter_model.safetensors"
        self._factors: dict[str, dict[str, str]] = {}  # weight of the model -> A and B -> name in the adapter
        with open_safetensors(self._path) as file:
            names = list(file.keys())
        copies = {f"{match['module']}.weight": name for name in names if (match := COPY.fullmatch(name))}
        self._check_base(copies)
        for name in names:
            if name in copies.values():
                continue
            match = FACTOR.fullmatch(name)
            weight = f"{match['module']}.weight" if match else ""
            if match and skip and weight.startswith(skip):
                continue
            if not match or weight not in self.shapes:
                raise CheckpointError(
                    f"{self._path}: {name} matches no weight of {base}; give the base checkpoint of this adapter"
                )
            self._factors.setdefault(weight, {})[match["factor"]] = name
        for weight, factors in self._factors.items():
            if factors.keys() != {"A", "B"}:
                raise CheckpointError(f"{self._path} has half of the factors of {weight}; copy the file again")

    def __str__(self) -> str:
        return f"{self._base} with {self._path}"

    def _check_base(self, copies: dict[str, str]) -> None:
        """peft keeps a copy of the base's lm_head, which tells whether this is the base; a merged one differs too."""
        known = {weight: name for weight, name in copies.items() if weight in self.shapes}
        with open_safetensors(self._path) as file:
            for weight, tensor in self._base.tensors(set(known)):
                copy = file.get_tensor(known[weight])
                if not torch.equal(tensor.to(copy.dtype), copy):
                    raise CheckpointError(
                        f"{self._base} is not the checkpoint that {self._path} was trained from: {weight} differs from "
                        "the adapter's copy of it; give the base itself, not one with the adapter merged"
                    )

    def tensors(self, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
        with open_safetensors(self._path) as file:
            for name, tensor in self._base.tensors(wanted):
                yield name, self._merged(file, name, tensor)

    def _merged(self, file: Any, name: str, tensor: Tensor) -> Tensor:
        if name not in self._factors:
            return tensor
        a, b = (file.get_tensor(self._factors[name][factor]) for factor in "AB")
        if (b.shape[0], a[0].numel(), a.shape[0]) != (tensor.shape[0], tensor[0].numel(), b.shape[1]):
            raise CheckpointError(
                f"{self._path}: the factors of {name}, {tuple(b.shape)} and {tuple(a.shape)}, do not fit its shape "
                f"{tuple(tensor.shape)}; give the base checkpoint of this adapter"
            )
        return merged(tensor, a, b, self._scaling)
