# SPDX-License-Identifier: Apache-2.0
"""The towers of an OFT+ checkpoint: `vision_backbone--S_checkpoint.pt` in place of those in the safetensors.

The file is the training's wrapped backbone: FiLM's linears beside every block, and LoRA not merged. The towers in the
safetensors are the base model's, which the fine-tune's vision LoRA never reached: they run, and are wrong.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import Fields, read_json
from specprune_ros.openvla.lora import adapter_scaling, check_factors, default_scaling, merged
from specprune_ros.openvla.weight_containers import read_state
from specprune_ros.openvla.weight_files import BACKBONE, Weights

FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.\w+\.weight")
WRAPPED_BLOCK = re.compile(r"(\.blocks\.\d+)\.block\.")


class FilmTowers:
    """A model's weights with the towers of a wrapped backbone, under the names that plain towers have.

    FiLM's own are `<tower>.blocks.I.scale` and `.shift`. `adapter`: the LoRA adapter of the same training, whose
    alpha counts; without one it is what the reference's training uses for the rank.
    """

    def __init__(self, model: Weights, path: Path, adapter: Path | None):
        self._model, self._path = model, path
        self._scaling = adapter_scaling(adapter) if adapter else None
        self._weights: dict[str, Tensor] = {}
        self._factors: dict[str, dict[str, Tensor]] = {}
        for name, tensor in read_state(path).items():
            if match := FACTOR.fullmatch(name):
                self._factors.setdefault(f"{_plain(match['module'])}.weight", {})[match["factor"]] = tensor
            else:
                self._weights[_plain(name)] = tensor
        self._check_rank(adapter)
        for name, factors in self._factors.items():
            if name not in self._weights or factors.keys() != {"A", "B"}:
                raise CheckpointError(f"{path} has LoRA factors of {name} but not all of it; copy the file again")
            shapes = (tuple(tensor.shape) for tensor in (self._weights[name], factors["A"], factors["B"]))
            check_factors(f"{path}: {name}", *shapes)
        others = {name: shape for name, shape in model.shapes.items() if not name.startswith(BACKBONE)}
        self.shapes = others | {name: tuple(tensor.shape) for name, tensor in self._weights.items()}

    def _check_rank(self, adapter: Path | None) -> None:
        """The adapter's alpha is one of its rank, and of no other."""
        if adapter is None:
            return
        config = adapter / "adapter_config.json"
        rank = Fields(read_json(config), str(config)).count("r", 1)
        for name, factors in self._factors.items():
            if "A" in factors and len(factors["A"]) != rank:
                raise CheckpointError(
                    f"{self._path}: the LoRA factors of {name} are of rank {len(factors['A'])}, but r in {config} is "
                    f"{rank}; copy both files from one training run"
                )

    def __str__(self) -> str:
        return f"{self._model} with {self._path}"

    def tensors(self, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
        yield from self._model.tensors(wanted - self._weights.keys())
        for name in wanted & self._weights.keys():
            yield name, self._merged(name)

    def _merged(self, name: str) -> Tensor:
        weight, factors = self._weights[name], self._factors.get(name)
        if factors is None:
            return weight
        scaling = self._scaling if self._scaling is not None else default_scaling(len(factors["A"]))
        return merged(weight, factors["A"], factors["B"], scaling)


def _plain(name: str) -> str:
    """A plain tower's name of a wrapped backbone's weight."""
    return WRAPPED_BLOCK.sub(r"\1.", name).replace(".base_layer.", ".").removesuffix(".base_layer")
