# SPDX-License-Identifier: Apache-2.0
"""The files that hold a model's weights: which they are, and their tensors. Nothing is loaded as a whole."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import exists, read_json
from specprune_ros.openvla.weight_containers import FLOATS, SafetensorsFile, Shape, TorchFile, WeightContainer

SINGLES = ("model.safetensors", "pytorch_model.bin")
SHARD = re.compile(r"(model|pytorch_model)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
INDEX_SUFFIX = ".index.json"
BACKBONE = "vision_backbone."  # how the names of all weights of both towers start
TOP = (BACKBONE, "projector.", "language_model.")  # how the release's names start
WRAPPERS = ("base_model.model.", "module.", "_orig_mod.", "model.", "vla.")  # what wraps a whole model when it is saved


class Weights(Protocol):
    """A model's weights by their release names, as `WeightFiles` reads them, or changed on the way."""

    shapes: dict[str, Shape]

    def tensors(self, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of the wanted weights, memory-mapped. Copy a tensor before asking for the next one."""


class Outlines:
    """The names and shapes of weights without their numbers."""

    def __init__(self, shapes: dict[str, Shape]):
        self.shapes = shapes

    def tensors(self, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
        return ((name, torch.empty(self.shapes[name], device="meta")) for name in wanted)


class WeightFiles:
    """The weights of a checkpoint by their release names: shapes first, tensors when asked for."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._files = [_open(folder / name) for name in weight_names(folder)]
        names = [name for file in self._files for name in file.shapes]
        twice = next((name for name in names if names.count(name) > 1), "") if len(set(names)) < len(names) else ""
        if twice:
            raise CheckpointError(f"{folder} has weight {twice} in two files; copy the shards of one checkpoint alone")
        self._prefix = _wrapper(names)
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, str] = {}
        for file in self._files:
            self.shapes |= {name.removeprefix(self._prefix): shape for name, shape in file.shapes.items()}
            self.dtypes |= {name.removeprefix(self._prefix): dtype for name, dtype in file.dtypes.items()}
        if any(".lora_A." in name for name in self.shapes):
            raise CheckpointError(
                f"{folder} has LoRA factors among its weights; save the model after merge_and_unload(), or the adapter "
                "alone as lora_adapter/"
            )

    def __str__(self) -> str:
        return str(self._folder)

    def tensors(self, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
        for file in self._files:
            own = [name for name in file.shapes if name.removeprefix(self._prefix) in wanted]
            for name in own:
                if file.dtypes[name] not in FLOATS.values():
                    raise CheckpointError(
                        f"{file.path}: weight {name} is of dtype {file.dtypes[name]}; only floating point loads, use "
                        "the checkpoint from before quantisation"
                    )
            for name, tensor in file.tensors(own):
                yield name.removeprefix(self._prefix), tensor


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a model's weights, in whatever container."""
    return bool(_singles(folder) or _shards(folder) or _indices(folder))


def weight_names(folder: Path) -> list[str]:
    """Names of the files that hold a folder's weights: one, or all shards of one set.

    Raises CheckpointError when there is none, when there are two candidates, and when shards are missing. An index
    whose shards are all gone says nothing beside a single file.
    """
    singles, shards = _singles(folder), _shards(folder)
    candidates = [[name] for name in singles] + list(shards.values())
    if len(candidates) > 1:
        names = " and ".join(candidate[0] for candidate in candidates)
        raise CheckpointError(f"{folder} has two candidates for the weights, {names}; keep the one that you want")
    if singles:
        return singles
    indices = _indices(folder)
    if len(indices) > 1:
        raise CheckpointError(
            f"{folder} has two indices of shards, {' and '.join(indices)}; keep the one of its shards"
        )
    if not shards and not indices:
        raise CheckpointError(
            f"{folder} has no {SINGLES[0]}, no shards and no {SINGLES[1]}; copy the weights{_others(folder)}"
        )
    found = next(iter(shards.values()), [])
    needed = _indexed(folder / indices[0]) if indices else _counted(found[0])
    for name in needed:
        if not exists(folder / name):
            raise CheckpointError(f"weight file {folder / name} is missing; copy the whole checkpoint folder")
    return needed


def _open(path: Path) -> WeightContainer:
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def _singles(folder: Path) -> list[str]:
    return [name for name in SINGLES if exists(folder / name)]


def _shards(folder: Path) -> dict[str, list[str]]:
    """Sets of shards, such as model-*-of-00003.safetensors -> its files that are there."""
    sets: dict[str, list[str]] = {}
    for name in sorted(path.name for path in folder.iterdir()):
        match = SHARD.fullmatch(name)
        if match:
            sets.setdefault(f"{match[1]}-of-{match[3]}.{match[4]}", []).append(name)
    return sets


def _indices(folder: Path) -> list[str]:
    return [name + INDEX_SUFFIX for name in SINGLES if exists(folder / (name + INDEX_SUFFIX))]


def _indexed(index: Path) -> list[str]:
    """The shards that an index names."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; copy the file again")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise CheckpointError(
                f"{index} names a shard {name!r}, which is no file of its folder; copy the file again"
            )
    return sorted(set(weight_map.values()))


def _counted(shard: str) -> list[str]:
    """All shards of the set that one belongs to, by the numbers in its name."""
    match = SHARD.fullmatch(shard)
    assert match
    return [f"{match[1]}-{i:05d}-of-{match[3]}.{match[4]}" for i in range(1, int(match[3]) + 1)]


def _wrapper(names: list[str]) -> str:
    """The prefix that something wrapped around the model gave to every name; "" for a plain model."""
    prefix = ""
    while names and not any(name.startswith(TOP) for name in names):
        wrapper = next((w for w in WRAPPERS if all(name.startswith(w) for name in names)), "")
        if not wrapper:
            return ""
        prefix, names = prefix + wrapper, [name.removeprefix(wrapper) for name in names]
    return prefix


def _others(folder: Path) -> str:
    """What else lies there that may be weights."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".ckpt", ".gguf"))
    return f" (there is {', '.join(names[:3])}; weights of one file are called {SINGLES[0]})" if names else ""
