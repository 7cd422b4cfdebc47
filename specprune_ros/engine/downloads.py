# SPDX-License-Identifier: Apache-2.0
"""What an inference says goes to the host through buffers that are made once, all of it in one wait."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specprune_ros.engine.bounded import make_room

KEPT = 16  # buffers; when another name or size comes, the oldest is dropped


class Downloads:
    """Named buffers, page-locked where there is a GPU, which then writes to them by itself. One caller at a time."""

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._buffers: dict[tuple[str, torch.Size, torch.dtype], Tensor] = {}
        self._written = torch.cuda.Event() if self._on_gpu else None

    def __call__(self, **tensors: Tensor) -> dict[str, NDArray[Any]]:
        """The tensors' values, of the device's work so far. The arrays are the caller's own."""
        buffers = {name: self._buffer(name, tensor) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            buffers[name].copy_(tensor, non_blocking=True)
        if self._written:
            self._written.record()
            self._written.synchronize()
        return {name: np.array(buffer.numpy()) for name, buffer in buffers.items()}

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        key = name, tensor.shape, tensor.dtype
        if key not in self._buffers:
            make_room(self._buffers, KEPT)
            self._buffers[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._on_gpu)
        return self._buffers[key]
