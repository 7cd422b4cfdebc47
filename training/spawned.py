# SPDX-License-Identifier: Apache-2.0
"""Work in several processes."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


def spawned(function: Callable[[Work], Result], works: Sequence[Work], processes: int) -> Iterator[Result]:
    """The results as they come, of processes that start afresh: OpenGL and CUDA do not survive a fork."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(function, works)
