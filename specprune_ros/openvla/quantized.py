# SPDX-License-Identifier: Apache-2.0
"""A folder of quantised weights: what `specprune-quantize` writes and `checkpoint.load` reads back in seconds.

Beside the small files of the checkpoint it was made from (config.json, statistics, tokenizer) it holds the model's
state, fused, merged and quantised, by the names of our own modules, in `quantized-NNNNN.safetensors`; and
`quantized.json`, which says what the checkpoint's files would have said: its variant and the shapes of its weights.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.config import DIFFUSION, DISCRETE, L1
from specprune_ros.openvla.digest import digest_of
from specprune_ros.openvla.files import Fields, exists, expanded, read_json
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.weight_containers import FLOATS, SafetensorsFile, Shapes

MANIFEST = "quantized.json"
FORMAT = 1  # of the folder; another one is refused
SHARD_BYTES = 1 << 30  # a file holds about this much, because writing one needs its size in memory again
SMALL = {torch.int8: "I8", torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3"}  # safetensors' names
AGAIN = "make the folder anew with specprune-quantize"


@dataclass(frozen=True)
class Quantized:
    """What `quantized.json` says."""

    folder: Path
    precision: str
    source: str  # digest of the checkpoint that it was made from
    head: str  # L1, DIFFUSION or DISCRETE
    files: dict[str, str]  # names of the checkpoint's components by kind, such as action_head
    components: dict[str, Shapes]  # shapes of their weights
    weights: Shapes  # of the model's weights, by their release names
    content: str  # digest of the weight files

    def check(self, precision: str) -> None:
        """Raises CheckpointError when the weights are to run in another precision than they are in."""
        if precision != self.precision:
            raise CheckpointError(
                f"{self.folder} holds weights in {self.precision}, but precision is {precision}; set model.precision "
                f"to {self.precision}, or give the checkpoint itself"
            )

    def fill(self, model: OpenVLA) -> None:
        """Copy the weights into a model whose layers are prepared for them. Ask `check_places` first."""
        wanted = model.state_dict()
        with tqdm(total=len(wanted), desc="loading weights", unit="tensor", mininterval=0.5) as progress:
            for file in _weight_files(self.folder):
                for name, tensor in file.tensors(file.shapes):
                    if tensor.dtype not in SMALL and not all(math.isfinite(bound.item()) for bound in tensor.aminmax()):
                        raise CheckpointError(f"{file.path}: {name} holds NaN or Inf; {AGAIN}")
                    wanted[name].copy_(tensor)
                    progress.update()

    def check_places(self, model: OpenVLA) -> None:
        """Raises CheckpointError unless the files hold exactly this model's weights, each in its shape and format."""
        shapes: Shapes = {}
        formats: dict[str, str] = {}
        for file in _weight_files(self.folder):
            shapes |= file.shapes
            formats |= file.dtypes
        wanted = model.state_dict()
        for name in sorted(wanted.keys() ^ shapes.keys()):
            fault = "is missing" if name in wanted else "has no place in this model"
            raise CheckpointError(f"{self.folder}: weight {name} {fault}; {AGAIN}")
        for name, target in wanted.items():
            stored = formats[name]
            fits = stored == SMALL[target.dtype] if target.dtype in SMALL else stored in FLOATS.values()
            if shapes[name] != tuple(target.shape) or not fits:
                expected = f"{SMALL.get(target.dtype, 'a float')} {tuple(target.shape)}"
                raise CheckpointError(
                    f"{self.folder}: weight {name} is {stored} {shapes[name]}, not {expected}; {AGAIN}"
                )
        if digest_of(file.path for file in _weight_files(self.folder)) != self.content:
            raise CheckpointError(f"{self.folder} has weight files that were changed or belong elsewhere; {AGAIN}")


def is_quantized(folder: str | Path) -> bool:
    """Whether a folder says that its weights are quantised."""
    return exists(expanded(folder) / MANIFEST)


def read_quantized(folder: Path) -> Quantized | None:
    """What a folder of quantised weights says of itself; None for any other folder.

    Raises CheckpointError when it is damaged or of another version.
    """
    path = folder / MANIFEST
    if not is_quantized(folder):
        return None
    raw = read_json(path)
    fields = Fields(raw, str(path))
    if type(raw.get("format")) is not int or raw["format"] != FORMAT:
        raise fields.refuse("format", f"this version reads {FORMAT}; {AGAIN}")
    head = fields.text("head", "")
    if head not in (L1, DIFFUSION, DISCRETE):
        raise fields.refuse("head", AGAIN)
    files = raw.get("files")
    components = raw.get("components")
    whole = isinstance(files, dict) and isinstance(components, dict) and all(isinstance(n, str) for n in files.values())
    if not whole or not all(fields.text(name, "") for name in ("precision", "source", "content")):
        raise CheckpointError(f"{path} is not complete; {AGAIN}")
    return Quantized(
        folder,
        fields.text("precision", ""),
        fields.text("source", ""),
        head,
        dict(files or {}),
        {name: _shapes(path, shapes) for name, shapes in (components or {}).items()},
        _shapes(path, raw.get("weights")),
        fields.text("content", ""),
    )


def write_quantized(folder: Path, model: OpenVLA, manifest: dict[str, Any]) -> None:
    """Write a model whose layers are stored and not packed, and last the manifest: all of `Quantized` but `content`."""
    for number, shard in enumerate(_shards(model.state_dict()), 1):
        save_file(shard, folder / f"quantized-{number:05d}.safetensors")
    content = digest_of(file.path for file in _weight_files(folder))
    full = {"format": FORMAT, **manifest, "content": content}
    (folder / MANIFEST).write_text(json.dumps(full, indent=1) + "\n")


def _shards(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if shard and sum(held.nbytes for held in shard.values()) + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = tensor.contiguous()
    yield shard


def _weight_files(folder: Path) -> list[SafetensorsFile]:
    return [SafetensorsFile(path) for path in sorted(folder.glob("quantized-*.safetensors"))]


def _shapes(path: Path, raw: Any) -> Shapes:
    def is_shape(value: Any) -> bool:
        return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)

    if not isinstance(raw, dict) or not all(is_shape(shape) for shape in raw.values()):
        raise CheckpointError(f"{path} is not complete; {AGAIN}")
    return {name: tuple(shape) for name, shape in raw.items()}
