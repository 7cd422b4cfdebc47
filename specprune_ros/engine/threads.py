# SPDX-License-Identifier: Apache-2.0
"""How many threads an inference on a CPU uses.

More are not always faster: a small policy spends its time on handing out work, and where a simulator or a driver keeps
a core busy, each product waits for the thread that shares it. So it is measured where and when it counts: at warm-up.
"""

import statistics
import time
from collections.abc import Callable

import torch

MOST = torch.get_num_threads()  # the cores that this process may use, or what OMP_NUM_THREADS says
ROUNDS = 3  # of every count in turn, so that a disturbance meets all of them; few, because a node waits for it
LONG = 2.0  # seconds; an inference that takes longer is all products, which all cores share
GAIN = 1.05  # more threads must be this much faster


class Threads:
    """The count in force, 0 while it is not known: then torch's own holds."""

    def __init__(self, count: int = 0):
        self.count = count

    def apply(self) -> None:
        """Set it for the calling thread; torch keeps it per thread."""
        if self.count and torch.get_num_threads() != self.count:
            torch.set_num_threads(self.count)

    def measure(self, infer: Callable[[], object]) -> None:
        """Choose the count with which `infer` is fastest, on this thread, beside whatever else runs now."""
        counts = candidates(MOST)
        torch.set_num_threads(MOST)
        if len(counts) == 1 or _seconds(infer) > LONG:
            self.count = MOST
            return
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(ROUNDS):
            for count in counts:
                torch.set_num_threads(count)
                seconds[count].append(_seconds(infer))
        self.count = fewest_that_pay({count: statistics.median(times) for count, times in seconds.items()})
        self.apply()


def candidates(cores: int) -> tuple[int, ...]:
    """1, 2, 4 ... and all cores."""
    powers = [1 << power for power in range(cores.bit_length()) if 1 << power < cores]
    return (*powers, cores)


def fewest_that_pay(seconds: dict[int, float]) -> int:
    """The count from which on no larger one is faster by `GAIN`."""
    chosen, *others = sorted(seconds)
    for count in others:
        if seconds[count] * GAIN < seconds[chosen]:
            chosen = count
    return chosen


def _seconds(infer: Callable[[], object]) -> float:
    begin = time.perf_counter()
    infer()
    return time.perf_counter() - begin
