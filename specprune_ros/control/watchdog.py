# SPDX-License-Identifier: Apache-2.0
"""Which of the watched inputs (observation, TF, joint states) is missing or too old."""

import math
from collections.abc import Mapping

CLOCK_TOLERANCE = 0.1  # seconds; stamps of other processes may be this far ahead of our clock


class Watchdog:
    """Remembers the newest stamp of every watched input. Holds no clock and takes no lock."""

    def __init__(self, max_ages: Mapping[str, float]) -> None:
        """`max_ages`: name of the input -> oldest acceptable age, seconds."""
        self.max_ages = dict(max_ages)  # may be replaced live
        self._stamps: dict[str, float] = {}
        self._since: dict[str, float] = {}  # from when a sample ages: its stamp, or when it was seen if that was later

    def feed(self, name: str, stamp: float) -> None:
        """Report the stamp of the newest sample of `name`, seconds. Raises KeyError for an input not watched."""
        if name not in self.max_ages:
            raise KeyError(name)
        if math.isfinite(stamp) and stamp != self._stamps.get(name):
            self._stamps[name] = self._since[name] = stamp

    def lost(self, name: str) -> None:
        """Report that `name` is unusable now, whatever its age (TF chain broken, camera gone)."""
        self._stamps.pop(name, None)
        self._since.pop(name, None)

    def clear(self) -> None:
        self._stamps.clear()
        self._since.clear()

    def stale(self, now: float) -> str | None:
        """The first stale input, in words, or None when all are fresh."""
        for name, max_age in self.max_ages.items():
            if name not in self._stamps:
                return f"{name}: nothing received"
            ahead = self._stamps[name] - now
            self._since[name] = min(self._since[name], now)  # a clock that is ahead does not make a sample last longer
            age = now - self._since[name]
            if age > max_age:
                return f"{name}: {age:.3f} s old, allowed {max_age:g} s"
            if ahead > max(max_age, CLOCK_TOLERANCE):
                return f"{name}: stamped {ahead:.3f} s in the future"
        return None
