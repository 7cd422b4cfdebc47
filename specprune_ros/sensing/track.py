# SPDX-License-Identifier: Apache-2.0
"""Which samples of a measured quantity may be believed: those that motion can explain.

A second publisher, a driver that starts with zeros, a wrong decoder make a measurement jump, and a jump that becomes a
command moves an arm. A sample is believed when the arm can have come there since the last one that was. Nothing is
believed of a quantity before it has been free of contradictions for `QUIET` seconds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")

SPEED_MARGIN = 1.2  # an arm may overshoot the speed that it is asked for
QUIET = 1.0  # seconds without a contradiction, before a quantity is believed
JITTER = 0.03  # seconds by which a message may come early or late
UNSEEN = 0.15  # seconds of motion that a silence explains of an arm that is told to rest


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
        self.silence = UNSEEN  # seconds after which a silence makes the arm hold; may be replaced, as the next one
        self.braking = 0.0  # seconds in which it comes to rest then
        self._told_until = -math.inf  # when the arm was told to rest, seconds as `arrival`; inf: it is told to move
        self.adopts = True
        self.clear()

    def clear(self) -> None:
        """Forget everything: the clock jumped, or a human vouches for what is measured from now on."""
        self._last: Sample[Value] | None = None
        self._rival: Sample[Value] | None = None  # the newest of another story
        self._rival_first: Sample[Value] | None = None  # with which that began
        self._quiet_since: float | None = None
        self._contradiction: Contradiction[Value] | None = None

    def tell(self, moves: bool, now: float) -> None:
        """Whether the arm is told to move. `now`: as `arrival`."""
        if moves:
            self._told_until = math.inf
        elif self._told_until == math.inf:
            self._told_until = now

    def add(self, stamp: int, value: Value, arrival: float) -> bool:
        """Whether the sample continues what is believed. `stamp`: nanoseconds; `arrival`: seconds of a steady clock."""
        sample = Sample(stamp, value, arrival)
        if self._last is None or self._continues(self._last, sample):
            if self._last is None:
                self._quiet_since = arrival
            if self._last is None or stamp >= self._last.stamp or arrival - self._last.arrival > JITTER:
                self._last = sample  # of two that came at once the later one; else that of before had a wrong stamp
            return True
        first = self._rival_first
        if first is None or self._last.arrival > first.arrival or not self._is_rivals(sample):
            first = self._rival_first = sample
        self._contradiction = Contradiction(self._last.value, value)
        self._rival, self._quiet_since = sample, arrival
        if self.adopts and arrival - first.arrival >= QUIET:
            self.clear()
            self._last, self._quiet_since = sample, arrival - QUIET
            return True
        return False

    def _continues(self, last: Sample[Value], sample: Sample[Value]) -> bool:
        """One of a story that contradicts the `last` is judged by when that began: the arm is not unseen meanwhile."""
        first = self._rival_first
        if first is not None and first.arrival > last.arrival and self._is_rivals(sample):
            return self.possible(last.value, sample.value, self._elapsed(last, first))
        return self._joined(last, sample)

    def _is_rivals(self, sample: Sample[Value]) -> bool:
        return self._rival is not None and self._joined(self._rival, sample)

    def _joined(self, before: Sample[Value], after: Sample[Value]) -> bool:
        return self.possible(before.value, after.value, self._elapsed(before, after))

    def _elapsed(self, before: Sample[Value], after: Sample[Value]) -> float:
        """Seconds for which the arm may have moved unseen: by when they came, for a stamp may lie.

        An arm that is told to move goes on until the silence makes it hold; one that rests has no reason to.
        """
        silent = after.arrival - before.arrival
        told = min(silent, self.silence, self._told_until - before.arrival)
        return min(silent, max(UNSEEN, told + self.braking if told > 0 else 0.0)) + JITTER

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
