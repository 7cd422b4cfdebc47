# SPDX-License-Identifier: Apache-2.0
"""LoRA: merging the factors of an adapter into a model's weights, in float32, as they are read."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import Fields, exists, read_json
from specprune_ros.openvla.weight_containers import Shape, open_safetensors
from specprune_ros.openvla.weight_files import Weights

ALPHA = 16  # in the reference's training, lora_alpha is the rank, but at most this
FILE = "adapter_model.safetensors"
FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.(?:\w+\.)?weight")
COPY = re.compile(r"base_model\.model\.(?P<module>.+)\.base_layer\.weight")  # of the base's lm_head, which peft adds
PLAIN = {
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layer_replication": None,
    "lora_bias": False,
}
# How factors may have begun; other ways, such as pissa and olora, also change the weights that they are added to.
STARTS = (True, False, "gaussian", "orthogonal", "eva")


def merged(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """`weight` + scaling * B A in float32: (out, in) of a linear layer, or (out, in, h, w) of a convolution."""
    product = b.flatten(1).float() @ a.flatten(1).float()
    return torch.add(weight.float(), product.view(weight.shape), alpha=scaling)


def default_scaling(rank: int) -> float:
    """lora_alpha / r of the reference's training, for files that do not tell."""
    return min(rank, ALPHA) / rank


def check_factors(where: str, weight: Shape, a: Shape, b: Shape) -> None:
    """Raises CheckpointError unless factors of these shapes fit a weight's. `where` names file and weight."""
    if (b[0], math.prod(a[1:]), math.prod(b[1:])) != (weight[0], math.prod(weight[1:]), a[0]):
        raise CheckpointError(
            f"{where}: the LoRA factors {tuple(b)} and {tuple(a)} do not fit its shape {tuple(weight)}; copy the file "
            "again, and give the base checkpoint of this adapter"
        )


def adapter_factors(adapter: Path) -> dict[str, dict[str, str]]:
    """Weight of the model -> A and B -> name in `adapter_model.safetensors`; names that are no factors are left out.

    Raises CheckpointError for two adapters in one file, and factors of another rank than `adapter_config.json` says.
    """
    path, config = adapter / FILE, adapter / "adapter_config.json"
    rank = Fields(read_json(config), str(config)).count("r", 1)
    factors: dict[str, dict[str, str]] = {}
    if not exists(path) and exists(old := path.with_suffix(".bin")):
        raise CheckpointError(
            f"{old} is in the format of an older peft; write it as {FILE}: "
            "safetensors.torch.save_file(torch.load(OLD, weights_only=True), NEW)"
        )
    with open_safetensors(path) as file:
        for name in list(file.keys()):
            if not (match := FACTOR.fullmatch(name)):
                continue
            pair = factors.setdefault(f"{match['module']}.weight", {})
            if match["factor"] in pair:
                raise CheckpointError(
                    f"{path} has factors of two adapters, as {pair[match['factor']]} and {name}; save one alone"
                )
            pair[match["factor"]] = name
            shape = file.get_slice(name).get_shape()
            if len(shape) < 2:
                raise CheckpointError(
                    f"{path}: {name} has shape {tuple(shape)} and is no matrix; save the adapter again"
                )
            found = shape[0 if match["factor"] == "A" else 1]
            if found != rank:
                raise CheckpointError(
                    f"{path}: {name} is of rank {found}, but r in adapter_config.json is {rank}; copy both files from "
                    "one training run"
                )
    return factors


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
    start = config.get("init_lora_weights")
    if start is not None and start not in STARTS:
        raise CheckpointError(
            f"{path}: init_lora_weights is {start!r}, so that the factors belong to other weights than the base's; "
            "merge this adapter with peft and load the result"
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
        self._path = adapter / FILE
        self._factors = {
            name: pair for name, pair in adapter_factors(adapter).items() if not skip or not name.startswith(skip)
        }
        with open_safetensors(self._path) as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
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
        for weight, factors in self._factors.items():
            if factors.keys() != {"A", "B"}:
                raise CheckpointError(f"{self._path} has half of the factors of {weight}; copy the file again")
            check_factors(f"{self._path}: {weight}", self.shapes[weight], shapes[factors["A"]], shapes[factors["B"]])

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
        return merged(tensor, a, b, self._scaling)
