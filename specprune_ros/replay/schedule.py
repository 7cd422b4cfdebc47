# SPDX-License-Identifier: Apache-2.0
"""At which observations the replay infers."""

from dataclasses import dataclass

from specprune_ros.stamps import NANOSECONDS

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
        self._answer = self._next = False

    def due(self, stamp: int) -> bool:
        """Whether to infer on the observation of this stamp; asking again gives the same answer."""
        if stamp == self._asked:
            return self._answer
        before = self._answer
        if stamp < self._asked:
            self._inferred, before = -1, False  # the recording started over
        self._asked = stamp
        self._answer = self._decide(stamp)
        self._next = before and not self._answer
        if self._answer:
            self._inferred = stamp
        return self._answer

    def is_next(self, stamp: int) -> bool:
        """Whether this is the first observation after one that is inferred on, and not due itself.

        Never where the recorded node's stamps are replayed: nothing else is assembled there.
        """
        self.due(stamp)
        return self._next and self.stamps is None

    def wanted(self, stamp: int) -> bool:
        """Whether an observation is of any use."""
        return self.due(stamp) or self.is_next(stamp)

    def _decide(self, stamp: int) -> bool:
        if self.stamps is not None:
            return stamp in self.stamps
        self._count += 1
        if self.rate and self._inferred >= 0:
            return stamp - self._inferred >= (1 - EARLY) / self.rate * NANOSECONDS
        return self._count % self.every == 0
