"""Latency statistics since activation."""

import threading
from collections import deque

import numpy as np

KEPT = 10_000  # values for the percentiles: a quarter of an hour at 10 Hz


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
