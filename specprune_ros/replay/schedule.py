# SPDX-License-Identifier: Apache-2.0
"""At which observations the replay infers."""

from dataclasses import dataclass

from specprune_ros.sensing.stamps import NANOSECONDS

EARLY = 0.1  # of a period; stamps jitter


@dataclass
class Schedule:
    """Every N-th observation, at most `rate` a second, or those that the recorded node inferred on."""

    every: int = 1
    rate: float = 0.0  # Hz; 0: no limit
    stamps: frozenset[int] | None = None  # nanoseconds; None: any

    def __post_init__(self) -> None:
        self._asked = self._inferred = -1
        self._count = -1
        self._answer = False

    def due(self, stamp: int) -> bool:
        """Whether to infer on the observation of this stamp; asking again gives the same answer."""
        if stamp == self._asked:
            return self._answer
        if stamp < self._asked:
            self._inferred = -1  # the recording started over
        self._asked = stamp
        self._answer = self._decide(stamp)
        if self._answer:
            self._inferred = stamp
        return self._answer

    def _decide(self, stamp: int) -> bool:
        if self.stamps is not None:
            return stamp in self.stamps
        self._count += 1
        if self.rate and self._inferred >= 0:
            return stamp - self._inferred >= (1 - EARLY) / self.rate * NANOSECONDS
        return self._count % self.every == 0
