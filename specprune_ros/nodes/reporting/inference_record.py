# SPDX-License-Identifier: Apache-2.0
"""What the inferences since activation were like, for /diagnostics; the warm-up is not among them."""

import threading
from collections import Counter
from dataclasses import dataclass

from specprune_ros.nodes.reporting.latency import Latency
from specprune_ros.policy import ActionChunk
from specprune_ros.stamps import NANOSECONDS


@dataclass(frozen=True)
class InferenceSummary:
    """Inferences of a time, seconds; zeros before the first."""

    count: int
    latency_p50: float
    latency_p99: float
    age: float  # of the last chunk's observation when the chunk came
    mode: str  # of the last inference, "" before the first
    misses: int


class InferenceRecord:
    """Latencies, ages of observations, modes with their reasons, missed deadlines. Thread-safe."""

    def __init__(self, chunk_seconds: float) -> None:
        """`chunk_seconds`: how long a chunk lasts."""
        self._duration = round(chunk_seconds * NANOSECONDS)
        self._lock = threading.Lock()
        self._latency, self._age = Latency(), Latency()
        self.clear()

    def clear(self) -> None:
        """Start over."""
        self._latency.clear()
        self._age.clear()
        with self._lock:
            self._modes: Counter[str] = Counter()
            self._misses = 0
            self._last_age, self._last_mode = 0.0, ""
        self.interrupt()

    def interrupt(self) -> None:
        """The next chunk follows none: a new task, or a clock that jumped."""
        with self._lock:
            self._end = -1  # of the last chunk, nanoseconds

    def add(self, chunk: ActionChunk, stamp: int, ready: int) -> None:
        """A chunk from an observation at `stamp` that was there at `ready`, nanoseconds.

        It misses its deadline when it comes after its own end, or after the end of the chunk that ran when its
        observation was made. After an interruption of the inputs it follows none and has no deadline but its own.
        """
        self._latency.add(chunk.seconds)
        self._age.add((ready - stamp) / NANOSECONDS)
        with self._lock:
            self._modes[f"mode {chunk.pruning.mode} ({chunk.pruning.reason})"] += 1
            self._misses += ready > stamp + self._duration or stamp <= self._end < ready
            self._end = stamp + self._duration
            self._last_age, self._last_mode = (ready - stamp) / NANOSECONDS, str(chunk.pruning.mode)

    def summary(self) -> InferenceSummary:
        p50, p99 = self._latency.percentiles() if self._latency.count else (0.0, 0.0)
        with self._lock:
            return InferenceSummary(self._latency.count, p50, p99, self._last_age, self._last_mode, self._misses)

    def values(self) -> dict[str, object]:
        """Name -> value, as in /diagnostics."""
        p50, p99 = self._latency.percentiles()
        age_p50, age_p99 = self._age.percentiles()
        with self._lock:
            return {
                "chunks": self._latency.count,
                "latency p50 ms": p50 * 1e3,
                "latency p99 ms": p99 * 1e3,
                "latency max ms": self._latency.maximum * 1e3,
                "observation age p50 ms": age_p50 * 1e3,
                "observation age p99 ms": age_p99 * 1e3,
                "deadline misses": self._misses,
                **dict(sorted(self._modes.items())),
            }
