# SPDX-License-Identifier: Apache-2.0
"""Times in nanoseconds as messages carry them."""

from builtin_interfaces.msg import Duration, Time

from specprune_ros.stamps import NANOSECONDS


def to_stamp(nanoseconds: int) -> Time:
    """From nanoseconds."""
    return Time(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


def to_duration(seconds: float) -> Duration:
    """From seconds."""
    nanoseconds = round(seconds * NANOSECONDS)
    return Duration(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)
