# SPDX-License-Identifier: Apache-2.0
"""The processes that train one model together, as `torchrun` starts them; without it there is one.

Every process takes its share of the same batch. Losses are means over the whole batch, and so are gradients: one
process and many do the same steps, up to rounding.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from specprune_ros.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(hours=2)  # for the first process, which decodes all frames, saves and exports


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean over a batch of which this process has a share: sum and number of its own terms, both scalars."""

    total: Tensor
    count: Tensor

    @classmethod
    def of(cls, terms: Tensor) -> "Mean":
        return cls(terms.sum(), terms.new_tensor(terms.numel()))

    @property
    def value(self) -> Tensor:
        """Of the share alone; 0 without terms."""
        return self.total / self.count.clamp(min=1)


@dataclass(frozen=True)
class ProcessGroup:
    """This process among `size`; `rank` 0 is the one that writes."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, samples: int) -> slice:
        """This process' part of a batch; parts differ by one sample at most."""
        return slice(self.rank * samples // self.size, (self.rank + 1) * samples // self.size)

    @property
    def turns(self) -> slice:
        """Which items of a list this process takes, when the processes take turns."""
        return slice(self.rank, None, self.size)

    def shares(self, means: dict[str, Mean]) -> tuple[dict[str, Tensor], Tensor]:
        """What this process adds to each mean over the whole batch, to derive; and those means, in a row."""
        sums = torch.stack([part.detach().double() for mean in means.values() for part in (mean.total, mean.count)])
        if self.size > 1:
            dist.all_reduce(sums)
        totals, counts = sums[0::2], sums[1::2].clamp(min=1)
        shares = {name: mean.total / count for (name, mean), count in zip(means.items(), counts.float(), strict=True)}
        return shares, totals / counts

    def derived(self, module: nn.Module) -> nn.Module:
        """The module to call: gradients of what it returns are averaged over the processes on the way back.

        Every parameter that requires a gradient must get one in every step.
        """
        if self.size == 1:
            return module
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def gathered(self, own: dict[int, T]) -> dict[int, T]:
        """Everybody's entries, in the order of their keys."""
        merged = {key: value for part in self._everybody(own) for key, value in part.items()}
        return dict(sorted(merged.items()))

    def first_says(self, value: T) -> T:
        """The first process' value."""
        return self._everybody(value)[0]

    def check_alike(self, what: str, value: object) -> None:
        """Raises UserError, in every process, when not all have the same."""
        values = self._everybody(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise UserError(
                    f"process {rank} has {what} {other}, process 0 has {values[0]}; give all of them the same folders"
                )

    def in_turn(self, make: Callable[[], T]) -> T:
        """What `make` returns. The first process calls it before the others, which find the files that it wrote.

        A UserError of one is raised in all.
        """
        result, error = None, None
        for has_turn in (self.is_first, not self.is_first):
            if has_turn:
                try:
                    result = make()
                except UserError as mistake:
                    error = str(mistake) if self.is_first else f"process {self.rank}: {mistake}"
            errors = [text for text in self._everybody(error) if text]
            if errors:
                raise UserError(errors[0])
        return result  # type: ignore[return-value]  # everybody has had a turn

    def device(self, name: str) -> torch.device:
        """The device of that name, or this process' own GPU. Raises UserError when this machine has too few."""
        local, processes = (int(os.environ.get(key, one)) for key, one in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
        device = torch.device(name)
        if device.type != "cuda" or self.size == 1:
            return device
        if processes > torch.cuda.device_count():
            raise UserError(
                f"{processes} processes on a machine with {torch.cuda.device_count()} GPUs; "
                "give torchrun --nproc-per-node that many at most, or --device cpu"
            )
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    def _everybody(self, own: T) -> list[T]:
        if self.size == 1:
            return [own]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, own)
        return values


ALONE = ProcessGroup()


def is_first_process() -> bool:
    """Also before there is a group."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def joined_group() -> Iterator[ProcessGroup]:
    """The group that torchrun started this process in; alone without torchrun."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ProcessGroup()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
