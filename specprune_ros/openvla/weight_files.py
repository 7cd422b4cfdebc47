"""Reading weight files: safetensors, single or sharded, and the heads' state dicts. Nothing is loaded as a whole."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import read_json

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
MAPPED_BYTES = 32 << 20  # a file is mapped anew after this many bytes, because mapped pages count as host memory


class WeightFiles:
    """The safetensors files of a checkpoint: shapes first, tensors when asked for."""

    def __init__(self, folder: Path):
        self._folder = folder
        index, single = folder / INDEX, folder / SINGLE
        if index.exists():
            names = _shard_names(index)
        elif single.exists():
            names = [single.name]
        else:
            raise CheckpointError(f"{folder} has no {SINGLE} and no {INDEX}; copy the weights")
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
            damage = _wrong_file(path) or f"is not a complete safetensors file ({error}); copy the file again"
            raise CheckpointError(f"{path} {damage}") from None

    def tensors(self, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of the wanted weights, memory-mapped. Copy a tensor before asking for the next one."""
        for name, keys in self._keys.items():
            pending = [key for key in keys if key in wanted]
            while pending:
                mapped = 0
                with self._open(name) as file:
                    while pending and mapped < MAPPED_BYTES:
                        tensor = file.get_tensor(pending[0])
                        mapped += tensor.nbytes
                        yield pending.pop(0), tensor


def _shard_names(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; copy the file again")
    return sorted(set(weight_map.values()))


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a model's weights, single or sharded."""
    return any((folder / name).exists() for name in (INDEX, SINGLE))


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a component (`<name>--<step>_checkpoint.pt`), memory-mapped, without the `module.` prefix.

    Raises CheckpointError when the file is damaged or holds anything but tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than plain tensors, which is not safe; save its state_dict()"
        ) from None
    except Exception:  # torch.load raises whatever its zip layer does, in several lines
        damage = _wrong_file(path) or "is not a complete torch.save file; copy the file again"
        raise CheckpointError(f"{path} {damage}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict of tensors; copy the file again")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _wrong_file(path: Path) -> str:
    """What a file is instead of weights, told by its first bytes, and how to mend it; empty when unknown."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "is empty; copy the file again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights; run 'git lfs pull' in its folder"
    if start.lstrip().startswith(b"<"):
        return "is a web page, not the weights; download the file itself"
    if start.startswith(b"PK") and path.suffix == ".safetensors":
        return "is a torch.save file under another name; convert the weights to safetensors"
    return ""
