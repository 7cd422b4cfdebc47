# SPDX-License-Identifier: Apache-2.0
"""Durations counted in classes of equal ratio: percentiles of any number of them, in memory that does not grow."""

import math

import numpy as np

SMALLEST, CLASSES_PER_DECADE, DECADES = 1e-6, 200, 10  # from 1 us to 3 hours, each class 1.2 % wide


class Intervals:
    """Seconds. The percentiles are right to 1 %."""

    def __init__(self) -> None:
        self._counts = np.zeros(CLASSES_PER_DECADE * DECADES, np.int64)
        self.count = 0
        self.total = 0.0
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        place = math.log10(max(seconds, SMALLEST) / SMALLEST) * CLASSES_PER_DECADE
        self._counts[min(int(place), len(self._counts) - 1)] += 1
        self.count += 1
        self.total += seconds
        self.largest = max(self.largest, seconds)

    def percentile(self, share: float) -> float:
        """Of `share` between 0 and 1; nan without any."""
        if not self.count:
            return math.nan
        place = int(np.searchsorted(np.cumsum(self._counts), max(share * self.count, 1)))
        return float(SMALLEST * 10 ** ((place + 0.5) / CLASSES_PER_DECADE))
