# SPDX-License-Identifier: Apache-2.0
"""What changes from inference to inference goes to the device through buffers that are made once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specprune_ros.engine.bounded import make_room

KEPT = 16  # buffers; when another name or size comes, the oldest is dropped


class Uploads:
    """Named buffers, on the host page-locked so that the GPU fetches them by itself. One caller at a time.

    What `__call__` returns holds until its next call with the same name.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._buffers: dict[tuple[str, int, np.dtype[Any]], Buffer] = {}

    def __call__(self, name: str, arrays: Sequence[NDArray[Any]]) -> Tensor:
        """The arrays, all of one dtype, one behind the other: flat, on the device."""
        size, dtype = sum(array.size for array in arrays), arrays[0].dtype
        key = name, size, dtype
        if key not in self._buffers:
            make_room(self._buffers, KEPT)
            self._buffers[key] = Buffer(size, dtype, self._device)
        return self._buffers[key].fill(arrays)


class Buffer:
    """A flat buffer on the host and, on CUDA, its twin on the device."""

    def __init__(self, size: int, dtype: np.dtype[Any], device: torch.device):
        on_gpu = device.type == "cuda"
        self._host = torch.from_numpy(np.empty(size, dtype))
        if on_gpu:
            self._host = self._host.pin_memory()
        self._view = self._host.numpy()
        self._twin = torch.empty(size, dtype=self._host.dtype, device=device) if on_gpu else None
        self._fetched = torch.cuda.Event() if on_gpu else None

    def fill(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        """The arrays one behind the other: flat, on the device, until the next call."""
        if self._fetched:
            self._fetched.synchronize()  # the GPU may not have fetched the last contents yet
        start = 0
        for array in arrays:
            self._view[start : start + array.size].reshape(array.shape)[:] = array
            start += array.size
        if self._twin is None or self._fetched is None:
            return self._host
        self._twin.copy_(self._host, non_blocking=True)
        self._fetched.record()
        return self._twin
