"""Times in nanoseconds as messages carry them."""

from builtin_interfaces.msg import Duration, Time

NANOSECONDS = 1_000_000_000


def to_stamp(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


def from_stamp(stamp: Time) -> int:
    return stamp.sec * NANOSECONDS + stamp.nanosec


def to_duration(seconds: float) -> Duration:
    nanoseconds = round(seconds * NANOSECONDS)
    return Duration(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)
