# SPDX-License-Identifier: Apache-2.0
"""One recorded episode, independent of where it was recorded."""

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from specprune_ros.policy import ActionChunk, Observation


@dataclass(eq=False)
class Episode:
    """What a policy saw and answered, both in order of their stamps.

    The views are oriented as the checkpoint sees them. Not every observation has a chunk: images may come faster than
    inferences.
    """

    instruction: str
    observations: list[Observation] = field(default_factory=list)
    chunks: list[ActionChunk] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)  # of each chunk's observation when the chunk was ready, seconds
    real_time_factors: list[float] = field(default_factory=list)
    success: bool = False
    wall_seconds: float = 0.0
    in_charge: Counter[str] = field(default_factory=Counter)  # who -> inferences meanwhile, see ActionChunk.msg
    push: dict[str, Any] = field(default_factory=dict)  # what a person did to the arm; empty: nothing

    @property
    def start(self) -> float:
        """Stamp of the first observation, seconds."""
        return self.observations[0].stamp

    @property
    def duration(self) -> float:
        """Seconds between the first and the last observation."""
        return self.observations[-1].stamp - self.start

    def newest_chunk(self, stamp: float) -> int:
        """Index of the last chunk whose observation is not newer than `stamp`; -1 when there is none."""
        return bisect_right(self.chunks, stamp, key=lambda chunk: chunk.stamp) - 1
