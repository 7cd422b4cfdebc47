# SPDX-License-Identifier: Apache-2.0
"""Times in nanoseconds, read from messages of any origin: DDS or a bag."""

from typing import Protocol

NANOSECONDS = 1_000_000_000  # in a second
ROUNDING = 1e-6  # seconds by which a time in float64 may be off; it resolves 0.24 us of the time since 1970


class Stamp(Protocol):
    """builtin_interfaces/Time or Duration, whoever made the class."""

    sec: int
    nanosec: int


def from_stamp(stamp: Stamp) -> int:
    """Nanoseconds."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def stamp_or_arrival(stamp: Stamp, now: int) -> int:
    """A message's stamp; `now`, when it arrived, for a driver that leaves the stamp empty. Nanoseconds."""
    found = from_stamp(stamp)
    return found if found > 0 else now
