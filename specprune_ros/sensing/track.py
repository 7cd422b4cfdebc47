# SPDX-License-Identifier: Apache-2.0
"""Which samples of a measured quantity may be believed: those that motion can explain.

A second publisher, a driver that starts with zeros, a wrong decoder make a measurement jump, and a jump that becomes a
command moves an arm. A sample is believed when the arm can have come there since the last one that was. Nothing is
believed of a quantity before it has been free of contradictions for `QUIET` seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from specprune_ros.stamps import NANOSECONDS

Value = TypeVar("Value")

SPEED_MARGIN = 1.2  # an arm may overshoot the speed that it is asked for
QUIET = 1.0  # seconds without a contradiction, before a quantity is believed
JITTER = 0.03  # seconds by which stamps and arrivals may be wrong
UNSEEN = 0.15  # seconds that an arm moves unseen at most, where nobody says how long: after that it stands still


@dataclass(frozen=True)
class Sample(Generic[Value]):
    """A value, its stamp, and when it came."""

    stamp: int  # nanoseconds
    value: Value
    arrival: float  # seconds of a steady clock


@dataclass(frozen=True)
class Contradiction(Generic[Value]):
    """Two samples that no motion joins."""

    believed: Value
    other: Value


class Track(Generic[Value]):
    """One quantity. Not thread-safe: its owner locks.

    The story that was believed goes on being followed while another contradicts it. When it ends, the other one is
    believed after `QUIET`, but not while `adopts` is False: an arm that is being moved does not jump.
    """

    def __init__(self, possible: Callable[[Value, Value, float], bool]) -> None:
        """`possible(before, after, seconds)`: whether the arm can have moved so."""
        self.possible = possible
        self.unseen = UNSEEN  # seconds of motion that a gap explains at most; may be replaced
        self.adopts = True
        self.clear()

    def clear(self) -> None:
        """Forget everything: the clock jumped, or a human vouches for what is measured from now on."""
        self._last: Sample[Value] | None = None
        self._rival: Sample[Value] | None = None
        self._rival_since = 0.0
        self._quiet_since: float | None = None
        self._contradiction: Contradiction[Value] | None = None

    def add(self, stamp: int, value: Value, arrival: float) -> bool:
        """Whether the sample continues what is believed. `stamp`: nanoseconds; `arrival`: seconds of a steady clock."""
        sample = Sample(stamp, value, arrival)
        if self._last is None or self._joined(self._last, sample):
            if self._last is None:
                self._quiet_since = arrival
            if self._last is None or stamp >= self._last.stamp or arrival - self._last.arrival > JITTER:
                self._last = sample  # of two that came at once the later one; else that of before had a wrong stamp
            return True
        if self._rival is None or not self._joined(self._rival, sample) or self._last.arrival > self._rival_since:
            self._rival_since = arrival
        self._contradiction = Contradiction(self._last.value, value)
        self._rival, self._quiet_since = sample, arrival
        if self.adopts and arrival - self._rival_since >= QUIET:
            self.clear()
            self._last, self._quiet_since = sample, arrival - QUIET
            return True
        return False

    def _joined(self, before: Sample[Value], after: Sample[Value]) -> bool:
        stamps = abs(after.stamp - before.stamp) / NANOSECONDS
        elapsed = min(stamps, abs(after.arrival - before.arrival), self.unseen)
        return self.possible(before.value, after.value, elapsed + JITTER)

    @property
    def last(self) -> Sample[Value] | None:
        """The newest sample that is believed."""
        return self._last

    def contradiction(self, now: float) -> Contradiction[Value] | None:
        """What contradicted it within the last `QUIET` seconds. `now`: as `arrival`."""
        return self._contradiction if self._quiet_since is not None and now - self._quiet_since < QUIET else None

    def settled(self, now: float) -> bool:
        """Whether a command may be made from it. `now`: as `arrival`."""
        return self._quiet_since is not None and now - self._quiet_since >= QUIET
