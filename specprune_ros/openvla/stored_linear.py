# SPDX-License-Identifier: Apache-2.0
"""A linear layer that keeps its weight in a format of its own: what loading needs to know of it."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class StoredLinear(nn.Module, ABC):
    """Takes its weight in blocks of rows, each when it is read, so that the whole never exists in its old format.

    Loading calls `store` until every row is there, then `scale_rows` at most once, then `pack`. The buffers that exist
    before `pack` are what a file of quantised weights holds.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        empty = torch.empty(out_features, dtype=dtype, device=device)
        self.bias = nn.Parameter(empty, requires_grad=False) if bias else None

    @abstractmethod
    def store(self, weight: Tensor, first_row: int) -> None:
        """Take rows (n, in_features), of any floating-point dtype and device, from `first_row` on."""

    @abstractmethod
    def scale_rows(self, factors: Tensor) -> None:
        """Multiply row i of the weight by `factors[i]`, exactly."""

    def pack(self) -> None:
        """Everything is stored: lay the weight out as the device wants it."""

    @abstractmethod
    def weight_matrix(self) -> Tensor:
        """(out_features, in_features) float32: what is stored, before `pack`; for tests and reports."""
