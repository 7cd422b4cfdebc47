# SPDX-License-Identifier: Apache-2.0
"""One file of weights: safetensors, or what torch.save wrote, new or old, nested or wrapped. Nothing else is run."""

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import trouble

MAPPED_BYTES = 32 << 20  # a file is mapped anew after this many bytes, because mapped pages count as host memory
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names -> torch's
ZIP, PICKLE = b"PK", b"\x80"  # how files of torch.save start, since 2020 and before

Shape = tuple[int, ...]
Shapes = dict[str, Shape]  # by the names of the weights


class WeightContainer(Protocol):
    """A file of weights: shapes and dtypes are known at once, tensors are read when asked for."""

    path: Path
    shapes: dict[str, Shape]
    dtypes: dict[str, str]

    def tensors(self, wanted: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of the wanted weights. Copy a tensor before asking for the next one."""


class SafetensorsFile:
    """A safetensors file; see `WeightContainer`."""

    def __init__(self, path: Path):
        self.path = path
        self.shapes, self.dtypes = {}, {}
        with open_safetensors(path) as file:
            for name in list(file.keys()):
                header = file.get_slice(name)
                self.shapes[name] = tuple(header.get_shape())
                self.dtypes[name] = FLOATS.get(header.get_dtype(), header.get_dtype())

    def tensors(self, wanted: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        pending = list(wanted)
        while pending:
            mapped = 0
            with open_safetensors(self.path) as file:
                while pending and mapped < MAPPED_BYTES:
                    tensor = file.get_tensor(pending[0])
                    mapped += tensor.nbytes
                    yield pending.pop(0), tensor


class TorchFile:
    """A file of torch.save; see `WeightContainer`."""

    def __init__(self, path: Path):
        self.path = path
        state = read_state(path)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        self.dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in state.items()}

    def tensors(self, wanted: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        state = read_state(self.path)
        yield from ((name, state[name]) for name in wanted)


def open_safetensors(path: Path) -> Any:
    """A file opened for lazy reading. Raises CheckpointError when it is missing, damaged or of another kind."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        damage = trouble(path) or f"is not a complete safetensors file ({error}); copy the file again"
        raise CheckpointError(f"{path} {damage}") from None


def names_of(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file, by its header alone. Raises as `open_safetensors`."""
    with open_safetensors(path) as file:
        return list(file.keys())


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a torch.save file, memory-mapped where it is a zip file; code in it is never run.

    A dictionary around it (`{"state_dict": ...}`) and the prefixes of DDP (`module.`) and torch.compile (`_orig_mod.`)
    are taken off. Raises CheckpointError when the file is damaged or holds anything but floating-point tensors.
    """
    state = _state_dict(path, _load(path))
    plain = {_without_wrappers(name): tensor for name, tensor in state.items()}
    if len(plain) < len(state):
        raise CheckpointError(f"{path} has weights twice, with and without the prefix of a wrapper; save one of them")
    for name, tensor in plain.items():
        if str(tensor.dtype).removeprefix("torch.") not in FLOATS.values():
            raise CheckpointError(
                f"{path}: weight {name} is of {tensor.dtype}, quantised or no weight at all; save it in floating point"
            )
        if tensor.is_meta or tensor.layout is not torch.strided:
            what = "without its numbers, as of a model that was offloaded" if tensor.is_meta else "sparse"
            raise CheckpointError(f"{path}: weight {name} was saved {what}; save the whole tensor")
    return plain


def _load(path: Path) -> Any:
    wrong = trouble(path)
    if wrong:
        raise CheckpointError(f"{path} {wrong}")
    with path.open("rb") as file:
        start = file.read(9)
    if not start.startswith((ZIP, PICKLE)):
        other = "a safetensors file under another name" if start.endswith(b"{") else "not a torch.save file"
        raise CheckpointError(f"{path} is {other}; copy the file again, or save it with torch.save(state_dict, path)")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(ZIP))
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than plain tensors, which is not safe; save its state_dict() alone"
        ) from None
    except Exception:  # torch.load raises whatever its zip layer does, in several lines
        raise CheckpointError(f"{path} is not a complete torch.save file; copy the file again") from None


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """The one dictionary of tensors in what a file holds: itself, or one of its values."""
    if _is_state_dict(content):
        result: dict[str, Tensor] = content
        return result
    nested = {name: value for name, value in content.items() if _is_state_dict(value)} if _is_dict(content) else {}
    if len(nested) > 1:
        raise CheckpointError(f"{path} holds several state dicts ({', '.join(map(str, nested))}); save the one to use")
    if not nested:
        raise CheckpointError(f"{path} does not hold a state dict of tensors; save a module's state_dict() alone")
    return next(iter(nested.values()))


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def _is_state_dict(value: Any) -> bool:
    return _is_dict(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _without_wrappers(name: str) -> str:
    name = name.replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name
