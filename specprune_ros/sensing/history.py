# SPDX-License-Identifier: Apache-2.0
"""The newest samples of one input, ordered by stamp."""

import bisect
from collections import deque
from typing import Generic, TypeVar

from specprune_ros.stamps import NANOSECONDS

Sample = TypeVar("Sample")

BACKWARD_JUMP = NANOSECONDS  # a stamp this much older than the newest one means that the source started over


class History(Generic[Sample]):
    """A bounded list of (stamp, sample), oldest first. Stamps in nanoseconds. Not thread-safe: its owner locks."""

    def __init__(self, length: int) -> None:
        self._stamps: deque[int] = deque(maxlen=length)
        self._samples: deque[Sample] = deque(maxlen=length)
        self._arrivals: deque[float] = deque(maxlen=50)
        self.dropped = 0  # duplicates, and stamps older than everything kept

    def add(self, stamp: int, sample: Sample, arrival: float) -> bool:
        """Keep a sample; False if it is a duplicate or too old. `arrival`: seconds of a steady clock, for `rate`."""
        self._arrivals.append(arrival)
        if self._stamps and stamp < self._stamps[-1] - BACKWARD_JUMP:
            self.clear()
        if not self._stamps or stamp > self._stamps[-1]:
            self._stamps.append(stamp)
            self._samples.append(sample)
            return True
        index = bisect.bisect_left(self._stamps, stamp)
        if self._stamps[index] == stamp or len(self._stamps) == self._stamps.maxlen:
            self.dropped += 1
            return False
        self._stamps.insert(index, stamp)
        self._samples.insert(index, sample)
        return True

    def clear(self) -> None:
        self._stamps.clear()
        self._samples.clear()

    @property
    def newest_stamp(self) -> int | None:
        return self._stamps[-1] if self._stamps else None

    def newest_until(self, stamp: int) -> int | None:
        """The newest stamp that is not newer than `stamp`; None without any."""
        index = bisect.bisect_right(self._stamps, stamp)
        return self._stamps[index - 1] if index else None

    def nearest(self, stamp: int) -> tuple[int, Sample] | None:
        """The sample whose stamp is nearest, the newer one on a tie; None without any sample."""
        if not self._stamps:
            return None
        index = bisect.bisect_left(self._stamps, stamp)
        if index == len(self._stamps) or (index and stamp - self._stamps[index - 1] < self._stamps[index] - stamp):
            index -= 1
        return self._stamps[index], self._samples[index]

    def since(self, stamp: int) -> list[tuple[int, Sample]]:
        """Samples that are not older than `stamp`, oldest first."""
        index = bisect.bisect_left(self._stamps, stamp)
        return list(zip(list(self._stamps)[index:], list(self._samples)[index:], strict=True))

    def rate(self, now: float) -> float:
        """Messages per second over the last ones that arrived, going down when they stop. `now`: as `arrival`."""
        if len(self._arrivals) < 2:
            return 0.0
        return (len(self._arrivals) - 1) / max(now - self._arrivals[0], 1e-9)

    def stopped(self, now: float) -> bool:
        """Whether nothing has arrived for twice as long as usual. `now`: as `arrival`."""
        if len(self._arrivals) < 2:
            return True
        usual = (self._arrivals[-1] - self._arrivals[0]) / (len(self._arrivals) - 1)
        return now - self._arrivals[-1] > 2 * usual
