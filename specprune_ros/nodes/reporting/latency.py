# SPDX-License-Identifier: Apache-2.0
"""Latency statistics since activation, and what a latency means for the motion."""

import threading
from collections import deque

import numpy as np

KEPT = 10_000  # values for the percentiles: a quarter of an hour at 10 Hz
RESERVE = 0.2  # share of a chunk's time for the age of the images and for jitter


class Latency:
    """p50, p99 and maximum of durations in seconds. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._values: deque[float] = deque(maxlen=KEPT)
            self.count = 0
            self.maximum = 0.0

    def add(self, seconds: float) -> None:
        with self._lock:
            self._values.append(seconds)
            self.count += 1
            self.maximum = max(self.maximum, seconds)

    def percentiles(self) -> tuple[float, float]:
        """(p50, p99), NaN before the first value."""
        with self._lock:
            values = list(self._values)
        if not values:
            return float("nan"), float("nan")
        p50, p99 = np.percentile(values, (50, 99))
        return float(p50), float(p99)


def pauses(inference: float, chunk: float) -> bool:
    """Whether the arm may pause between chunks. Seconds that an inference takes, and that a chunk lasts.

    A chunk's time runs from its observation. One inference passes before it comes, and it has to last for another one.
    """
    return 2 * inference > (1 - RESERVE) * chunk
